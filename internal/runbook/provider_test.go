package runbook

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestComponentsThatAnswerCalls(t *testing.T) {
	t.Parallel()
	for _, c := range []Component{
		{Name: "Claude API (api.anthropic.com)"},
		{Name: "Chat Completions"},
		{Name: "Responses", Group: "APIs"},
		{Name: "Batch", Group: "APIs"},
		{Name: "API 服务 (API Service)"},
		{Name: "Embeddings"},
		{Name: "api.cohere.com"},
	} {
		require.True(t, c.Serves(), c.Name)
	}
	for _, c := range []Component{
		{Name: "Claude Console (platform.claude.com)"},
		{Name: "claude.ai"},
		{Name: "Labs"},
		{Name: "Playground"},
		{Name: "Login", Group: "ChatGPT"},
		{Name: "网页对话服务 (Web Chat Service)"},
		{Name: "Capitals"},
		{Name: ""},
	} {
		require.False(t, c.Serves(), c.Name)
	}
}

func TestJudgeProviderByItsComponents(t *testing.T) {
	t.Parallel()
	api, labs := Component{Name: "API", Status: "operational"}, Component{Name: "Labs", Status: "operational"}
	with := func(c Component, status, incident string) Component {
		c.Status, c.Incident = status, incident
		return c
	}
	for name, c := range map[string]struct {
		health ProviderHealth
		status Status
		says   string
	}{
		"only the labs are down": {
			ProviderHealth{Indicator: "minor", Components: []Component{api, with(labs, "major_outage", "")}}, Clear, "not with what answers calls: Labs: major outage",
		},
		"an incident of the labs": {
			ProviderHealth{Indicator: "major", Components: []Component{api, with(labs, "operational", "Labs are slow")}}, Clear, "Labs (Labs are slow)",
		},
		"the API is degraded": {
			ProviderHealth{Indicator: "minor", Components: []Component{with(api, "degraded_performance", "Slow"), with(labs, "major_outage", "")}}, Found, "what answers calls: API: degraded performance (Slow)",
		},
		"the API is degraded, and the page has not noticed": {
			ProviderHealth{Indicator: "none", Components: []Component{with(api, "partial_outage", "")}}, Found, "partial outage",
		},
		"all is well":                        {ProviderHealth{Indicator: "none", Description: "All Systems Operational", Components: []Component{api, labs}}, Clear, "All Systems Operational"},
		"it does not say where":              {ProviderHealth{Indicator: "major", Description: "Outage", Components: []Component{api, labs}}, Found, "Outage"},
		"another incident names nothing":     {ProviderHealth{Indicator: "major", Unplaced: true, Components: []Component{api, with(labs, "major_outage", "")}}, Found, "a major problem"},
		"nothing on the page answers calls":  {ProviderHealth{Indicator: "major", Components: []Component{with(labs, "major_outage", "")}}, Found, "a major problem"},
		"the page could not be read, so far": {ProviderHealth{Components: []Component{with(api, "major_outage", "")}}, Unknown, "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.health.Provider = "openai"
			v := JudgeProvider(c.health)
			require.Equal(t, c.status, v.Status, v.Text)
			require.Contains(t, v.Text, c.says)
			require.Equal(t, c.status == Found, v.Cause == CauseProvider)
		})
	}
}
