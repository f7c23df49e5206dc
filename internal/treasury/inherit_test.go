package treasury

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// standingsOf are what Redis says of every counter of the call.
func (w *world) standingsOf(t *testing.T, of budget.Call) []redis.Standing {
	b, err := w.client.Budgets(t.Context())
	require.NoError(t, err)
	list, _, err := b.Read(t.Context(), tenant, w.counters(of, w.now()))
	require.NoError(t, err)
	return list
}

// TestASettledCallThatRedisNeverHeardOfIsNotPresumed kills a gateway between the journal's word that a call is settled and
// Redis hearing of it, with a clock that is hours ahead, so that the ledger is of no help: what is left of the budget is
// all but what the call did cost. Its own run settles it, or the one after that, which holds it anew.
func TestASettledCallThatRedisNeverHeardOfIsNotPresumed(t *testing.T) {
	s := newServer(t)
	for name, settle := range map[string]func(g *gateway){
		"by its own run": func(g *gateway) {
			g.deafen()
			g.finish(0, 30, 30)
		},
		"by the next run": func(g *gateway) {
			g.kill(func(*call) budget.Micro { return 30 })
			g.open()
			g.settleDown()
			require.Eventually(t, func() bool { return g.treasury.Stats().Waiting == 0 }, patience, 5*time.Millisecond)
			g.deafen()
			g.recover() // at its worst
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.do(t, "FLUSHALL")
			w := newWorld(t, t, s, nested(1000, 500, 200), 1, 300*time.Millisecond)
			defer w.close()
			g, of := w.gateways[0], budget.Call{Tenant: tenant, Key: "k", Session: "s"}
			g.set(2 * time.Hour)
			require.Eventually(t, func() bool { return g.begin(of, 100) != nil }, patience, 20*time.Millisecond)
			settle(g)
			g.kill(nil)
			g.set(0)
			spent := 200 - w.left(of)
			require.Positive(t, spent)
			require.Eventually(t, func() bool { return w.standingsOf(t, of)[3].Spent >= 100 }, patience, 20*time.Millisecond, "the hold lapses")
			g.start()
			require.Eventually(t, func() bool {
				for _, s := range w.standingsOf(t, of) {
					require.GreaterOrEqual(t, s.Spent+s.Held, spent, "never less than was spent")
				}
				return w.standingsOf(t, of)[3] == redis.Standing{Spent: spent}
			}, 3*time.Second, 20*time.Millisecond, "%+v", w.standingsOf(t, of))
			w.drain(of, func() budget.Micro { return w.left(of) })
		})
	}
}
