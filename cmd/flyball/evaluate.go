package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/evaluate"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/usage"
)

// evaluation is the scoring of calls beside ingest. All of it is nil where no evaluators are configured.
type evaluation struct {
	set      *evaluate.Set
	judge    *evaluate.Judge
	pipeline *evaluate.Pipeline
	flags    *gateway.Gateway // the flags that raise the share of calls to score
}

// loadEvaluators reads the configured evaluators.
func loadEvaluators(from string) (*evaluate.Set, error) {
	if from == config.ShippedEvaluators {
		return evaluate.Load(nil)
	}
	return evaluate.Load(os.DirFS(from))
}

// openEvaluation makes the pipeline, where ingest is and evaluators are configured. It obeys the flags as a gateway
// does, by a snapshot of its own: the same in one process and in many, and while Redis is away the last flags count,
// which are none at first.
func (s *system) openEvaluation() error {
	if s.evaluation.set == nil {
		return nil
	}
	e := &s.evaluation
	if s.redis == nil {
		s.redis = redis.Open(redis.Options{Addr: s.config.Redis.Addr, Password: s.config.Redis.Password, Logger: s.log})
	}
	e.flags = s.gateway()
	o := evaluate.Options{
		Set: e.set, Logger: s.log, JudgeTenant: s.config.Judge.Tenant, Concurrency: s.config.Judge.Concurrency,
		Sampled: func(p *usage.Span) bool {
			return e.flags.Sampled(usage.Key{Tenant: p.TenantID, Model: p.RequestedModel}, p.Task, p.TraceID)
		},
		Accept: func(ctx context.Context, spans []usage.Span, quality []usage.Quality) error {
			return s.ingest.Accept(ctx, spans, quality)
		},
	}
	if s.config.Judge.Model != "" {
		var err error
		if e.judge, err = s.newJudge(func(p usage.Span) { e.pipeline.Spend(p) }); err != nil {
			return &exitError{exitUsage, err}
		}
		o.Judge = e.judge
	} else if e.set.Judges() {
		s.log.Info("No judge is configured: evaluators of the kind judge do not run; heuristics do")
	}
	e.pipeline = evaluate.New(o)
	return nil
}

// newJudge makes the judge of ingest. What its predecessors spent counts once all that they left in the spool is
// stored.
func (s *system) newJudge(spent func(usage.Span)) (*evaluate.Judge, error) {
	began, process := time.Now(), rand.Text()
	o, err := s.judgeOptions(process, spent)
	if err != nil {
		return nil, err
	}
	o.Others = func(ctx context.Context, day time.Time) (usage.PicoUSD, error) {
		if oldest := s.ingest.Stats().OldestUnsent; !oldest.IsZero() && oldest.Before(began) {
			return 0, fmt.Errorf("telemetry from %s is not stored yet", oldest.Format(time.RFC3339))
		}
		return s.store.JudgeSpend(ctx, clickhouse.JudgeSpendQuery{Tenant: o.Tenant, From: day, Without: process})
	}
	return evaluate.NewJudge(o)
}

// handJudge makes a judge that a person asks, whose cap is for this command alone.
func (s *system) handJudge(spent func(usage.Span)) (*evaluate.Judge, error) {
	o, err := s.judgeOptions("", spent)
	if err != nil {
		return nil, err
	}
	return evaluate.NewJudge(o)
}

func (s *system) judgeOptions(process string, spent func(usage.Span)) (o evaluate.JudgeOptions, err error) {
	c := s.config.Judge
	dayCap, err := c.Cap()
	if err != nil {
		return o, err
	}
	key, err := c.Key()
	if err != nil {
		return o, err
	}
	return evaluate.JudgeOptions{
		BaseURL: c.BaseURL, APIKey: key, Provider: c.Provider, Model: c.Model, Temperature: c.Temperature,
		JSONObject: c.ResponseFormat == "json_object", Timeout: c.Timeout, Concurrency: c.Concurrency,
		Book: s.book, DayCap: dayCap, Tenant: c.Tenant, Process: process, Spent: spent, Now: time.Now, Logger: s.log,
	}, nil
}

// hear connects ingest to the pipeline and to what is configured to be kept.
func (s *system) hear(o *ingest.Options) {
	if p := s.evaluation.pipeline; p != nil {
		o.Wants = p.Wants
		o.Heard = func(h ingest.Heard) { p.Offer(h.Span, h.Size(), h.Texts) }
	}
	if s.config.Content.Keep {
		o.Keep = s.config.Content.Of
	}
}
