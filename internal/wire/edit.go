package wire

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
)

// Edit is what a gateway changes in a body. Zero values change nothing.
type Edit struct {
	Model        string // who shall answer
	IncludeUsage bool   // have the stream say its usage at its end: chat only, the other APIs always do
	MaxOutput    int64  // the most tokens for each choice; a smaller cap of the client's stays

	// LegacyCap says that the upstream of a chat knows only max_tokens, as some OpenAI-compatible servers do: an unknown
	// cap might be passed over in silence.
	LegacyCap bool
}

// splice replaces a part of a body.
type splice struct {
	span
	text string
}

// Apply returns the body with the edit, everything else in it as it came. Without anything to change it is the body that
// was read itself, which must not be written to.
//
// The cap goes where the client put its own. Where it gave none, a chat gets max_completion_tokens, which every model of
// OpenAI's takes. A client's max_tokens is renamed to that when the edit's model is one that refuses the old name.
func (r *Request) Apply(e Edit) []byte {
	var splices []splice
	var added string // members at the beginning of the outermost object
	if e.Model != "" && e.Model != r.Model {
		splices = append(splices, splice{r.spots.model, quote(e.Model)})
	}
	if e.IncludeUsage && r.API == Chat && r.Stream && !r.IncludeUsage {
		splices, added = r.includeUsage(splices)
	}
	if r.API.Generates() {
		var capped string
		splices, capped = r.capped(splices, e)
		added += capped
	}
	if added != "" {
		inside := r.spots.inside
		splices = append(splices, splice{span{inside, inside}, added})
	}
	return apply(r.body, splices)
}

func apply(body []byte, splices []splice) []byte {
	if len(splices) == 0 {
		return body
	}
	slices.SortFunc(splices, func(a, b splice) int { return cmp.Compare(a.start, b.start) })
	size := len(body)
	for _, s := range splices {
		size += len(s.text) - (s.end - s.start)
	}
	edited := make([]byte, 0, size)
	at := 0
	for _, s := range splices {
		edited = append(append(edited, body[at:s.start]...), s.text...)
		at = s.end
	}
	return append(edited, body[at:]...)
}

func (r *Request) includeUsage(splices []splice) (_ []splice, added string) {
	s := &r.spots
	switch {
	case s.includeUsage.end > 0:
		return append(splices, splice{s.includeUsage, "true"}), ""
	case s.options.end == 0:
		return splices, `"stream_options":{"include_usage":true},`
	case r.body[s.options.start] != '{': // null
		return append(splices, splice{s.options, `{"include_usage":true}`}), ""
	}
	text := `"include_usage":true,`
	if s.optionsEmpty {
		text = `"include_usage":true`
	}
	inside := s.options.start + 1
	return append(splices, splice{span{inside, inside}, text}), ""
}

func (r *Request) capped(splices []splice, e Edit) (_ []splice, added string) {
	caps := r.spots.caps[:]
	if from, to := r.renamed(e); from != nil {
		splices = append(splices, splice{from.key, to})
		caps = []limit{*from}
	}
	if e.MaxOutput <= 0 {
		return splices, ""
	}
	tokens := strconv.FormatInt(e.MaxOutput, 10)
	said := false
	for _, c := range caps {
		said = said || c.said
		if c.said && c.tokens > e.MaxOutput {
			splices = append(splices, splice{c.value, tokens})
		}
	}
	if said {
		return splices, ""
	}
	for _, c := range caps {
		if c.key.end > 0 { // null: it says nothing yet
			return append(splices, splice{c.value, tokens}), ""
		}
	}
	return splices, quote(r.capName(e)) + ":" + tokens + ","
}

// renamed is the client's cap if the upstream knows it by its other name only. A client that gave both is let be.
func (r *Request) renamed(e Edit) (from *limit, to string) {
	old, current := &r.spots.caps[0], &r.spots.caps[1]
	switch {
	case r.API != Chat || (old.key.end > 0) == (current.key.end > 0):
		return nil, ""
	case e.LegacyCap && current.key.end > 0:
		return current, "max_tokens"
	case !e.LegacyCap && old.key.end > 0 && e.Model != "" && reasons(e.Model):
		return old, "max_completion_tokens"
	}
	return nil, ""
}

func (r *Request) capName(e Edit) string {
	switch {
	case r.API == Responses:
		return "max_output_tokens"
	case r.API == Messages || e.LegacyCap:
		return "max_tokens"
	}
	return "max_completion_tokens"
}

// quote writes a string as JSON.
func quote(text string) string {
	quoted, _ := json.Marshal(text) // a string always can be
	return string(quoted)
}
