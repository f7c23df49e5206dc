package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// store takes batches as the ingest API does and knows a span again by its id.
type store struct {
	spans   map[string]map[string]any
	batches []int
	at      []time.Time
	refuse  func(span map[string]any) string
}

func (s *store) send(_ context.Context, spans []json.RawMessage) (Receipt, error) {
	if s.spans == nil {
		s.spans = map[string]map[string]any{}
	}
	s.batches = append(s.batches, len(spans))
	s.at = append(s.at, time.Now())
	var receipt Receipt
	for i, raw := range spans {
		var span map[string]any
		if err := json.Unmarshal(raw, &span); err != nil {
			return Receipt{}, err
		}
		if s.refuse != nil {
			if reason := s.refuse(span); reason != "" {
				receipt.Refused = append(receipt.Refused, Refusal{i, "model", reason})
				continue
			}
		}
		id := span["span_id"].(string)
		if _, ok := s.spans[id]; ok {
			receipt.Duplicates++
			continue
		}
		s.spans[id] = span
		receipt.Accepted++
	}
	return receipt, nil
}

func (s *store) sums() (prompt, completion, cached float64) {
	for _, span := range s.spans {
		tokens := span["tokens"].(map[string]any)
		prompt += tokens["prompt"].(float64)
		completion += tokens["completion"].(float64)
		cached += tokens["cached"].(float64)
	}
	return prompt, completion, cached
}

func options(change func(*Options)) Options {
	o := Options{Run: "r", OnSent: func(int64) {}, OnBad: func(*RowError) {}}
	if change != nil {
		change(&o)
	}
	return o
}

// azureFile holds n rows, one a second; row i has i input and 2 output tokens.
func azureFile(t *testing.T, n int) *File {
	var b strings.Builder
	b.WriteString("TIMESTAMP,ContextTokens,GeneratedTokens\n")
	for i := range n {
		fmt.Fprintf(&b, "%s,%d,2\n", time.Date(2023, 11, 16, 0, 0, i, 0, time.UTC).Format(time.DateTime), i)
	}
	f, err := Open(write(t, "azure.csv", b.String()), "")
	require.NoError(t, err)
	return f
}

func TestReplayStoresEachRowOncePerRun(t *testing.T) {
	t.Parallel()
	const n = 2500
	f, s := azureFile(t, n), &store{}
	for i, want := range []Result{
		{Sent: n, Accepted: n},
		{Sent: n, Duplicates: n},
	} {
		got, err := Replay(t.Context(), f, options(nil), s.send)
		require.NoError(t, err)
		require.Equal(t, want, got, "time %d", i+1)
	}
	prompt, completion, cached := s.sums()
	require.Equal(t, [3]float64{n * (n - 1) / 2, 2 * n, 0}, [3]float64{prompt, completion, cached})

	got, err := Replay(t.Context(), f, options(func(o *Options) { o.Run = "other" }), s.send)
	require.NoError(t, err)
	require.Equal(t, n, got.Accepted, "another run is other calls")
	got, err = Replay(t.Context(), f, options(func(o *Options) { o.Tenant = "other" }), s.send)
	require.NoError(t, err)
	require.Equal(t, n, got.Accepted, "so is another tenant")
	for _, b := range s.batches {
		require.LessOrEqual(t, b, batchRows)
	}
}

func TestReplayIsCompletedByTheSameRun(t *testing.T) {
	t.Parallel()
	f, s := azureFile(t, 2500), &store{}
	broken := errors.New("the power went out")
	got, err := Replay(t.Context(), f, options(nil), func(ctx context.Context, spans []json.RawMessage) (Receipt, error) {
		if len(s.spans) > 0 {
			return Receipt{}, broken
		}
		return s.send(ctx, spans)
	})
	require.ErrorIs(t, err, broken)
	require.Equal(t, Result{Sent: batchRows, Accepted: batchRows}, got)
	got, err = Replay(t.Context(), f, options(nil), s.send)
	require.NoError(t, err)
	require.Equal(t, Result{Sent: 2500, Accepted: 1500, Duplicates: 1000}, got)
	require.Len(t, s.spans, 2500)
}

func TestReplayReportsBadRows(t *testing.T) {
	t.Parallel()
	f, err := Open(write(t, "a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:05,7,8\nbad\n2023-11-16 18:17:06,13,8\n"), "")
	require.NoError(t, err)
	s := &store{refuse: func(span map[string]any) string {
		if span["tokens"].(map[string]any)["prompt"] == 13.0 {
			return "is unlucky"
		}
		return ""
	}}
	var bad []string
	var sent int64
	got, err := Replay(t.Context(), f, options(func(o *Options) {
		o.OnBad = func(e *RowError) { bad = append(bad, e.Error()) }
		o.OnSent = func(bytes int64) { sent = bytes }
	}), s.send)
	require.NoError(t, err)
	require.Equal(t, Result{Sent: 2, Accepted: 1, Refused: 1, Unreadable: 1}, got)
	require.Equal(t, []string{"line 3: 1 columns in place of TIMESTAMP,ContextTokens,GeneratedTokens", "line 4: refused: model: is unlucky"}, bad)
	require.Equal(t, int64(40+24+4+25), sent)
}

func TestReplayCompletesSpans(t *testing.T) {
	t.Parallel()
	text := `{"trace_id":"t","span_id":"a","timestamp":"2024-01-15T09:00:00Z","tenant_id":"org_1","provider":"anthropic","requested_model":"claude-3-opus","model":"claude-3-sonnet","tags":{"team":"x"},"quality":{"id":"q","evaluator":"e","score":1,"timestamp":"2024-01-15T09:00:01Z"}}
{"trace_id":"t","span_id":"a","timestamp":"2024-01-15T09:00:10Z","requested_model":"claude-3-haiku"}
{"span_id":"c","timestamp":"2024-01-15T09:00:20Z"}
`
	replayed := func(change func(*Options)) []map[string]any {
		f, err := Open(write(t, "s.ndjson", text), "")
		require.NoError(t, err)
		var spans []map[string]any
		_, err = Replay(t.Context(), f, options(change), func(_ context.Context, raw []json.RawMessage) (Receipt, error) {
			for _, r := range raw {
				var span map[string]any
				require.NoError(t, json.Unmarshal(r, &span))
				spans = append(spans, span)
			}
			return Receipt{Accepted: len(raw)}, nil
		})
		require.NoError(t, err)
		return spans
	}
	field := func(spans []map[string]any, name string) (values []any) {
		for _, s := range spans {
			values = append(values, s[name])
		}
		return values
	}
	spans := replayed(nil)
	require.Equal(t, []any{"org_1", DefaultTenant, DefaultTenant}, field(spans, "tenant_id"))
	require.Equal(t, []any{"claude-3-sonnet", "claude-3-haiku", DefaultModel}, field(spans, "model"))
	require.Equal(t, []any{"claude-3-opus", "claude-3-haiku", nil}, field(spans, "requested_model"))
	require.Equal(t, []any{"anthropic", "anthropic", "openai"}, field(spans, "provider"))
	require.Equal(t, map[string]any{"team": "x"}, spans[0]["tags"])
	require.Equal(t, map[string]any{"evaluator": "e", "score": 1.0}, spans[0]["quality"], "its id and time become the span's")
	require.Equal(t, "2024-01-15T09:00:00Z", spans[0]["timestamp"])

	spans = replayed(func(o *Options) { o.Tenant, o.Model = "org_9", "gpt-4o" })
	require.Equal(t, []any{"org_9", "org_9", "org_9"}, field(spans, "tenant_id"))
	require.Equal(t, []any{"gpt-4o", "gpt-4o", "gpt-4o"}, field(spans, "model"))
	require.Equal(t, []any{"openai", "openai", "openai"}, field(spans, "provider"))
	require.Equal(t, spans[0]["trace_id"], spans[1]["trace_id"], "a trace stays together")
	require.NotEqual(t, spans[0]["span_id"], spans[1]["span_id"])
}

func TestReplayShiftsToNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f, s := azureFile(t, 31), &store{}
		_, err := Replay(t.Context(), f, options(func(o *Options) { o.Shift = true }), s.send)
		require.NoError(t, err)
		require.Equal(t, began, time.Now(), "as fast as it goes")
		first, last := span(s)
		require.True(t, last.Equal(began), "%s", last)
		require.Equal(t, 30*time.Second, last.Sub(first))
	})
}

func TestReplayKeepsThePace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		speed float64
		takes time.Duration
	}{{1, 30 * time.Second}, {10, 3 * time.Second}, {0.5, time.Minute}} {
		t.Run(fmt.Sprint(c.speed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				f, s := azureFile(t, 31), &store{}
				got, err := Replay(t.Context(), f, options(func(o *Options) { o.Speed, o.Shift = c.speed, true }), s.send)
				require.NoError(t, err)
				require.Equal(t, 31, got.Accepted)
				require.InDelta(t, c.takes.Seconds(), time.Since(began).Seconds(), batchEvery.Seconds())
				_, last := span(s)
				require.InDelta(t, 0, time.Since(last).Seconds(), batchEvery.Seconds(), "the last row lands at the moment it is sent")
				if c.speed == 1 {
					for i, at := range s.at {
						require.InDelta(t, float64(i), at.Sub(began).Seconds(), batchEvery.Seconds())
					}
				}
			})
		})
	}
}

func span(s *store) (first, last time.Time) {
	for _, span := range s.spans {
		at, _ := time.Parse(time.RFC3339Nano, span["timestamp"].(string))
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return first, last
}

func TestReplayStopsWhenToldTo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err := Replay(ctx, azureFile(t, 31), options(func(o *Options) { o.Speed = 1 }), (&store{}).send)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.InDelta(t, 10, got.Accepted, 1)
	})
}

// script answers requests one after another; the last answer repeats.
type script struct {
	answers []func() (*http.Response, error)
	bodies  []string
	tokens  []string
	at      []time.Time
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	s.tokens = append(s.tokens, r.Header.Get("Authorization"))
	s.bodies = append(s.bodies, string(body))
	s.at = append(s.at, time.Now())
	return s.answers[min(len(s.bodies), len(s.answers))-1]()
}

func says(status int, body string, header ...string) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		h := http.Header{}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(bytes.NewBufferString(body))}, nil
	}
}

func fails(err error) func() (*http.Response, error) {
	return func() (*http.Response, error) { return nil, err }
}

func TestClient(t *testing.T) {
	t.Parallel()
	ok := says(202, `{"accepted":1,"refused":[],"duplicates":1}`)
	good := Receipt{Accepted: 1, Duplicates: 1, Refused: []Refusal{}}
	for _, c := range []struct {
		name    string
		answers []func() (*http.Response, error)
		want    Receipt
		away    bool
		says    string
		tries   int
	}{
		{name: "good", answers: []func() (*http.Response, error){ok}, want: good, tries: 1},
		{name: "pushed back", answers: []func() (*http.Response, error){says(429, "", "Retry-After", "7"), says(503, ""), ok}, want: good, tries: 3},
		{name: "cut off", answers: []func() (*http.Response, error){fails(io.ErrUnexpectedEOF), ok}, want: good, tries: 2},
		{name: "not JSON, then well", answers: []func() (*http.Response, error){says(500, "<html>"), ok}, want: good, tries: 2},
		{
			name: "all refused", answers: []func() (*http.Response, error){says(400, `{"accepted":0,"refused":[{"index":1,"field":"model","reason":"is missing"}]}`)},
			want: Receipt{Refused: []Refusal{{1, "model", "is missing"}}}, tries: 1,
		},
		{name: "forbidden", answers: []func() (*http.Response, error){says(403, "no")}, says: "answered 403 Forbidden: no", tries: 1},
		{name: "nobody there", answers: []func() (*http.Response, error){fails(syscall.ECONNREFUSED)}, away: true, tries: 1},
		{name: "gone meanwhile", answers: []func() (*http.Response, error){says(503, ""), fails(syscall.ECONNREFUSED), ok}, want: good, tries: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: c.answers}
				client := &Client{URL: "http://ingest/", Token: "secret", Patience: time.Minute, HTTP: &http.Client{Transport: s}}
				got, err := client.Send(t.Context(), "/v1/spans", []json.RawMessage{[]byte(`{"a":1}`), []byte(`{"b":2}`)})
				require.Len(t, s.bodies, c.tries)
				require.Equal(t, "Bearer secret", s.tokens[0])
				for _, b := range s.bodies {
					require.Equal(t, `[{"a":1},{"b":2}]`, b)
				}
				switch {
				case c.away:
					require.ErrorIs(t, err, ErrAway)
				case c.says != "":
					require.ErrorContains(t, err, c.says)
				default:
					require.NoError(t, err)
					require.Equal(t, c.want, got)
				}
				if c.name == "pushed back" {
					require.Equal(t, 7*time.Second, s.at[1].Sub(s.at[0]), "Retry-After is obeyed")
				}
			})
		})
	}
}

func TestClientLosesPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := &script{answers: []func() (*http.Response, error){says(503, "")}}
		client := &Client{URL: "http://ingest", Patience: time.Minute, HTTP: &http.Client{Transport: s}}
		_, err := client.Send(t.Context(), "/v1/spans", []json.RawMessage{[]byte(`{}`)})
		require.ErrorIs(t, err, ErrAway)
		require.InDelta(t, time.Minute, time.Since(began), float64(10*time.Second))
		require.Less(t, len(s.at), 40, "it does not hammer")

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		client.Patience = 0
		_, err = client.Send(ctx, "/v1/spans", []json.RawMessage{[]byte(`{}`)})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestClientHalvesWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	s := &script{}
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		var records []json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&records); err != nil {
			return nil, err
		}
		s.bodies = append(s.bodies, fmt.Sprint(len(records)))
		if len(records) > 2 {
			return says(413, "")()
		}
		return says(200, fmt.Sprintf(`{"accepted":%d,"refused":[{"index":%d,"reason":"last"}]}`, len(records)-1, len(records)-1))()
	})
	client := &Client{URL: "http://ingest", HTTP: &http.Client{Transport: transport}}
	got, err := client.Send(t.Context(), "/v1/spans", []json.RawMessage{[]byte("1"), []byte("2"), []byte("3"), []byte("4"), []byte("5")})
	require.NoError(t, err)
	require.Equal(t, []string{"5", "2", "3", "1", "2"}, s.bodies)
	require.Equal(t, Receipt{Accepted: 2, Refused: []Refusal{{1, "", "last"}, {2, "", "last"}, {4, "", "last"}}}, got)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
