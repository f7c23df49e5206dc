package config

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/router"
)

func TestRouterSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{model: m}":                                                         "router.embeddings.url: name the endpoint",
		"{url: 'https://api.example/v1'}":                                    "router.embeddings.model",
		"{url: 'ftp://api.example/v1', model: m}":                            "router.embeddings.url",
		"{url: 'http://api.example/v1', model: m}":                           "allow_private",
		"{url: 'https://sk-1@api.example/v1', model: m}":                     "addresses are logged",
		"{url: 'https://api.example/v1?key=sk-1', model: m}":                 "router.embeddings.url",
		"{url: 'https://api.example/v1', model: m, dimensions: 8177}":        "from 1 to 8176",
		"{url: 'https://api.example/v1', model: m, key_env: A, key_file: b}": "router.embeddings.key_env",
		"{url: 'https://api.example/v1', model: m, timeout: 10s}":            "router.embeddings.timeout",
	} {
		_, err := Parse([]byte("router: {embeddings: "+text+"}\n"), none)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "sk-1")
	}
	c, err := Parse([]byte("router: {embeddings: {url: 'https://api.example/v1', model: m, dimensions: 256, key_env: A}}\n"), none)
	require.NoError(t, err)
	e := c.Router.Embeddings
	require.Equal(t, 150*time.Millisecond, e.Timeout)
	require.Equal(t, router.Embedding{Model: "m", Dimensions: 256}, e.Reading())
	_, err = e.Key(none)
	require.EqualError(t, err, "router.embeddings: key_env: the environment variable A is not set")
	require.Zero(t, Default().Router.Embeddings.Reading())
}
