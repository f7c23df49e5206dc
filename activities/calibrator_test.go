package activities

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
)

// fakeLevels hold what they are given.
type fakeLevels struct {
	levels  []contract.Level
	drawn   []contract.DrawnLevel
	rated   []contract.RatedScore
	history []contract.EvaluatorRecord
	away    error // of writes
}

func (f *fakeLevels) Levels(_ context.Context, _ string, at time.Time) (old []contract.Level, err error) {
	for _, l := range f.levels {
		if !l.At.After(at) {
			old = append(old, l)
		}
	}
	return old, nil
}

func (f *fakeLevels) DrawnLevels(context.Context, string, time.Time, int) ([]contract.DrawnLevel, error) {
	return f.drawn, nil
}

func (f *fakeLevels) SetLevels(_ context.Context, levels []contract.Level) error {
	f.levels = append(f.levels, levels...)
	return f.away
}

func (f *fakeLevels) HumanPairs(context.Context, contract.HumanPairsQuery) ([]contract.RatedScore, error) {
	return f.rated, nil
}

func (f *fakeLevels) EvaluatorHistory(context.Context) ([]contract.EvaluatorRecord, error) {
	return f.history, nil
}

func (f *fakeLevels) SetEvaluators(_ context.Context, records []contract.EvaluatorRecord) error {
	f.history = append(records, f.history...)
	return f.away
}

// A write whose answer was lost is tried again, and finds the same.
func TestDriftIsTheSameWhenTriedAgain(t *testing.T) {
	t.Parallel()
	store := &fakeLevels{drawn: []contract.DrawnLevel{{Key: opus, Measure: contract.CostMeasure, Value: 20}}, away: errAway}
	telemetry := &Telemetry{Levels: store, Baselines: &fakeBaselines{}}
	request := contract.DriftRequest{At: now, Bounds: contract.DefaultBounds}
	first, err := telemetry.MeasureDrift(t.Context(), request)
	require.ErrorIs(t, err, errAway)
	store.away = nil
	again, err := telemetry.MeasureDrift(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, 1, again.First)
	require.Equal(t, first, again)
	require.Equal(t, store.levels[0], store.levels[1])

	request.At = now.Add(7 * 24 * time.Hour)
	store.drawn[0].Value = 21
	store.levels = store.levels[:1]
	week, err := telemetry.MeasureDrift(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, 1, week.Open())
	require.Len(t, store.levels, 1, "a person has to say so")

	move := contract.MoveLevelsRequest{Levels: []contract.Level{{Key: opus, Measure: contract.CostMeasure, At: request.At, Value: 21}}, Recalibrate: contract.RecalibrateActivityRequest{Tenant: opus.Tenant, At: request.At}}
	require.NoError(t, telemetry.MoveLevels(t.Context(), move))
	require.Equal(t, 21.0, store.levels[1].Value)
	require.Equal(t, []string{opus.Tenant}, telemetry.Baselines.(*fakeBaselines).asked)
	store.away = errAway
	require.ErrorIs(t, telemetry.MoveLevels(t.Context(), move), errAway)
}

func TestEvaluatorsAreJudgedTheSameWhenTriedAgain(t *testing.T) {
	t.Parallel()
	store := &fakeLevels{away: errAway}
	for n := range 120 {
		store.rated = append(store.rated, contract.RatedScore{Key: opus, Evaluator: "helpfulness", TraceID: fmt.Sprint(n), At: now, Human: float64(n) / 120, Judge: 1 - float64(n)/120})
	}
	telemetry := &Telemetry{Levels: store}
	first, err := telemetry.JudgeEvaluators(t.Context(), contract.EvaluatorsRequest{At: now})
	require.ErrorIs(t, err, errAway)
	store.away = nil
	again, err := telemetry.JudgeEvaluators(t.Context(), contract.EvaluatorsRequest{At: now})
	require.NoError(t, err)
	require.True(t, again[0].Failed, "or nobody would be told")
	require.Equal(t, first, again)
	month, err := telemetry.JudgeEvaluators(t.Context(), contract.EvaluatorsRequest{At: now.AddDate(0, 1, 0)})
	require.NoError(t, err)
	require.False(t, month[0].Failed)
	require.Equal(t, contract.Failing, month[0].Standing)
}
