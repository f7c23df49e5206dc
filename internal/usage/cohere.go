package usage

import "encoding/json"

// cohereCounts is the usage of Cohere's second API and the meta of its first. What is billed leaves out what
// Cohere itself puts before a prompt, so it stands over the tokens, which count that too. Billed units are
// all there are: what is not among them, the output of an embedding, is not billed.
type cohereCounts struct {
	Billed *cohereUnits `json:"billed_units"`
	Tokens *cohereUnits `json:"tokens"`
	Cached count        `json:"cached_tokens"` // inside the tokens' input
}

type cohereUnits struct {
	Input  count `json:"input_tokens"`
	Output count `json:"output_tokens"`

	// Billed by the piece, and without a bucket here.
	Searches        count `json:"search_units"`
	Classifications count `json:"classifications"`
	Images          count `json:"images"`
	ImageTokens     count `json:"image_tokens"`
}

func cohereUsage(r *Report, object json.RawMessage) {
	r.Tokens, r.Complete = Tokens{}, false
	var u cohereCounts
	if json.Unmarshal(object, &u) != nil {
		return
	}
	var tokens Tokens
	var whole bool
	if b := u.Billed; b != nil && (b.Input.set || b.Output.set) {
		tokens = Tokens{UncachedInput: b.Input.n, Output: b.Output.n}
		whole = b.Input.set && b.Searches.n+b.Classifications.n+b.Images.n+b.ImageTokens.n == 0
	} else if t := u.Tokens; t != nil {
		tokens = Tokens{UncachedInput: t.Input.n - u.Cached.n, CacheRead: u.Cached.n, Output: t.Output.n}
		whole = t.Input.set && t.Output.set
	}
	if tokens.Validate() == nil {
		r.Tokens, r.Complete = tokens, whole
	}
}

type cohereResponse struct {
	Model string          `json:"model"`
	Usage json.RawMessage `json:"usage"` // of the second API
	Meta  json.RawMessage `json:"meta"`  // of the first, and of embeddings
}

func (c *cohereResponse) report(r *Report) {
	if c.Model != "" {
		r.Model = c.Model
	}
	if present(c.Usage) {
		cohereUsage(r, c.Usage)
	} else if present(c.Meta) {
		cohereUsage(r, c.Meta)
	}
}

func cohereBody(r *Report, body json.RawMessage) {
	var c cohereResponse
	if json.Unmarshal(body, &c) == nil {
		c.report(r)
	}
}

// cohereEvent reads the last event of a stream: message-end of the second API, stream-end of the first.
func cohereEvent(r *Report, _ *accumulator, data json.RawMessage) {
	var event struct {
		Type     string          `json:"type"`
		Old      string          `json:"event_type"`
		Delta    *cohereResponse `json:"delta"`
		Response *cohereResponse `json:"response"`
	}
	if json.Unmarshal(data, &event) != nil {
		return
	}
	switch {
	case event.Type == "message-end" && event.Delta != nil:
		event.Delta.report(r)
	case event.Old == "stream-end" && event.Response != nil:
		event.Response.report(r)
	}
}
