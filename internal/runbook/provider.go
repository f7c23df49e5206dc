package runbook

import (
	"fmt"
	"slices"
	"strings"
)

// ProviderHealth is what a provider's status page says.
type ProviderHealth struct {
	Provider    string      `json:"provider"`
	Indicator   string      `json:"indicator"` // none, minor, major, critical or maintenance as on statuspage.io; empty: unknown
	Description string      `json:"description"`
	Incident    string      `json:"incident,omitempty"` // the newest unresolved one, of the API if there is one
	Link        string      `json:"link,omitempty"`
	Components  []Component `json:"components,omitempty"` // that serve calls, and that are affected
	Unplaced    bool        `json:"unplaced,omitempty"`   // an unresolved incident names no component
}

// Component is a part of a provider's service.
type Component struct {
	Name     string `json:"name"`
	Group    string `json:"group,omitempty"`
	Status   string `json:"status"`             // operational, degraded_performance, partial_outage, major_outage, under_maintenance
	Incident string `json:"incident,omitempty"` // unresolved, that names it
}

// operational is the status of a component that is well.
const operational = "operational"

// Affected reports whether the component is not as it should be.
func (c Component) Affected() bool { return c.Status != operational || c.Incident != "" }

// callWords are the words by which providers name what answers programs' calls.
var callWords = []string{"api", "apis", "completions", "responses", "messages", "embeddings", "inference"}

// Serves reports whether the component answers calls, by the words in its name or its group's: "Claude API
// (api.anthropic.com)" does; "Console", "Labs", "Playground" and chat for people do not.
func (c Component) Serves() bool {
	words := strings.FieldsFunc(strings.ToLower(c.Name+" "+c.Group), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(callWords, w) })
}

// String is the component with what is wrong with it.
func (c Component) String() string {
	text := c.Name
	if c.Status != operational {
		text += ": " + strings.ReplaceAll(c.Status, "_", " ")
	}
	if c.Incident != "" {
		text += " (" + c.Incident + ")"
	}
	return text
}

// JudgeProvider reads the status page. A page that cannot be read is unknown, never healthy.
//
// A component that answers calls and is not well explains the incident, whatever the page's indicator. A
// problem elsewhere is not ours: when the page names what is affected, and none of it answers calls though the
// page lists what does. When it does not say what is affected (no component is, or an unresolved incident
// names none) it may be ours, and the page's indicator stands.
func JudgeProvider(h ProviderHealth) Verdict {
	var ours, others []string
	serves := false
	for _, c := range h.Components {
		switch {
		case c.Affected() && c.Serves():
			ours = append(ours, c.String())
		case c.Affected():
			others = append(others, c.String())
		}
		serves = serves || c.Serves()
	}
	switch {
	case h.Indicator == "":
		return Verdict{Unknown, "", fmt.Sprintf("the status of %s is unknown: %s", orNoProvider(h.Provider), h.Description)}
	case len(ours) > 0:
		return Verdict{Found, CauseProvider, fmt.Sprintf("%s reports a problem with what answers calls: %s", h.Provider, strings.Join(ours, ", "))}
	case h.Indicator == "none":
		return Verdict{Clear, "", fmt.Sprintf("%s says: %s", h.Provider, h.Description)}
	case serves && len(others) > 0 && !h.Unplaced:
		return Verdict{Clear, "", fmt.Sprintf("%s reports a %s problem, but not with what answers calls: %s", h.Provider, h.Indicator, strings.Join(others, ", "))}
	}
	text := fmt.Sprintf("%s reports a %s problem: %s", h.Provider, h.Indicator, h.Description)
	if h.Incident != "" {
		text += " (" + h.Incident + ")"
	}
	return Verdict{Found, CauseProvider, text}
}

func orNoProvider(p string) string {
	if p == "" {
		return "the provider"
	}
	return p
}
