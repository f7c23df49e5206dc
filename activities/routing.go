package activities

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// FlagStore is where flags are kept: package redis. A write that is older than what is stored is not
// an error: it reports false.
type FlagStore interface {
	Apply(ctx context.Context, f routing.Flag) (applied bool, current routing.Flag, err error)
	Release(ctx context.Context, key usage.Key, kind routing.Kind, seq routing.Sequence) (released bool, err error)
	Renew(ctx context.Context, key usage.Key, kind routing.Kind, seq routing.Sequence, renewedAt time.Time) (bool, error)
}

// Routing writes the flags that the alert loops own.
type Routing struct {
	Flags FlagStore
	Log   *slog.Logger
}

// ApplyFlag puts a flag on. A newer order that is stored already has won, which is as it should be:
// this one was late.
func (r *Routing) ApplyFlag(ctx context.Context, f routing.Flag) error {
	applied, current, err := r.Flags.Apply(ctx, f)
	if err != nil {
		return fmt.Errorf("putting the %s flag of %s on: %w", f.Kind, f.Key, err)
	}
	if !applied {
		r.Log.WarnContext(ctx, "a newer order for this flag is stored", "key", f.Key.String(), "kind", f.Kind, "ours", f.Sequence, "stored", current.Sequence)
	}
	return nil
}

// ReleaseFlag takes a flag off.
func (r *Routing) ReleaseFlag(ctx context.Context, f routing.Flag) error {
	released, err := r.Flags.Release(ctx, f.Key, f.Kind, f.Sequence)
	if err != nil {
		return fmt.Errorf("taking the %s flag of %s off: %w", f.Kind, f.Key, err)
	}
	if !released {
		r.Log.WarnContext(ctx, "a newer order for this flag is stored", "key", f.Key.String(), "kind", f.Kind, "ours", f.Sequence)
	}
	return nil
}

// RenewFlags keeps a key's flags alive, and puts those on again that Redis has lost.
func (r *Routing) RenewFlags(ctx context.Context, flags []routing.Flag) error {
	for _, f := range flags {
		renewed, err := r.Flags.Renew(ctx, f.Key, f.Kind, f.Sequence, f.RenewedAt)
		if err != nil {
			return fmt.Errorf("renewing the %s flag of %s: %w", f.Kind, f.Key, err)
		}
		if renewed {
			continue
		}
		if err := r.ApplyFlag(ctx, f); err != nil {
			return err
		}
	}
	return nil
}
