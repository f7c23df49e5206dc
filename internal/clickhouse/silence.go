package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// historyForSilence is how long a key must have been there before calls are expected of it: less than the
// seventh day, and its day of rest may still be to come.
const historyForSilence = 156 * time.Hour

// leastCallsSQL asks for the calls that 95 of 100 quarter-hours of this time of day had at least, of every key but
// the pseudo-keys. A quarter-hour without any counts as one, from the key's first on, so that nothing is expected
// of a key that works at another time of day, by fits and starts, or not on every day, and not any more of one that
// has been away for a day: by then its last day alone weighs a tenth of all. Incidents are not left out: whether a
// key calls is no question of how it fared.
//
// Only the slot's own hour will do. What is usual at other hours says nothing of whether this one has any calls.
func leastCallsSQL(at time.Time) (string, []any) {
	at = at.UTC().Truncate(time.Second)
	half := 2 * at.Hour()
	first, last := firstBucket(at), lastBucket(at)
	var buckets []uint32
	for b := first; !b.After(last); b = b.Add(bucketLength) {
		if b.Hour() == at.Hour() {
			buckets = append(buckets, uint32(b.Unix()))
		}
	}
	args := []any{
		ch.Named("at", at), ch.Named("buckets", buckets), ch.Named("half", half), ch.Named("first", first), ch.Named("last", last),
		ch.Named("settled", at.Add(-historyForSilence)),
	}
	return `WITH arrayMap(b -> toUInt32(round(1e6 * exp2(-(toUnixTimestamp({at:DateTime('UTC')}) - b) / 604800))), {buckets:Array(UInt32)}) AS all_weights
SELECT tenant_id, model, arrayReduce('quantileExactWeighted(0.05)', arrayPushBack(calls, 0), arrayPushBack(weights, toUInt64(possible - arraySum(weights))))
FROM (
  SELECT tenant_id, model, groupArray(toInt64(requests)) AS calls,
    groupArray(toUInt64(round(1e6 * exp2(-dateDiff('second', bucket, {at:DateTime('UTC')}) / 604800)))) AS weights,
    arraySum(arrayMap((b, w) -> if(b >= toUnixTimestamp(min(bucket)), toUInt64(w), 0), {buckets:Array(UInt32)}, all_weights)) AS possible
  FROM baseline_buckets FINAL
  WHERE half_hour IN ({half:UInt8}, {half:UInt8} + 1) AND bucket >= {first:DateTime('UTC')} AND bucket <= {last:DateTime('UTC')}
    AND model != '*' AND requests > 0
  GROUP BY tenant_id, model
  HAVING min(bucket) <= {settled:DateTime('UTC')}
)`, args
}

func (s *Store) leastCalls(ctx context.Context, at time.Time) (map[usage.Key]float64, error) {
	sql, args := leastCallsSQL(at)
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	least := map[usage.Key]float64{}
	for rows.Next() {
		var key usage.Key
		var calls int64
		if err := rows.Scan(&key.Tenant, &key.Model, &calls); err != nil {
			return nil, err
		}
		least[key] = float64(calls)
	}
	return least, rows.Err()
}

// Arrived counts the calls of every tenant and cohort in the 15-minute window at the watermark, but for those of
// drills: 0 means that no telemetry comes in at all.
func (s *Store) Arrived(ctx context.Context, at time.Time) (calls int64, err error) {
	current := at.UTC().Truncate(time.Minute)
	from := current.Add(-time.Duration(detect.Windows[len(detect.Windows)-1]-1) * time.Minute)
	if err := s.conn.QueryRow(ctx, "SELECT toInt64(sum(requests)) FROM sweep_1m WHERE minute >= {from:DateTime('UTC')} AND minute <= {current:DateTime('UTC')} AND "+notDrills,
		ch.Named("from", from), ch.Named("current", current)).Scan(&calls); err != nil {
		return 0, fmt.Errorf("asking whether telemetry comes in: %w", err)
	}
	return calls, nil
}
