package activities

import (
	"cmp"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/router"
)

// fakeTraining holds what it is given.
type fakeTraining struct {
	reading   string // of the tuples; empty: n-grams
	tuples    []router.Tuple
	versions  map[string]*router.Version
	artefacts map[string][]byte
}

func (f *fakeTraining) RouterSalt(context.Context) (string, error) { return "s", nil }

func (f *fakeTraining) ScoredTuples(_ context.Context, reading string, from, to time.Time) (found []router.Tuple, err error) {
	if reading != cmp.Or(f.reading, router.NewExtractor("s").Name()) {
		return nil, nil
	}
	for _, t := range f.tuples {
		if !t.At.Before(from) && t.At.Before(to) {
			found = append(found, t)
		}
	}
	return found, nil
}

func (f *fakeTraining) Predictors(context.Context) (all []router.Version, err error) {
	for _, v := range f.versions {
		all = append(all, *v)
	}
	return all, nil
}

func (f *fakeTraining) Predictor(_ context.Context, version string) ([]byte, error) {
	return f.artefacts[version], nil
}

func (f *fakeTraining) AddPredictor(_ context.Context, m *router.Model, artefact []byte) error {
	f.artefacts[m.Version] = artefact
	f.versions[m.Version] = &router.Version{Version: m.Version, TrainedAt: m.TrainedAt, N: m.N, State: router.Retired, Since: m.TrainedAt}
	return nil
}

func (f *fakeTraining) SetPredictorStates(_ context.Context, changes []router.Change) error {
	for _, c := range changes {
		v := f.versions[c.Version]
		v.State, v.Since, v.Used = c.State, c.Since, v.Used || c.State == router.InUse
	}
	return nil
}

// week adds scored calls of which hard ones turn out bad, or, turned about, easy ones.
func (f *fakeTraining) week(at time.Time, about bool) {
	e := router.NewExtractor("s")
	for i := range 300 {
		hard := i%2 == 0
		text := fmt.Sprintf("an easy one of %d", i)
		if hard {
			text = fmt.Sprintf("a hard puzzle of %d", i)
		}
		score := 0.0
		if hard == about != (i%10 == 3 || i%10 == 6) {
			score = 1
		}
		f.tuples = append(f.tuples, router.Tuple{Prompt: text, Features: e.Features(text), Model: "big", Score: score, At: at.Add(time.Duration(i) * time.Minute)})
	}
}

// Weeks in which a version is trained, used since it is better than the mean, and rolled back when the world has turned.
func TestVersionsAreTrainedUsedAndRolledBack(t *testing.T) {
	t.Parallel()
	store := &fakeTraining{versions: map[string]*router.Version{}, artefacts: map[string][]byte{}}
	trainer := &Trainer{Store: store}
	change := func(changes []router.Change) {
		require.NoError(t, trainer.ChangeRouter(t.Context(), contract.ChangeRouterRequest{Changes: changes}))
	}
	at := contract.RouterActivityRequest{At: now}
	few, err := trainer.TrainRouter(t.Context(), at)
	require.NoError(t, err)
	require.Contains(t, few.Few, "too few scored calls")
	require.Empty(t, store.versions)
	verdict, err := trainer.JudgeRouter(t.Context(), at)
	require.NoError(t, err)
	require.Equal(t, contract.RouterVerdict{}, verdict)

	store.week(now.Add(-7*24*time.Hour), false)
	first, err := trainer.TrainRouter(t.Context(), at)
	require.NoError(t, err)
	require.Equal(t, 300, first.N)
	again, err := trainer.TrainRouter(t.Context(), at)
	require.NoError(t, err)
	require.Equal(t, first, again, "tried again it is the same version")
	change(first.Changes)
	require.Equal(t, router.Shadow, store.versions[first.Version].State)

	at.At = now.Add(7 * 24 * time.Hour)
	verdict, err = trainer.JudgeRouter(t.Context(), at)
	require.NoError(t, err)
	require.Empty(t, verdict.Changes, "what it was trained on proves nothing")
	require.Equal(t, first.Version, verdict.Waits)

	store.week(now.Add(time.Hour), false)
	verdict, err = trainer.JudgeRouter(t.Context(), at)
	require.NoError(t, err)
	require.Empty(t, verdict.Waits)
	require.Len(t, verdict.Says, 1)
	change(verdict.Changes)
	require.Equal(t, router.InUse, store.versions[first.Version].State)

	store.week(at.At.Add(time.Hour), true)
	at.At, at.Watch = at.At.Add(6*time.Hour), true // 300 scored calls: the hourly watch needs no week
	verdict, err = trainer.JudgeRouter(t.Context(), at)
	require.NoError(t, err)
	require.Contains(t, verdict.Says[0], "worse than the mean alone")
	change(verdict.Changes)
	require.Equal(t, router.RolledBack, store.versions[first.Version].State)
}

// A version of another way of reading can never be used, and must not keep others from being trained.
func TestAVersionThatCannotPredictLeavesTheShadow(t *testing.T) {
	t.Parallel()
	store := &fakeTraining{
		versions:  map[string]*router.Version{"v1": {Version: "v1", State: router.Shadow, Since: now.Add(-time.Hour)}},
		artefacts: map[string][]byte{"v1": []byte(`{}`)},
	}
	verdict, err := (&Trainer{Store: store}).JudgeRouter(t.Context(), contract.RouterActivityRequest{At: now})
	require.NoError(t, err)
	require.Empty(t, verdict.Waits)
	require.Equal(t, router.Retired, verdict.Changes[0].State)
	require.Contains(t, verdict.Says[0], "predicts nothing")
}

// Only calls that were read by the configured embedding are trained from, and only its versions judged.
func TestVersionsGoWithTheEmbedding(t *testing.T) {
	t.Parallel()
	store := &fakeTraining{versions: map[string]*router.Version{}, artefacts: map[string][]byte{}}
	store.week(now.Add(-7*24*time.Hour), false)
	by := router.Embedding{Model: "m", Dimensions: 2}
	e := by.Extractor("s")
	store.reading = e.Name()
	require.Equal(t, "embeddings-1:m/2", store.reading)
	for i := range store.tuples {
		store.tuples[i].Features = e.Embedded("one shape", []float32{float32(i % 2), float32(i % 7)})
	}
	at := contract.RouterActivityRequest{At: now}
	trained, err := (&Trainer{Store: store, Embedding: by}).TrainRouter(t.Context(), at)
	require.NoError(t, err)
	store.versions[trained.Version].State = router.Shadow
	verdict, err := (&Trainer{Store: store, Embedding: by}).JudgeRouter(t.Context(), at)
	require.NoError(t, err)
	require.Empty(t, verdict.Says)
	require.Equal(t, trained.Version, verdict.Waits)
	verdict, err = (&Trainer{Store: store}).JudgeRouter(t.Context(), at)
	require.NoError(t, err)
	require.Contains(t, verdict.Says[0], "configure router.embeddings as it was then")
	require.Equal(t, router.Retired, verdict.Changes[0].State)
}
