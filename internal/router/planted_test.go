package router

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// planted are prompts of which one word says how good the small model's answer is; with noise it says nothing.
func planted(n int, noise bool, seed uint64) []Pair {
	r, e := rand.New(rand.NewPCG(seed, 1)), NewExtractor("")
	var pairs []Pair
	for i := range n {
		words := make([]string, 12)
		for k := range words {
			words[k] = fmt.Sprintf("w%c%c", 'a'+rune(r.IntN(26)), 'a'+rune(r.IntN(8)))
		}
		hard := r.IntN(2) == 1
		if hard {
			words[r.IntN(12)] = "integral"
		} else {
			words[r.IntN(12)] = "capitals"
		}
		p := 0.5
		if !noise && hard {
			p = 0.1
		} else if !noise {
			p = 0.9
		}
		text := strings.Join(words, " ")
		pair := Pair{Prompt: fmt.Sprint(i, text), Features: e.Features(text), Strong: 1}
		if r.Float64() < p {
			pair.Weak = 1
		}
		pairs = append(pairs, pair)
	}
	return pairs
}

func TestPlantedSignalIsFound(t *testing.T) {
	t.Parallel()
	pairs := planted(400, false, 7)
	got, err := Evaluate(pairs, Options{Folds: 5, Seed: 1})
	require.NoError(t, err)
	require.Greater(t, *got.AUC, 0.8, "a perfect reader of the word has 0.9")
	require.Greater(t, *got.APGR, 0.65)
	again, err := Evaluate(pairs, Options{Folds: 5, Seed: 1})
	require.NoError(t, err)
	require.Equal(t, got, again)
	shuffled, err := Evaluate(pairs, Options{Folds: 5, Seed: 1, Shuffle: true})
	require.NoError(t, err)
	require.InDelta(t, 0.5, *shuffled.APGR, 0.1)
	noise, err := Evaluate(planted(400, true, 8), Options{Folds: 5, Seed: 1})
	require.NoError(t, err)
	require.InDelta(t, 0.5, *noise.APGR, 0.1)
}

func plantedModel(t testing.TB) (*Model, []Tuple) {
	t.Helper()
	var tuples []Tuple
	for _, p := range planted(400, false, 7) {
		tuples = append(tuples, Tuple{Prompt: p.Prompt, Features: p.Features, Task: "sums", Model: "small-2026-01-01", Score: p.Weak})
	}
	m, err := Train(tuples, Training{Features: NewExtractor("").Name(), Seed: 1, At: time.Unix(1e9, 0)})
	require.NoError(t, err)
	return m, tuples
}

func TestTrainedModelPredicts(t *testing.T) {
	t.Parallel()
	m, tuples := plantedModel(t)
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	back, err := ReadModel(raw)
	require.NoError(t, err)
	require.Equal(t, m, back)
	p, err := NewPredictor(back, NewExtractor(""))
	require.NoError(t, err)
	hard, version, ok := p.Quality("org", "sums", "small", "wab integral wcd web waa wbb wcc wdd")
	require.True(t, ok)
	require.Equal(t, m.Version, version)
	easy, _, _ := p.Quality("org", "another task", "small-2026-02-02", "wab capitals wcd web waa wbb wcc wdd")
	require.Less(t, hard, 0.4)
	require.Greater(t, easy, 0.6)
	_, _, ok = p.Quality("org", "sums", "stranger", "text")
	require.False(t, ok)
	_, err = NewPredictor(m, NewExtractor("other salt"))
	require.ErrorContains(t, err, "the salt has changed")
	_, err = Train(tuples[:99], Training{Features: "f"})
	require.ErrorIs(t, err, ErrFew)
}

func TestJudge(t *testing.T) {
	t.Parallel()
	m, tuples := plantedModel(t)
	now := time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC)
	for i := range tuples {
		tuples[i].At = now.Add(-time.Hour)
	}
	good := m.Predictor()
	turned := *m
	turned.Heads = append([]Head{}, m.Heads...)
	for i := range turned.Heads { // says the opposite
		h := &turned.Heads[i]
		h.Bias *= -1
		h.Grams, h.Dense = append(Weights{}, h.Grams...), append(Weights{}, h.Dense...)
		h.rescale(-1, 0)
		h.Bias = m.Heads[i].Bias * -1
	}
	bad := turned.Predictor()
	at := func(name string, s State) *Version {
		return &Version{Version: name, State: s, Since: now.Add(-2 * time.Hour), Used: s != Shadow}
	}
	v := Judge(Known{Lineup: Lineup{Shadow: at("good", Shadow)}, Shadow: good, Scored: tuples}, now)
	require.Len(t, v.Changes, 1)
	require.Equal(t, InUse, v.Changes[0].State)
	require.Greater(t, v.Shadow.Low, 0.0)

	v = Judge(Known{Lineup: Lineup{Shadow: at("bad", Shadow)}, Shadow: bad, Scored: tuples}, now)
	require.Equal(t, Retired, v.Changes[0].State)

	v = Judge(Known{Lineup: Lineup{InUse: at("bad", InUse), Before: at("good", Retired)}, InUse: bad, Before: good, Scored: tuples}, now)
	require.Len(t, v.Changes, 2)
	require.Equal(t, []State{RolledBack, InUse}, []State{v.Changes[0].State, v.Changes[1].State})
	require.Equal(t, "good", v.Changes[1].Version)
	require.Equal(t, now, v.Changes[0].Since)

	v = Judge(Known{Lineup: Lineup{Shadow: at("good", Shadow)}, Shadow: good, Scored: tuples[:LeastScored-1]}, now)
	require.Empty(t, v.Changes, "too few to say")
	v = Judge(Known{Lineup: Lineup{Shadow: at("good", Shadow)}, Shadow: good}, now.Add(shadowMost))
	require.Equal(t, Retired, v.Changes[0].State, "it does not wait for ever")
}

// A version that was good for long and has turned is rolled back by the watch, which looks at no shadow.
func TestWatch(t *testing.T) {
	t.Parallel()
	m, tuples := plantedModel(t)
	now := time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC)
	for len(tuples) < 3*recentScored {
		tuples = append(tuples, tuples[:min(len(tuples), 3*recentScored-len(tuples))]...)
	}
	for i := range tuples {
		tuples[i].At = now.Add(time.Duration(i-len(tuples)) * time.Minute)
	}
	used := &Version{Version: "good", State: InUse, Since: tuples[0].At, Used: true}
	known := Known{Lineup: Lineup{InUse: used, Shadow: &Version{Version: "next", State: Shadow}}, InUse: m.Predictor(), Scored: tuples, Watch: true}
	require.Empty(t, Judge(known, now).Changes)
	for i := len(tuples) - recentScored/2; i < len(tuples); i++ {
		tuples[i].Score = 1 - tuples[i].Score
	}
	known.Scored = tuples[len(tuples)-recentScored/2:][:LeastScored-1]
	require.Empty(t, Judge(known, now).Changes, "too few to say")
	known.Scored = tuples[:len(tuples)-recentScored/2+1]
	require.Empty(t, Judge(known, now).Changes, "one call proves nothing")
	for i := len(tuples) - recentScored; i < len(tuples)-recentScored/2; i++ {
		tuples[i].Score = 1 - tuples[i].Score
	}
	known.Scored = tuples
	v := Judge(known, now)
	require.Len(t, v.Changes, 1)
	require.Equal(t, RolledBack, v.Changes[0].State)
	require.Contains(t, v.Changes[0].Reason, "lately worse than the mean alone")
	require.Nil(t, v.Shadow)
}

func BenchmarkQuality(b *testing.B) {
	m, _ := plantedModel(b)
	p, err := NewPredictor(m, NewExtractor(""))
	require.NoError(b, err)
	for _, size := range []int{200, 2000, MaxText} {
		text := strings.Repeat("How many of the 12 ducks that she had are left? ", 200)[:size]
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if q, _, _ := p.Quality("org", "sums", "small", text); math.IsNaN(q) {
					b.Fatal(q)
				}
			}
		})
	}
}
