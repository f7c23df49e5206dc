package complexity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/kpi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testNow = time.Date(2026, 1, 15, 9, 23, 47, 0, time.UTC)

// memory is a Store that can be away.
type memory struct {
	mu     sync.Mutex
	scores map[string]kpi.TaskScore
	writes int
	away   error
}

func (m *memory) SetComplexity(_ context.Context, scores []kpi.TaskScore) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		return m.away
	}
	if m.scores == nil {
		m.scores = map[string]kpi.TaskScore{}
	}
	for _, s := range scores {
		m.writes++
		m.scores[s.Tenant+"\x00"+s.Task] = s
	}
	return nil
}

func (m *memory) Complexity(context.Context) ([]kpi.TaskScore, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []kpi.TaskScore
	for _, key := range slices.Sorted(maps.Keys(m.scores)) {
		all = append(all, m.scores[key])
	}
	return all, m.away
}

func newScores(store Store) *Scores {
	return New(store, slog.New(slog.DiscardHandler), func() time.Time { return testNow })
}

// post sends a body as a caller who speaks for a tenant.
func post(s *Scores, tenant, body string) (int, string) {
	w := httptest.NewRecorder()
	s.Handler(tenant, "token-1").ServeHTTP(w, httptest.NewRequest("POST", "/v1/complexity", strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestScores(t *testing.T) {
	t.Parallel()
	store := &memory{}
	s := newScores(store)
	require.Zero(t, s.Of("org", "contract"))
	// Medians 2, 10 and 240; the usual time is 10.
	status, body := post(s, "", `[{"task":"classify","minutes":[9,1,2]},{"task":"answer","minutes":[12,8]},{"task":"contract","minutes":[240],"by":"ana"}]`)
	require.Equal(t, 200, status, body)
	require.JSONEq(t, `{"accepted":3,"refused":[],"duplicates":0}`, body)
	of := func(tenant string) []float64 {
		return []float64{s.Of(tenant, "classify"), s.Of(tenant, "answer"), s.Of(tenant, "contract")}
	}
	require.Equal(t, []float64{0.2, 1, 24}, of("org"), "at once, not a minute later")

	// A tenant's own go first; its times are measured by the usual time of all.
	status, body = post(s, "org", `[{"task":"answer","score":2.5},{"tenant_id":"org","task":"contract","minutes":[60]}]`)
	require.Equal(t, 200, status, body)
	require.Equal(t, []float64{0.2, 2.5, 6}, of("org"))
	require.Equal(t, []float64{0.2, 1, 24}, of("other"))

	// A fourth task of 20 minutes makes the usual time (10 + 20)/2 = 15: what times told is worked out anew, and
	// only what differs is written: classify 2/15, answer 10/15, contract 240/15, the tenant's contract 60/15.
	writes := store.writes
	status, body = post(s, "", `{"task":"letter","minutes":[20]}`)
	require.Equal(t, 200, status, body)
	require.Equal(t, []float64{0.133, 0.667, 16}, of("other"))
	require.Equal(t, []float64{0.133, 2.5, 4}, of("org"))
	require.Equal(t, 5, store.writes-writes)
	require.Equal(t, kpi.TaskScore{Task: "contract", Source: kpi.FromTime, Milli: 16_000, Samples: 1, Minutes: 240, SetAt: testNow, By: "ana"}, store.scores["\x00contract"],
		"who set it, and when, stays")

	// The same again changes nothing; a process that starts later knows the same.
	status, _ = post(s, "", `{"task":"letter","minutes":[20]}`)
	require.Equal(t, 200, status)
	later := newScores(store)
	require.NoError(t, later.Refresh(t.Context()))
	require.Equal(t, 0.667, later.Of("other", "answer"))
	require.Equal(t, 4.0, later.Of("org", "contract"))

	var seen List
	for tenant, want := range map[string]int{"": 6, "org": 6, "other": 4} {
		w := httptest.NewRecorder()
		s.Handler(tenant, "").ServeHTTP(w, httptest.NewRequest("GET", "/v1/complexity", nil))
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &seen))
		require.Len(t, seen.Scores, want, "a tenant sees its own and those for all: %q", tenant)
	}
	require.Equal(t, InForce{"", "answer", "time", 0.667, 2, 10, testNow, "token-1"}, seen.Scores[0])
}

// Canonical examples 0.2, 0.04 and 0.04 from the next one have a spread of 0.04. The calls are 0.2 (twice: 5 spreads) and
// 0 from the nearest: the task's score is the median of 1, 5 and 5.
func TestFromDistance(t *testing.T) {
	t.Parallel()
	s := newScores(&memory{})
	status, body := post(s, "", `{"task":"odd","canonical":[[1,0],[4,3],[3,4]],"embeddings":[[0,1],[8,6],[0,7]]}`)
	require.Equal(t, 200, status, body)
	require.Equal(t, 5.0, s.Of("any", "odd"))
}

func TestRefused(t *testing.T) {
	t.Parallel()
	vectors := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("[1,0],", n), ",") + "]" }
	for name, test := range map[string]struct{ record, field, reason string }{
		"no task":            {`{"score":1}`, "task", "is missing"},
		"another tenant":     {`{"tenant_id":"other","task":"a","score":1}`, "tenant_id", `"other" is not the ingest token's tenant`},
		"nothing":            {`{"task":"a"}`, "score", "give one of"},
		"two things":         {`{"task":"a","score":1,"minutes":[1]}`, "score", "give one of"},
		"zero":               {`{"task":"a","score":0}`, "score", "between 0.001 and 1e+06 (0)"},
		"too much":           {`{"task":"a","score":1000001}`, "score", "between 0.001 and 1e+06"},
		"beyond a double":    {`{"task":"a","score":1e999}`, "score", "must not be a JSON number 1e999"},
		"a text":             {`{"task":"a","score":"2"}`, "score", "must not be a JSON string"},
		"no times":           {`{"task":"a","minutes":[]}`, "minutes", "there is no time"},
		"a negative time":    {`{"task":"a","minutes":[4,-1]}`, "minutes", "time 1 must be between"},
		"a nested time":      {`{"task":"a","minutes":[[4]]}`, "minutes", "must not be a JSON array"},
		"too many times":     {`{"task":"a","minutes":[` + strings.Repeat("1,", maxTimes) + `1]}`, "minutes", "has 100001 times"},
		"a long name":        {`{"task":"` + strings.Repeat("x", 257) + `","score":1}`, "task", "is longer than 256 bytes"},
		"an unknown field":   {`{"task":"a","scroe":1}`, "scroe", "is not a known field"},
		"no object":          {`7`, "", "must not be a JSON number"},
		"no canonical":       {`{"task":"a","embeddings":[[1]]}`, "canonical", "must be 1 to 64 vectors (0)"},
		"one canonical":      {`{"task":"a","embeddings":[[1]],"canonical":[[1]]}`, "canonical", "it takes two"},
		"zero vector":        {`{"task":"a","embeddings":[[1,1],[0,0]],"canonical":[[1,0],[0,1]]}`, "embeddings", "vector 1: the input: is zero"},
		"another dimension":  {`{"task":"a","embeddings":[[1]],"canonical":[[1,0],[0,1]]}`, "embeddings", "has 1 dimensions, not 2"},
		"many vectors":       {`{"task":"a","embeddings":` + vectors(65) + `,"canonical":[[1,0],[0,1]]}`, "embeddings", "1 to 64 vectors (65)"},
		"a very long vector": {`{"task":"a","embeddings":[[` + strings.Repeat("1,", maxDimensions) + `1]],"canonical":[[1],[1]]}`, "embeddings", "vector 0 has more than 4096 dimensions"},
		"twice":              {`{"task":"good","score":2}`, "task", `"good" is there twice`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScores(&memory{})
			status, body := post(s, "org", `[{"task":"good","score":3},`+test.record+`,{"task":"last","score":4}]`)
			require.Equal(t, 200, status, body)
			var a answer
			require.NoError(t, json.Unmarshal([]byte(body), &a))
			require.Equal(t, 2, a.Accepted)
			require.Len(t, a.Refused, 1)
			require.Equal(t, []any{1, test.field}, []any{a.Refused[0].Index, a.Refused[0].Field})
			require.Contains(t, a.Refused[0].Reason, test.reason)
			require.Equal(t, []float64{3, 4}, []float64{s.Of("org", "good"), s.Of("org", "last")}, "the good ones stay")
			require.Zero(t, s.Of("else", "good"), "and are its sender's own")
		})
	}
	for body, want := range map[string]string{
		"": "empty", "[]": "the array is empty", "{": "not JSON", `[{"task":"a","score":1}`: "not JSON", "{\"task\":\"\xff\"}": "UTF-8",
		`[{"task":""}]`: `{"accepted":0,"refused":[{"index":0,"field":"task","reason":"is missing"}],"duplicates":0}`,
		"[" + strings.Repeat("1,", maxRecords) + "1]": "more than 10000",
	} {
		status, text := post(newScores(&memory{}), "", body)
		require.Equal(t, 400, status, text)
		require.Contains(t, text, want)
	}
	status, text := post(newScores(&memory{}), "", `{"task":"`+strings.Repeat("x", maxBody)+`"}`)
	require.Equal(t, 413, status, text)
}

func TestTooManyTasks(t *testing.T) {
	t.Parallel()
	s := newScores(&memory{})
	var body bytes.Buffer
	for i := range maxTasks {
		fmt.Fprintf(&body, `,{"task":"t%d","score":1}`, i)
	}
	status, text := post(s, "org", "["+body.String()[1:]+"]")
	require.Equal(t, 200, status, text)
	status, text = post(s, "org", `{"task":"one more","score":1}`)
	require.Equal(t, 400, status)
	require.Contains(t, text, `tenant \"org\" may have scores for 10000`)
	status, _ = post(s, "org", `{"task":"t7","score":2}`)
	require.Equal(t, 200, status, "those that it has may change")
	status, _ = post(s, "other", `{"task":"one more","score":1}`)
	require.Equal(t, 200, status, "nobody else is shut out")
}

// While the store is away the last scores stay, and nothing can be set.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		s := newScores(store)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		status, _ := post(s, "", `{"task":"a","score":3}`)
		require.Equal(t, 200, status)

		store.mu.Lock()
		store.away = errors.New("the store is away")
		store.mu.Unlock()
		time.Sleep(5 * refreshEvery)
		require.Equal(t, 3.0, s.Of("org", "a"))
		status, body := post(s, "", `{"task":"a","score":4}`)
		require.Equal(t, 503, status)
		require.JSONEq(t, `{"error":"the store is away"}`, body)
		require.Equal(t, 3.0, s.Of("org", "a"))

		store.mu.Lock()
		store.away = nil
		store.mu.Unlock()
		elsewhere := newScores(store)
		require.NoError(t, elsewhere.Set(t.Context(), []kpi.TaskScore{{Task: "a", Source: kpi.FromPerson, Milli: 5000}}))
		time.Sleep(refreshEvery)
		synctest.Wait()
		require.Equal(t, 5.0, s.Of("org", "a"), "what another process sets is seen within a minute")
		stop()
		<-ended
	})
}
