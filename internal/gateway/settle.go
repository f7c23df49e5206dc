package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The bounds on a request that settles: its body in bytes, the calls in it, and a provider's usage object.
const (
	maxSettleBody = 4 << 20
	maxSettled    = 1000
	maxUsage      = 64 << 10
)

// What became of a call.
const (
	statusOK        = "ok"        // it was answered
	statusAborted   = "aborted"   // the answer was cut off: what is not known of it counts at its worst
	statusFailed    = "failed"    // the provider answered with an error, and bills nothing unless it says so
	statusCancelled = "cancelled" // it was never made
)

// report is what another gateway says of a call that has ended. What the hold knows need not be said again; it counts
// where the hold is not known any more.
type report struct {
	HoldID      string            `json:"hold_id"`
	Status      string            `json:"status,omitempty"`       // ok when left out
	Usage       json.RawMessage   `json:"usage,omitempty"`        // the provider's own usage object, verbatim; it wins over tokens
	Tokens      *tokens           `json:"tokens,omitempty"`       // our counts
	OutputBytes *int64            `json:"output_bytes,omitempty"` // of text that was seen of an answer that was cut off
	Cost        json.Number       `json:"cost_usd,omitempty"`     // as the gateway reckons it; kept beside ours
	Model       string            `json:"model,omitempty"`        // that served
	ServiceTier string            `json:"service_tier,omitempty"` // that served
	Provider    string            `json:"provider,omitempty"`     //
	Timestamp   time.Time         `json:"timestamp,omitzero"`     // when it ended; now when left out
	LatencyMS   int64             `json:"latency_ms,omitempty"`   //
	TTFTMS      int64             `json:"ttft_ms,omitempty"`      //
	Record      *bool             `json:"record,omitempty"`       // true, and nothing else
	TenantID    string            `json:"tenant_id,omitempty"`    // from here on: of a call whose hold is not known any more
	Requested   string            `json:"requested_model,omitempty"`
	SessionID   string            `json:"session_id,omitempty"`
	Task        string            `json:"task,omitempty"`
	Template    string            `json:"prompt_template_version,omitempty"`
	Route       string            `json:"route,omitempty"`
	DecisionID  string            `json:"decision_id,omitempty"`
	Arm         usage.Arm         `json:"arm,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
}

// tokens are counts as POST /v1/spans has them: what is cached is inside the prompt.
type tokens struct {
	Prompt       int64 `json:"prompt"`
	Completion   int64 `json:"completion"`
	Cached       int64 `json:"cached,omitempty"`
	CacheWrite5m int64 `json:"cache_write_5m,omitempty"`
	CacheWrite1h int64 `json:"cache_write_1h,omitempty"`
	Reasoning    int64 `json:"reasoning,omitempty"`
}

// settlement is what was made of one report.
type settlement struct {
	HoldID        string      `json:"hold_id"`
	Known         bool        `json:"known"`              // its hold was; else no budget was charged by it, and its telemetry will
	Recorded      bool        `json:"recorded"`           // its telemetry is durable
	Repeated      bool        `json:"repeated"`           // it had been settled before, as is said here
	UsageComplete bool        `json:"usage_complete"`     // all of its tokens are known; else what is not counts at its worst
	Cost          json.Number `json:"cost_usd,omitempty"` // exact; left out of a model without a price
}

// badReport says what is wrong with one report of a request.
type badReport struct {
	Index  int    `json:"index"`
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// settlements is the body of the answer.
type settlements struct {
	Settled []settlement `json:"settled"`
	Refused []badReport  `json:"refused"`
}

// fieldError says which field of a report is wrong.
type fieldError struct{ field, reason string }

func (e *fieldError) Error() string { return e.field + ": " + e.reason }

func wrongField(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}

// claim is a report on its way: nobody else settles its hold meanwhile.
type claim struct {
	index    int
	held     *held // nil: not known
	span     usage.Span
	recorded bool  // the span is to be recorded
	bad      error // why it is not
	settlement
}

func (x *External) settle(w http.ResponseWriter, r *http.Request, c caller) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSettleBody))
	if err != nil {
		refuse(w, err)
		return
	}
	items, err := itemsOf(body)
	if err != nil {
		refuse(w, err)
		return
	}
	now := x.gate.o.Now()
	answer := settlements{Settled: []settlement{}, Refused: []badReport{}}
	var claims []*claim
	for i, item := range items {
		cl, err := x.claim(item, c, now)
		if err != nil {
			answer.refuse(i, err)
			continue
		}
		cl.index = i
		claims = append(claims, cl)
	}
	x.finish(r.Context(), w, claims, answer)
}

// itemsOf splits a body into its reports: one object, or an array of them.
func itemsOf(body []byte) ([]json.RawMessage, error) {
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0:
		return nil, errors.New("the body is empty; send one JSON object, or an array of them")
	case body[0] != '[':
		return []json.RawMessage{body}, nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(body, &items); err != nil {
		return nil, fmt.Errorf("the body is not the JSON array expected: %w", err)
	}
	if len(items) == 0 || len(items) > maxSettled {
		return nil, fmt.Errorf("the body holds %d reports, outside 1..%d", len(items), maxSettled)
	}
	return items, nil
}

func (a *settlements) refuse(index int, err error) {
	bad := badReport{Index: index, Reason: err.Error()}
	var field *fieldError
	if errors.As(err, &field) {
		bad.Field, bad.Reason = field.field, field.reason
	}
	a.Refused = append(a.Refused, bad)
}

// claim reads one report and works out what it makes of its call.
func (x *External) claim(item json.RawMessage, c caller, now time.Time) (*claim, error) {
	var rep report
	if err := strictly(item, &rep); err != nil {
		return nil, err
	}
	return x.claimFor(&rep, c, now)
}

func (x *External) claimFor(rep *report, c caller, now time.Time) (*claim, error) {
	if err := rep.check(); err != nil {
		return nil, err
	}
	h, before, busy := x.holds.take(rep.HoldID, c.tenant)
	switch {
	case busy:
		return nil, wrongField("hold_id", "another report settles it just now")
	case before != nil:
		repeated := *before
		repeated.Repeated = true
		return &claim{held: h, settlement: repeated}, nil
	}
	cl := &claim{held: h, settlement: settlement{HoldID: rep.HoldID}}
	err := x.fill(cl, rep, c, now)
	if err != nil && h != nil {
		x.holds.done(h, nil, now)
	}
	return cl, err
}

// fill makes the call's span from what its hold knows and what the report says.
func (x *External) fill(cl *claim, rep *report, c caller, now time.Time) error {
	s := &cl.span
	if cl.held != nil {
		if rep.TenantID != "" && rep.TenantID != cl.held.span.TenantID {
			return wrongField("tenant_id", "the hold is another tenant's")
		}
		*s = cl.held.span
	} else if err := rep.describe(s, c); err != nil {
		return err
	}
	decided := *s
	if err := rep.outcome(s, now); err != nil {
		return err
	}
	if err := rep.count(s); err != nil {
		return err
	}
	switch {
	case rep.Status == statusCancelled, rep.Status == statusFailed && s.Tokens == (usage.Tokens{}):
		s.Cost, cl.UsageComplete = 0, true
		cl.Cost = "0"
		return nil
	case !s.UsageComplete:
		s.Tokens = pessimistic(s.Tokens, decided.Tokens, rep.OutputBytes)
	}
	cl.recorded, cl.UsageComplete = true, s.UsageComplete
	if x.price(s, &decided) {
		cl.Cost = json.Number(pricing.Format(s.Cost))
	}
	return nil
}

// price prices the call by who served it, or, where the book does not know that by the name that is said, by what was
// decided on. It reports false for a model without a price.
func (x *External) price(s, decided *usage.Span) bool {
	book := x.gate.o.Prices
	if book.Price(s) == nil {
		return true
	}
	for _, by := range [...][2]string{{s.Provider, s.ServiceTier}, {s.Provider, ""}, {decided.Provider, s.ServiceTier}, {decided.Provider, ""}} {
		quote, err := book.Quote(by[0], decided.Model, by[1], s.Timestamp)
		if err != nil {
			continue
		}
		if cost, err := quote.Cost(s.Tokens); err == nil {
			s.Cost, s.Priced = cost, true
			return true
		}
	}
	return false
}

// describe says whose call it was where its hold is not known any more.
func (rep *report) describe(s *usage.Span, c caller) error {
	key := ""
	if err := c.about(&rep.TenantID, &key); err != nil {
		return wrongField("tenant_id", "%v", err)
	}
	if rep.Status == statusCancelled {
		return nil
	}
	at := strings.LastIndexByte(rep.HoldID, '/')
	switch {
	case at <= 0 || at == len(rep.HoldID)-1:
		return wrongField("hold_id", "it is none of ours: want that of the decision, <trace id>/<span id>")
	case rep.TenantID == "":
		return wrongField("tenant_id", "is missing, and the hold is not known any more")
	case rep.Requested == "":
		return wrongField("requested_model", "is missing, and the hold is not known any more")
	}
	*s = usage.Span{
		TraceID: rep.HoldID[:at], SpanID: rep.HoldID[at+1:], TenantID: rep.TenantID, SessionID: rep.SessionID,
		RequestedModel: rep.Requested, Model: rep.Requested, PromptTemplate: rep.Template, Task: rep.Task,
		Route: rep.Route, DecisionID: rep.DecisionID, Arm: rep.Arm, Tags: rep.Tags,
	}
	return nil
}

// outcome says when and by whom the call was served.
func (rep *report) outcome(s *usage.Span, now time.Time) error {
	s.Timestamp = now
	if !rep.Timestamp.IsZero() {
		s.Timestamp = rep.Timestamp.UTC()
	}
	if s.Timestamp.After(now.Add(time.Hour)) || s.Timestamp.Before(now.Add(-7*24*time.Hour)) {
		return wrongField("timestamp", "is more than an hour in the future or a week in the past (%s)", s.Timestamp.Format(time.RFC3339))
	}
	for _, f := range [...]struct {
		into *string
		said string
	}{{&s.Model, rep.Model}, {&s.Provider, usage.Provider(rep.Provider)}, {&s.ServiceTier, usage.ServiceTier(rep.ServiceTier)}} {
		if f.said != "" {
			*f.into = f.said
		}
	}
	s.LatencyMS, s.TTFTMS, s.PriceVersion = rep.LatencyMS, rep.TTFTMS, ""
	if rep.Cost != "" {
		cost, _, err := pricing.Parse(rep.Cost.String())
		if err != nil || cost < 0 {
			return wrongField("cost_usd", "is not an amount of dollars")
		}
		s.CostReported = &cost
	}
	return nil
}

// count sets the tokens that the report says; none where it says nothing.
func (rep *report) count(s *usage.Span) error {
	s.Tokens, s.UsageComplete = usage.Tokens{}, false
	if t := rep.Tokens; t != nil {
		s.Tokens = usage.Tokens{
			UncachedInput: t.Prompt - t.Cached - t.CacheWrite5m - t.CacheWrite1h,
			CacheRead:     t.Cached, CacheWrite5m: t.CacheWrite5m, CacheWrite1h: t.CacheWrite1h,
			Output: t.Completion, Reasoning: t.Reasoning,
		}
		if err := s.Tokens.Validate(); err != nil {
			return wrongField("tokens", "%v", err)
		}
		s.UsageComplete = rep.Usage == nil && rep.Status != statusAborted
	}
	if rep.Usage == nil {
		return nil
	}
	said, err := usage.FromUsage(s.Provider, rep.Usage)
	if err != nil {
		return wrongField("usage", "%v: name the provider, or send tokens", err)
	}
	if said.Tokens == (usage.Tokens{}) && !said.Complete {
		return nil // not understood
	}
	s.Tokens, s.UsageComplete = said.Tokens, said.Complete && rep.Status != statusAborted
	if said.ServiceTier != "" && rep.ServiceTier == "" {
		s.ServiceTier = said.ServiceTier
	}
	return nil
}

// unseen is how many tokens an answer that was cut off may have had beside the text that was seen of it.
const unseen = 1000

// pessimistic is the most that a call of which not all is known can have used: what was said of its input, else all
// that it could have; of output what was said or the text that was seen with what may have been under way, at most all
// that it could have. A token is a byte at least.
func pessimistic(said, worst usage.Tokens, seen *int64) usage.Tokens {
	if said.Input() == 0 {
		said.UncachedInput = worst.Input()
	}
	most := worst.Output
	if seen != nil {
		most = min(most, *seen+unseen)
		if worst == (usage.Tokens{}) { // of a hold that is not known any more
			most = *seen + unseen
		}
	}
	said.Output = max(said.Output, most)
	return said
}

// finish records what was claimed, charges the budgets and answers.
func (x *External) finish(ctx context.Context, w http.ResponseWriter, claims []*claim, answer settlements) {
	err := x.record(ctx, claims)
	now := x.gate.o.Now()
	for _, cl := range claims {
		x.end(cl, err, now, &answer)
	}
	switch {
	case err != nil && !errors.Is(err, ingest.ErrRecord):
		retryAfter(w.Header(), 1)
		refuseWith(w, http.StatusServiceUnavailable, "not_recorded", fmt.Errorf("the telemetry cannot be stored for now, and nothing was settled: send all of it again: %w", err))
	case len(answer.Settled) == 0:
		reply(w, http.StatusBadRequest, answer)
	default:
		reply(w, http.StatusOK, answer)
	}
}

// record makes the telemetry of the claims durable: of all of them, or, where one is bad, of none, and says so.
func (x *External) record(ctx context.Context, claims []*claim) error {
	var spans []usage.Span
	for _, cl := range claims {
		if cl.recorded && !cl.Repeated {
			spans = append(spans, cl.span)
		}
	}
	if len(spans) == 0 {
		return nil
	}
	err := x.o.Accept(ctx, spans, nil)
	if errors.Is(err, ingest.ErrRecord) && len(claims) > 1 {
		return x.recordEach(ctx, claims)
	}
	return err
}

// recordEach finds the bad ones, and keeps them out.
func (x *External) recordEach(ctx context.Context, claims []*claim) error {
	for _, cl := range claims {
		err := x.record(ctx, []*claim{cl})
		if err != nil && !errors.Is(err, ingest.ErrRecord) {
			return err
		}
		cl.bad = err
	}
	return nil
}

// end settles a claim, now that its telemetry is durable, or lets its hold be settled later.
func (x *External) end(cl *claim, err error, now time.Time, answer *settlements) {
	if err == nil {
		err = cl.bad
	}
	var made *settlement
	if err == nil {
		if !cl.Repeated && cl.held != nil {
			cl.Known = x.o.Treasury.Settle(cl.held.id, cl.charge(), now)
		}
		if !cl.Repeated {
			cl.Recorded = cl.recorded
		}
		if cl.Recorded && !cl.Repeated && cl.held != nil {
			t := tupleOf(&cl.span, cl.held.estimate)
			t.Features = cl.held.features
			x.o.Predictors.record(t, cl.held.text)
		}
		made = &cl.settlement
		answer.Settled = append(answer.Settled, cl.settlement)
	} else if errors.Is(err, ingest.ErrRecord) {
		answer.refuse(cl.index, err)
	}
	if cl.held != nil {
		x.holds.done(cl.held, made, now)
	}
}

// charge is what the budgets are charged. A call that was promised money and cannot be priced is never free: it counts
// at what was held, until the ledger says otherwise.
func (cl *claim) charge() usage.PicoUSD {
	if cl.recorded && !cl.span.Priced {
		return cl.held.span.Cost
	}
	return cl.span.Cost
}

// check refuses what no report may say.
func (rep *report) check() error {
	switch {
	case rep.HoldID == "" || len(rep.HoldID) > 2*maxName+1:
		return wrongField("hold_id", "is missing or longer than %d bytes", 2*maxName+1)
	case rep.Record != nil && !*rep.Record:
		return wrongField("record", "a hold ends with the call's telemetry, which is recorded here: send it one way alone, or ask with \"hold\": false")
	case len(rep.Usage) > maxUsage:
		return wrongField("usage", "is larger than %d bytes", maxUsage)
	}
	switch rep.Status {
	case "":
		rep.Status = statusOK
	case statusOK, statusAborted, statusFailed, statusCancelled:
	default:
		return wrongField("status", "%.32q is none of ok, aborted, failed, cancelled", rep.Status)
	}
	if rep.Status == statusCancelled && (rep.Usage != nil || rep.Tokens != nil) {
		return wrongField("status", "a call that was cancelled before it was made has used nothing: say aborted")
	}
	switch rep.Arm {
	case "", usage.None, usage.Treated, usage.Holdback:
	default:
		return wrongField("arm", "%.32q is none of none, treated, holdback", string(rep.Arm))
	}
	for field, n := range map[string]int64{"latency_ms": rep.LatencyMS, "ttft_ms": rep.TTFTMS} {
		if n < 0 || n > 24*3_600_000 {
			return wrongField(field, "%d is outside 0..%d", n, 24*3_600_000)
		}
	}
	if rep.OutputBytes != nil && (*rep.OutputBytes < 0 || *rep.OutputBytes > usage.MaxTokens-unseen) {
		return wrongField("output_bytes", "%d is outside 0..%d", *rep.OutputBytes, usage.MaxTokens-unseen)
	}
	for field, value := range map[string]string{
		"model": rep.Model, "service_tier": rep.ServiceTier, "provider": rep.Provider, "tenant_id": rep.TenantID,
		"requested_model": rep.Requested, "session_id": rep.SessionID, "task": rep.Task,
		"prompt_template_version": rep.Template, "route": rep.Route, "decision_id": rep.DecisionID,
	} {
		if len(value) > maxName {
			return wrongField(field, "is %d bytes long, more than %d", len(value), maxName)
		}
	}
	if err := checkTags(rep.Tags); err != nil {
		return wrongField("tags", "%v", err)
	}
	return nil
}

// strictly reads one JSON object. Fields that it does not know are refused, and so is anything behind it.
func strictly(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("it is not the JSON object expected: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one JSON object")
	}
	return nil
}
