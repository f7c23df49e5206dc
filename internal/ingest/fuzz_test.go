package ingest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

func FuzzHandlers(f *testing.F) {
	f.Add("/v1/spans", gatewaySpan)
	f.Add("/v1/spans", "["+gatewaySpan+",1]")
	f.Add("/v1/quality", `{"id":"q","trace_id":"abc123","evaluator":"e","score":0.5,"timestamp":"2026-06-01T11:00:00Z"}`)
	f.Add("/v1/outcomes", `{"id":"o","trace_id":"abc123","kind":"ticket","timestamp":"2026-06-01T11:00:00Z"}`)
	f.Add("/v1/deployments", `{"id":"d","service":"s","version":"v","timestamp":"2026-06-01T11:00:00Z","previous":{"a":"b"}}`)
	i, _ := start(f, testOptions(f, f.TempDir(), newStore()))
	f.Fuzz(func(t *testing.T, path, body string) {
		switch path {
		case "/v1/spans", "/v1/quality", "/v1/outcomes", "/v1/deployments":
		default:
			return
		}
		w := post(i, path, body)
		if w.Code != 200 && w.Code != 400 || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}

// The cursor takes what encoding/json takes, but for depth, invalid UTF-8 and lone surrogates.
func FuzzCursor(f *testing.F) {
	for _, text := range []string{gatewaySpan, `[1,-0.5e+7,true,null,"\u00e9\ud83d\ude00"]`, `{"a":[{}]}`, `01`, `"\x"`, "\"\t\""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := cursor{text: []byte(text), names: map[string]string{}}
		c.space()
		_, err := c.skip()
		c.space()
		took := err == nil && c.pos == len(text)
		if took && !json.Valid([]byte(text)) {
			t.Fatalf("took %q", text)
		}
		if !took && json.Valid([]byte(text)) && !strings.ContainsAny(text, "[{\\") && strings.ToValidUTF8(text, "") == text {
			t.Fatalf("refused %q: %v", text, err)
		}
	})
}

// fuzzDecoder runs a native decoder over arbitrary bodies: what it keeps obeys the rules of the format and survives
// the spool's encoding, and every record is kept or refused, in order.
func fuzzDecoder(f *testing.F, decode func(*decoder, *request, *answer), check func(t *testing.T, r *request, u *unit)) {
	i := &Ingest{opt: testOptions(f, "", nil), anyTenant: true}
	f.Fuzz(func(t *testing.T, body []byte, tenant string) {
		req, a := newRequest(i), &answer{}
		decode(newDecoder(body, testNow, &Caller{Tenant: tenant}), req, a)
		last := -1
		for n := range req.units {
			u := &req.units[n]
			require.Greater(t, u.index, last)
			last = u.index
			check(t, req, u)
		}
		last = -1
		for _, r := range a.Refused {
			require.Greater(t, r.Index, last)
			last = r.Index
			require.NotEmpty(t, r.Reason)
			require.Less(t, len(r.Field)+len(r.Reason), 10_000)
		}
		require.LessOrEqual(t, len(a.Refused), maxRefusals)
	})
}

func inBounds(t *testing.T, at time.Time) {
	require.False(t, at.Before(earliest) || at.After(testNow.Add(maxFuture)), at)
}

func FuzzSpans(f *testing.F) {
	for _, body := range []string{
		gatewaySpan, "[" + gatewaySpan + ",1]", spanLines(3, 1), `[{"tokens":{"prompt":NaN}},{"trace_id":"\ud800"}]`,
		`{"trace_id":"a","usage":` + strings.Repeat(`{"a":`, 40), `{"usage":{"prompt_tokens":-1,"completion_tokens":9223372036854775808}}`,
		spanWith(f, map[string]any{"usage": map[string]any{"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": map[string]any{"cached_tokens": 2}}}),
	} {
		f.Add([]byte(body), "")
		f.Add([]byte(body), "org_42")
	}
	fuzzDecoder(f, (*decoder).spans, func(t *testing.T, r *request, u *unit) {
		var s usage.Span
		in := reader{from: r.buf[u.body.from:u.body.to]}
		in.span(&s)
		require.NoError(t, in.err)
		require.Empty(t, in.from)
		require.Equal(t, r.buf[u.body.from:u.body.to], canonical(&s, r.buf[u.body.from:u.body.to]))
		require.NoError(t, s.Tokens.Validate())
		require.GreaterOrEqual(t, s.Cost, usage.PicoUSD(0))
		require.True(t, s.TenantID != "" && s.TraceID != "" && s.SpanID != "" && s.Model != "" && s.RequestedModel != "")
		require.True(t, s.Complexity > 0 && s.LatencyMS >= 0 && s.TTFTMS >= 0)
		inBounds(t, s.Timestamp)
	})
}

// canonical encodes a span again; the order of a map's entries is not its own, so tags are compared by size alone.
func canonical(s *usage.Span, was []byte) []byte {
	if now := appendSpan(nil, s); len(s.Tags) < 2 || len(now) != len(was) {
		return now
	}
	return was
}

func FuzzQuality(f *testing.F) {
	for _, body := range []string{
		`{"id":"q","trace_id":"abc123","evaluator":"e","score":0.5,"timestamp":"2026-06-01T11:00:00Z"}`,
		`[{"id":"q","trace_id":"abc123","span_id":"s","tenant_id":"org","model":"m","evaluator":"e","evaluator_version":"1","score":1,"confidence":0,"kind":"human","arm":"treated","timestamp":"2026-06-01T11:00:00+02:00"},{"score":Infinity}]`,
	} {
		f.Add([]byte(body), "")
		f.Add([]byte(body), "org")
	}
	fuzzDecoder(f, (*decoder).qualities, func(t *testing.T, _ *request, u *unit) {
		q := *u.event.(scoreEvent).Quality
		var back usage.Quality
		in := reader{from: appendQuality(nil, &q)}
		in.quality(&back)
		require.NoError(t, in.err)
		require.Equal(t, q, back)
		require.True(t, q.ID != "" && q.TraceID != "" && q.Evaluator != "")
		require.True(t, q.Score >= 0 && q.Score <= 1 && q.Confidence >= 0 && q.Confidence <= 1)
		inBounds(t, q.Timestamp)
	})
}

func FuzzOutcomes(f *testing.F) {
	f.Add([]byte(`{"id":"o","trace_id":"abc123","kind":"ticket","timestamp":"2026-06-01T11:00:00Z"}`), "")
	f.Add([]byte(`[{"id":"o","trace_id":"abc123","tenant_id":"org","kind":"upsell","value":-1e6,"timestamp":"2026-06-01T11:00:00Z"},{"value":NaN}]`), "org")
	fuzzDecoder(f, (*decoder).outcomes, func(t *testing.T, _ *request, u *unit) {
		o := *u.event.(outcomeEvent).Outcome
		var back usage.Outcome
		in := reader{from: encodeOutcome(&o)}
		in.outcome(&back)
		require.NoError(t, in.err)
		require.Equal(t, o, back)
		require.True(t, o.ID != "" && o.TraceID != "" && o.Kind != "")
		require.True(t, o.Value >= -usage.MaxOutcome && o.Value <= usage.MaxOutcome)
		inBounds(t, o.Timestamp)
	})
}

func FuzzDeployments(f *testing.F) {
	f.Add([]byte(`{"id":"d","service":"s","version":"v","timestamp":"2026-06-01T11:00:00Z","previous":{"a":"b"}}`), "")
	f.Add([]byte(`[{"id":"d","service":"s","tenant_id":"org","model":"m","prompt_template_version":"2","by":"ann","version":"v","timestamp":"2026-06-01T11:00:00Z"}]`), "org")
	fuzzDecoder(f, (*decoder).deployments, func(t *testing.T, r *request, u *unit) {
		var d usage.Deployment
		in := reader{from: r.buf[u.body.from:u.body.to]}
		in.deployment(&d)
		require.NoError(t, in.err)
		require.True(t, d.ID != "" && d.Service != "" && d.Version != "")
		inBounds(t, d.Timestamp)
	})
}

// What is written to the spool is read back as it was.
func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.StringN(0, 20, 60)
		labels := rapid.MapOfN(text, text, 0, 5)
		count := rapid.Int64()
		at := time.Unix(0, count.Draw(r, "time")).UTC()
		span := usage.Span{
			TraceID: text.Draw(r, "trace"), SpanID: text.Draw(r, "span"), Timestamp: at, TenantID: text.Draw(r, "tenant"),
			Provider: text.Draw(r, "provider"), Model: text.Draw(r, "model"), Arm: usage.Arm(text.Draw(r, "arm")),
			Tokens: usage.Tokens{UncachedInput: count.Draw(r, "input"), CacheRead: count.Draw(r, "read"), Output: count.Draw(r, "output")},
			Cost:   usage.PicoUSD(count.Draw(r, "cost")), LatencyMS: count.Draw(r, "latency"), Priced: rapid.Bool().Draw(r, "priced"),
			Complexity: rapid.Float64().Draw(r, "complexity"), Tags: labels.Draw(r, "tags"),
		}
		if rapid.Bool().Draw(r, "reported") {
			reported := usage.PicoUSD(count.Draw(r, "reported cost"))
			span.CostReported = &reported
		}
		if len(span.Tags) == 0 {
			span.Tags = nil
		}
		quality := usage.Quality{ID: text.Draw(r, "id"), TenantID: text.Draw(r, "tenant"), Score: rapid.Float64().Draw(r, "score"), Timestamp: at}
		outcome := usage.Outcome{ID: text.Draw(r, "id"), TraceID: text.Draw(r, "trace"), Kind: text.Draw(r, "kind"), Value: rapid.Float64().Draw(r, "value"), Timestamp: at}
		tuple := usage.Tuple{TraceID: text.Draw(r, "trace"), Model: text.Draw(r, "model"), Features: []byte("f"), EstimatedCost: 7, Predicted: rapid.Float64().Draw(r, "predicted"), Timestamp: at}
		deployment := usage.Deployment{ID: text.Draw(r, "id"), Previous: span.Tags, By: text.Draw(r, "by"), Timestamp: at}

		var frame []byte
		for _, record := range []struct {
			kind kind
			body []byte
		}{{kindSpan, appendSpan(nil, &span)}, {kindQuality, appendQuality(nil, &quality)}, {kindOutcome, encodeOutcome(&outcome)}, {kindDeployment, appendDeployment(nil, &deployment)}, {kindTuple, appendTuple(nil, &tuple)}} {
			frame = appendRecord(frame, record.kind, len(record.body), record.body)
		}
		b := &batch{}
		require.NoError(r, b.add(frame, map[string]string{}))
		require.Equal(r, []usage.Span{span}, b.spans)
		require.Equal(r, []usage.Quality{quality}, b.quality)
		require.Equal(r, []usage.Outcome{outcome}, b.outcomes)
		require.Equal(r, []usage.Deployment{deployment}, b.deployments)
		require.Equal(r, []usage.Tuple{tuple}, b.tuples)
	})
}

// records is a frame's worth of each kind of record.
func records() []byte {
	s, q, d := span("org", "t", "1"), score("q", "org", "t", "1"), usage.Deployment{ID: "d", Previous: map[string]string{"a": "b"}}
	waits := identify('q', "org", "q")
	var b []byte
	for _, r := range []struct {
		kind kind
		body []byte
	}{
		{kindDimensions, appendDimensions(nil, dimensionsOf(&s))},
		{kindSeen, append([]byte{1}, waits[:]...)},
		{kindSpan, appendSpan(nil, &s)},
		{kindQuality, appendQuality(nil, &q)},
		{kindWaiting, appendQuality([]byte{byte(kindQuality)}, &q)},
		{kindReleased, appendQuality(append(waits[:], byte(kindQuality)), &q)},
		{kindQuality1, []byte("rubbish")},
		{kindOutcome, encodeOutcome(&usage.Outcome{ID: "o", TraceID: "t", Kind: "conversion", Value: 1})},
		{kindDeployment, appendDeployment(nil, &d)},
		{kindTuple, appendTuple(nil, &usage.Tuple{TraceID: "t", Features: []byte{0}})},
		{kindDamaged, []byte("rubbish")},
	} {
		b = appendRecord(b, r.kind, len(r.body), r.body)
	}
	return b
}

// Whatever a frame holds, whoever reads it refuses it or takes it, without a panic and without memory beyond what is
// there.
func FuzzRecords(f *testing.F) {
	f.Add(records())
	f.Add(appendRecord(nil, kindSpan, 3, []byte{1, 2, 3}))
	f.Add([]byte{byte(kindSpan), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(_ *testing.T, text []byte) {
		i := &Ingest{memory: memory{limit: 1000}, lounge: newLounge(), anyTenant: true}
		_ = (&recovery{ingest: i}).frame(testNow, text)
		_ = (&summary{anyTenant: true, index: map[dimensions]uint64{}, out: io.Discard}).frame(testNow, text)
		_ = (&batch{}).add(text, map[string]string{})
		_ = countRows(text)
	})
}

// Whatever a segment holds, the spool opens on it, keeps the whole frames before the damage and goes on; the same
// bytes as a summary are taken or set aside. Chunks of text are made frames where framed says so, so that damage
// meets checksums that are right.
func FuzzSpool(f *testing.F) {
	whole := append([]byte(segmentMagic), framed(records())...)
	f.Add(whole, false)
	f.Add(append(bytes.Clone(whole), framed(records())...), false)
	f.Add(append(bytes.Clone(whole[:len(whole)-3]), framed(records())...), false)
	f.Add([]byte(segmentMagic), false)
	f.Add([]byte{3, 'a', 'b', 'c', 0, 200, 'd'}, true)
	root := f.TempDir()
	if dir, err := os.MkdirTemp("/dev/shm", "flyball-fuzz-"); err == nil { // a sync there costs nothing
		f.Cleanup(func() { _ = os.RemoveAll(dir) })
		root = dir
	}
	opt := testOptions(f, "", newStore())
	f.Fuzz(func(t *testing.T, text []byte, chunks bool) {
		if chunks {
			text = wrapped(text)
		}
		dir := filepath.Join(root, "spool")
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Mkdir(dir, 0o700))
		name := (&spool{dir: dir}).path(0, "")
		require.NoError(t, os.WriteFile(name+segmentSuffix, text, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "state.json"), []byte(`{"spool":"s"}`), 0o600))
		before := [][]byte{}
		_, err := scan(text, 0, func(_ time.Time, records []byte) error { before = append(before, bytes.Clone(records)); return nil })
		require.NoError(t, err)
		open := func() (s *spool, frames [][]byte) {
			frames = [][]byte{}
			s, _, err := openSpool(dir, 1<<20, slog.New(slog.DiscardHandler), func(int64) error { return nil },
				func(_ time.Time, records []byte) error { frames = append(frames, bytes.Clone(records)); return nil })
			require.NoError(t, err)
			return s, frames
		}
		s, kept := open()
		require.GreaterOrEqual(t, len(kept), len(before))
		require.Equal(t, before, kept[:len(before):len(before)])
		require.NoError(t, s.append(framed([]byte("more"))))
		require.NoError(t, s.close())
		s, again := open()
		require.Equal(t, "more", string(again[len(again)-1]))
		read := [][]byte{}
		_, err = s.read(0, func(_ time.Time, records []byte) bool { read = append(read, records); return true }, 0)
		require.NoError(t, err)
		require.Equal(t, again, read)
		require.NoError(t, s.close())

		require.NoError(t, os.WriteFile(name+summarySuffix, text, 0o600))
		i := &Ingest{opt: opt, log: opt.Logger, memory: memory{limit: 1000}, lounge: newLounge(), anyTenant: true}
		i.opt.Dir = dir
		require.NoError(t, i.loadSummary(0))
		_, _ = lastAccepted(name + summarySuffix)
	})
}

func framed(records []byte) []byte {
	b := append(beginFrame(nil, testNow), records...)
	endFrame(b, 0)
	return b
}

// wrapped makes frames of chunks: a length, then so many bytes.
func wrapped(text []byte) []byte {
	b := []byte(segmentMagic)
	for len(text) > 0 {
		n := min(int(text[0]), len(text)-1)
		chunk := text[1 : 1+n]
		if n > 0 && chunk[0] == 0 { // not a frame at all
			b = binary.LittleEndian.AppendUint16(b, uint16(n))
			b = append(b, chunk...)
		} else {
			b = append(b, framed(chunk)...)
		}
		text = text[1+n:]
	}
	return b
}
