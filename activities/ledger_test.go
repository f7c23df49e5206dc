package activities

import (
	"context"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
)

type fakeLedger struct {
	watermark time.Time
	err       error
	measured  []contract.MeasureRequest
	recorded  []contract.SavingsRecord
}

func (f *fakeLedger) ReadWatermark(context.Context, time.Time) (time.Time, error) {
	return f.watermark, f.err
}

func (f *fakeLedger) Measure(_ context.Context, r contract.MeasureRequest) (effect.Effect, error) {
	f.measured = append(f.measured, r)
	return effect.Effect{Treated: 3, Saved: &effect.Amount{Pico: big.NewInt(5)}}, nil
}

func (f *fakeLedger) RecordSavings(_ context.Context, r contract.SavingsRecord) error {
	f.recorded = append(f.recorded, r)
	return nil
}

func TestMeasureDecision(t *testing.T) {
	t.Parallel()
	store := &fakeLedger{watermark: now}
	ledger := &Ledger{Store: store}
	r := contract.MeasureRequest{Decision: "d", Key: opus, Action: "downgrade", Steps: []contract.Step{{From: now, Share: 0.5}}, Until: now.Add(time.Second)}
	_, err := ledger.MeasureDecision(t.Context(), r)
	var early *temporal.ApplicationError
	require.ErrorAs(t, err, &early)
	require.Equal(t, "TooEarly", early.Type())
	require.False(t, early.NonRetryable())
	require.Empty(t, store.measured, "what came until its end is not stored yet")

	store.watermark = r.Until
	e, err := ledger.MeasureDecision(t.Context(), r)
	require.NoError(t, err)
	require.EqualValues(t, 3, e.Treated)
	require.Equal(t, []contract.SavingsRecord{{Decision: "d", Key: opus, Action: "downgrade", Effect: e}}, store.recorded)

	r.Until = time.Time{} // it is on: what is stored so far is what it was worth so far
	store.watermark = now.Add(-time.Minute)
	_, err = ledger.MeasureDecision(t.Context(), r)
	require.NoError(t, err)
	store.err = errAway
	_, err = ledger.MeasureDecision(t.Context(), r)
	require.ErrorIs(t, err, errAway)
}
