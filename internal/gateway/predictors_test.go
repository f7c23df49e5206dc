package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/router"
	"github.com/flyball-dev/flyball/internal/usage"
)

// versions is a store of predictors that may be away, and a spool of tuples.
type versions struct {
	mu        sync.Mutex
	away      error
	salt      string
	all       []router.Version
	artefacts map[string][]byte
	tuples    []usage.Tuple
}

func (v *versions) RouterSalt(context.Context) (string, error)           { return v.salt, v.away }
func (v *versions) Predictors(context.Context) ([]router.Version, error) { return v.all, v.away }
func (v *versions) Predictor(_ context.Context, version string) ([]byte, error) {
	return v.artefacts[version], v.away
}

func (v *versions) Record(_ context.Context, tuples []usage.Tuple) error {
	for _, t := range tuples {
		if t.Model == "bad" {
			return fmt.Errorf("%w: model: is bad", ingest.ErrRecord)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tuples = append(v.tuples, tuples...)
	return nil
}

// train stores a version that knows whether the word hard is in a prompt, trained under the salt.
func (v *versions) train(t *testing.T, salt string, at time.Time, state router.State) string {
	e := router.NewExtractor(salt)
	var tuples []router.Tuple
	for i := range 120 {
		text := fmt.Sprintf("an easy one of %d", i)
		if i%2 == 0 {
			text = fmt.Sprintf("a hard puzzle of %d", i)
		}
		tuples = append(tuples, router.Tuple{Prompt: text, Features: e.Features(text), Model: "big", Score: float64(i % 2)})
	}
	m, err := router.Train(tuples, router.Training{Features: e.Name(), Seed: 1, At: at})
	require.NoError(t, err)
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	v.artefacts[m.Version] = raw
	v.all = append(v.all, router.Version{Version: m.Version, State: state, Since: at})
	return m.Version
}

func (v *versions) options(t *testing.T) PredictorOptions {
	return PredictorOptions{Store: v, File: filepath.Join(t.TempDir(), "router", "predictor.json"), Record: v.Record, Logger: slog.New(slog.DiscardHandler)}
}

var trainedAt = time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)

func TestPredictorsFollowTheVersionInUse(t *testing.T) {
	t.Parallel()
	store := &versions{salt: "s", artefacts: map[string][]byte{}}
	o := store.options(t)
	first := store.train(t, "s", trainedAt, router.InUse)
	p := NewPredictors(o)
	_, _, known := p.Quality("org", "", "big", "a hard puzzle")
	require.False(t, known, "nothing was read yet")
	require.NoError(t, p.refresh(t.Context()))
	hard, version, known := p.Quality("org", "", "big", "a hard puzzle")
	require.True(t, known)
	require.Equal(t, first, version)
	easy, _, _ := p.Quality("org", "", "big", "an easy one")
	require.Greater(t, easy, hard)

	store.away = errors.New("connection refused")
	require.ErrorIs(t, p.refresh(t.Context()), store.away)
	again, _, _ := p.Quality("org", "", "big", "a hard puzzle")
	require.Equal(t, hard, again, "while the store is away the last one predicts on")
	restarted := NewPredictors(o)
	again, version, _ = restarted.Quality("org", "", "big", "a hard puzzle")
	require.Equal(t, hard, again, "and after a start too, by the file")
	require.Equal(t, first, version)

	store.away = nil
	bad := store.train(t, "another", trainedAt.Add(time.Hour), router.InUse)
	require.ErrorContains(t, p.refresh(t.Context()), "train anew")
	_, version, known = p.Quality("org", "", "big", "a hard puzzle")
	require.True(t, known)
	require.Equal(t, first, version, "one that cannot predict here does not take the place of one that can")
	store.all[0].State = router.RolledBack
	require.Error(t, p.refresh(t.Context()))
	_, _, known = p.Quality("org", "", "big", "a hard puzzle")
	require.False(t, known, "unless that was rolled back")
	require.NotEqual(t, first, bad)

	store.all = store.all[:1]
	require.NoError(t, restarted.refresh(t.Context()))
	_, _, known = restarted.Quality("org", "", "big", "a hard puzzle")
	require.False(t, known, "rolled back to none")
	require.Empty(t, NewPredictors(o).now.Load().predictor.Version(), "the file too")
}

func TestPredictorsKeepWhatWasKnown(t *testing.T) {
	t.Parallel()
	store := &versions{salt: "s", artefacts: map[string][]byte{}}
	version := store.train(t, "s", trainedAt, router.InUse)
	p := NewPredictors(store.options(t))
	features := func(text string) []byte { f, _ := p.read(text); return f }
	require.Nil(t, features("a hard puzzle"), "without the salt")
	require.NoError(t, p.refresh(t.Context()))
	p.record(usage.Tuple{SpanID: "1", RequestedModel: "big", Model: "small"}, "a hard puzzle")
	p.record(usage.Tuple{SpanID: "2", RequestedModel: "other", Model: "bad"}, "a hard puzzle")
	p.record(usage.Tuple{SpanID: "3", RequestedModel: "other", Model: "other", Features: features("an easy one")}, "")
	p.record(usage.Tuple{SpanID: "4", RequestedModel: "big", Model: "big"}, "")
	ended, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, p.Run(ended), "what is left when it ends is stored")
	require.Len(t, store.tuples, 2, "a bad one takes no other with it, and of one without a prompt nothing is known")
	one, three := store.tuples[0], store.tuples[1]
	want, _, _ := p.Quality("", "", "big", "a hard puzzle")
	require.InDelta(t, want, one.Predicted, 1e-12)
	require.Equal(t, version, one.Predictor)
	require.Equal(t, router.NewExtractor("s").Name(), one.Reading)
	require.Equal(t, features("a hard puzzle"), one.Features)
	require.Equal(t, "3", three.SpanID)
	require.Empty(t, three.Predictor)
	require.EqualValues(t, 1, p.missed.Load())

	for range tupleLimit + 5 { // nobody takes them: who records goes on all the same
		p.record(usage.Tuple{SpanID: "5", Model: "big"}, "x")
	}
	require.EqualValues(t, 6, p.missed.Load())
	var none *Predictors
	none.record(usage.Tuple{}, "x")
	_, _, known := none.Quality("", "", "big", "x")
	require.False(t, known)
	gone, later := none.read("x")
	require.Nil(t, gone)
	require.Empty(t, later)
}
