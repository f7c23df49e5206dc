package standing

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Store that can be away.
type memory struct {
	mu      sync.Mutex
	records []contract.EvaluatorRecord
	away    error
}

func (m *memory) EvaluatorHistory(context.Context) ([]contract.EvaluatorRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records, m.away
}

func (m *memory) set(away error, records ...contract.EvaluatorRecord) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records, m.away = records, away
}

var at = time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)

func record(version string, standing contract.Standing, since time.Time) contract.EvaluatorRecord {
	return contract.EvaluatorRecord{Evaluator: "judge", Version: version, Standing: standing, Since: since}
}

// A score is treated by what held at its own time, however late it comes.
func TestApply(t *testing.T) {
	t.Parallel()
	counting := record("2", contract.Counting, at)
	counting.Mapping = calibrate.Mapping{Method: calibrate.Quantile, From: []float64{0, 0.5}, To: []float64{0.5, 1}}
	r := New(&memory{records: []contract.EvaluatorRecord{
		record("1", contract.Retired, at), counting, record("2", contract.Trial, at.Add(-time.Hour)), record("3", contract.Failing, at),
	}}, slog.New(slog.DiscardHandler))
	require.NoError(t, r.Refresh(t.Context()))
	for name, test := range map[string]struct {
		version, kind string
		at            time.Time
		aside         bool
		onScale       float64
	}{
		"the old one, before":    {"1", "judge", at.Add(-time.Millisecond), false, 0.25},
		"the old one, then":      {"1", "judge", at, true, 0.25},
		"the new one, on trial":  {"2", "judge", at.Add(-time.Millisecond), true, 0.25},
		"the new one, then":      {"2", "judge", at, false, 0.75},
		"the new one, first":     {"2", "judge", at.Add(-2 * time.Hour), false, 0.25},
		"failing":                {"3", "heuristic", at.Add(time.Hour), true, 0.25},
		"nobody spoke of it":     {"4", "judge", at, false, 0.25},
		"a person of that name":  {"3", "human", at.Add(time.Hour), false, 0.25},
		"another one's versions": {"", "judge", at, false, 0.25},
	} {
		q := usage.Quality{Evaluator: "judge", EvaluatorVersion: test.version, Kind: test.kind, Score: 0.25, Timestamp: test.at}
		r.Apply(&q)
		require.Equal(t, test.aside, q.Aside, name)
		require.Equal(t, test.onScale, q.OnScale(), name)
		require.Equal(t, 0.25, q.Score, name)
	}

	// An evaluator whose own file puts it on trial stays there until somebody says that it counts.
	for version, aside := range map[string]bool{"2": false, "4": true} {
		q := usage.Quality{Evaluator: "judge", EvaluatorVersion: version, Kind: "heuristic", Timestamp: at, Aside: true}
		r.Apply(&q)
		require.Equal(t, aside, q.Aside, version)
	}
}

// While the store is away the last records hold; what another process sets is known well within Lead.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &memory{records: []contract.EvaluatorRecord{record("1", contract.Failing, at)}}
		r := New(store, slog.New(slog.DiscardHandler))
		require.NoError(t, r.Refresh(t.Context()))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { r.Run(ctx); close(ended) }()
		aside := func() bool {
			q := usage.Quality{Evaluator: "judge", EvaluatorVersion: "1", Kind: "judge", Timestamp: at}
			r.Apply(&q)
			return q.Aside
		}
		store.set(errors.New("the store is away"))
		time.Sleep(time.Hour)
		require.True(t, aside())
		store.set(nil, record("1", contract.Counting, at))
		time.Sleep(Lead / 2)
		synctest.Wait()
		require.False(t, aside())
		stop()
		<-ended
	})
}
