package ingest

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDoor(t *testing.T) {
	t.Parallel()
	tokens := []Token{{HashToken("for-org"), "org"}, {HashToken("for-all"), ""}}
	for _, tc := range []struct {
		name         string
		tokens       []Token
		remote, host string
		header       []string
		tenant, says string // says is empty where the request is let in
	}{
		{name: "this machine", remote: "127.0.0.1:9", host: "127.0.0.1:8080"},
		{name: "this machine, by name", remote: "127.0.0.1:9", host: "LocalHost:8080"},
		{name: "this machine, IPv6", remote: "[::1]:9", host: "[::1]:8080"},
		{name: "this machine, port 80", remote: "[::1]:9", host: "[::1]"},
		{name: "elsewhere", remote: "192.0.2.1:9", host: "192.0.2.2:8080", says: "only loopback"},
		{name: "from nowhere", host: "127.0.0.1:8080", says: "only loopback"},
		{name: "a web page", remote: "127.0.0.1:9", host: "127.0.0.1:8080", header: []string{"Origin", "https://example.com"}, says: "web pages"},
		{name: "a rebound name", remote: "127.0.0.1:9", host: "evil.example:8080", says: `"evil.example:8080" is not answered to`},
		{name: "no name", remote: "127.0.0.1:9", says: "not answered to"},
		{name: "a token where none is configured", remote: "192.0.2.1:9", host: "192.0.2.2", header: []string{"Authorization", "Bearer for-all"}, says: "only loopback"},

		{name: "no token", tokens: tokens, remote: "127.0.0.1:9", host: "127.0.0.1", says: ErrNoToken.Error()},
		{name: "not a bearer", tokens: tokens, remote: "127.0.0.1:9", host: "127.0.0.1", header: []string{"Authorization", "for-all"}, says: ErrNoToken.Error()},
		{name: "a tenant's", tokens: tokens, remote: "192.0.2.1:9", host: "flyball.example", header: []string{"Authorization", "Bearer for-org"}, tenant: "org"},
		{name: "trusted for all", tokens: tokens, remote: "192.0.2.1:9", host: "flyball.example", header: []string{"Authorization", "Bearer for-all "}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			door, err := NewDoor(tc.tokens)
			require.NoError(t, err)
			r := httptest.NewRequest(http.MethodGet, "/v1/flags", nil)
			r.RemoteAddr, r.Host = tc.remote, tc.host
			for n := 0; n < len(tc.header); n += 2 {
				r.Header.Set(tc.header[n], tc.header[n+1])
			}
			tenant, err := door.Admit(r)
			require.Equal(t, tc.tenant, tenant)
			if tc.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.says)
		})
	}
}
