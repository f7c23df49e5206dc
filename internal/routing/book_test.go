package routing

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

var aKey = usage.Key{Tenant: "org", Model: "m"}

func TestOrdersThatAreRefused(t *testing.T) {
	t.Parallel()
	b := Book{Flags: []Flag{{Kind: Route, Decision: "a", Value: "x", Share: 0.1}}, Done: []string{"gone"}}
	for name, tc := range map[string]struct {
		key   usage.Key
		order Order
		wrong bool
		says  string
	}{
		"no model":           {aKey, Order{Kind: Pin, Share: 1, Decision: "b"}, true, "needs the model"},
		"no such kind":       {aKey, Order{Kind: "halt", Decision: "b"}, true, "want route, pin, stop, shape or sampling"},
		"a pseudo-key":       {usage.Key{Tenant: "org", Model: usage.AnyModel}, Order{Kind: Stop, Share: 1, Decision: "b"}, true, "owns no flags"},
		"too much":           {aKey, Order{Kind: Stop, Share: 1.1, Decision: "b"}, true, "not between 0 and 1"},
		"nobody's":           {aKey, Order{Kind: Stop, Share: 1}, true, "needs the decision"},
		"after its own end":  {aKey, Order{Kind: Stop, Share: 1, Decision: "gone"}, false, "taken its flag off already"},
		"another decision's": {aKey, Order{Kind: Route, Value: "y", Share: 1, Decision: "b"}, false, "belongs to a"},
	} {
		err := b.Check(tc.key, tc.order)
		require.ErrorContains(t, err, tc.says, name)
		if tc.wrong {
			require.ErrorIs(t, err, ErrOrder, name)
		} else {
			require.NotErrorIs(t, err, ErrOrder, name)
		}
	}
	require.NoError(t, b.Check(aKey, Order{Kind: Route, Decision: "b"}), "to take off what one does not own is no harm")
	flag, write := b.Take(aKey, Order{Kind: Route, Decision: "b"}, began)
	require.False(t, write)
	require.Equal(t, "a", flag.Decision)
}

// store keeps flags as Redis does: what is older than the newest write of a kind loses, and what nobody renews lapses.
type store struct {
	flags  map[Kind]Flag
	lapses map[Kind]time.Time // zero: never, as of a pin
	fences map[Kind]Sequence
}

func newStore() *store {
	return &store{map[Kind]Flag{}, map[Kind]time.Time{}, map[Kind]Sequence{}}
}

func (s *store) write(f Flag, now time.Time) {
	if f.Sequence.Compare(s.fences[f.Kind]) < 0 {
		return
	}
	s.fences[f.Kind] = f.Sequence
	if f.Share == 0 {
		delete(s.flags, f.Kind)
		return
	}
	s.flags[f.Kind] = f
	s.keep(f.Kind, now)
}

func (s *store) keep(k Kind, now time.Time) {
	s.lapses[k] = now.Add(TTL)
	if k == Pin {
		s.lapses[k] = time.Time{}
	}
}

func (s *store) pass(now time.Time) {
	for k, at := range s.lapses {
		if !at.IsZero() && !now.Before(at) {
			delete(s.flags, k)
		}
	}
}

// decision is somebody who orders a flag: a decision of an incident, or a person.
type decision struct {
	id    string
	kind  Kind
	dead  bool // killed: it orders nothing any more
	ended bool // it has taken its flag off
}

// plant is one key with its owner, its store, and all who order.
type plant struct {
	now       time.Time
	book      Book
	store     *store
	late      []Flag // attempts at writes whose answers were lost: they may reach the store at any time
	decisions []*decision
	sent      []Order   // all orders so far: a message may come again
	excused   time.Time // when the owner was killed, or the store wiped, last
}

// hold is how long a flag is obeyed at the latest.
const hold = 2 * time.Hour

func (p *plant) order(o Order) {
	p.sent = append(p.sent, o)
	p.obey(o)
}

// obey is what the owner does with an order.
func (p *plant) obey(o Order) {
	if p.book.Check(aKey, o) != nil {
		return
	}
	if f, write := p.book.Take(aKey, o, p.now); write {
		p.late = append(p.late, f)
		p.store.write(f, p.now)
		p.book.Written(f)
	}
}

// tend is what the owner does by the clock.
func (p *plant) tend() {
	for _, f := range slices.Clone(p.book.Flags) {
		if !p.now.Before(f.ExpiresAt) {
			p.obey(Order{Kind: f.Kind, Decision: f.Decision})
		}
	}
	for i, f := range p.book.Flags {
		p.book.Flags[i].RenewedAt = p.now
		if stored, ok := p.store.flags[f.Kind]; ok && stored.Sequence == f.Sequence {
			p.store.keep(f.Kind, p.now)
		} else {
			p.store.write(p.book.Flags[i], p.now)
		}
	}
}

// TestNoFlagIsLeftThatNobodyOwns: two incidents, people, expiries, lost and repeated messages, killed decisions and
// owners, and a store that is wiped: whatever the order, every flag in the store is its owner's, of a decision that has
// not ended, with an end; and none outlives its owner by more than the TTL, or its decision by more than its end.
func TestNoFlagIsLeftThatNobodyOwns(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := &plant{now: began, store: newStore(), book: Book{Sequence: Sequence{Loop: began.UnixMilli()}}}
		alive := func(t *rapid.T) *decision {
			var list []*decision
			for _, d := range p.decisions {
				if !d.dead && !d.ended {
					list = append(list, d)
				}
			}
			if len(list) == 0 {
				t.Skip("nobody is there")
			}
			return rapid.SampledFrom(list).Draw(t, "who")
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) { // another incident's decision, or a person
				p.decisions = append(p.decisions, &decision{
					id:   fmt.Sprint("d", len(p.decisions)),
					kind: rapid.SampledFrom([]Kind{Route, Pin, Stop, Shape, Sampling}).Draw(t, "kind"),
				})
			},
			"share": func(t *rapid.T) {
				d := alive(t)
				share := rapid.SampledFrom([]float64{0.1, 0.5, 0.95}).Draw(t, "share")
				p.order(Order{Kind: d.kind, Value: "x", Share: share, Decision: d.id, ExpiresAt: p.now.Add(hold)})
			},
			"end": func(t *rapid.T) {
				d := alive(t)
				d.ended = true
				p.order(Order{Kind: d.kind, Decision: d.id})
			},
			"kill": func(t *rapid.T) { alive(t).dead = true },
			"again": func(t *rapid.T) { // a message comes twice, and late
				if len(p.sent) == 0 {
					t.Skip("nothing was sent")
				}
				p.obey(rapid.SampledFrom(p.sent).Draw(t, "which"))
			},
			"late write": func(t *rapid.T) { // the first attempt of a write that has been made by another
				if len(p.late) == 0 {
					t.Skip("nothing was written")
				}
				p.store.write(rapid.SampledFrom(p.late).Draw(t, "which"), p.now)
			},
			"wipe": func(*rapid.T) { // with the fences, so an attempt that is still on its way may bring a flag back
				p.store, p.excused = newStore(), p.now
				p.tend()
			},
			"continue as new": func(t *rapid.T) {
				raw, err := json.Marshal(p.book)
				require.NoError(t, err)
				p.book = Book{}
				require.NoError(t, json.Unmarshal(raw, &p.book))
			},
			"terminate the owner": func(*rapid.T) { // a later one knows nothing of its flags
				p.excused = p.now
				p.now = p.now.Add(time.Second)
				p.book = Book{Sequence: Sequence{Loop: p.now.UnixMilli()}}
				p.sent = nil // what was meant for the one before does not reach the next
			},
			"wait": func(t *rapid.T) {
				p.now = p.now.Add(time.Duration(rapid.IntRange(1, 50).Draw(t, "minutes")) * time.Minute)
				p.store.pass(p.now)
				p.tend()
			},
			"": func(t *rapid.T) {
				p.tend()
				p.check(t)
			},
		})
	})
}

func (p *plant) check(t *rapid.T) {
	for _, f := range p.book.Flags {
		stored, ok := p.store.flags[f.Kind]
		require.True(t, ok, "the owner has written its %s flag", f.Kind)
		require.Equal(t, f.Sequence, stored.Sequence)
		require.False(t, f.ExpiresAt.IsZero())
		require.True(t, p.now.Before(f.ExpiresAt))
		d := p.decisions[slices.IndexFunc(p.decisions, func(d *decision) bool { return d.id == f.Decision })]
		require.False(t, d.ended, "%s has ended, and its %s flag is on", d.id, f.Kind)
	}
	for k, f := range p.store.flags {
		if p.book.Flag(k) != nil {
			continue
		}
		// It is of an owner that was killed, or a late attempt brought it back to a store that was wiped. Nobody renews
		// it, so it is obeyed for the TTL at the longest; a pin, which has none, until its own end.
		require.False(t, p.excused.IsZero(), "the %s flag of %s has no owner", k, f.Decision)
		require.False(t, f.RenewedAt.After(p.excused), "the %s flag of %s was renewed by nobody", k, f.Decision)
		require.False(t, f.ExpiresAt.IsZero())
	}
}
