// Package simulate is the plant: a synthetic world of tenants, models, prompts and a judge. It sends
// telemetry as a real gateway would, asks the decision API before each call and obeys it, and can be
// made to misbehave. The world itself is pure and repeats itself for one seed; Simulator is the thin
// shell that puts it on the network.
package simulate

import (
	"math"
	"time"
)

// ValueClass says how much a tenant's traffic matters, and so what share of it the judge scores.
type ValueClass string

// The value classes.
const (
	HighValue     ValueClass = "high-value"
	StandardValue ValueClass = "standard"
	BatchValue    ValueClass = "batch"
)

// sampling is the share of calls that the judge scores: in the history, and live where the decision
// API does not say. It is what policies/sampling.yaml ships with.
var sampling = map[ValueClass]float64{HighValue: 1, StandardValue: 0.10, BatchValue: 0.01}

// Tenant is one customer of the synthetic world. Its risk class is the policies' affair; the names
// here are those that docs/demo.md and the shipped policies use.
type Tenant struct {
	ID    string
	Value ValueClass
	Tags  map[string]string
}

// lognormal is a distribution by its median and the deviation of its logarithm.
type lognormal struct{ median, sigma float64 }

func (l lognormal) at(z float64) float64 { return l.median * math.Exp(l.sigma*z) }

// Workload is one prompt of one tenant's application: its traffic for one requested model.
type Workload struct {
	Tenant     *Tenant
	Model      string // requested
	Template   string
	Task       string
	Rate       float64   // calls per second, mean of the day
	Prefix     int64     // tokens of the template, which the provider's prefix cache can hold
	Warm       float64   // share of the calls that find the prefix cached
	Prompt     lognormal // tokens after the prefix
	Output     lognormal // tokens of a model of verbosity 1
	MaxOutput  int64
	Complexity float64
	Evaluator  string // that scores its calls; empty: the demo's judge
	Whole      bool   // a cost fault makes question and answer longer alike; else the model rambles
}

// model is what a provider offers. Prices are relative to each other and serve only to size a cost
// fault: what a call costs is for the price book to say.
type model struct {
	name      string
	version   string // what the provider reports as having served
	provider  string
	quality   float64 // median of the judge's scores
	velocity  float64 // output tokens per second
	ttft      float64 // seconds, median
	verbosity float64
	price     struct{ input, cacheRead, cacheWrite, output float64 }
	dearer    string // what a careless application asks for in its place
}

func prices(input, cacheRead, cacheWrite, output float64) struct{ input, cacheRead, cacheWrite, output float64 } {
	return struct{ input, cacheRead, cacheWrite, output float64 }{input, cacheRead, cacheWrite, output}
}

// models are the catalogue, dearest first within a family: the tiers of policies/tradeoff.yaml, with
// scores that keep what the tiers promise.
var models = []model{
	{name: "claude-3-opus", version: "claude-3-opus-20240229", provider: "anthropic", quality: 0.965, velocity: 70, ttft: 0.9, verbosity: 1, price: prices(15, 1.5, 18.75, 75)},
	{name: "claude-3-sonnet", version: "claude-3-sonnet-20240229", provider: "anthropic", quality: 0.925, velocity: 90, ttft: 0.6, verbosity: 0.95, price: prices(3, 0.3, 3.75, 15), dearer: "claude-3-opus"},
	{name: "claude-3-haiku", version: "claude-3-haiku-20240307", provider: "anthropic", quality: 0.86, velocity: 150, ttft: 0.35, verbosity: 0.9, price: prices(0.25, 0.03, 0.3, 1.25), dearer: "claude-3-sonnet"},
	{name: "gpt-4o", version: "gpt-4o-2024-08-06", provider: "openai", quality: 0.93, velocity: 110, ttft: 0.5, verbosity: 1, price: prices(2.5, 1.25, 2.5, 10)},
	{name: "gpt-4.1", version: "gpt-4.1-2025-04-14", provider: "openai", quality: 0.94, velocity: 100, ttft: 0.5, verbosity: 1, price: prices(2, 0.5, 2, 8)},
	{name: "gpt-4.1-mini", version: "gpt-4.1-mini-2025-04-14", provider: "openai", quality: 0.88, velocity: 130, ttft: 0.4, verbosity: 0.95, price: prices(0.4, 0.1, 0.4, 1.6), dearer: "gpt-4.1"},
	{name: "gpt-4o-mini", version: "gpt-4o-mini-2024-07-18", provider: "openai", quality: 0.84, velocity: 130, ttft: 0.35, verbosity: 0.9, price: prices(0.15, 0.075, 0.15, 0.6), dearer: "gpt-4o"},
}

// modelNamed finds a model by its name or its version; nil when the catalogue has none.
func modelNamed(name string) *model {
	for i := range models {
		if m := &models[i]; m.name == name || m.version == name {
			return m
		}
	}
	return nil
}

// Demo is the traffic of `flyball up`: six keys of four tenants, nine calls a second between them.
// The first key has enough for every test of a rollout at 10 %; the batch tenant is scored so rarely
// that its quality stays INCONCLUSIVE.
func Demo() []Workload {
	org42 := &Tenant{"org_42", HighValue, map[string]string{"team": "search", "cost-center": "cc-7"}}
	org7 := &Tenant{"org_7", StandardValue, map[string]string{"team": "assistant", "cost-center": "cc-2"}}
	bank := &Tenant{"acme_bank", StandardValue, map[string]string{"team": "legal", "cost-center": "cc-11"}}
	batch := &Tenant{"datamill", BatchValue, map[string]string{"team": "pipelines", "cost-center": "cc-4"}}
	return []Workload{
		{org42, "claude-3-opus", "rag-v3.2", "support", 4.0, 896, 0.70, lognormal{600, 0.60}, lognormal{180, 0.50}, 2048, 1.2, "", false},
		{org42, "claude-3-haiku", "triage-v1.4", "classification", 1.0, 512, 0.80, lognormal{180, 0.50}, lognormal{40, 0.40}, 256, 0.5, "", false},
		{org7, "gpt-4o", "assistant-v5.0", "chat", 1.0, 640, 0.70, lognormal{450, 0.70}, lognormal{220, 0.60}, 2048, 1.0, "", false},
		{org7, "gpt-4o-mini", "summary-v2.3", "summarization", 1.2, 1536, 0.75, lognormal{1000, 0.60}, lognormal{160, 0.40}, 1024, 0.7, "", false},
		{bank, "claude-3-sonnet", "contract-v2.1", "extraction", 1.0, 2304, 0.75, lognormal{1900, 0.60}, lognormal{300, 0.45}, 2048, 1.8, "", false},
		{batch, "claude-3-haiku", "enrich-v0.9", "extraction", 1.0, 512, 0.85, lognormal{380, 0.50}, lognormal{110, 0.45}, 512, 0.6, "", false},
	}
}

// Drill is the traffic of a drill: short calls, so that one that costs ten times as much is complete in seconds, and
// whole ones: a model that rambles changes the completion ratio too, which is judged over a quarter of an hour and so
// outlasts its fault by one. Its scores are its own evaluator's: how far a deployment's
// judge can be relied on is no part of what a drill asks.
func Drill(tenant, model string, rate float64) Workload {
	return Workload{
		Tenant: &Tenant{tenant, StandardValue, map[string]string{"flyball": "drill"}},
		Model:  model, Template: "drill-v1", Task: "drill", Rate: rate,
		Prompt: lognormal{80, 0.40}, Output: lognormal{12, 0.40}, MaxOutput: 256, Complexity: 1, Evaluator: DrillEvaluator, Whole: true,
	}
}

// DrillEvaluator scores the calls of drills.
const DrillEvaluator = "flyball-drill"

// Models are the names of those that calls can ask for and be routed to.
func Models() []string {
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.name
	}
	return names
}

// The working day moves the rates by ± dailySwing about their mean, highest at peakHour UTC.
const (
	dailySwing = 0.25
	peakHour   = 14.0
)

func (w *Workload) rateAt(t time.Time) float64 {
	hour := t.UTC().Sub(t.UTC().Truncate(24 * time.Hour)).Hours()
	return w.Rate * (1 + dailySwing*math.Cos(2*math.Pi*(hour-peakHour)/24))
}
