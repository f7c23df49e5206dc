package ingest

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// defaultLiteLLMTenant is which of LiteLLM's fields name the tenant, unless configured otherwise.
var defaultLiteLLMTenant = []string{"user_api_key_team_id", "user_api_key_org_id", "user_api_key_alias"}

// litellmCalls are the call types that count, without the prefixes that LiteLLM puts before them. Others have
// no tokens that a price book prices.
var litellmCalls = map[string]bool{
	"": true, "completion": true, "text_completion": true, "embedding": true, "responses": true,
	"anthropic_messages": true, "generate_content": true, "generate_content_stream": true,
	"pass_through_endpoint": true, "llm_passthrough_route": true,
}

// litellmRecord is what one log entry says.
type litellmRecord struct {
	id, trace, call, status  string
	provider, model, group   string
	tenants                  []string // as the configured fields of the metadata say
	prompt, completion       int64
	start, end, first        time.Time
	stream, cacheHit         bool
	cost                     *usage.PicoUSD
	usage                    []byte
	template, task, decision string
	experiment, route, arm   string
	tags                     map[string]string
}

// litellm reads what LiteLLM's generic_api callback sends: StandardLoggingPayloads as an array, one a line or
// one alone.
func (i *Ingest) litellm(d *decoder, req *request, a *answer) {
	d.passes, d.maxRecord = true, len(d.text)
	l := &litellmDecoder{decoder: d, fields: i.opt.LiteLLMTenant, tenants: make([]string, len(i.opt.LiteLLMTenant))}
	var s usage.Span
	counts := false
	d.each(a,
		func() (err error) { counts, err = l.span(&s); return err },
		func(index int) {
			if counts {
				req.addSpan(index, &s, nil)
				req.addTexts(&s, &d.texts)
			} else {
				i.stats.ignored.Add(1)
			}
		})
}

type litellmDecoder struct {
	*decoder
	fields  []string // that may name the tenant
	tenants []string // what they say in this record
	r       litellmRecord
}

// span reads one entry. It reports false for one that is no call, or one that failed and used nothing.
func (l *litellmDecoder) span(s *usage.Span) (counts bool, err error) {
	clear(l.tenants)
	l.texts.reset()
	l.r = litellmRecord{tenants: l.tenants}
	if err := l.entry(); err != nil {
		return false, err
	}
	r := &l.r
	call := strings.TrimPrefix(strings.TrimPrefix(r.call, "litellm."), "a")
	if !litellmCalls[call] && !litellmCalls["a"+call] {
		return false, nil
	}
	*s = usage.Span{Arm: usage.None, TraceID: r.trace, SpanID: r.id, CostReported: r.cost}
	if s.TraceID == "" {
		s.TraceID = r.id
	}
	if err := l.tokens(s); err != nil {
		return false, err
	}
	if r.status == "failure" && s.Tokens == (usage.Tokens{}) {
		return false, nil
	}
	if err := l.dimensions(s); err != nil {
		return false, err
	}
	return true, l.times(s)
}

func (l *litellmDecoder) dimensions(s *usage.Span) error {
	r := &l.r
	s.Provider = r.provider
	s.Model = strings.TrimPrefix(r.model, r.provider+"/")
	s.RequestedModel = r.group
	s.PromptTemplate, s.Task, s.ExperimentID, s.Route, s.DecisionID = r.template, r.task, r.experiment, r.route, r.decision
	s.Tags = r.tags
	if err := setArm(&s.Arm, r.arm); err != nil {
		return inField([]byte(`"metadata.requester_metadata.flyball.arm"`), err)
	}
	s.TenantID = cmp.Or(r.tenants...)
	if l.tenant != "" {
		s.TenantID = l.tenant // LiteLLM's teams are not tenants where the token names one
	}
	if s.SpanID == "" {
		return wrongField("id", "is missing")
	}
	if s.Timestamp = r.end; s.Timestamp.IsZero() {
		return wrongField("endTime", "is missing")
	}
	return l.checkSpan(s)
}

func (l *litellmDecoder) times(s *usage.Span) error {
	r := &l.r
	if r.start.IsZero() {
		return nil
	}
	took := r.end.Sub(r.start)
	if took < 0 || took > maxLatency*time.Millisecond {
		return wrongField("startTime", "is after endTime or more than 24 hours before it")
	}
	s.LatencyMS = took.Round(time.Millisecond).Milliseconds()
	// Without streaming LiteLLM says that the first token came with the last.
	if first := r.first.Sub(r.start); r.stream && !r.first.IsZero() && first > 0 && first <= took {
		s.TTFTMS = first.Round(time.Millisecond).Milliseconds()
	}
	return nil
}

// tokens fills the buckets. An answer out of LiteLLM's own cache cost its provider nothing: its tokens are those of
// the call that filled the cache, and are counted there.
func (l *litellmDecoder) tokens(s *usage.Span) error {
	r := &l.r
	if r.cacheHit {
		s.UsageComplete, s.CostReported = true, new(usage.PicoUSD)
		return nil
	}
	s.Tokens = usage.Tokens{UncachedInput: r.prompt, Output: r.completion}
	if r.usage == nil {
		return nil // the totals stand, without knowing what of them was cached
	}
	u := litellmUsage{cursor: cursor{text: r.usage, passes: true}}
	if err := u.read(); err != nil {
		return inField([]byte(`"usage_object"`), err)
	}
	if s.ServiceTier = usage.ServiceTier(u.tier); !u.normal {
		report, err := usage.FromUsage(r.provider, r.usage)
		if err == nil && report.Complete {
			s.Tokens, s.UsageComplete = report.Tokens, true
		}
		return nil
	}
	if tokens, ok := u.buckets(); ok {
		s.Tokens, s.UsageComplete = tokens, u.complete()
	}
	return nil
}

// entry reads the fields of one log entry that count, and passes over the others.
func (l *litellmDecoder) entry() error {
	r := &l.r
	return l.object(func(name []byte) (err error) {
		switch string(name) {
		case "id":
			return l.unique(&r.id)
		case "trace_id":
			return l.unique(&r.trace)
		case "call_type":
			return l.name(&r.call)
		case "status":
			return l.name(&r.status)
		case "custom_llm_provider":
			return l.name(&r.provider)
		case "model":
			return l.name(&r.model)
		case "model_group":
			return l.name(&r.group)
		case "prompt_tokens":
			return l.total(&r.prompt)
		case "completion_tokens":
			return l.total(&r.completion)
		case "startTime":
			return l.moment(&r.start)
		case "endTime":
			return l.moment(&r.end)
		case "completionStartTime":
			return l.moment(&r.first)
		case "stream":
			return l.truth(&r.stream)
		case "cache_hit":
			return l.truth(&r.cacheHit)
		case "response_cost":
			return l.amount(&r.cost)
		case "messages":
			return l.chat(false)
		case "response":
			return l.chat(true)
		case "request_tags":
			return l.requestTags()
		case "metadata":
			return l.metadata()
		case "hidden_params":
			return l.within(func(name []byte) error {
				if string(name) == "usage_object" && r.usage == nil {
					return l.usageObject()
				}
				return l.other()
			})
		}
		return l.other()
	})
}

func (l *litellmDecoder) metadata() error {
	r := &l.r
	return l.within(func(name []byte) error {
		switch string(name) {
		case "usage_object":
			return l.usageObject()
		case "prompt_management_metadata":
			return l.within(func(name []byte) error {
				if string(name) == "prompt_id" {
					return l.loose(&r.template)
				}
				return l.other()
			})
		case "requester_metadata":
			return l.requester()
		}
		if n := slices.Index(l.fields, string(name)); n >= 0 {
			return l.loose(&r.tenants[n])
		}
		return l.other()
	})
}

// requester reads what the caller put into its request's metadata for us.
func (l *litellmDecoder) requester() error {
	r := &l.r
	return l.within(func(name []byte) error {
		switch string(name) {
		case "flyball.decision_id":
			return l.loose(&r.decision)
		case "flyball.arm":
			return l.loose(&r.arm)
		case "flyball.route":
			return l.loose(&r.route)
		case "flyball.experiment_id":
			return l.loose(&r.experiment)
		case "flyball.task":
			return l.loose(&r.task)
		case "flyball.prompt_template_version":
			return l.loose(&r.template)
		}
		return l.other()
	})
}

// within reads an object where LiteLLM may have another thing, such as null or an empty string.
func (l *litellmDecoder) within(field func(name []byte) error) error {
	if l.peek() != '{' {
		return l.other()
	}
	return l.object(field)
}

// chat takes the messages of the call or the provider's answer as they are.
func (l *litellmDecoder) chat(output bool) error {
	raw, err := l.skip()
	if err == nil && l.texts.wanted {
		l.note(output, words{formChat, 0, raw})
	}
	return err
}

func (l *litellmDecoder) other() error {
	_, err := l.skip()
	return err
}

// loose reads a name where LiteLLM may have another thing, which is none.
func (l *litellmDecoder) loose(into *string) error {
	if l.peek() != '"' {
		return l.other()
	}
	return l.name(into)
}

// truth reads a boolean, which Python's str may have been put around.
func (l *litellmDecoder) truth(into *bool) error {
	text, err := l.skip()
	*into = strings.EqualFold(strings.Trim(string(text), `"`), "true")
	return err
}

func (l *litellmDecoder) usageObject() (err error) {
	if l.peek() != '{' {
		return l.other()
	}
	if l.r.usage, err = l.skip(); err == nil && len(l.r.usage) > maxUsage {
		return wrong("is larger than %d bytes", maxUsage)
	}
	return err
}

func (l *litellmDecoder) total(into *int64) (err error) {
	*into, err = l.integer(usage.MaxTokens)
	return err
}

// amount reads dollars, which may be null, a number or a decimal in a string.
func (l *litellmDecoder) amount(into **usage.PicoUSD) error {
	if l.null() {
		return nil
	}
	text, err := l.skip()
	if err != nil {
		return err
	}
	*into, err = dollars(strings.Trim(string(text), `"`))
	return err
}

// moment reads a time as seconds since 1970 or in ISO 8601. One without a zone is in UTC.
func (l *litellmDecoder) moment(into *time.Time) error {
	if l.null() {
		return nil
	}
	text, err := l.skip()
	if err != nil {
		return err
	}
	at, ok := litellmTime(strings.Trim(string(text), `"`))
	if !ok {
		return wrong("must be seconds since 1970 or an ISO 8601 time (%.40s)", text)
	}
	return bounded(into, at, l.now)
}

func litellmTime(text string) (time.Time, bool) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		if !(seconds >= 0 && seconds < 1e11) {
			return time.Time{}, false
		}
		whole, part := math.Modf(seconds)
		return time.Unix(int64(whole), int64(math.Round(part*1e6))*1000), true // a double has no more digits
	}
	for _, layout := range [...]string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// requestTags reads a list of tags: "name:value", or a name alone, whose value is then "true". LiteLLM adds the caller's
// User-Agent, which is no cost centre; tags that do not fit are left out.
func (l *litellmDecoder) requestTags() error {
	if l.peek() != '[' {
		return l.other()
	}
	clear(l.lastTags)
	l.r.tags = l.lastTags
	return l.array(func() error {
		if l.peek() != '"' {
			return l.other()
		}
		text, err := l.bytes()
		if err != nil {
			return err
		}
		name, value, has := strings.Cut(string(text), ":")
		if name, value = strings.TrimSpace(name), strings.TrimSpace(value); !has {
			value = "true"
		}
		if name == "" || len(name) > maxTagKey || len(value) > maxName || name == "User-Agent" || len(l.lastTags) == maxTags {
			return nil
		}
		l.lastTags[name] = value
		return nil
	})
}
