package usage

import "encoding/json"

// converseCounts is the usage of Bedrock's Converse, whose input leaves the cache out. It spoke of counts in its
// first months. The total is said to be input and output; where it has the cache too it must add up.
type converseCounts struct {
	Input      count `json:"inputTokens"`
	Output     count `json:"outputTokens"`
	Total      count `json:"totalTokens"`
	CacheRead  count `json:"cacheReadInputTokens"`
	CacheWrite count `json:"cacheWriteInputTokens"`

	CacheReadCount  count `json:"cacheReadInputTokenCount"`
	CacheWriteCount count `json:"cacheWriteInputTokenCount"`

	CacheDetails []struct {
		Lifetime string `json:"ttl"`
		Tokens   count  `json:"inputTokens"`
	} `json:"cacheDetails"`
}

// invocationMetrics are the counts that Bedrock adds to the last event of any model's stream.
type invocationMetrics struct {
	Input      count `json:"inputTokenCount"`
	Output     count `json:"outputTokenCount"`
	CacheRead  count `json:"cacheReadInputTokenCount"`
	CacheWrite count `json:"cacheWriteInputTokenCount"`
}

func (m *invocationMetrics) counts() converseCounts {
	return converseCounts{Input: m.Input, Output: m.Output, CacheRead: m.CacheRead, CacheWrite: m.CacheWrite}
}

func (u *converseCounts) report(r *Report) {
	r.Tokens, r.Complete = Tokens{}, false
	read, write := u.CacheRead, u.CacheWrite
	if !read.set {
		read = u.CacheReadCount
	}
	if !write.set {
		write = u.CacheWriteCount
	}
	tokens := Tokens{UncachedInput: u.Input.n, CacheRead: read.n, CacheWrite5m: write.n, Output: u.Output.n}
	understood := true
	if len(u.CacheDetails) > 0 {
		tokens.CacheWrite5m = 0
	}
	for _, d := range u.CacheDetails {
		switch d.Lifetime {
		case "5m":
			tokens.CacheWrite5m += d.Tokens.n
		case "1h":
			tokens.CacheWrite1h += d.Tokens.n
		default:
			understood = false
		}
	}
	understood = understood && (!write.set || write.n == tokens.CacheWrite5m+tokens.CacheWrite1h)
	if !u.Input.set || !u.Output.set || tokens.Validate() != nil {
		return
	}
	text := u.Input.n + u.Output.n
	adds := !u.Total.set || u.Total.n == text || u.Total.n == tokens.Input()+u.Output.n
	r.Tokens, r.Complete = tokens, understood && adds
}

// bedrockUsage reads Converse's usage, the invocation metrics, or the usage object of the model itself.
func bedrockUsage(r *Report, object json.RawMessage) {
	r.Tokens, r.Complete = Tokens{}, false
	switch has := fields(object); {
	case has["inputTokens"] != nil:
		var u converseCounts
		if json.Unmarshal(object, &u) == nil {
			u.report(r)
		}
	case has["inputTokenCount"] != nil:
		var m invocationMetrics
		if json.Unmarshal(object, &m) == nil {
			u := m.counts()
			u.report(r)
		}
	case has["input_tokens"] != nil:
		anthropicObject(r, object)
	case has["prompt_tokens"] != nil:
		openAIUsage(r, object)
	}
}

type bedrockResponse struct {
	Model       string          `json:"model"`
	Usage       json.RawMessage `json:"usage"`
	Metrics     json.RawMessage `json:"amazon-bedrock-invocationMetrics"`
	ServiceTier json.RawMessage `json:"serviceTier"`
	Performance struct {
		Latency string `json:"latency"`
	} `json:"performanceConfig"`
}

func (b *bedrockResponse) report(r *Report) {
	if b.Model != "" {
		r.Model = b.Model
	}
	if present(b.Usage) {
		bedrockUsage(r, b.Usage)
	} else if present(b.Metrics) {
		bedrockUsage(r, b.Metrics)
	}
	var tier struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(b.ServiceTier, &tier) == nil {
		r.ServiceTier = ServiceTier(tier.Type)
	}
	if b.Performance.Latency == "optimized" { // a dearer service of its own
		r.ServiceTier = b.Performance.Latency
	}
}

func bedrockBody(r *Report, body json.RawMessage) {
	var b bedrockResponse
	if json.Unmarshal(body, &b) == nil {
		b.report(r)
	}
}

// bedrockEvent reads an event of ConverseStream, whose metadata comes last, or of
// InvokeModelWithResponseStream: the model's own event, base64 as on the wire or decoded, of which the last
// has the invocation metrics. The binary framing of the wire is taken off by the AWS libraries.
func bedrockEvent(r *Report, acc *accumulator, data json.RawMessage) {
	var event struct {
		bedrockResponse
		Type     string           `json:"type"`
		Choices  json.RawMessage  `json:"choices"`
		Metadata *bedrockResponse `json:"metadata"`
		Bytes    []byte           `json:"bytes"`
		Chunk    struct {
			Bytes []byte `json:"bytes"`
		} `json:"chunk"`
	}
	if json.Unmarshal(data, &event) != nil {
		return
	}
	if inner := append(event.Bytes, event.Chunk.Bytes...); len(inner) > 0 {
		if len(inner) < len(data) && json.Valid(inner) { // it shrinks, so this ends
			bedrockEvent(r, acc, inner)
		}
		return
	}
	switch {
	case event.Metadata != nil:
		event.Metadata.report(r)
	case event.Type != "" && (present(event.Usage) || event.Type == "message_start"):
		anthropicEvent(r, acc, data)
	case present(event.Choices) && present(event.Usage):
		openAIEvent(r, acc, data)
	case present(event.Metrics) && r.Complete: // they say again what the model's own events have said
	default:
		event.report(r)
	}
}
