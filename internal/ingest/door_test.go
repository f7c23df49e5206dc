package ingest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// doorOf is a door to tokens that are right.
func doorOf(t testing.TB, tokens ...Token) *Door {
	t.Helper()
	d, err := NewDoor(tokens)
	require.NoError(t, err)
	return d
}

func bearer(secret string) []string { return []string{"Authorization", "Bearer " + secret} }

// keyTo is a token with one secret.
func keyTo(secret string, t Token) Token {
	t.Hashes = append(t.Hashes, HashToken(secret))
	return t
}

func TestDoor(t *testing.T) {
	t.Parallel()
	tokens := []Token{
		keyTo("for-org", Token{Name: "org's", Tenant: "org"}),
		keyTo("for-all", Token{Name: "all"}),
		keyTo("scores", Token{Name: "judge", Tenant: "org", Scopes: []Scope{ScopeQuality}}),
		keyTo("new", keyTo("old", Token{Name: "turning"})),
		keyTo("past", Token{Name: "past", Expires: testNow}),
		keyTo("to come", Token{Name: "to come", NotBefore: testNow.Add(time.Second)}),
		keyTo("present", Token{Name: "present", NotBefore: testNow, Expires: testNow.Add(time.Second)}),
	}
	for _, tc := range []struct {
		name         string
		tokens       []Token
		remote, host string
		header       []string
		scope        Scope
		tenant, says string // says is empty where the request is let in
		status       int    // where it is not
	}{
		{name: "this machine", remote: "127.0.0.1:9", host: "127.0.0.1:8080"},
		{name: "this machine, by name", remote: "127.0.0.1:9", host: "LocalHost:8080"},
		{name: "this machine, IPv6", remote: "[::1]:9", host: "[::1]:8080"},
		{name: "this machine, port 80", remote: "[::1]:9", host: "[::1]"},
		{name: "elsewhere", remote: "192.0.2.1:9", host: "192.0.2.2:8080", says: "only loopback", status: 403},
		{name: "from nowhere", host: "127.0.0.1:8080", says: "only loopback", status: 403},
		{name: "a web page", remote: "127.0.0.1:9", host: "127.0.0.1:8080", header: []string{"Origin", "https://example.com"}, says: "web pages", status: 403},
		{name: "a rebound name", remote: "127.0.0.1:9", host: "evil.example:8080", says: `"evil.example:8080" is not answered to`, status: 403},
		{name: "no name", remote: "127.0.0.1:9", says: "not answered to", status: 403},
		{name: "a token where none is configured", remote: "192.0.2.1:9", host: "192.0.2.2", header: bearer("for-all"), says: "only loopback", status: 403},

		{name: "no token", tokens: tokens, remote: "127.0.0.1:9", host: "127.0.0.1", says: ErrNoToken.Error(), status: 401},
		{name: "not a bearer", tokens: tokens, header: []string{"Authorization", "for-all"}, says: ErrNoToken.Error(), status: 401},
		{name: "an empty bearer", tokens: tokens, header: bearer(""), says: ErrNoToken.Error(), status: 401},
		{name: "the hash", tokens: tokens, header: bearer(HashToken("for-all")), says: ErrNoToken.Error(), status: 401},
		{name: "a tenant's", tokens: tokens, header: bearer("for-org"), tenant: "org"},
		{name: "a tenant's, for decisions", tokens: tokens, header: bearer("for-org"), scope: ScopeDecide, says: `"org's" is not for decide`, status: 403},
		{name: "trusted for all", tokens: tokens, header: bearer("for-all ")},
		{name: "trusted for all, for decisions", tokens: tokens, header: bearer("for-all"), scope: ScopeDecide},
		{name: "for scores", tokens: tokens, header: bearer("scores"), scope: ScopeQuality, tenant: "org"},
		{name: "for scores, with spans", tokens: tokens, header: bearer("scores"), says: `"judge" is not for spans: its scopes are [quality]`, status: 403},
		{name: "replaced by and by: the old secret", tokens: tokens, header: bearer("old")},
		{name: "replaced by and by: the new secret", tokens: tokens, header: bearer("new")},
		{name: "expired", tokens: tokens, header: bearer("past"), says: `"past" expired on 2026-06-01T12:00:00Z`, status: 401},
		{name: "not yet valid", tokens: tokens, header: bearer("to come"), says: `not valid before 2026-06-01T12:00:01Z`, status: 401},
		{name: "valid just now", tokens: tokens, header: bearer("present")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			door := doorOf(t, tc.tokens...)
			r := httptest.NewRequest(http.MethodGet, "/v1/flags", nil)
			r.RemoteAddr, r.Host = tc.remote, tc.host
			for n := 0; n < len(tc.header); n += 2 {
				r.Header.Set(tc.header[n], tc.header[n+1])
			}
			scope := tc.scope
			set(&scope, ScopeSpans)
			caller, err := door.Admit(r, scope, testNow)
			if tc.says == "" {
				require.NoError(t, err)
				require.Equal(t, tc.tenant, caller.Tenant)
				return
			}
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), HashToken("for-all"))
			status, _ := StatusOf(err)
			require.Equal(t, tc.status, status)
		})
	}
}

func TestTokensThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for says, token := range map[string]Token{
		"has no hash":                   {Name: "a"},
		"hex SHA-256":                   {Name: "a", Hashes: []string{"secret"}},
		"lower-case":                    {Name: "a", Hashes: []string{strings.ToUpper(HashToken("x"))}},
		`scope "span" is not one of`:    keyTo("x", Token{Scopes: []Scope{"span"}}),
		"say which tenant's":            keyTo("x", Token{Scopes: []Scope{ScopeCalls}}),
		"concerns every tenant":         keyTo("x", Token{Tenant: "org", Scopes: []Scope{ScopeDecide}}),
		"must not be negative":          keyTo("x", Token{RecordsPerSecond: -1}),
		"expires before it begins":      keyTo("x", Token{NotBefore: testNow, Expires: testNow}),
		`"one" and "a" have the same`:   keyTo("one", Token{Name: "a"}),
		`"one" and "two" have the same`: keyTo("one", Token{Name: "two"}),
	} {
		door := doorOf(t, keyTo("kept", Token{}))
		require.ErrorContains(t, door.Replace([]Token{keyTo("one", Token{Name: "one"}), token}), says)
		_, err := door.AdmitToken("kept", ScopeSpans, testNow)
		require.NoError(t, err, "what was there stays")
		_, err = door.AdmitToken("one", ScopeSpans, testNow)
		require.ErrorIs(t, err, ErrNoToken)
	}
}

func TestReplacedTokens(t *testing.T) {
	t.Parallel()
	limited := keyTo("kept", Token{Name: "kept", RequestsPerSecond: 1})
	door := doorOf(t, limited, keyTo("gone", Token{Tenant: "org"}))
	_, err := door.AdmitToken("kept", ScopeSpans, testNow)
	require.NoError(t, err)
	require.NoError(t, door.Replace([]Token{keyTo("second", limited), keyTo("come", Token{Tenant: "org"})}))
	_, err = door.AdmitToken("gone", ScopeSpans, testNow)
	require.ErrorIs(t, err, ErrNoToken)
	_, err = door.AdmitToken("come", ScopeSpans, testNow)
	require.NoError(t, err)
	_, err = door.AdmitToken("second", ScopeSpans, testNow)
	require.ErrorContains(t, err, "limited to 1 requests a second", "what it has used stays used")
	require.True(t, door.AnyTenant())
	require.NoError(t, door.Replace([]Token{keyTo("come", Token{Tenant: "org"})}))
	require.False(t, door.AnyTenant())
}

func TestTokenLimits(t *testing.T) {
	t.Parallel()
	c := &clock{at: testNow}
	opt := testOptions(t, t.TempDir(), newStore())
	opt.Now = c.now
	opt.Door = doorOf(
		t,
		keyTo("often", Token{Name: "often", RequestsPerSecond: 2}),
		keyTo("many", Token{Name: "many", RecordsPerSecond: 10}),
		keyTo("slow", Token{Name: "slow", RequestsPerSecond: 0.1}),
		keyTo("small", Token{Name: "small", MaxBody: 1000}),
		keyTo("scores", Token{Name: "scores", Scopes: []Scope{ScopeQuality}}),
	)
	i, _ := start(t, opt)
	next := 0
	send := func(secret string, spans int) *httptest.ResponseRecorder {
		var body strings.Builder
		for range spans {
			next++
			body.WriteString(spanWith(t, map[string]any{"span_id": fmt.Sprint(next)}) + "\n")
		}
		return post(i, "/v1/spans", body.String(), "Authorization", "Bearer "+secret)
	}
	// Requests: two at once, then one each half second.
	require.Equal(t, 200, send("often", 1).Code)
	require.Equal(t, 200, send("often", 1).Code)
	w := send("often", 1)
	require.Equal(t, 429, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), `ingest token \"often\" is limited to 2 requests a second: try again in 500ms`)
	c.advance(500 * time.Millisecond)
	require.Equal(t, 200, send("often", 1).Code)
	require.Equal(t, 429, send("often", 1).Code)
	require.Equal(t, 200, send("slow", 1).Code)
	require.Equal(t, "10", send("slow", 1).Header().Get("Retry-After"))

	// Records: a large request goes in and is waited out.
	require.Equal(t, 200, send("many", 9).Code)
	require.Equal(t, 200, send("many", 31).Code)
	w = send("many", 1)
	require.Equal(t, 429, w.Code)
	require.Contains(t, w.Body.String(), "limited to 10 records a second: try again in 3.1s")
	require.Equal(t, "4", w.Header().Get("Retry-After"))
	c.advance(3 * time.Second)
	require.Equal(t, 429, send("many", 1).Code)
	c.advance(100 * time.Millisecond)
	require.Equal(t, 200, send("many", 1).Code)
	c.advance(time.Second)
	require.Equal(t, 400, post(i, "/v1/spans", strings.Repeat("1\n", 30), "Authorization", "Bearer many").Code)
	require.Equal(t, 429, send("many", 1).Code, "bad records count as well")

	require.Equal(t, 200, send("small", 1).Code)
	w = send("small", 30)
	require.Equal(t, 413, w.Code)
	require.Contains(t, w.Body.String(), "larger than 1000 bytes")

	require.Equal(t, 403, send("scores", 1).Code)
	require.Equal(t, 401, send("nobody", 1).Code)
}

// A token for spans alone brings no scores in, whether they are inside spans or among a span's events; the spans stay.
func TestSpansAloneBringNoScores(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	opt.Door = doorOf(t, keyTo("spans", Token{Scopes: []Scope{ScopeSpans}}), keyTo("both", Token{Scopes: []Scope{ScopeSpans, ScopeQuality}}))
	i, _ := start(t, opt)
	p := otelSpan(1, chat)
	p.Events = []*tracepb.Span_Event{{
		Name: evaluationEvent, TimeUnixNano: p.EndTimeUnixNano,
		Attributes: attrs{"gen_ai.evaluation.name": "e", "gen_ai.evaluation.score.value": 0.5}.list(),
	}}
	traces := marshal(t, export(acme, p))

	w := post(i, "/v1/spans", gatewaySpan, bearer("spans")...)
	require.Equal(t, 200, w.Code)
	require.JSONEq(t, `{"accepted":1,"duplicates":0,"refused":[{"index":0,"field":"quality","reason":"the ingest token is not for quality: send evaluations with one that is"}]}`, w.Body.String())
	warning := partial(t, post(i, "/v1/traces", traces, append(bearer("spans"), binaryType...)...))
	require.Zero(t, warning.GetRejectedSpans())
	require.Equal(t, "record 0: events[0] the ingest token is not for quality: send evaluations with one that is", warning.GetErrorMessage())
	require.Eventually(t, func() bool { return i.Stats().SpoolRows == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, 2, sink.count())

	require.JSONEq(t, `{"accepted":0,"duplicates":1,"refused":[]}`, post(i, "/v1/spans", gatewaySpan, bearer("both")...).Body.String())
	require.Nil(t, partial(t, post(i, "/v1/traces", traces, append(bearer("both"), binaryType...)...)))
	require.Eventually(t, func() bool { return sink.count() == 4 }, 10*time.Second, time.Millisecond)
}
