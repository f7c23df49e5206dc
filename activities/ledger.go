package activities

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
)

// LedgerStore measures decisions and keeps what they saved: package clickhouse.
type LedgerStore interface {
	ReadWatermark(ctx context.Context, now time.Time) (time.Time, error)
	Measure(ctx context.Context, r contract.MeasureRequest) (effect.Effect, error)
	RecordSavings(ctx context.Context, r contract.SavingsRecord) error
}

// Ledger measures what decisions are worth, and enters it into the ledger of savings.
type Ledger struct {
	Store LedgerStore
}

// tooEarly is how long a measurement waits that came before its telemetry.
const tooEarly = 5 * time.Second

// MeasureDecision measures a decision, of one whose flag is off not before all that came until then is stored, and
// enters the measurement into the ledger in place of every earlier one.
func (l *Ledger) MeasureDecision(ctx context.Context, r contract.MeasureRequest) (effect.Effect, error) {
	stored, err := l.Store.ReadWatermark(ctx, time.Now())
	if err != nil {
		return effect.Effect{}, err
	}
	if stored.Before(r.Until) {
		return effect.Effect{}, temporal.NewApplicationErrorWithOptions(
			fmt.Sprintf("telemetry is stored until %s only", stored.Format(time.RFC3339)), "TooEarly",
			temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign, NextRetryDelay: tooEarly})
	}
	e, err := l.Store.Measure(ctx, r)
	if err != nil {
		return effect.Effect{}, err
	}
	if err := l.Store.RecordSavings(ctx, contract.SavingsRecord{Decision: r.Decision, Key: r.Key, Action: r.Action, Effect: e}); err != nil {
		return effect.Effect{}, err
	}
	return e, nil
}
