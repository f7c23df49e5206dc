package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRollbacksAreChecked(t *testing.T) {
	t.Parallel()
	none := func(string) (string, bool) { return "", false }
	c, err := Parse([]byte("rollbacks:\n- {service: support-bot, url: 'https://ci.example.com/rollback', secret: 0123456789abcdef}\n- {service: rag, url: 'http://127.0.0.1:9/x', secret: 0123456789abcdef}\n"), none)
	require.NoError(t, err)
	require.Len(t, c.Rollbacks, 2)
	_, err = Parse([]byte(`rollbacks:
- {service: a, url: "http://ci.example.com/hush-hush", secret: 0123456789abcdef}
- {service: a, url: "https://ci.example.com", secret: too-short}
- {url: "ftp://localhost", secret: 0123456789abcdef}
- {service: b, url: "rollback", secret: 0123456789abcdef}
`), none)
	for _, want := range []string{
		"rollbacks[0] a: url must be https", "rollbacks[1] a: the service has another one already", "rollbacks[1] a: secret needs at least 16 characters",
		"rollbacks[2] : name the service", "rollbacks[2] : url must be https", "rollbacks[3] b: url is no address",
	} {
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, err.Error(), "too-short")
	require.NotContains(t, err.Error(), "hush-hush")
}
