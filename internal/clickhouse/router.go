package clickhouse

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/router"
)

// maxScored bounds how many tuples one question returns; the newest are taken.
const maxScored = 100_000

// ScoredTuples returns the calls of the range that a router knew by the given reading and that have scores, in the
// order of time. A call's score is the mean of those that count, as calibrated: its own, and those of its whole trace.
// What people said is kept for judging evaluators, and is not among them.
func (s *Store) ScoredTuples(ctx context.Context, reading string, from, to time.Time) ([]router.Tuple, error) {
	tuples, err := collect(ctx, s, fmt.Sprintf(`SELECT the_task, the_model, the_features, at, score FROM (
  SELECT t.trace_id AS trace, t.span_id AS span, any(t.task) AS the_task, any(t.model) AS the_model,
    any(t.features) AS the_features, any(t.timestamp) AS at, avg(q.calibrated) AS score
  FROM (
    SELECT * FROM tuples
    WHERE reading = {reading:String} AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}%s
  ) AS t
  INNER JOIN (
    SELECT tenant_id, trace_id, span_id, calibrated FROM quality
    WHERE kind != 'human' AND counts AND timestamp >= {from:DateTime64(3, 'UTC')}
  ) AS q ON q.tenant_id = t.tenant_id AND q.trace_id = t.trace_id
  WHERE q.span_id IN ('', t.span_id)
  GROUP BY t.tenant_id, t.trace_id, t.span_id
  ORDER BY at DESC, trace, span LIMIT %d
)
ORDER BY at, trace, span`, " AND "+notDrills, maxScored),
		[]any{ch.Named("reading", reading), ch.Named("from", millis(from)), ch.Named("to", millis(to))},
		func(rows driver.Rows, t *router.Tuple) error {
			var features []byte
			if err := rows.Scan(&t.Task, &t.Model, &features, &t.At, &t.Score); err != nil {
				return err
			}
			name := sha256.Sum256(features) // the same prompt has the same features
			t.At, t.Prompt = t.At.UTC(), string(name[:])
			return t.Features.UnmarshalBinary(features)
		})
	if err != nil {
		return nil, fmt.Errorf("reading scored calls: %w", err)
	}
	return tuples, nil
}

var predictorsTable = table{"predictors", []column{
	{"version", "String"},
	{"trained_at", instant},
	{"reading", "String"},
	{"n", "UInt64"},
	{"artefact", "String"},
}}

// AddPredictor stores a version. One that is there already is the same: its name tells what is in it.
func (s *Store) AddPredictor(ctx context.Context, m *router.Model, artefact []byte) error {
	err := s.insert(ctx, predictorsTable, "", 1, func(int) []any {
		return []any{m.Version, millis(m.TrainedAt), m.Features, uint64(m.N), string(artefact)}
	})
	if err != nil {
		return fmt.Errorf("storing the predictor %s: %w", m.Version, err)
	}
	return nil
}

// ErrNoPredictor says that no such version is stored.
var ErrNoPredictor = errors.New("no such predictor is stored")

// Predictor returns a stored version as it was written; ErrNoPredictor when there is none.
func (s *Store) Predictor(ctx context.Context, version string) ([]byte, error) {
	all, err := collect(ctx, s, "SELECT artefact FROM predictors FINAL WHERE version = {version:String}",
		[]any{ch.Named("version", version)}, func(rows driver.Rows, artefact *string) error { return rows.Scan(artefact) })
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the predictor %s: %w", version, err)
	case len(all) == 0:
		return nil, fmt.Errorf("%w: %q", ErrNoPredictor, version)
	}
	return []byte(all[0]), nil
}

var predictorStatesTable = table{"predictor_states", []column{
	{"version", "String"},
	{"since", instant},
	{"state", symbol},
	{"by", "String"},
	{"reason", "String"},
}}

// SetPredictorStates stores what becomes of versions: all changes or none.
func (s *Store) SetPredictorStates(ctx context.Context, changes []router.Change) error {
	err := s.insert(ctx, predictorStatesTable, "", len(changes), func(i int) []any {
		c := &changes[i]
		return []any{c.Version, millis(c.Since), string(c.State), c.By, c.Reason}
	})
	if err != nil {
		return fmt.Errorf("storing what predictors are used for: %w", err)
	}
	return nil
}

// Predictors returns all versions and where each stands, the newest first. One without a state is not used: it is retired.
func (s *Store) Predictors(ctx context.Context) ([]router.Version, error) {
	all, err := collect(ctx, s, "SELECT p.version, p.trained_at, p.n, s.latest, s.at, s.who, s.why, s.used\n"+
		"FROM (SELECT version, trained_at, n FROM predictors FINAL) AS p\n"+
		"LEFT JOIN (\n"+
		"  SELECT version, argMax(state, since) AS latest, max(since) AS at, argMax(`by`, since) AS who, argMax(reason, since) AS why,\n"+
		"    toUInt8(countIf(state = 'in_use') > 0) AS used\n"+
		"  FROM predictor_states FINAL GROUP BY version\n"+
		") AS s ON s.version = p.version\n"+
		"ORDER BY p.trained_at DESC, p.version", nil,
		func(rows driver.Rows, v *router.Version) error {
			var n uint64
			var used uint8
			if err := rows.Scan(&v.Version, &v.TrainedAt, &n, (*string)(&v.State), &v.Since, &v.By, &v.Reason, &used); err != nil {
				return err
			}
			v.TrainedAt, v.Since, v.N, v.Used = v.TrainedAt.UTC(), v.Since.UTC(), int(n), used != 0
			if v.State == "" {
				v.State, v.Since = router.Retired, v.TrainedAt
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading predictors: %w", err)
	}
	return all, nil
}

// RouterSalt returns the deployment's salt of features, and makes one the first time. Of two made at once the first
// counts, for both.
func (s *Store) RouterSalt(ctx context.Context) (string, error) {
	const read = "SELECT salt FROM router_salts ORDER BY created_at, salt LIMIT 1"
	salt := func() (string, error) {
		all, err := collect(ctx, s, read, nil, func(rows driver.Rows, salt *string) error { return rows.Scan(salt) })
		if err != nil || len(all) == 0 {
			return "", err
		}
		return all[0], nil
	}
	found, err := salt()
	if err == nil && found == "" {
		if err = s.insert(ctx, table{"router_salts", []column{{"salt", "String"}}}, "", 1, func(int) []any { return []any{rand.Text()} }); err == nil {
			found, err = salt()
		}
	}
	if err != nil {
		return "", fmt.Errorf("reading the salt of features: %w", err)
	}
	return found, nil
}
