package usage

import (
	"bytes"
	"encoding/json"
	"strings"
)

// anthropicUsage counts three disjoint groups of input: fresh, written to the cache and read from
// it. Writes are of 5 minutes unless they are split by their time to live.
type anthropicUsage struct {
	Input         count           `json:"input_tokens"`
	CacheCreation count           `json:"cache_creation_input_tokens"`
	CacheRead     count           `json:"cache_read_input_tokens"`
	Split         *anthropicSplit `json:"cache_creation"`
	Output        count           `json:"output_tokens"`
	OutputDetails struct {
		Thinking count `json:"thinking_tokens"`
	} `json:"output_tokens_details"`
	ServiceTier string `json:"service_tier"`
	Speed       string `json:"speed"`         // "fast" is a dearer service of its own
	Geography   string `json:"inference_geo"` // "us" is a dearer one too
}

type anthropicSplit struct {
	FiveMinutes count `json:"ephemeral_5m_input_tokens"`
	OneHour     count `json:"ephemeral_1h_input_tokens"`
}

// serviceTier names all that changes the price, joined by a plus where there is more than one: no book prices
// that by accident.
func (u *anthropicUsage) serviceTier() string {
	var names []string
	for _, name := range []string{ServiceTier(u.ServiceTier), ServiceTier(u.Speed), u.Geography} {
		if name != "" && name != "global" && name != "not_available" {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

func (u *anthropicUsage) report(r *Report) {
	r.ServiceTier = u.serviceTier()
	tokens := Tokens{
		UncachedInput: u.Input.n, CacheRead: u.CacheRead.n,
		Output: u.Output.n, Reasoning: u.OutputDetails.Thinking.n,
	}
	understood := true
	if split := u.Split; split != nil && (split.FiveMinutes.set || split.OneHour.set) {
		tokens.CacheWrite5m, tokens.CacheWrite1h = split.FiveMinutes.n, split.OneHour.n
		understood = !u.CacheCreation.set || split.FiveMinutes.n+split.OneHour.n == u.CacheCreation.n
	} else {
		tokens.CacheWrite5m = u.CacheCreation.n
	}
	if !u.Input.set || tokens.Validate() != nil {
		r.Tokens, r.Complete = Tokens{}, false
		return
	}
	r.Tokens, r.Complete = tokens, understood && u.Output.set
}

func anthropicObject(r *Report, object json.RawMessage) {
	r.Tokens, r.Complete = Tokens{}, false
	var u anthropicUsage
	if json.Unmarshal(object, &u) == nil {
		u.report(r)
	}
}

type anthropicMessage struct {
	Model string          `json:"model"`
	Usage json.RawMessage `json:"usage"`
}

func anthropicBody(r *Report, body json.RawMessage) {
	var m anthropicMessage
	if json.Unmarshal(body, &m) != nil {
		return
	}
	r.Model = m.Model
	if present(m.Usage) {
		anthropicObject(r, m.Usage)
	}
}

// anthropicEvent reads message_start, which carries the input, and message_delta, whose counts are
// cumulative and stand over what was said before. Without a message_delta the stream was cut off,
// and its output is not known.
func anthropicEvent(r *Report, acc *accumulator, data json.RawMessage) {
	// Most events are neither. Only \u can spell their types without these letters.
	if !bytes.Contains(data, []byte("message_")) && !bytes.Contains(data, []byte(`\u`)) {
		return
	}
	var event struct {
		Type    string            `json:"type"`
		Message *anthropicMessage `json:"message"`
		Usage   json.RawMessage   `json:"usage"`
	}
	if json.Unmarshal(data, &event) != nil {
		return
	}
	var said json.RawMessage
	switch event.Type {
	case "message_start":
		if event.Message == nil {
			return
		}
		r.Model, said = event.Message.Model, event.Message.Usage
	case "message_delta":
		said = event.Usage
	}
	if !present(said) {
		return
	}
	if json.Unmarshal(said, &acc.anthropic) != nil { // what is absent stays as it was
		r.Complete = false
		return
	}
	acc.anthropic.report(r)
	if event.Type == "message_start" {
		r.Complete = false
	}
}
