// Package detect compares what a key does now with what it usually does. It is arithmetic only: it
// assembles Facts from one tick's windows and the key's baseline; which facts are a finding is said
// by policies/alert.yaml, which is asked only where Candidate says that it could matter.
package detect

import (
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Level is the verdict on one key at one tick.
type Level string

// The levels. Inconclusive is the verdict "no data": it never starts nor ends anything.
const (
	None         Level = "NONE"
	Investigate  Level = "INVESTIGATE"
	Page         Level = "PAGE"
	Inconclusive Level = "INCONCLUSIVE"
)

// Windows are the lengths of the detection windows in minutes, shortest first. A window of n
// minutes is the current partial minute and the n−1 whole ones before it.
var Windows = [...]int{1, 2, 5, 15}

// Minimums are the sample counts below which a median says nothing (the demo profile lowers them).
type Minimums struct {
	Cost    int `json:"cost"`
	Quality int `json:"quality"`
	Buckets int `json:"buckets"` // 15-minute buckets that a baseline needs
}

// DefaultMinimums are sized by the error of a median: against the true one of a lognormal with σ 0.8, 20
// values err by up to 35 % and 100 by 17 %; 50 and 20 keep the error inside what the rules' thresholds
// and noise bounds bear.
var DefaultMinimums = Minimums{Cost: 50, Quality: 20, Buckets: 12}

// Window holds the medians of one window of untreated traffic (arm none or holdback).
type Window struct {
	CostN    int     `json:"cost_n"`
	LnCost   float64 `json:"ln_cost"` // ln of the median cost in pico-dollars
	QualityN int     `json:"quality_n"`
	Quality  float64 `json:"quality"` // median score, 0..1
}

// Volume counts what a key did in a window, all arms.
type Volume struct {
	Requests     int64 `json:"requests"`
	InputTokens  int64 `json:"input_tokens"`
	OutputTokens int64 `json:"output_tokens"`
	CacheRead    int64 `json:"cache_read_tokens"`
}

// Outcomes count what calls led to in a window, of untreated traffic. The outcomes are those that happened
// in it, whenever their calls were.
type Outcomes struct {
	Calls int64 `json:"calls"`
	All   int64 `json:"all"`
	Good  int64 `json:"good"`
}

// Stream is what untreated calls that told their first token streamed after it, in a window.
type Stream struct {
	Calls  int64 `json:"calls"`
	Tokens int64 `json:"tokens"` // output
	MS     int64 `json:"ms"`     // from the first token to the end, summed over the calls
}

// velocity is output tokens per second after the first token; 0 without any time.
func (s Stream) velocity() float64 {
	if s.MS <= 0 {
		return 0
	}
	return 1000 * float64(s.Tokens) / float64(s.MS)
}

// Observation is one key at one tick, as the sweep query returns it.
type Observation struct {
	Key           usage.Key            `json:"key"`
	Windows       [len(Windows)]Window `json:"windows"`
	Recent        Volume               `json:"recent"`          // in the 5-minute window
	Whole         Volume               `json:"whole"`           // in the 15-minute window
	RecentStream  Stream               `json:"recent_stream"`   // in the 5-minute window
	WholeStream   Stream               `json:"whole_stream"`    // in the 15-minute window
	Outcomes      Outcomes             `json:"outcomes"`        // in the 15-minute window
	SpendLastPico float64              `json:"spend_last_pico"` // spend a minute now: the last whole one's, or the partial one's pace if that is more (see SpendScale)
	Silence       time.Duration        `json:"silence"`         // how long the key is known to be without a call while its baseline expects some; the sweep knows
}

// spendAfter is how much of a minute its pace of spending is read from at the earliest.
const spendAfter = 15 * time.Second

// SpendScale is the factor from what a partial minute has spent so far to a minute at that pace; 1 while
// too little of it has passed. Waiting for whole minutes instead would see runaway spend half a minute later.
func SpendScale(elapsed time.Duration) float64 {
	if elapsed < spendAfter {
		return 1
	}
	return time.Minute.Seconds() / elapsed.Seconds()
}

// Baseline is what a key usually does at this time of day: weighted medians over 15-minute buckets.
type Baseline struct {
	Key             usage.Key `json:"key"`
	Slot            time.Time `json:"slot"` // the hour it was computed for
	Version         string    `json:"version"`
	CostBuckets     int       `json:"cost_buckets"`
	LnCost          float64   `json:"ln_cost"`       // weighted median of bucket medians of ln cost
	LnCostDev       float64   `json:"ln_cost_dev"`   // 1.4826 × weighted MAD of the bucket medians; 0 when unknown
	LnCostSD        float64   `json:"ln_cost_sd"`    // of single calls, from quartiles within buckets; 0 when unknown
	CostBucketN     float64   `json:"cost_bucket_n"` // median samples per bucket
	QualityBuckets  int       `json:"quality_buckets"`
	Quality         float64   `json:"quality"`
	QualityDev      float64   `json:"quality_dev"`
	QualitySD       float64   `json:"quality_sd"`
	QualityBucketN  float64   `json:"quality_bucket_n"`
	SpendPerMinute  float64   `json:"spend_per_minute_pico"` // weighted median of bucket spend / 15
	SpendDev        float64   `json:"spend_dev"`             // MAD deviation of ln bucket spend per minute; 0 when unknown
	SpendBurst      float64   `json:"spend_burst"`           // median relative variance of the minutes' spends within a bucket; 0 when unknown
	RequestsPerMin  float64   `json:"requests_per_minute"`
	Completion      float64   `json:"completion_ratio"` // output / input tokens; 0 when unknown
	CacheHit        float64   `json:"cache_hit_rate"`
	VelocityBuckets int       `json:"velocity_buckets"` // those with untreated calls that told their first token
	Velocity        float64   `json:"velocity"`         // weighted median of output tokens per second after the first token
	VelocityDev     float64   `json:"velocity_dev"`     // 1.4826 × weighted MAD of ln of the buckets'; 0 when unknown
	LeastCalls      float64   `json:"least_calls"`      // that 95 of 100 quarter-hours of this time of day have had, those without any counted; 0: none to rely on
	OutcomeBuckets  int       `json:"outcome_buckets"`  // those with outcomes of untreated calls
	OutcomeRate     float64   `json:"outcome_rate"`     // weighted median of good outcomes per untreated call
	OutcomeDev      float64   `json:"outcome_dev"`      // 1.4826 × weighted MAD of the buckets' rates
	OutcomeBucketN  float64   `json:"outcome_bucket_n"` // median untreated calls per bucket

	// What the bound of its calibrated level took off: LnCost + LnCostHeld is what the buckets alone say. 0: nothing.
	LnCostHeld  float64 `json:"ln_cost_held,omitempty"`
	QualityHeld float64 `json:"quality_held,omitempty"`
}

// Facts are what alert.yaml sees of one key at one tick; the cel tags are its variable names. A
// quantity without enough samples has its known flag false and is neutral (ratio 1, z 0).
type Facts struct {
	Tenant        string `cel:"tenant" json:"tenant"`
	Model         string `cel:"model" json:"model"`
	Experiment    string `cel:"experiment" json:"experiment"` // whose calls of the model these are; empty: production
	Active        string `cel:"active" json:"active"`         // the level now held: rules leave at other thresholds than they enter
	WindowMinutes int64  `cel:"window_minutes" json:"window_minutes"`

	CostKnown    bool    `cel:"cost_known" json:"cost_known"`
	CostSamples  int64   `cel:"cost_samples" json:"cost_samples"`
	CostUSD      float64 `cel:"cost_usd" json:"cost_usd"` // median cost of a call now
	CostBaseline float64 `cel:"cost_baseline_usd" json:"cost_baseline_usd"`
	CostRatio    float64 `cel:"cost_ratio" json:"cost_ratio"`
	CostSigmas   float64 `cel:"cost_sigmas" json:"cost_sigmas"` // how many noise deviations of this window the ratio is above 1
	CostZKnown   bool    `cel:"cost_z_known" json:"cost_z_known"`
	CostZ        float64 `cel:"cost_z" json:"cost_z"` // on the 15-minute window

	QualityKnown    bool    `cel:"quality_known" json:"quality_known"`
	QualitySamples  int64   `cel:"quality_samples" json:"quality_samples"`
	Quality         float64 `cel:"quality" json:"quality"`
	QualityBaseline float64 `cel:"quality_baseline" json:"quality_baseline"`
	QualityRatio    float64 `cel:"quality_ratio" json:"quality_ratio"`
	QualitySigmas   float64 `cel:"quality_sigmas" json:"quality_sigmas"` // positive: below the baseline

	SpendKnown     bool    `cel:"spend_known" json:"spend_known"`
	SpendPerMinute float64 `cel:"spend_per_minute_usd" json:"spend_per_minute_usd"`
	SpendBaseline  float64 `cel:"spend_baseline_usd" json:"spend_baseline_usd"`
	SpendRatio     float64 `cel:"spend_ratio" json:"spend_ratio"`
	VolumeRatio    float64 `cel:"volume_ratio" json:"volume_ratio"` // calls of the last 5 minutes beside the usual: what of the spend's ratio is their number
	SpendSigmas    float64 `cel:"spend_sigmas" json:"spend_sigmas"`

	CallsKnown    bool    `cel:"calls_known" json:"calls_known"` // enough calls are expected that none at all means something
	Calls         int64   `cel:"calls" json:"calls"`             // in the 15-minute window
	ExpectedCalls float64 `cel:"expected_calls" json:"expected_calls"`
	SilentMinutes int64   `cel:"silent_minutes" json:"silent_minutes"` // without any call, as far as the sweep has seen; 0 while there are some

	VelocityKnown    bool    `cel:"velocity_known" json:"velocity_known"`
	Velocity         float64 `cel:"velocity" json:"velocity"` // output tokens per second after the first token
	VelocityBaseline float64 `cel:"velocity_baseline" json:"velocity_baseline"`
	VelocityRatio    float64 `cel:"velocity_ratio" json:"velocity_ratio"`
	VelocitySigmas   float64 `cel:"velocity_sigmas" json:"velocity_sigmas"` // positive: below the baseline

	CompletionKnown    bool    `cel:"completion_known" json:"completion_known"`
	Completion         float64 `cel:"completion_ratio" json:"completion_ratio"`
	CompletionBaseline float64 `cel:"completion_baseline" json:"completion_baseline"`
	CompletionChange   float64 `cel:"completion_change" json:"completion_change"` // now / baseline

	CacheKnown    bool    `cel:"cache_known" json:"cache_known"`
	CacheHit      float64 `cel:"cache_hit_rate" json:"cache_hit_rate"`
	CacheBaseline float64 `cel:"cache_hit_baseline" json:"cache_hit_baseline"`

	OutcomeKnown    bool    `cel:"outcome_known" json:"outcome_known"`
	OutcomeSamples  int64   `cel:"outcome_samples" json:"outcome_samples"`
	OutcomeRate     float64 `cel:"outcome_rate" json:"outcome_rate"` // good outcomes per call
	OutcomeBaseline float64 `cel:"outcome_baseline" json:"outcome_baseline"`
	OutcomeSigmas   float64 `cel:"outcome_sigmas" json:"outcome_sigmas"` // positive: below the baseline
}

// Verdict is what the policy says of Facts.
type Verdict struct {
	Level  Level  `json:"level"`
	Rule   string `json:"rule"`   // the id of the rule that fired; empty with None
	Reason string `json:"reason"` // one sentence for people
}

// Finding is a verdict on a key at a tick, with everything it was drawn from.
type Finding struct {
	Key         usage.Key `json:"key"`
	Tick        int64     `json:"tick"`
	EvaluatedAt time.Time `json:"evaluated_at"`
	Verdict     Verdict   `json:"verdict"`
	Facts       Facts     `json:"facts"`
	Revision    string    `json:"revision"` // of the policy set
}
