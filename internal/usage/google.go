package usage

import "encoding/json"

// googleCounts is Gemini's usageMetadata. The prompt includes what was read from the cache; thoughts are beside
// the candidates, and what tools gave back is beside the prompt. Counts of zero are left out, so that only the
// total tells an answer without text from one that is not there. What was written to the cache is part of the
// prompt and billed as such; keeping it is billed by the hour, not by the call.
type googleCounts struct {
	Prompt     count `json:"promptTokenCount"`
	Cached     count `json:"cachedContentTokenCount"`
	Candidates count `json:"candidatesTokenCount"`
	Thoughts   count `json:"thoughtsTokenCount"`
	ToolUse    count `json:"toolUsePromptTokenCount"`
	Total      count `json:"totalTokenCount"`

	PromptDetails     []googleModality `json:"promptTokensDetails"`
	ToolUseDetails    []googleModality `json:"toolUsePromptTokensDetails"`
	CandidatesDetails []googleModality `json:"candidatesTokensDetails"`

	ServiceTier string `json:"serviceTier"` // Gemini's
	TrafficType string `json:"trafficType"` // Vertex AI's
}

type googleModality struct {
	Modality string `json:"modality"`
	Tokens   count  `json:"tokenCount"`
}

// textPriced reports whether the parts are priced as text: what is heard never is, what is seen is on the way
// in only.
func textPriced(parts []googleModality, input bool) bool {
	for _, p := range parts {
		switch p.Modality {
		case "", "TEXT", "MODALITY_UNSPECIFIED":
		case "IMAGE", "VIDEO", "DOCUMENT":
			if !input && p.Tokens.n > 0 {
				return false
			}
		default:
			if p.Tokens.n > 0 {
				return false
			}
		}
	}
	return true
}

// serviceTier is the tier by either of its names.
func (u *googleCounts) serviceTier() string {
	switch u.TrafficType {
	case "ON_DEMAND_PRIORITY":
		return "priority"
	case "ON_DEMAND_FLEX":
		return "flex"
	case "PROVISIONED_THROUGHPUT":
		return "provisioned" // paid for by the month
	}
	return ServiceTier(u.ServiceTier)
}

func geminiUsage(r *Report, object json.RawMessage) {
	r.Tokens, r.Complete = Tokens{}, false
	var u googleCounts
	if json.Unmarshal(object, &u) != nil {
		return
	}
	r.ServiceTier = u.serviceTier()
	tokens := Tokens{
		UncachedInput: u.Prompt.n - u.Cached.n + u.ToolUse.n,
		CacheRead:     u.Cached.n,
		Output:        u.Candidates.n + u.Thoughts.n,
		Reasoning:     u.Thoughts.n,
	}
	if !u.Prompt.set || u.Cached.n > u.Prompt.n || tokens.Validate() != nil {
		return
	}
	r.Tokens = tokens
	text := u.Prompt.n + u.Candidates.n + u.Thoughts.n
	adds := u.Total.n == text+u.ToolUse.n || u.Total.n == text // older totals leave tools out
	if !u.Total.set {
		adds = u.Candidates.set
	}
	r.Complete = adds && textPriced(u.PromptDetails, true) && textPriced(u.ToolUseDetails, true) && textPriced(u.CandidatesDetails, false)
}

// googleUsage reads Gemini's usageMetadata or, of a partner's model on Vertex AI, the usage of that partner.
func googleUsage(r *Report, object json.RawMessage) {
	switch has := fields(object); {
	case has["input_tokens"] != nil:
		anthropicObject(r, object)
	case has["prompt_tokens"] != nil:
		openAIUsage(r, object)
	default:
		geminiUsage(r, object)
	}
}

type googleResponse struct {
	Model string          `json:"modelVersion"`
	Usage json.RawMessage `json:"usageMetadata"`

	// Of a partner's model.
	PartnerModel string          `json:"model"`
	PartnerUsage json.RawMessage `json:"usage"`

	Candidates []struct {
		Finish string `json:"finishReason"`
	} `json:"candidates"`
}

func (g *googleResponse) report(r *Report) {
	if name := g.Model + g.PartnerModel; name != "" {
		r.Model = name
	}
	if present(g.Usage) {
		geminiUsage(r, g.Usage)
	} else if present(g.PartnerUsage) {
		googleUsage(r, g.PartnerUsage)
	}
}

// googleBody reads a response, or a stream of them that came as one array.
func googleBody(r *Report, body json.RawMessage) {
	var list []json.RawMessage
	if json.Unmarshal(body, &list) == nil {
		var acc accumulator
		for _, event := range list {
			googleEvent(r, &acc, event)
		}
		return
	}
	var g googleResponse
	if json.Unmarshal(body, &g) == nil {
		g.report(r)
	}
}

// googleEvent reads a chunk of a stream. Each has the counts so far: the last ones stand, and are final once
// there is a reason why the text ended, or where there is no text.
func googleEvent(r *Report, acc *accumulator, data json.RawMessage) {
	switch has := fields(data); {
	case has["type"] != nil:
		anthropicEvent(r, acc, data)
		return
	case has["choices"] != nil:
		openAIEvent(r, acc, data)
		return
	}
	var g googleResponse
	if json.Unmarshal(data, &g) != nil {
		return
	}
	g.report(r)
	said := present(g.Usage)
	if said {
		acc.exact = r.Complete
	}
	last := said && len(g.Candidates) == 0
	for _, c := range g.Candidates {
		last = last || c.Finish != "" && c.Finish != "FINISH_REASON_UNSPECIFIED"
	}
	acc.final(r, last)
}
