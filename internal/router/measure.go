package router

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
)

// name is the model's version: when it was trained and, since a file may be trained on twice in a second, of what.
func (m *Model) name() string {
	raw, _ := json.Marshal(m.Heads) // finite numbers and names: it cannot fail
	sum := sha256.Sum256(raw)
	return m.TrainedAt.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(sum[:4])
}

func meanLogLoss(odds, want []float64) (sum float64) {
	for i, z := range odds {
		sum += logLoss(z, want[i]) / float64(len(odds))
	}
	return sum
}

// measure says how good predictions by odds were.
func measure(odds, want []float64) Metrics {
	m := Metrics{N: len(want), LogLoss: meanLogLoss(odds, want)}
	n := float64(len(want))
	mean := 0.0
	predicted := make([]float64, len(odds))
	for i, z := range odds {
		predicted[i] = sigmoid(z)
		mean += want[i] / n
		m.Brier += (predicted[i] - want[i]) * (predicted[i] - want[i]) / n
	}
	for _, y := range want {
		m.BaseLogLoss -= (y*math.Log(mean) + (1-y)*math.Log(1-mean)) / n
	}
	if auc, ok := AUC(predicted, want); ok {
		m.AUC = &auc
	}
	m.Calibration = calibrationError(predicted, want)
	return m
}

// calibrationError is how far, in the mean, predictions are from what was found, over ten equally large groups of
// neighbouring predictions.
func calibrationError(predicted, want []float64) (sum float64) {
	order := ascending(predicted)
	const groups = 10
	for g := range groups {
		said, found := 0.0, 0.0
		for _, i := range order[g*len(order)/groups : (g+1)*len(order)/groups] {
			said, found = said+predicted[i], found+want[i]
		}
		sum += math.Abs(said-found) / float64(len(order))
	}
	return sum
}

func ascending(values []float64) []int {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	return order
}

// AUC is the share of pairs with different scores that the predictions put in the right order; equal predictions are
// half right. With scores of 0 and 1 it is the area under the ROC curve. Not ok: all scores are the same.
func AUC(predicted, found []float64) (auc float64, ok bool) {
	order := ascending(found)
	rank, ranks := ranksOf(predicted)
	tree := make([]int, ranks+1) // Fenwick: how many of each rank had a lower score
	below := func(r int) (n int) {
		for ; r > 0; r -= r & -r {
			n += tree[r]
		}
		return n
	}
	pairs, right := 0, 0.0
	for from := 0; from < len(order); {
		to := from
		for to < len(order) && found[order[to]] == found[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			lower, notHigher := below(rank[i]-1), below(rank[i])
			right += float64(lower) + float64(notHigher-lower)/2
			pairs += from
		}
		for _, i := range order[from:to] {
			for r := rank[i]; r <= ranks; r += r & -r {
				tree[r]++
			}
		}
		from = to
	}
	if pairs == 0 {
		return 0, false
	}
	return right / float64(pairs), true
}

// ranksOf gives equal values equal ranks, from 1 on.
func ranksOf(values []float64) (rank []int, ranks int) {
	rank = make([]int, len(values))
	last := math.NaN()
	for _, i := range ascending(values) {
		if values[i] != last {
			ranks++
			last = values[i]
		}
		rank[i] = ranks
	}
	return rank, ranks
}
