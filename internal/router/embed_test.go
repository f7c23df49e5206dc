package router

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// embedded are tuples whose vectors say along one direction, and in noise along all others, how good the answer is.
func embedded(n, size int, seed uint64) []Tuple {
	r, e := rand.New(rand.NewPCG(seed, 1)), Embedding{Model: "m"}.Extractor("")
	var tuples []Tuple
	for i := range n {
		v := make([]float32, size)
		for j := range v {
			v[j] = float32(r.NormFloat64()) / 30
		}
		p := 0.1
		if r.IntN(2) == 1 {
			p = 0.9
			for j := range 8 {
				v[j] += 0.05
			}
		}
		x := Tuple{Prompt: fmt.Sprint(i), Model: "small", Features: e.Embedded("the same", v)}
		if r.Float64() < p {
			x.Score = 1
		}
		tuples = append(tuples, x)
	}
	return tuples
}

// What a vector says is found though it has more values than there are prompts, and whatever its length is.
func TestEmbeddingsAreFitted(t *testing.T) {
	t.Parallel()
	for _, length := range []float32{0.01, 1, 100} {
		tuples := embedded(500, 768, 3)
		for i := range tuples {
			for j := shapes; j < len(tuples[i].Features.Dense); j++ {
				tuples[i].Features.Dense[j] *= length
			}
		}
		m, err := Train(tuples, Training{Features: "embeddings-1:m", Seed: 1, At: time.Unix(1e9, 0)})
		require.NoError(t, err)
		h := m.Heads[0]
		require.Empty(t, h.Grams)
		require.Len(t, h.Dense, shapes+768)
		require.Greater(t, *h.Metrics.AUC, 0.8, "a perfect reader has 0.9")
		require.Less(t, h.Metrics.LogLoss, 0.8*h.Metrics.BaseLogLoss)
	}
}

func BenchmarkTrainEmbeddings(b *testing.B) {
	tuples := embedded(4000, 256, 3)
	for b.Loop() {
		_, err := Train(tuples, Training{Features: "embeddings-1:m", Seed: 1})
		require.NoError(b, err)
	}
}
