package clickhouse

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// act is a decision in a test: three shares, the last across midnight.
type act struct {
	contract.MeasureRequest
	random *rand.Rand
	spans  []usage.Span
	scores []usage.Quality
}

func newAct(seed uint64, id, tenant string, begin time.Time) *act {
	return &act{random: rand.New(rand.NewPCG(seed, 1)), MeasureRequest: contract.MeasureRequest{
		Decision: id, Key: usage.Key{Tenant: tenant, Model: "opus"}, Action: "downgrade",
		Steps: []contract.Step{{From: begin, Share: 0.1}, {From: begin.Add(10 * time.Minute), Share: 0.5}, {From: begin.Add(20 * time.Minute), Share: 0.9}},
		Until: begin.Add(40 * time.Minute),
	}}
}

// call makes n calls of sessions, some unpriced, with scores by a judge of the dearest and a person's, which does not count.
func (a *act) call(n int, cheaper int64) *act {
	for range n {
		i := len(a.spans)
		at := a.Steps[0].From.Add(time.Duration(a.random.IntN(2400)) * time.Second)
		share := a.Steps[min(int(at.Sub(a.Steps[0].From)/(10*time.Minute)), 2)].Share
		s := usage.Span{
			TraceID: fmt.Sprint(a.Decision, "-", i), SpanID: "s", Timestamp: at, TenantID: a.Key.Tenant, RequestedModel: a.Key.Model, Model: "served",
			SessionID: []string{"", fmt.Sprint("session-", a.random.IntN(300))}[i%2], Provider: "p", Complexity: 1, DecisionID: a.Decision,
			Arm: usage.Holdback, Cost: usage.PicoUSD(1e9 + a.random.Int64N(1e9)), Priced: true, PriceVersion: "v",
		}
		if a.random.Float64() < share {
			s.Arm = usage.Treated
			s.Cost = usage.PicoUSD(int64(s.Cost) / cheaper)
		}
		if a.random.IntN(50) == 0 {
			s.Cost, s.Priced, s.PriceVersion = 0, false, ""
		}
		a.spans = append(a.spans, s)
		q := usage.Quality{
			ID: fmt.Sprint("q", i), TraceID: s.TraceID, SpanID: "s", TenantID: s.TenantID, Model: s.RequestedModel, Arm: s.Arm, Timestamp: at,
			Evaluator: "judge", Kind: "judge", Score: 0.8, Confidence: 1,
		}
		if s.Arm == usage.Treated {
			q.Score = 0.75
		}
		a.scores = append(a.scores, q)
		q.ID, q.Kind, q.Score = q.ID+"h", "human", 0
		a.scores = append(a.scores, q)
	}
	return a
}

// store sends the calls from the given one on.
func (a *act) store(t *testing.T, s *Store, from int) {
	require.NoError(t, s.InsertSpans(t.Context(), a.spans[from:], fmt.Sprint(a.Decision, from)))
	require.NoError(t, s.InsertQuality(t.Context(), a.scores[2*from:], fmt.Sprint(a.Decision, "q", from)))
}

// saved is what the priced calls saved, the long way round.
func (a *act) saved() (saved *big.Int, treated int64) {
	sum := new(big.Rat)
	for i, step := range a.Steps {
		to := a.Until.Add(time.Hour)
		if i+1 < len(a.Steps) {
			to = a.Steps[i+1].From
		}
		n, cost := map[usage.Arm]int64{}, map[usage.Arm]int64{}
		for _, s := range a.spans {
			if s.Priced && !s.Timestamp.Before(step.From) && s.Timestamp.Before(to) {
				n[s.Arm]++
				cost[s.Arm] += int64(s.Cost)
			}
		}
		part := big.NewRat(n[usage.Treated]*cost[usage.Holdback], n[usage.Holdback])
		sum.Add(sum, part.Sub(part, big.NewRat(cost[usage.Treated], 1)))
		treated += n[usage.Treated]
	}
	half := sum.Add(sum, big.NewRat(int64(sum.Sign()), 2))
	return new(big.Int).Quo(half.Num(), half.Denom()), treated // towards zero, after a half away from it
}

func (a *act) measure(t *testing.T, s *Store) contract.SavingsRecord {
	e, err := s.Measure(t.Context(), a.MeasureRequest)
	require.NoError(t, err)
	return contract.SavingsRecord{Decision: a.Decision, Key: a.Key, Action: a.Action, Effect: e}
}

// testSavings measures acts again and again, out of order and while calls come late: each call counts once.
func testSavings(t *testing.T, s *Store) {
	begin := time.Date(2026, 3, 2, 23, 35, 0, 0, time.UTC) // the last share is from 23:55 on
	a := newAct(1, "decision/a", "org_1", begin).call(3000, 2)
	a.store(t, s, 0)
	first := a.measure(t, s)
	want, treated := a.saved()
	require.Equal(t, want.String(), first.Effect.Saved.Pico.String())
	require.Equal(t, treated, first.Effect.Compared)
	require.Len(t, first.Effect.Days, 2)
	require.Equal(t, 1, first.Effect.Saved.Low.Sign(), "surely")
	require.InDelta(t, -0.05, first.Effect.Quality.By, 1e-9, "a person's ratings are not among them")
	require.NotNil(t, first.Effect.Quality.Low)

	// A second decision of the same key at the same time, which costs, and calls of no decision and of another key.
	b := newAct(2, "decision/b", "org_1", begin).call(2000, 1)
	for i := range b.spans {
		if b.spans[i].Arm == usage.Treated {
			b.spans[i].Cost *= 3
		}
	}
	b.store(t, s, 0)
	stray := newAct(3, "decision/a", "org_1", begin).call(50, 1)
	for i := range stray.spans {
		if p := &stray.spans[i]; i%2 == 0 {
			p.RequestedModel = "another"
		} else {
			p.DecisionID, p.Arm = "", usage.None
		}
	}
	require.NoError(t, s.InsertSpans(t.Context(), stray.spans, "stray"))
	ofB := b.measure(t, s)
	require.Equal(t, -1, ofB.Effect.Saved.High.Sign())
	require.Equal(t, first.Effect.Saved.Pico.String(), a.measure(t, s).Effect.Saved.Pico.String(), "nothing of these is of the decision")

	// Late calls, and measurements that are recorded twice, and in the wrong order.
	a.call(500, 2).store(t, s, 3000)
	second := a.measure(t, s)
	want, _ = a.saved()
	require.Equal(t, want.String(), second.Effect.Saved.Pico.String())
	older := first
	older.Effect.Days = append([]effect.Day{{Day: begin.AddDate(0, 0, -1), Compared: 7, Treated: 7, Cost: big.NewInt(7), Saved: big.NewInt(1e15)}}, first.Effect.Days...)
	for _, r := range []contract.SavingsRecord{first, second, ofB, older, second, first, ofB} {
		require.NoError(t, s.RecordSavings(t.Context(), r))
	}
	paid := new(big.Int)
	for _, p := range append(a.spans, b.spans...) {
		if p.Arm == usage.Treated {
			paid.Add(paid, big.NewInt(int64(p.Cost)))
		}
	}
	// A tenant of drills spends nobody's money; that of another day is not in the range.
	drill := second
	drill.Decision, drill.Key.Tenant = "decision/d", usage.DrillPrefix
	require.NoError(t, s.RecordSavings(t.Context(), drill))
	unknown := contract.SavingsRecord{Decision: "decision/u", Key: usage.Key{Tenant: "org_2", Model: "opus"}, Action: "hard_stop", Effect: effect.Effect{
		MeasuredAt: begin, Estimated: true, Days: []effect.Day{{Day: begin.Truncate(24 * time.Hour), Treated: 3, Cost: new(big.Int)}},
	}}
	require.NoError(t, s.RecordSavings(t.Context(), unknown))
	range2 := SavingsQuery{From: begin.AddDate(0, 0, -7), To: begin.AddDate(0, 0, 7), GroupBy: []string{SavingsByTenant}}
	for range 2 {
		all, err := s.Savings(t.Context(), range2)
		require.NoError(t, err)
		require.Len(t, all, 2)
		one := all[0]
		require.Equal(t, []string{"org_1"}, one.Values)
		require.EqualValues(t, 2, one.Decisions)
		require.Equal(t, second.Effect.Saved.Pico.String(), one.Saved.String())
		require.Equal(t, ofB.Effect.Saved.Pico.String(), one.Spent.String())
		require.Equal(t, paid.String(), one.Cost.String(), "every treated call counts once")
		require.Equal(t, second.Effect.Compared+ofB.Effect.Compared, one.Compared)
		require.Zero(t, one.Estimated.Sign())
		require.EqualValues(t, 1, all[1].Unknown, "what could not be compared is not nothing")
		require.NoError(t, s.conn.Exec(t.Context(), "OPTIMIZE TABLE savings FINAL"))
	}

	// The days of a range are half-open, and add up.
	byDay := SavingsQuery{From: begin.AddDate(0, 0, -7), To: begin.AddDate(0, 0, 7), Tenant: "org_1", GroupBy: []string{SavingsByDay, SavingsByDecision}}
	rows, err := s.Savings(t.Context(), byDay)
	require.NoError(t, err)
	require.Len(t, rows, 4)
	require.Equal(t, []string{"2026-03-02", "decision/a"}, rows[0].Values)
	sum := new(big.Int)
	for _, r := range rows {
		sum.Add(sum, r.Net())
	}
	require.Equal(t, new(big.Int).Add(second.Effect.Saved.Pico, ofB.Effect.Saved.Pico).String(), sum.String())
	byDay.From, byDay.To = begin.Truncate(24*time.Hour), begin.Truncate(24*time.Hour)
	rows, err = s.Savings(t.Context(), byDay)
	require.NoError(t, err)
	require.Empty(t, rows)
	byDay.To = byDay.To.AddDate(0, 0, 1)
	rows, err = s.Savings(t.Context(), byDay)
	require.NoError(t, err)
	require.Len(t, rows, 2, "the first day alone")
	_, err = s.Savings(t.Context(), SavingsQuery{GroupBy: []string{"colour"}})
	require.ErrorContains(t, err, `"colour" is no dimension`)
}

// testDecisions reads and finds what was decided.
func testDecisions(t *testing.T, s *Store) {
	opened := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	low, by := -0.1, -0.05
	var want []contract.DecisionRecord
	for i := range 3 {
		key := usage.Key{Tenant: fmt.Sprint("org_", i), Model: "opus"}
		r := contract.DecisionRecord{
			ID: contract.DecisionID(contract.IncidentID(key, opened), "downgrade", 1), Incident: contract.IncidentID(key, opened), Key: key,
			OpenedAt: opened.Add(time.Duration(i) * time.Hour), Action: "downgrade", Mode: contract.Auto, Status: contract.Holding, Effect: contract.Proven,
			UpdatedAt: opened, AlertRule: "dual", Facts: json.RawMessage(`{"cost_ratio":3}`), Approvers: []string{"on-call"},
			FlagAfter: json.RawMessage(`{"share":0.5}`),
		}
		if i == 2 {
			r.Status, r.EndedAt = contract.Released, opened.Add(3*time.Hour)
			saved, _ := new(big.Int).SetString("-170141183460469231731687303715884105728", 10)
			r.Worth = &contract.Worth{MeasuredAt: opened, Treated: 9, Compared: 8, Saved: saved, SavedHigh: big.NewInt(5), Quality: &by, QualityLow: &low}
		}
		require.NoError(t, s.RecordDecision(t.Context(), r))
		want = append(want, r)
	}
	read := func(f DecisionFilter) (got []contract.DecisionRecord) {
		require.NoError(t, s.EachDecision(t.Context(), f, func(r contract.DecisionRecord) error { got = append(got, r); return nil }))
		return got
	}
	require.Equal(t, want, read(DecisionFilter{}))
	require.Equal(t, want[:2], read(DecisionFilter{Open: true}))
	require.Equal(t, want[1:2], read(DecisionFilter{Since: opened.Add(time.Hour), Until: opened.Add(2 * time.Hour)}))
	require.Equal(t, want[2:], read(DecisionFilter{Tenant: "org_2", Model: "opus", Action: "downgrade", Status: "released"}))
	require.Equal(t, want[2:], read(DecisionFilter{Newest: 1}))
	require.Empty(t, read(DecisionFilter{Action: "pin"}))
	enough := errors.New("enough")
	require.ErrorIs(t, s.EachDecision(t.Context(), DecisionFilter{}, func(contract.DecisionRecord) error { return enough }), enough)

	for _, name := range []string{want[1].ID, contract.Handle(want[1].ID), want[1].ID[:len("decision/incident/org_1")]} {
		got, err := s.FindDecision(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, want[1], got)
	}
	_, err := s.FindDecision(t.Context(), "decision/")
	require.ErrorIs(t, err, ErrManyDecisions)
	for _, name := range []string{"", "a41f0", "zzz"} {
		_, err := s.FindDecision(t.Context(), name)
		require.ErrorIs(t, err, ErrNoDecision, name)
	}
}
