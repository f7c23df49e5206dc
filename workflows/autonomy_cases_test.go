package workflows

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
)

// However offers, answers, holds and changes of the rule interleave: of the rule that is asked about no more than ten
// cases are approved or open, no case is asked about twice, only answers to what is open count, and the rule is trusted
// exactly when ten of its own were approved since trust was last lost.
func TestCasesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, now := newLedger(), night0
		asked, open, approved, rule, held := map[string]bool{}, map[string]bool{}, 0, "", false
		trace := 0
		for range rapid.IntRange(0, 80).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "minutes")) * time.Minute)
			what := rapid.SampledFrom([]string{"offer", "offer", "approved", "approved", "approved", "approved", "denied", "lapsed", "hold", "lift", "stray"}).Draw(t, "what")
			switch what {
			case "offer":
				r := contract.OpenCasesRequest{Tenant: "org_42", Rule: rapid.SampledFrom([]string{"a", "a", "a", "a", "a", "b"}).Draw(t, "rule")}
				for i := range rapid.IntRange(0, 15).Draw(t, "cases") {
					at := max(0, trace-rapid.IntRange(0, 12).Draw(t, "back")) + i // many were offered before
					trace = max(trace, at+1)
					r.Cases = append(r.Cases, contract.FallbackCase{Tenant: "org_42", Trace: fmt.Sprint(at), Case: routing.Case{Rule: r.Rule, Model: "m"}})
				}
				chosen, _ := l.open(r, now)
				if len(chosen) > 0 && r.Rule != rule {
					rule, approved, open = r.Rule, 0, map[string]bool{}
				}
				for _, c := range chosen {
					require.False(t, held, "nobody is asked about what is held")
					require.False(t, asked[c.ID()], "asked twice")
					asked[c.ID()], open[c.ID()] = true, true
				}
			case "hold", "lift":
				l.hold(contract.HoldTrustRequest{Tenant: "org_42", Action: contract.FallBack, Hold: what == "hold", Who: "ada"}, now)
				held, approved, open = what == "hold", 0, map[string]bool{}
			case "stray":
				l.tell(contract.TrustOutcomeRequest{Tenant: "org_42", Action: contract.FallBack, Rule: rule, Decision: "another", Outcome: contract.OutcomeApproved}, now)
			default:
				ids := slices.Sorted(maps.Keys(open))
				if len(ids) == 0 {
					continue
				}
				id := rapid.SampledFrom(ids).Draw(t, "which")
				told := contract.TrustOutcomeRequest{Tenant: "org_42", Action: contract.FallBack, Rule: rule, Decision: id, Outcome: what}
				l.tell(told, now)
				l.tell(told, now)
				delete(open, id)
				switch what {
				case contract.OutcomeApproved:
					approved++
				case contract.OutcomeDenied:
					approved = 0
				}
			}
			trust := l.Classes[contract.FallBack]
			require.Len(t, trust.Open, len(open))
			require.Equal(t, approved, trust.Approved)
			require.LessOrEqual(t, approved+len(open), trustNeeded)
			require.Equal(t, approved >= trustNeeded && !held, trust.Trusted())
		}
	})
}

// A decision that was terminated tells nothing: its place is free again when its time is over.
func TestACaseThatVanishedMakesRoom(t *testing.T) {
	l := newLedger()
	request := contract.OpenCasesRequest{Tenant: "org_42", Rule: "a"}
	for i := range 30 {
		request.Cases = append(request.Cases, contract.FallbackCase{Tenant: "org_42", Trace: fmt.Sprint(i), Case: routing.Case{Rule: "a", Model: "m"}})
	}
	first, _ := l.open(request, night0)
	require.Len(t, first, 10)
	require.Empty(t, l.choose(request, night0.Add(72*time.Hour)))
	require.Len(t, l.choose(request, night0.Add(72*time.Hour+answerSlack)), 10)
}
