package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGateSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{max_body: 1}":                   "gateway.max_body",
		"{max_header: 1}":                 "gateway.max_header",
		"{max_calls: 0}":                  "gateway.max_calls",
		"{output_cap: 1}":                 "gateway.output_cap",
		"{body_time: 1ms}":                "gateway.body_time",
		"{write_time: 2h}":                "gateway.write_time",
		"{drain: -1s}":                    "gateway.drain",
		"{tls: {cert_file: a}}":           "gateway.tls",
		"{upstreams: [{name: a}]}":        "gateway.upstreams[0].family",
		"{upstreams: [{family: openai}]}": "gateway.upstreams[0].name",
		"{upstreams: [{name: a, family: openai}, {name: a, family: openai}]}":                   `gateway.upstreams[1].name: "a" is there twice`,
		"{upstreams: [{name: a, family: openai, url: 'http://api.example/v1'}]}":                "allow_private",
		"{upstreams: [{name: a, family: openai, url: 'https://sk-1@api.example/v1'}]}":          "addresses are logged",
		"{upstreams: [{name: a, family: openai, url: 'https://api.example/v1?key=sk-1'}]}":      "gateway.upstreams[0].url",
		"{upstreams: [{name: a, family: openai, key_env: A, key_file: b}]}":                     "gateway.upstreams[0].key_env",
		"{upstreams: [{name: a, family: openai, models: ['[']}]}":                               "gateway.upstreams[0].models",
		"{upstreams: [{name: a, family: openai, timeouts: {idle: -1s}}]}":                       "gateway.upstreams[0].timeouts.idle",
		"{upstreams: [{name: a, family: openai, fallback: [a]}]}":                               "gateway.upstreams[0].fallback",
		"{upstreams: [{name: a, family: openai, fallback: [b]}, {name: b, family: anthropic}]}": "another upstream of the family openai",
		"{upstreams_file: f, upstreams: [{name: a, family: openai}]}":                           "gateway.upstreams",
	} {
		_, err := Parse([]byte("gateway: "+text+"\n"), none)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "sk-1")
	}
}

func TestLoadUpstreams(t *testing.T) {
	t.Parallel()
	environment := func(name string) (string, bool) { return "sk-1", name == "ANTHROPIC_API_KEY" }
	list, err := Gate{}.LoadUpstreams(environment)
	require.NoError(t, err)
	require.Equal(t, []Upstream{{
		Name: "anthropic", Family: "anthropic", Provider: "anthropic", URL: "https://api.anthropic.com/v1", KeyEnv: "ANTHROPIC_API_KEY", Timeouts: defaultTimeouts,
	}}, list, "of those whose keys are there")

	file := filepath.Join(t.TempDir(), "upstreams.yaml")
	g := Gate{UpstreamsFile: file}
	_, err = g.LoadUpstreams(none)
	require.ErrorContains(t, err, "gateway.upstreams_file")
	require.NoError(t, os.WriteFile(file, []byte("- {name: a, family: openai, timeouts: {idle: 1m}}\n"), 0o600))
	list, err = g.LoadUpstreams(none)
	require.NoError(t, err)
	require.Equal(t, time.Minute, list[0].Timeouts.Idle)
	require.Equal(t, defaultTimeouts.Whole, list[0].Timeouts.Whole)
	require.NoError(t, os.WriteFile(file, []byte("- {name: a, family: openai, modles: [x]}\n"), 0o600))
	_, err = g.LoadUpstreams(none)
	require.ErrorContains(t, err, "modles")
}

func TestUpstreamKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	u := Upstream{Name: "a", KeyFile: file}
	for text, want := range map[string]string{"": "is empty", "sk-1\nsk-2": "no header may have"} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := u.Key(none)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "sk-")
	}
	require.NoError(t, os.WriteFile(file, []byte(" sk-1\n"), 0o600))
	key, err := u.Key(none)
	require.NoError(t, err)
	require.Equal(t, "sk-1", key)
	_, err = Upstream{Name: "a", KeyEnv: "A"}.Key(none)
	require.ErrorContains(t, err, "variable A is not set")
}
