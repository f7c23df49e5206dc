// Package kpi turns stored minutes into window statistics: exact counts and sums, and medians with
// the noise to expect of them. It also fixes the integer codes in which medians are stored, so that
// Go and SQL compute the same numbers.
package kpi

import (
	"math"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// CodeCap is how many codes one stored minute keeps of one key and arm (the first that arrive).
const CodeCap = 4096

// CostCode is the stored code of one call's cost: hundredths of log2 of pico-dollars, so adjacent
// codes differ by 0.7 %. A cost of zero or less has no code (ok is false).
func CostCode(c usage.PicoUSD) (code int16, ok bool) {
	if c <= 0 {
		return 0, false
	}
	return int16(math.Round(math.Log2(float64(c)) * 100)), true
}

// LnCost is the natural logarithm of the cost, in pico-dollars, that a (possibly averaged) code means.
func LnCost(code float64) float64 { return code / 100 * math.Ln2 }

// QualityCode is the stored code of a score in [0, 1]: two hundredths.
func QualityCode(score float64) int16 { return int16(math.Round(score * 200)) }

// Score is the quality score that a code means.
func Score(code float64) float64 { return code / 200 }

// Minute is what is stored of one key, arm and minute: the row of sweep_1m, and what the simulated
// plant emits.
type Minute struct {
	Start        time.Time
	Arm          usage.Arm
	Requests     int64
	CostPico     int64 // sum; one minute of one key fits int64
	InputTokens  int64
	OutputTokens int64
	CacheRead    int64
	CostCodes    []int16
	QualityCodes []int16
}

// Sample is the median of one quantity over a window with its spread.
type Sample struct {
	N      int     `json:"n"`
	Median float64 `json:"median"` // ln pico-dollars for cost, score for quality
	SD     float64 `json:"sd"`     // of single values, from the quartiles (robust); 0 when N < 4
}

// MedianSE is the standard error of the sample's median by the normal approximation,
// 1.2533·SD/√N (asymptotic variance π/2·σ²/n). It is +Inf without samples.
func (s Sample) MedianSE() float64 {
	if s.N == 0 {
		return math.Inf(1)
	}
	return 1.2533 * s.SD / math.Sqrt(float64(s.N))
}

// CostSample is the sample of ln cost that the codes hold. It sorts codes in place.
func CostSample(codes []int16) Sample { return sample(codes, LnCost) }

// QualitySample is the sample of scores that the codes hold. It sorts codes in place.
func QualitySample(codes []int16) Sample { return sample(codes, Score) }

func sample(codes []int16, value func(float64) float64) Sample {
	n := len(codes)
	if n == 0 {
		return Sample{}
	}
	slices.Sort(codes)
	s := Sample{N: n, Median: value(float64(codes[lowIndex(n, 0.5)]))}
	if n >= 4 {
		// The interquartile range of a normal distribution is 1.349 standard deviations.
		iqr := value(float64(codes[lowIndex(n, 0.75)])) - value(float64(codes[lowIndex(n, 0.25)]))
		s.SD = iqr / 1.349
	}
	return s
}

// lowIndex is the index that ClickHouse's quantileExactLow takes of n sorted values: the lower
// median at one half, floor(level·n) elsewhere.
func lowIndex(n int, level float64) int {
	if level == 0.5 {
		return (n - 1) / 2
	}
	return min(int(level*float64(n)), n-1)
}
