package contract_test

import (
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

var update = flag.Bool("update", false, "write the goldens of this package anew")

var (
	storyKey    = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	storyOpened = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
)

// told is a decision that a person approved, and the course of its act.
func told() contract.DecisionState {
	incident := contract.IncidentID(storyKey, storyOpened)
	at := func(minutes int) time.Time { return storyOpened.Add(time.Duration(minutes) * time.Minute) }
	before := routing.Sequence{Loop: storyOpened.UnixMilli(), N: 6}
	return contract.DecisionState{
		ID: contract.DecisionID(incident, "downgrade", 1), Status: contract.Released, Effect: contract.Proven,
		Reason: "the untreated traffic stays well", Opened: storyOpened, ChangedAt: at(58),
		Input: contract.DecisionInput{
			Key: storyKey, Incident: incident,
			Proposal: contract.Proposal{
				Action: "downgrade", Mode: contract.Auto, Kind: routing.Route, Value: "claude-3-sonnet", Goal: routing.CutCost, Approvers: []string{"on-call", "ml-leads"},
				Rule: "downgrade", Reason: "cost per call is 3.00× its baseline", Revision: "4f1c2a90b3de",
			},
			Finding: detect.Finding{
				EvaluatedAt: at(-1), Revision: "4f1c2a90b3de",
				Verdict: detect.Verdict{Level: detect.Page, Rule: "dual", Reason: "cost × 3.00 and quality × 0.80"},
				Facts: detect.Facts{
					CostKnown: true, CostUSD: 0.012, CostBaseline: 0.004, CostRatio: 3, CostSamples: 212,
					QualityKnown: true, Quality: 0.7, QualityBaseline: 0.87, QualityRatio: 0.8, QualitySamples: 64,
					SpendKnown: true, SpendPerMinute: 1.9, SpendBaseline: 0.6, SpendRatio: 3.17,
				},
			},
		},
		Trust:   &contract.TrustAnswer{Approved: 3, Needed: 10, Reason: "people have approved 3 of the 10 that it takes"},
		Verdict: &contract.DecideRequest{Verdict: contract.Approve, Who: "ada", Reason: "agreed on the call"},
		Plan: contract.RolloutPlan{PerSecond: 5, Plan: routing.Plan{
			Steps: []float64{0.1, 0.5, 0.95}, Provable: true, Reason: "300 calls a minute give the holdback of 5 % its samples within 7m0s",
		}},
		Rollout: routing.Rollout{LookedAt: at(50), Effect: &routing.Comparison{Reason: "the act helps: treated costs 0.21 × the holdback (z -9.1), quality -0.012 (z -1.4)"}},
		History: []contract.Transition{
			{At: storyOpened, Status: contract.Proposed, Reason: "cost per call is 3.00× its baseline"},
			{At: at(0), Status: contract.AwaitingApproval, Reason: "people have approved 3 of the 10 that it takes"},
			{At: at(2), Status: contract.Actuating, Share: 0.1, Reason: "approved by ada: agreed on the call"},
			{At: at(12), Status: contract.Actuating, Share: 0.5, Reason: "the act helps: treated costs 0.20 × the holdback"},
			{At: at(18), Status: contract.Holding, Share: 0.95, Reason: "the act helps: treated costs 0.21 × the holdback"},
			{At: at(54), Status: contract.Releasing, Share: 0.5, Reason: "the untreated traffic is back within its baseline"},
			{At: at(56), Status: contract.Releasing, Share: 0.1, Reason: "the untreated traffic stays well"},
			{At: at(58), Status: contract.Released, Reason: "the untreated traffic stays well"},
		},
		FlagAfter: &routing.Flag{Kind: routing.Route, Sequence: before},
		Measured: &effect.Effect{
			MeasuredAt: at(118), Treated: 13_912, Holdback: 1_204, Compared: 13_912, Cost: big.NewInt(35_120_000_000_000),
			Saved:   &effect.Amount{Pico: big.NewInt(131_844_000_000_000), Low: big.NewInt(118_020_000_000_000), High: big.NewInt(145_668_000_000_000)},
			Quality: &effect.Change{Treated: 0.688, Holdback: 0.7, Scores: 13_800, By: -0.012, Low: some(-0.021), High: some(-0.003)},
		},
	}
}

func some(f float64) *float64 { return &f }

func TestStoriesOfDecisions(t *testing.T) {
	t.Parallel()
	now := storyOpened.Add(10 * time.Minute)
	for name, change := range map[string]func(*contract.DecisionState){
		"released": func(*contract.DecisionState) {},
		"asking": func(s *contract.DecisionState) {
			s.Status, s.Reason, s.ChangedAt, s.ExpiresAt = contract.AwaitingApproval, s.Trust.Reason, storyOpened, storyOpened.Add(30*time.Minute)
			s.History, s.Verdict, s.Measured, s.FlagAfter, s.Rollout.Effect, s.Effect = s.History[:2], nil, nil, nil, nil, contract.Unproven
		},
		"holding": func(s *contract.DecisionState) {
			s.Status, s.Share, s.Reason, s.ChangedAt = contract.Holding, 0.95, s.History[4].Reason, storyOpened.Add(5*time.Minute)
			s.Trust, s.Verdict = &contract.TrustAnswer{Granted: true, Approved: 12, Needed: 10, Reason: "people have approved 12 of the 10 that it takes"}, nil
			s.History = append(s.History[:1:1], s.History[2:5]...)
			s.History[1].Reason = s.Trust.Reason
			s.FlagAfter.Share, s.FlagAfter.Value, s.FlagAfter.Decision = 0.95, "claude-3-sonnet", s.ID
			s.Measured = nil
		},
		"denied": func(s *contract.DecisionState) {
			s.Verdict = &contract.DecideRequest{Verdict: contract.Deny, Who: "bo", Reason: "it is the launch"}
			s.Status, s.Reason, s.ChangedAt = contract.Denied, "denied by bo: it is the launch", storyOpened.Add(90*time.Second)
			s.History = append(s.History[:2:2], contract.Transition{At: s.ChangedAt, Status: contract.Denied, Reason: s.Reason})
			s.Measured, s.FlagAfter, s.Rollout.Effect = nil, nil, nil
		},
		"stopped": func(s *contract.DecisionState) {
			p := &s.Input.Proposal
			s.FlagAfter.Kind = routing.Stop
			p.Action, p.Kind, p.Value, p.Mode, p.Reason = "hard_stop", routing.Stop, "", contract.Ask, "the day's budget is spent"
			s.Input.Finding.Facts.QualityKnown = false
			s.Trust, s.Effect, s.Rollout.Effect = nil, contract.Unproven, nil
			s.Measured.Estimated, s.Measured.Quality, s.Measured.Treated, s.Measured.Saved.Low = true, nil, 0, nil
		},
		"reverted": func(s *contract.DecisionState) { // an upgrade that cost and mended nothing
			p := &s.Input.Proposal
			p.Action, p.Goal, p.Value = "upgrade", routing.MendQuality, "claude-3-5-sonnet"
			s.Status, s.Reason, s.Effect = contract.Reverted, "no proof of help within 30m0s", contract.Unproven
			m := s.Measured
			m.Saved = &effect.Amount{Pico: big.NewInt(-210_500_000_000), Low: big.NewInt(-400_000_000_000), High: big.NewInt(1_000_000_000)}
			m.Compared, m.Unpriced, m.Quality.By, m.Quality.High = 13_000, 12, 0.004, some(0.013)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := told()
			change(&s)
			golden := filepath.Join("testdata", "story_"+name+".txt")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(golden, []byte(s.Story(now)), 0o600))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), s.Story(now))
		})
	}
}

func TestWhatIsMeasured(t *testing.T) {
	t.Parallel()
	s := told()
	r, ok := s.Measure()
	require.True(t, ok)
	require.Equal(t, []float64{0.1, 0.5, 0.95, 0.5, 0.1}, []float64{r.Steps[0].Share, r.Steps[1].Share, r.Steps[2].Share, r.Steps[3].Share, r.Steps[4].Share})
	require.Equal(t, s.ChangedAt, r.Until)
	require.False(t, r.Refused)
	s.History = s.History[:5]
	s.History = append(s.History, contract.Transition{At: s.ChangedAt, Status: contract.Holding, Share: 0.95, Reason: "frozen"})
	r, ok = s.Measure()
	require.True(t, ok)
	require.Len(t, r.Steps, 3, "a move at the same share is no step")
	require.Zero(t, r.Until, "its flag is on")
	s.History = s.History[:2]
	_, ok = s.Measure()
	require.False(t, ok, "it has touched no call")
}
