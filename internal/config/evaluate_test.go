package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte("sk-1\n"), 0o600))
	c, err := Parse([]byte("judge: {model: gpt-4o, api_key_file: "+file+", max_usd_per_day: 2.50, temperature: 0}\nevaluators: shipped\n"), none)
	require.NoError(t, err)
	most, err := c.Judge.Cap()
	require.NoError(t, err)
	require.EqualValues(t, 2_500_000_000_000, most)
	key, err := c.Judge.Key()
	require.NoError(t, err)
	require.Equal(t, "sk-1", key)
	require.Equal(t, "flyball-judge", c.Judge.Tenant)
	require.Zero(t, *c.Judge.Temperature)

	for text, want := range map[string]string{
		"{model: m}":                                                      "judge.max_usd_per_day",
		"{model: m, max_usd_per_day: -1}":                                 "judge.max_usd_per_day",
		"{model: m, max_usd_per_day: 0}":                                  "judge.max_usd_per_day",
		"{model: m, max_usd_per_day: 1, base_url: ftp://x}":               "judge.base_url",
		"{model: m, max_usd_per_day: 1, base_url: 'https://k:sk-1@x/v1'}": "judge.base_url: give the key as api_key",
		"{model: m, max_usd_per_day: 1, api_key: a, api_key_file: b}":     "judge.api_key",
		"{model: m, max_usd_per_day: 1, temperature: 3}":                  "judge.temperature",
		"{model: m, max_usd_per_day: 1, response_format: text}":           "judge.response_format",
		"{model: m, max_usd_per_day: 1, timeout: 1ms}":                    "judge.timeout",
		"{model: m, max_usd_per_day: 1, concurrency: 0}":                  "judge.concurrency",
		"{model: m, max_usd_per_day: 1, tenant: '*'}":                     "judge.tenant",
	} {
		_, err := Parse([]byte("judge: "+text+"\n"), none)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "sk-1")
	}
	_, err = Parse([]byte("judge: {timeout: 1ms}\n"), none)
	require.NoError(t, err, "without a model there is no judge")
}

func TestContent(t *testing.T) {
	t.Parallel()
	require.Zero(t, Default().Content.Of("org"), "nothing is kept unless somebody says so")
	c, err := Parse([]byte("content: {keep: true, retention: 48h, tenants: [org]}\n"), none)
	require.NoError(t, err)
	require.Equal(t, 48*time.Hour, c.Content.Of("org"))
	require.Zero(t, c.Content.Of("other"))
	c, err = Parse([]byte("content: {keep: true}\n"), none)
	require.NoError(t, err)
	require.Equal(t, 7*24*time.Hour, c.Content.Of("anybody"))
	_, err = Parse([]byte("content: {keep: true, retention: 1s}\n"), none)
	require.ErrorContains(t, err, "content.retention")
}
