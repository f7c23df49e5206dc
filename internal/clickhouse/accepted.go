package clickhouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// ErrNoLevel is that a key has no level that could be accepted now; the message says why, and what to do.
var ErrNoLevel = errors.New("no level to accept")

var acceptedTable = table{"accepted_levels", []column{
	{"tenant_id", symbol},
	{"model", symbol},
	{"accepted_at", instant},
	{"by", "String"},
	{"reason", "String"},
	{"level", "String"},
}}

// AcceptLevel makes the level of a key at the time its usual one: that of the 15 minutes before, or of as much of them
// as lies after its open incident began, since what came before that is the old level. The very next tick
// compares with it, and RebuildBaselines lets nothing older back in. The same key and time again is the same level,
// whatever has come since. A pseudo-key has a level of its own; experiments have none, since they are compared with
// the key that they belong to.
func (s *Store) AcceptLevel(ctx context.Context, key usage.Key, at time.Time, who, reason string, minimums detect.Minimums) (detect.Baseline, error) {
	level, err := s.acceptLevel(ctx, key, millis(at), who, reason, minimums)
	if err != nil {
		return detect.Baseline{}, fmt.Errorf("accepting the level of %s: %w", key, err)
	}
	return level, nil
}

func (s *Store) acceptLevel(ctx context.Context, key usage.Key, at time.Time, who, reason string, minimums detect.Minimums) (detect.Baseline, error) {
	if of, id, ok := key.Experiment(); ok {
		return detect.Baseline{}, fmt.Errorf("%w: experiment %s is compared with %s; accept that one's", ErrNoLevel, id, of)
	}
	if key == usage.Everything {
		return detect.Baseline{}, fmt.Errorf("%w: all telemetry together is watched for silence alone", ErrNoLevel)
	}
	slot, err := s.lastSlot(ctx, at)
	if err != nil {
		return detect.Baseline{}, err
	}
	accepted, err := s.acceptedLevels(ctx, "AND tenant_id = {tenant:String} AND model = {model:String} AND accepted_at = {at:DateTime64(3, 'UTC')}",
		at, append(keyArgs(key), ch.Named("at", at))...)
	if err != nil {
		return detect.Baseline{}, err
	}
	level, again := accepted[key]
	if !again {
		if level, err = s.drawLevel(ctx, key, at, minimums); err != nil {
			return detect.Baseline{}, err
		}
		level.Slot, level.LnCostHeld, level.QualityHeld = slot, 0, 0
		text, err := json.Marshal(level)
		if err != nil {
			return detect.Baseline{}, err
		}
		if err := s.insert(ctx, acceptedTable, "", 1, func(int) []any {
			return []any{key.Tenant, key.Model, at, who, reason, string(text)}
		}); err != nil {
			return detect.Baseline{}, err
		}
	}
	if err := s.SetLevels(ctx, calibrated(level, at, who, reason)); err != nil {
		return detect.Baseline{}, err
	}
	// After the level itself: a rebuild that has not seen the level has stored its own baseline by now, or reads
	// the levels once more when it has.
	return level, s.insertBaselines(ctx, slot, at, map[usage.Key]detect.Baseline{key: level})
}

// drawLevel is the key's level at the time.
func (s *Store) drawLevel(ctx context.Context, key usage.Key, at time.Time, minimums detect.Minimums) (detect.Baseline, error) {
	opened, err := collect(ctx, s, `SELECT max(opened_at) FROM incidents FINAL
WHERE tenant_id = {tenant:String} AND model = {model:String} AND ended_at IS NULL AND opened_at <= {at:DateTime64(3, 'UTC')}`,
		append(keyArgs(key), ch.Named("at", at)), func(rows driver.Rows, at *time.Time) error { return rows.Scan(at) })
	if err != nil {
		return detect.Baseline{}, fmt.Errorf("looking for its open incident: %w", err)
	}
	from := at.Add(-bucketLength)
	if began := opened[0].UTC(); began.After(from) { // 1970 when there is none
		from = began
	}
	from = from.Truncate(time.Minute)
	stored, err := s.Minutes(ctx, key, from, at)
	if err != nil {
		return detect.Baseline{}, err
	}
	old, err := s.Baseline(ctx, key, at)
	if err != nil {
		return detect.Baseline{}, err
	}
	old.Key = key
	level, err := detect.Accept(old, stored, from, at, minimums)
	if err != nil {
		return detect.Baseline{}, fmt.Errorf("%w: %w", ErrNoLevel, err)
	}
	return level, nil
}

// lastSlot is the slot that Baselines reads at the time; its own hour while there is none.
func (s *Store) lastSlot(ctx context.Context, at time.Time) (time.Time, error) {
	slot := at.UTC().Truncate(time.Hour)
	last, err := collect(ctx, s, "SELECT max(slot) FROM baselines WHERE slot <= {slot:DateTime('UTC')} AND slot > {oldest:DateTime('UTC')}",
		[]any{ch.Named("slot", slot), ch.Named("oldest", slot.Add(-baselineMaxAge))},
		func(rows driver.Rows, last *time.Time) error { return rows.Scan(last) })
	if err != nil {
		return time.Time{}, fmt.Errorf("looking for the last baselines: %w", err)
	}
	if last[0].Unix() == 0 {
		return slot, nil
	}
	return last[0].UTC(), nil
}

// acceptedLevels are the levels that still count at the time, one a key: the latest.
func (s *Store) acceptedLevels(ctx context.Context, which string, at time.Time, args ...any) (map[usage.Key]detect.Baseline, error) {
	levels, err := collect(ctx, s, `SELECT tenant_id, model, level FROM accepted_levels FINAL
WHERE accepted_at > {first:DateTime('UTC')} `+which+`
ORDER BY accepted_at DESC LIMIT 1 BY tenant_id, model`, append(args, ch.Named("first", firstBucket(at))),
		func(rows driver.Rows, b *detect.Baseline) error {
			var key usage.Key
			var text string
			if err := rows.Scan(&key.Tenant, &key.Model, &text); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(text), b); err != nil {
				return fmt.Errorf("the one of %s: %w", key, err)
			}
			b.Key = key
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading the accepted levels: %w", err)
	}
	all := make(map[usage.Key]detect.Baseline, len(levels))
	for _, b := range levels {
		all[b.Key] = b
	}
	return all, nil
}

// BaselinesStored is when a baseline of the slot was stored last, by the server's clock; zero for a slot without any.
func (s *Store) BaselinesStored(ctx context.Context, slot time.Time) (time.Time, error) {
	last, err := collect(ctx, s, "SELECT max(computed_at) FROM baselines WHERE slot = {slot:DateTime('UTC')}", []any{ch.Named("slot", slot.UTC())},
		func(rows driver.Rows, last *time.Time) error { return rows.Scan(last) })
	if err != nil {
		return time.Time{}, fmt.Errorf("looking for new baselines of %s: %w", slot.UTC().Format(time.RFC3339), err)
	}
	if last[0].Unix() == 0 {
		return time.Time{}, nil
	}
	return last[0].UTC(), nil
}
