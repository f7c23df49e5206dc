package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/router"
)

// TrainingStore keeps scored calls and the predictor's versions: package clickhouse.
type TrainingStore interface {
	RouterSalt(ctx context.Context) (string, error)
	ScoredTuples(ctx context.Context, reading string, from, to time.Time) ([]router.Tuple, error)
	Predictors(ctx context.Context) ([]router.Version, error)
	Predictor(ctx context.Context, version string) ([]byte, error)
	AddPredictor(ctx context.Context, m *router.Model, artefact []byte) error
	SetPredictorStates(ctx context.Context, changes []router.Change) error
}

// Trainer judges the predictor's versions and trains new ones.
type Trainer struct {
	Store     TrainingStore
	Embedding router.Embedding // that reads prompts; the zero value: n-grams do
}

// JudgeRouter compares the version in use with the mean and with the one before it, and the one in the shadow with it, by
// calls that none was trained on. It changes nothing: who stores the changes does so once the verdict is durable.
func (t *Trainer) JudgeRouter(ctx context.Context, r contract.RouterActivityRequest) (contract.RouterVerdict, error) {
	versions, err := t.Store.Predictors(ctx)
	if err != nil {
		return contract.RouterVerdict{}, err
	}
	lineup := router.LineupOf(versions)
	if r.Watch {
		lineup.Shadow = nil
	}
	if lineup.InUse == nil && lineup.Shadow == nil {
		return contract.RouterVerdict{}, nil
	}
	salt, err := t.Store.RouterSalt(ctx)
	if err != nil {
		return contract.RouterVerdict{}, err
	}
	extract := t.Embedding.Extractor(salt)
	known := router.Known{Lineup: lineup, Watch: r.Watch}
	var says []string
	from := r.At
	for _, of := range []struct {
		version *router.Version
		into    **router.Predictor
		judged  bool
	}{{lineup.InUse, &known.InUse, true}, {lineup.Before, &known.Before, false}, {lineup.Shadow, &known.Shadow, true}} {
		if of.version == nil {
			continue
		}
		var cannot error
		if *of.into, cannot, err = t.predictor(ctx, of.version.Version, extract); err != nil {
			return contract.RouterVerdict{}, err
		}
		if cannot != nil && of.judged {
			says = append(says, fmt.Sprintf("**%s** predicts nothing: %s.", of.version.Version, cannot))
		}
		if of.judged && of.version.Since.Before(from) {
			from = of.version.Since
		}
	}
	if oldest := r.At.Add(-router.Memory); from.Before(oldest) {
		from = oldest
	}
	if known.Scored, err = t.Store.ScoredTuples(ctx, extract.Name(), from, r.At); err != nil {
		return contract.RouterVerdict{}, err
	}
	v := contract.RouterVerdict{Verdict: router.Judge(known, r.At)}
	if s := lineup.Shadow; s != nil {
		if known.Shadow == nil && len(v.Changes) == 0 { // it could never be used
			v.Changes = append(v.Changes, router.Change{Version: s.Version, State: router.Retired, Since: r.At, By: router.Judging, Reason: "it cannot predict here"})
		}
		if !changes(v.Changes, s.Version) {
			v.Waits = s.Version
		}
	}
	v.Says = append(says, v.Says...)
	return v, nil
}

func changes(all []router.Change, version string) bool {
	for _, c := range all {
		if c.Version == version {
			return true
		}
	}
	return false
}

// predictor reads a version. One that cannot predict by the features of here is no failure, and no use.
func (t *Trainer) predictor(ctx context.Context, version string, e router.Extractor) (p *router.Predictor, cannot, err error) {
	raw, err := t.Store.Predictor(ctx, version)
	if err != nil {
		return nil, nil, err
	}
	m, cannot := router.ReadModel(raw)
	if cannot == nil {
		p, cannot = router.NewPredictor(m, e)
	}
	return p, cannot, nil
}

// TrainRouter trains a version from the scored calls of as long as they are kept, and stores it. Too few calls are an
// answer, not a failure.
func (t *Trainer) TrainRouter(ctx context.Context, r contract.RouterActivityRequest) (contract.TrainedRouter, error) {
	salt, err := t.Store.RouterSalt(ctx)
	if err != nil {
		return contract.TrainedRouter{}, err
	}
	reading := t.Embedding.Extractor(salt).Name()
	tuples, err := t.Store.ScoredTuples(ctx, reading, r.At.Add(-router.Memory), r.At)
	if err != nil {
		return contract.TrainedRouter{}, err
	}
	m, err := router.Train(tuples, router.Training{Features: reading, Seed: 1, At: r.At.Truncate(time.Second)})
	if errors.Is(err, router.ErrFew) {
		return contract.TrainedRouter{Few: err.Error()}, nil
	}
	if err != nil {
		return contract.TrainedRouter{}, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return contract.TrainedRouter{}, fmt.Errorf("writing the predictor %s: %w", m.Version, err)
	}
	versions, err := t.Store.Predictors(ctx)
	if err != nil {
		return contract.TrainedRouter{}, err
	}
	if err := t.Store.AddPredictor(ctx, m, raw); err != nil {
		return contract.TrainedRouter{}, err
	}
	return contract.TrainedRouter{
		Version: m.Version, N: m.N, Heads: len(m.Heads),
		Changes: router.LineupOf(versions).Introduce(m.Version, r.At, router.Judging),
	}, nil
}

// ChangeRouter stores what becomes of versions. The same changes again are the same rows.
func (t *Trainer) ChangeRouter(ctx context.Context, r contract.ChangeRouterRequest) error {
	return t.Store.SetPredictorStates(ctx, r.Changes)
}
