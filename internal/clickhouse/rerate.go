package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// RerateQuery asks to price stored calls again.
type RerateQuery struct {
	ID       string // of the run, unique
	From, To time.Time
	All      bool // every call; else those without a price
	By       string
	Book     *pricing.Book
	DryRun   bool              // say what would change, and change nothing
	Progress func(step string) // may be nil
}

// The states of a Rerate. One that is applying may have changed some of its calls, and only ever becomes done.
const (
	reratePlanned   = "planned"
	rerateApplying  = "applying"
	rerateDone      = "done"
	rerateAbandoned = "abandoned"
)

// Rerate is what a run did: a row of the audit.
type Rerate struct {
	ID          string    `json:"id"`
	StartedAt   time.Time `json:"started_at"`
	By          string    `json:"by"`
	From        time.Time `json:"from"`
	To          time.Time `json:"to"`
	All         bool      `json:"all"`
	BooksBefore []string  `json:"books_before"` // the versions that priced the changed calls, "unknown" among them
	Book        string    `json:"book"`
	Examined    uint64    `json:"examined"`
	Changed     uint64    `json:"changed"`
	Unknown     uint64    `json:"unknown"` // calls that have no price by this book either
	Batches     uint32    `json:"-"`
	CostBefore  *big.Int  `json:"cost_before_pico_usd"` // of the changed calls
	CostAfter   *big.Int  `json:"cost_after_pico_usd"`
	State       string    `json:"state"`
}

// rerateID is what a run may be called, so that it needs no quoting anywhere.
var rerateID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// rerateBatch is how many corrections are made at once. One batch lies within one day, so that its rows are one
// part of every table and one token covers them.
const rerateBatch = 10_000

// Rerate prices the calls of the range again by the book, and adds the differences to the rollups. It may run
// while calls come in, those of the same days too: it adds corrections and replaces nothing.
//
// It is safe to be killed. Nothing is changed before the whole plan is stored, and a stored plan that was not
// carried out is finished first by whichever run comes next; that must be before the tables have taken 10,000
// more parts, which is how long they remember a token. Of two runs that planned on the same calls at most one
// changes anything, and the other fails. Times of the audit are the server's.
//
// Medians that detection keeps (sweep_1m, and the codes of baselines where a known price changes) stay as they
// were; the sums of baselines follow.
func (s *Store) Rerate(ctx context.Context, q RerateQuery) (Rerate, error) {
	if !rerateID.MatchString(q.ID) || !q.From.Before(q.To) {
		return Rerate{}, errors.New("pricing again: the run needs an id of letters, digits and dashes, and a range that begins before it ends")
	}
	if q.Progress == nil {
		q.Progress = func(string) {}
	}
	if !q.DryRun {
		if err := s.finishRerates(ctx, q.Progress); err != nil {
			return Rerate{}, err
		}
	}
	r, err := s.planRerate(ctx, q)
	if err != nil {
		return Rerate{}, fmt.Errorf("planning to price again: %w", err)
	}
	if q.DryRun {
		return r, nil
	}
	r.State = reratePlanned
	if err := s.recordRerate(ctx, r); err != nil {
		return Rerate{}, err
	}
	return s.carryOut(ctx, r, q.Progress)
}

// finishRerates carries out the plans that were left, those first that have changed something already. A plan that
// another overtook has changed nothing and is abandoned, which is no error of whoever comes next.
func (s *Store) finishRerates(ctx context.Context, progress func(string)) error {
	for _, state := range []string{rerateApplying, reratePlanned} {
		left, err := s.rerates(ctx, "state = {state:String}", ch.Named("state", state))
		if err != nil {
			return err
		}
		for _, r := range left {
			progress("finishing the run " + r.ID + " that was cut short")
			if _, err := s.carryOut(ctx, r, progress); err != nil && !errors.Is(err, errOvertaken) {
				return err
			}
		}
	}
	return nil
}

// planRerate prices every call of the range and stores what will change.
func (s *Store) planRerate(ctx context.Context, q RerateQuery) (Rerate, error) {
	r := Rerate{
		ID: q.ID, By: q.By, From: millis(q.From), To: millis(q.To), All: q.All, Book: q.Book.Version(),
		CostBefore: new(big.Int), CostAfter: new(big.Int),
	}
	if err := s.conn.QueryRow(ctx, "SELECT now64(3, 'UTC')").Scan(&r.StartedAt); err != nil {
		return Rerate{}, err
	}
	days, err := s.days(ctx, "spans", r.From, r.To)
	if err != nil {
		return Rerate{}, err
	}
	for _, day := range days {
		from, to := day, day.AddDate(0, 0, 1)
		if from.Before(r.From) {
			from = r.From
		}
		if to.After(r.To) {
			to = r.To
		}
		if err := s.planRange(ctx, q, &r, from, to); err != nil {
			return Rerate{}, err
		}
		q.Progress(fmt.Sprintf("%s: %d calls examined, %d to change", day.Format(time.DateOnly), r.Examined, r.Changed))
	}
	slices.Sort(r.BooksBefore)
	return r, nil
}

// repricing is one call whose price changes.
type repricing struct {
	span       usage.Span // with its new price
	cohort     string
	oldCost    int64
	oldVersion string
}

func (p *repricing) newVersion() string { return priceVersion(&p.span) }

// planRange plans a part of one day.
func (s *Store) planRange(ctx context.Context, q RerateQuery, r *Rerate, from, to time.Time) error {
	where := ""
	if !q.All {
		where = " AND price_version = 'unknown'"
	}
	rows, err := s.conn.Query(ctx, `SELECT
  trace_id, span_id, timestamp, tenant_id, provider, requested_model, model, prompt_template_version, toString(cohort), toString(arm),
  uncached_input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
  complexity, attributes['service_tier'], cost_pico_usd, price_version
FROM spans
WHERE timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}`+where, ch.Named("from", from), ch.Named("to", to))
	if err != nil {
		return err
	}
	defer rows.Close()
	var batch []repricing
	for rows.Next() {
		p, err := scanRepricing(rows)
		if err != nil {
			return err
		}
		r.Examined++
		if err := q.Book.Price(&p.span); err != nil {
			r.Unknown++
		}
		if int64(p.span.Cost) == p.oldCost && p.span.Priced == (p.oldVersion != UnknownPrice) {
			continue
		}
		r.count(p)
		if batch = append(batch, p); len(batch) == rerateBatch {
			if err := s.storePlan(ctx, q, r, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return s.storePlan(ctx, q, r, batch)
}

func scanRepricing(rows driver.Rows) (p repricing, err error) {
	sp := &p.span
	t := &sp.Tokens
	err = rows.Scan(&sp.TraceID, &sp.SpanID, &sp.Timestamp, &sp.TenantID, &sp.Provider, &sp.RequestedModel, &sp.Model, &sp.PromptTemplate,
		&p.cohort, (*string)(&sp.Arm), &t.UncachedInput, &t.CacheRead, &t.CacheWrite5m, &t.CacheWrite1h, &t.Output, &t.Reasoning,
		&sp.Complexity, &sp.ServiceTier, &p.oldCost, &p.oldVersion)
	return p, err
}

func (r *Rerate) count(p repricing) {
	r.Changed++
	r.CostBefore.Add(r.CostBefore, big.NewInt(p.oldCost))
	r.CostAfter.Add(r.CostAfter, big.NewInt(int64(p.span.Cost)))
	if !slices.Contains(r.BooksBefore, p.oldVersion) {
		r.BooksBefore = append(r.BooksBefore, p.oldVersion)
	}
}

var repricingsTable = table{"repricings", []column{
	{"rerate", "String"},
	{"batch", "UInt32"},
	{"trace_id", "String"},
	{"span_id", "String"},
	{"timestamp", instant},
	{"tenant_id", symbol},
	{"provider", symbol},
	{"requested_model", symbol},
	{"model", symbol},
	{"prompt_template_version", symbol},
	{"cohort", cohorts},
	{"arm", arms},
	{"complexity_milli", "Int64"},
	{"old_cost_pico_usd", "Int64"},
	{"new_cost_pico_usd", "Int64"},
	{"old_price_version", symbol},
	{"new_price_version", symbol},
}}

func (s *Store) storePlan(ctx context.Context, q RerateQuery, r *Rerate, batch []repricing) error {
	if len(batch) == 0 || q.DryRun {
		return nil
	}
	err := s.insertOnce(ctx, repricingsTable, fmt.Sprintf("plan-%s-%d", r.ID, r.Batches), len(batch), func(i int) []any {
		p := &batch[i]
		sp := &p.span
		return []any{
			r.ID, r.Batches, sp.TraceID, sp.SpanID, sp.Timestamp.UTC(), sp.TenantID, sp.Provider, sp.RequestedModel,
			sp.Model, sp.PromptTemplate, p.cohort, arm(sp.Arm), kpi.ComplexityMilli(sp.Complexity),
			p.oldCost, int64(sp.Cost), p.oldVersion, p.newVersion(),
		}
	})
	r.Batches++
	return err
}

// errOvertaken is that another run may have planned on the same calls.
var errOvertaken = errors.New("so this one has changed nothing: run it again")

// begin marks a planned run as applying, or abandons it where another run may have planned on the same calls.
// A plan is stored before it looks for others, so that of two at least one sees the other. What another process
// made of this run meanwhile stands.
func (s *Store) begin(ctx context.Context, r Rerate) (Rerate, error) {
	found, err := s.rerates(ctx, "id = {id:String} OR state IN ('planned', 'applying') OR state = 'done' AND updated_at > {start:DateTime64(3, 'UTC')}",
		ch.Named("id", r.ID), ch.Named("start", r.StartedAt))
	if err != nil {
		return r, err
	}
	r.State = rerateApplying
	for _, other := range found {
		if other.ID != r.ID {
			r.State = rerateAbandoned
			err = fmt.Errorf("pricing again: the run %s by %q went on at the same time, %w", other.ID, other.By, errOvertaken)
		} else if other.State == rerateApplying || other.State == rerateDone {
			return other, nil
		}
	}
	return r, errors.Join(err, s.recordRerate(ctx, r))
}

// carryOut applies a stored plan. It may be repeated, and by several processes at once.
func (s *Store) carryOut(ctx context.Context, r Rerate, progress func(string)) (Rerate, error) {
	r, err := s.begin(ctx, r)
	if err != nil || r.State == rerateDone {
		return r, err
	}
	for batch := range r.Batches {
		if err := s.correctRollups(ctx, r.ID, batch); err != nil {
			return r, fmt.Errorf("correcting the rollups, batch %d: %w", batch, err)
		}
		progress(fmt.Sprintf("rollups: %d of %d batches", batch+1, r.Batches))
	}
	for batch := range r.Batches {
		if err := s.correctSpans(ctx, r.ID, batch); err != nil {
			return r, fmt.Errorf("correcting the spans, batch %d: %w", batch, err)
		}
		progress(fmt.Sprintf("spans: %d of %d batches", batch+1, r.Batches))
	}
	r.State = rerateDone
	return r, s.recordRerate(ctx, r)
}

// correctionsSQL adds a batch's differences to the minutes. A row takes the old code from the histogram and adds
// the new one; sums of UInt64 go down by wrapping.
const correctionsSQL = `INSERT INTO kpi_1m (minute, tenant_id, requested_model, model, prompt_template_version, cohort, arm, provider,
  unpriced, cost_pico_usd, complexity_milli, cost_codes, cost_histogram)
SELECT
  toStartOfMinute(r.timestamp) AS minute, r.tenant_id AS t, r.requested_model AS q, r.model AS m, r.prompt_template_version AS v,
  r.cohort AS c, r.arm AS a, r.provider AS p,
  sum(toUInt64(toInt64(r.new_price_version = 'unknown') - toInt64(r.old_price_version = 'unknown'))),
  sum(toInt128(r.new_cost_pico_usd) - r.old_cost_pico_usd),
  sum((toInt64(r.old_price_version = 'unknown') - toInt64(r.new_price_version = 'unknown')) * r.complexity_milli),
  groupArrayIf(4096)(toInt16(floor(log2(greatest(r.new_cost_pico_usd, 1)) * 100 + 0.5)), r.new_cost_pico_usd > 0 AND r.old_cost_pico_usd <= 0),
  CAST(sumMap(
    [toInt16(floor(log2(greatest(r.new_cost_pico_usd, 1)) * 100 + 0.5)), toInt16(floor(log2(greatest(r.old_cost_pico_usd, 1)) * 100 + 0.5))],
    [toUInt64(r.new_cost_pico_usd > 0), toUInt64(-toInt64(r.old_cost_pico_usd > 0))]
  ), 'Map(Int16, UInt64)')
FROM (SELECT * FROM repricings WHERE rerate = {id:String} AND batch = {batch:UInt32} ORDER BY tenant_id, requested_model, timestamp, trace_id, span_id) AS r
GROUP BY minute, t, q, m, v, c, a, p
ORDER BY minute, t, q, m, v, c, a, p`

func (s *Store) correctRollups(ctx context.Context, id string, batch uint32) error {
	once := ch.Context(ctx, ch.WithSettings(ch.Settings{
		"insert_deduplicate":                                 1,
		"insert_deduplication_token":                         fmt.Sprintf("rerate-%s-%d", id, batch),
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		"max_threads":                                        1, // the same rows in the same one block each time
		"max_insert_threads":                                 1,
	}))
	args := []any{ch.Named("id", id), ch.Named("batch", int64(batch))}
	if err := s.conn.Exec(once, correctionsSQL, args...); err != nil {
		return err
	}
	return s.conn.Exec(ctx, `INSERT INTO bucket_changes
SELECT toStartOfFifteenMinutes(timestamp) AS bucket, now64(3, 'UTC') FROM repricings
WHERE rerate = {id:String} AND batch = {batch:UInt32} GROUP BY bucket`, args...)
}

// correctSpans sets the prices of a batch's calls that still have the old ones: a run that stalls while another
// finishes its plan must not undo what later runs did. It names the calls by a hash of their ids, tenant and time.
func (s *Store) correctSpans(ctx context.Context, id string, batch uint32) error {
	var day uint32
	var from, to time.Time
	if err := s.conn.QueryRow(ctx, "SELECT any(toYYYYMMDD(timestamp)), min(timestamp), max(timestamp) FROM repricings WHERE rerate = {id:String} AND batch = {batch:UInt32}",
		ch.Named("id", id), ch.Named("batch", int64(batch))).Scan(&day, &from, &to); err != nil {
		return err
	}
	const name = "sipHash64(tenant_id, trace_id, span_id, timestamp)"
	of := fmt.Sprintf("FROM %s.repricings WHERE rerate = '%s' AND batch = %d", s.database, id, batch)
	list := func(column string) string {
		return fmt.Sprintf("(SELECT groupArray(%s) FROM (SELECT * %s ORDER BY tenant_id, requested_model, timestamp, trace_id, span_id))", column, of)
	}
	return s.conn.Exec(ch.Context(ctx, ch.WithSettings(ch.Settings{"mutations_sync": 2, "allow_nondeterministic_mutations": 1})), fmt.Sprintf(`ALTER TABLE spans UPDATE
  cost_pico_usd = transform(%[1]s, %[2]s, %[3]s, cost_pico_usd),
  price_version = transform(%[1]s, %[2]s, %[4]s, toString(price_version))
IN PARTITION %[5]d
WHERE timestamp >= fromUnixTimestamp64Milli(%[6]d, 'UTC') AND timestamp <= fromUnixTimestamp64Milli(%[7]d, 'UTC')
  AND (%[1]s, cost_pico_usd, toString(price_version)) IN (SELECT %[1]s, old_cost_pico_usd, toString(old_price_version) %[8]s)`,
		name, list(name), list("new_cost_pico_usd"), list("toString(new_price_version)"), day, from.UnixMilli(), to.UnixMilli(), of))
}

var reratesTable = table{"rerates", []column{
	{"id", "String"},
	{"started_at", instant},
	{"by", "String"},
	{"range_from", instant},
	{"range_to", instant},
	{"everything", "Bool"},
	{"books_before", "Array(String)"},
	{"book", "String"},
	{"examined", "UInt64"},
	{"changed", "UInt64"},
	{"unknown", "UInt64"},
	{"batches", "UInt32"},
	{"cost_before_pico_usd", "Int128"},
	{"cost_after_pico_usd", "Int128"},
	{"state", symbol},
}}

func (s *Store) recordRerate(ctx context.Context, r Rerate) error {
	err := s.insert(ctx, reratesTable, "", 1, func(int) []any {
		return []any{
			r.ID, r.StartedAt.UTC(), r.By, r.From.UTC(), r.To.UTC(), r.All, r.BooksBefore, r.Book, r.Examined, r.Changed, r.Unknown,
			r.Batches, r.CostBefore, r.CostAfter, r.State,
		}
	})
	if err != nil {
		return fmt.Errorf("recording the run %s: %w", r.ID, err)
	}
	return nil
}

// rerates reads the runs that a condition holds for, in the order in which they began.
func (s *Store) rerates(ctx context.Context, where string, args ...any) ([]Rerate, error) {
	all, err := collect(ctx, s, "SELECT id, started_at, `by`, range_from, range_to, everything, books_before, book, examined, changed, unknown, batches,\n"+
		"  cost_before_pico_usd, cost_after_pico_usd, toString(state)\nFROM rerates FINAL WHERE "+where+" ORDER BY started_at, id", args,
		func(rows driver.Rows, r *Rerate) error {
			r.CostBefore, r.CostAfter = new(big.Int), new(big.Int)
			return rows.Scan(&r.ID, &r.StartedAt, &r.By, &r.From, &r.To, &r.All, &r.BooksBefore, &r.Book, &r.Examined, &r.Changed, &r.Unknown,
				&r.Batches, r.CostBefore, r.CostAfter, &r.State)
		})
	if err != nil {
		return nil, fmt.Errorf("reading which runs priced calls again: %w", err)
	}
	return all, nil
}
