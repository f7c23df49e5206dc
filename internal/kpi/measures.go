package kpi

import (
	"math"
	"math/big"

	"github.com/flyball-dev/flyball/internal/usage"
)

// LatencyCode is the stored code of a latency: hundredths of log2 of milliseconds. A latency of zero or
// less is unknown and has no code (ok is false).
func LatencyCode(ms int64) (code int16, ok bool) { return CostCode(usage.PicoUSD(ms)) }

// Latency is the time in milliseconds that a code means.
func Latency(code float64) float64 { return math.Exp2(code / 100) }

// CostUSD is the cost in dollars that a code means.
func CostUSD(code float64) float64 { return math.Exp2(code/100) / 1e12 }

// ComplexityMilli is a complexity in thousandths, as sums keep it: at least 1, and 1000 when it is unknown.
func ComplexityMilli(complexity float64) int64 {
	if !(complexity > 0) {
		return 1000
	}
	return max(1, int64(math.Floor(complexity*1000+0.5)))
}

// Levels are the levels of Percentiles.
var Levels = [...]float64{0.50, 0.95, 0.99}

// Percentiles are those of N values, by nearest rank: the smallest value that at least the level's share
// of all does not exceed. Without values they mean nothing.
type Percentiles struct {
	N   int64   `json:"n"`
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// Rank is which of n ascending values, from 0, is the percentile of the level. n must not be 0.
func Rank(n int64, level float64) int64 { return max(0, int64(math.Ceil(level*float64(n)))-1) }

// Measures is what is known of a set of calls: exact sums, from which every KPI is a ratio, and
// percentiles. Sums of two disjoint sets add up to those of both; ratios and percentiles do not.
type Measures struct {
	Requests   int64
	Unpriced   int64 // calls that no price was found for; their cost is not in Cost
	Incomplete int64 // calls whose final usage was not seen, or not understood
	Reported   int64 // calls whose sender said what they cost

	Tokens       usage.Tokens
	Cost         *big.Int // pico-dollars
	ReportedCost *big.Int // pico-dollars, as the senders said

	ComplexityMilli int64 // of priced calls, in thousandths
	VelocityTokens  int64 // output tokens of calls that told their first token,
	VelocityMS      int64 // and the time from there to their end

	CostUSD   Percentiles // of calls that cost something, in dollars
	LatencyMS Percentiles
	TTFTMS    Percentiles

	Scored     int64
	ScoreCodes int64 // the sum of QualityCode
	Quality    Percentiles

	Outcomes   int64
	Good       int64 // outcomes with a value above 0
	ValueMicro int64 // the sum of the outcomes' values, in millionths
}

// NTC is the normalised task cost: dollars per unit of complexity. It is nil without priced calls.
func (m *Measures) NTC() *float64 {
	if m.ComplexityMilli <= 0 {
		return nil
	}
	// pico / milli = nano
	v, _ := new(big.Rat).SetFrac(m.Cost, big.NewInt(m.ComplexityMilli)).Float64()
	return known(v / 1e9)
}

// Velocity is output tokens per second after the first token, nil when no call told its first token.
func (m *Measures) Velocity() *float64 { return ratio(1000*float64(m.VelocityTokens), m.VelocityMS) }

// CompletionRatio is output over input tokens, nil without input.
func (m *Measures) CompletionRatio() *float64 {
	return ratio(float64(m.Tokens.Output), m.Tokens.Input())
}

// CacheHitRate is the share of input tokens that were read from a cache, nil without input.
func (m *Measures) CacheHitRate() *float64 {
	return ratio(float64(m.Tokens.CacheRead), m.Tokens.Input())
}

// OutcomeRate is good outcomes per call, nil when no outcome is known at all or no call is. It may exceed
// 1: one call may have many.
func (m *Measures) OutcomeRate() *float64 {
	if m.Outcomes == 0 {
		return nil
	}
	return ratio(float64(m.Good), m.Requests)
}

// MeanQuality is the mean score, nil without scores.
func (m *Measures) MeanQuality() *float64 { return ratio(Score(float64(m.ScoreCodes)), m.Scored) }

func ratio(of float64, to int64) *float64 {
	if to <= 0 {
		return nil
	}
	return known(of / float64(to))
}

func known(v float64) *float64 { return &v }
