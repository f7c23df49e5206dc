package ingest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// nested wraps a protobuf message into a field of another, level by level.
func nested(inner []byte, fields ...protowire.Number) []byte {
	for _, field := range fields {
		outer := protowire.AppendTag(nil, field, protowire.BytesType)
		inner = protowire.AppendBytes(outer, inner)
	}
	return inner
}

// allocated is how many bytes f took from the heap in all.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// A body made to take many times its size in memory takes a few times its size, and what is good beside it is kept.
func TestHostileOTLPTakesLittle(t *testing.T) {
	opt := testOptions(t, "", nil)
	decode := func(body string, binary bool) (*request, *answer, error) {
		i := &Ingest{opt: opt, anyTenant: true}
		req, a := newRequest(i), &answer{}
		return req, a, i.newOTLP(newDecoder([]byte(body), testNow, &Caller{}), req, a).decode(traces, binary)
	}
	good := marshal(t, export(acme, otelSpan(1, chat)))
	attribute := func(name string) []byte {
		return nested(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte(name)), 9)
	}
	inSpan := func(b []byte) string { return string(nested(b, 2, 2, 1)) }
	value := []byte{}
	for range 10_000 { // an AnyValue that is a list with one AnyValue, and so on
		value = nested(value, 1, 5)
	}
	for name, hostile := range map[string]struct {
		body    string
		refused string
	}{
		"attributes without a name":  {inSpan(bytes.Repeat([]byte{9<<3 | 2, 0}, 500_000)), ""},
		"attributes that count":      {inSpan(bytes.Repeat(attribute("flyball.task"), 60_000)), "at most 512"},
		"attributes that do not":     {inSpan(bytes.Repeat(attribute("a"), 200_000)), ""},
		"tags":                       {inSpan(bytes.Repeat(attribute("flyball.tag.a"), 60_000)), "at most 512"},
		"events":                     {inSpan(bytes.Repeat(nested(nested([]byte(evaluationEvent), 2), 11), 30_000)), "at most 64"},
		"a very large name":          {inSpan(attribute(strings.Repeat("a", 2<<20))), ""},
		"values within values":       {inSpan(nested(append(protowire.AppendBytes([]byte{1<<3 | 2}, []byte("gen_ai.prompt")), nested(value, 2)...), 9)), ""},
		"such a value where we look": {inSpan(nested(append(protowire.AppendBytes([]byte{1<<3 | 2}, []byte("flyball.task")), nested(value, 2)...), 9)), ""},
		"a million empty spans":      {string(nested(bytes.Repeat([]byte{2<<3 | 2, 0}, 1_000_000), 2, 1)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var req *request
			var a *answer
			taken := allocated(func() {
				var err error
				req, a, err = decode(hostile.body+good, true)
				require.NoError(t, err)
			})
			require.Less(t, taken, int64(4*len(hostile.body)+4<<20), "for a body of %d bytes", len(hostile.body))
			require.Len(t, req.units, 1, "the good span beside it is kept")
			if hostile.refused != "" {
				require.NotEmpty(t, a.Refused)
				require.Contains(t, a.Refused[0].Reason, hostile.refused)
			}
		})
	}
	for name, body := range map[string]string{
		"lists within lists": `{"resourceSpans":` + strings.Repeat("[", 1_000_000),
		"values in values":   `{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"flyball.task","value":` + strings.Repeat(`{"arrayValue":{"values":[`, 200_000),
	} {
		taken := allocated(func() {
			_, _, err := decode(body, false)
			require.Error(t, err, name)
		})
		require.Less(t, taken, int64(4*len(body)+4<<20), name)
	}
}

// zeros is a body that has no end.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

// A hundred megabytes, plain or out of a few compressed ones, are refused before they are in memory.
func TestLargeBodies(t *testing.T) {
	opt := testOptions(t, t.TempDir(), newStore())
	opt.MaxBody = 4 << 20
	i, _ := start(t, opt)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, err := io.Copy(z, &zeros{100 << 20})
	require.NoError(t, err)
	require.NoError(t, z.Close())
	for _, path := range []string{"/v1/traces", "/v1/logs", "/v1/litellm"} {
		for encoding, body := range map[string]io.Reader{"": &zeros{100 << 20}, "gzip": bytes.NewReader(bomb.Bytes())} {
			r := httptest.NewRequest("POST", path, body)
			r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost:8080"
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Content-Encoding", encoding)
			w := httptest.NewRecorder()
			taken := allocated(func() { i.Handler().ServeHTTP(w, r) })
			require.Equal(t, 413, w.Code, "%s %s", path, w.Body)
			require.Less(t, taken, 8*opt.MaxBody, path)
		}
	}
	require.Zero(t, i.inFlight.Load())
}

// A Collector mixes services in a request: a resource with a mistake in it costs its own records alone.
func TestOTLPBadResource(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, "", nil)
	tags := attrs{}
	for n := range maxTags + 1 {
		tags[fmt.Sprint("flyball.tag.", n)] = "x"
	}
	mixed := export(tags, otelSpan(1, chat))
	mixed.ResourceSpans = append(mixed.ResourceSpans, export(acme, otelSpan(2, chat)).GetResourceSpans()...)
	spans, _, a, _ := decodeOne(t, opt, "", mixed)
	require.Len(t, spans, 1)
	require.Equal(t, spanOf(2), spans[0].SpanID)
	require.Equal(t, []refusal{{0, "resource.flyball.tag.*", "at most 64 tags"}}, a.Refused)

	// What protobuf cannot say: a value of the wrong type, before and behind the spans that it concerns.
	good, bad := otlpJSON(t, export(acme, otelSpan(2, chat)).GetResourceSpans()[0]), otlpJSON(t, export(nil, otelSpan(1, chat)).GetResourceSpans()[0].GetScopeSpans()[0])
	resource := `"resource":{"attributes":[{"key":"tenant.id","value":{"intValue":"many"}}]}`
	for _, body := range []string{`{` + resource + `,"scopeSpans":[` + bad + `]}`, `{"scopeSpans":[` + bad + `],` + resource + `}`} {
		i := &Ingest{opt: opt, anyTenant: true}
		req, a := newRequest(i), &answer{}
		o := i.newOTLP(newDecoder([]byte(`{"resourceSpans":[`+body+`,`+good+`]}`), testNow, &Caller{}), req, a)
		require.NoError(t, o.decode(traces, false))
		require.Len(t, req.units, 1)
		require.EqualValues(t, 1, o.rejected)
		require.Contains(t, a.Refused[0].Reason, "must be a whole number (many)")
	}
}

// A long conversation is the dearest of calls: a span may be as large as its request, in both encodings.
func TestOTLPLongConversation(t *testing.T) {
	t.Parallel()
	long := chat.with(attrs{"gen_ai.input.messages": strings.Repeat(`long "text" `, 200_000)})
	spans, _, a, _ := decodeOne(t, testOptions(t, "", nil), "", export(acme, otelSpan(1, long)))
	require.Empty(t, a.Refused)
	require.Len(t, spans, 1)
}
