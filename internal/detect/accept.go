package detect

import (
	"fmt"
	"math"
	"time"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Accept is the baseline that a key has from now on when a person calls its level of [from, at) the usual one. Medians
// are those of calls that no flag touches, sums of all; how much they spread, and outcomes, which come late, stay as
// they were. What has too few samples stays as it was too, and it fails when neither cost nor quality has enough.
func Accept(old Baseline, minutes []kpi.Minute, from, at time.Time, min Minimums) (Baseline, error) {
	var costCodes, qualityCodes []int16
	var sum kpi.Minute
	for _, m := range minutes {
		sum.Requests += m.Requests
		sum.CostPico += m.CostPico
		sum.InputTokens += m.InputTokens
		sum.OutputTokens += m.OutputTokens
		sum.CacheRead += m.CacheRead
		if m.Arm != usage.Treated {
			costCodes = append(costCodes, m.CostCodes...)
			qualityCodes = append(qualityCodes, m.QualityCodes...)
		}
	}
	cost, quality := kpi.CostSample(costCodes), kpi.QualitySample(qualityCodes)
	if cost.N < min.Cost && quality.N < min.Quality {
		return Baseline{}, fmt.Errorf("there are %d costs and %d scores since %s, and a level takes %d or %d: accept it again when there are more",
			cost.N, quality.N, from.UTC().Format("15:04"), min.Cost, min.Quality)
	}
	b := old
	b.Version = "accepted " + at.UTC().Format(time.RFC3339)
	if cost.N >= max(min.Cost, 1) {
		b.CostBuckets, b.LnCost = max(old.CostBuckets, min.Buckets), cost.Median
		if old.CostBuckets == 0 { // how calls spread is all that is known of its noise
			b.LnCostSD, b.CostBucketN = cost.SD, float64(cost.N)
		}
		length := math.Max(at.Sub(from).Minutes(), 1)
		b.SpendPerMinute, b.RequestsPerMin = float64(sum.CostPico)/length, float64(sum.Requests)/length
		b.Completion, b.CacheHit = 0, 0
		if sum.InputTokens > 0 {
			b.Completion = float64(sum.OutputTokens) / float64(sum.InputTokens)
			b.CacheHit = float64(sum.CacheRead) / float64(sum.InputTokens)
		}
	}
	if quality.N >= max(min.Quality, 1) {
		b.QualityBuckets, b.Quality = max(old.QualityBuckets, min.Buckets), quality.Median
		if old.QualityBuckets == 0 {
			b.QualitySD, b.QualityBucketN = quality.SD, float64(quality.N)
		}
	}
	return b, nil
}
