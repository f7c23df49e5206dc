package notify

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/notify/slacktest"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

var rewrite = flag.Bool("update", false, "rewrite the golden files")

// noon is when the incidents of golden files open.
var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// cards are the states that an on-call engineer meets.
func cards() map[string]card {
	open := func(change func(*contract.IncidentState)) card {
		state := later(incidentState(noon), 2*time.Minute, change)
		n := notice(contract.NoticeUpdated, 1, state)
		return card{notice: n, state: &state, now: noon.Add(3 * time.Minute), console: "https://flyball.example/#a1b2c3", temporal: "https://temporal.example/namespaces/prod/workflows/x"}
	}
	_, _, d := asked(incidentState(noon))
	withDecision := func(status contract.Status, reason string, verdict *contract.DecideRequest, share float64) func(*contract.IncidentState) {
		return func(s *contract.IncidentState) {
			d := d
			d.Status, d.Reason, d.Verdict, d.Share = status, reason, verdict, share
			s.Decisions = []contract.DecisionSummary{d.Summary()}
		}
	}
	all := map[string]card{}
	question := open(withDecision(contract.AwaitingApproval, d.Reason, nil, 0))
	question.decisions = map[string]contract.DecisionState{d.ID: d}
	all["question"] = question
	// After a restart the decision's own words are not known, only the incident's.
	all["question_after_restart"] = open(withDecision(contract.AwaitingApproval, d.Reason, nil, 0))
	all["approved"] = open(func(s *contract.IncidentState) {
		withDecision(contract.Holding, "treated calls cost 0.34 times the untreated ones", &contract.DecideRequest{Verdict: contract.Approve, Who: "Ada (Slack U0ADA)"}, 0.95)(s)
		s.Acknowledged = &contract.Acknowledgement{Who: "Ada (Slack U0ADA)", At: noon.Add(time.Minute), Note: "on it"}
	})
	all["denied"] = open(withDecision(contract.Denied, "the sonnet quality gate fails for this tenant", &contract.DecideRequest{Verdict: contract.Deny, Who: "Bob (Slack U0BOB)"}, 0))
	all["silent_and_muted"] = open(func(s *contract.IncidentState) {
		s.Silent = true
		s.Mute = &contract.Mute{Until: noon.Add(time.Hour), Who: "Ada (Slack U0ADA)", Reason: "a load test"}
	})
	all["closed"] = open(func(s *contract.IncidentState) {
		withDecision(contract.Released, "the fault was over", &contract.DecideRequest{Verdict: contract.Approve, Who: "Ada (Slack U0ADA)"}, 0)(s)
		s.Phase, s.Reason, s.ClosedAt = contract.IncidentClosed, "cost and quality are back within their baseline", noon.Add(47*time.Minute)
		s.Acknowledged = &contract.Acknowledgement{Who: "Ada (Slack U0ADA)", At: noon.Add(time.Minute)}
	})
	all["investigate"] = open(func(s *contract.IncidentState) {
		s.Level, s.Finding.Verdict = detect.Investigate, detect.Verdict{Level: detect.Investigate, Reason: "spend per minute is 4.1 times what is usual"}
		s.Finding.Facts.QualityKnown = false
		s.Steps = []runbook.Done{{Step: runbook.Plan(1)[0], At: noon, Verdict: runbook.Verdict{Status: runbook.Clear, Text: "no deployment, new model or new template within 30m of the regression"}}}
		s.Previous = &contract.PastIncident{Opened: noon.AddDate(0, 0, -9), Cause: runbook.CauseSpike, Reason: "prompt injection through a ticket"}
	})
	group := contract.GroupState{
		ID: contract.GroupID("provider:openai", noon), Input: contract.GroupInput{Cause: "provider:openai", Opened: noon}, Level: detect.Page,
		Phase: contract.IncidentOpen, UpdatedAt: noon, Reason: "503 keys of openai fail together",
	}
	for i := range 503 {
		k := contract.GroupKey{Key: usage.Key{Tenant: fmt.Sprint("org_", i), Model: "gpt-4o"}, Level: detect.Page, Reason: "quality is down to 61 %", JoinedAt: noon}
		if i == 0 {
			k.LeftAt, k.Left = noon.Add(time.Minute), contract.Parted
		}
		group.Keys = append(group.Keys, k)
	}
	group.In, group.Joined = 502, 503
	group = group.Shown()
	all["group"] = card{
		notice: contract.Notice{ID: group.ID, Incident: group.ID, Opened: noon}, group: &group, now: noon.Add(time.Minute), console: "https://flyball.example/#d4e5f6",
	}
	bare := contract.Notice{Kind: contract.NoticeQuestion, ID: d.ID, Incident: d.Input.Incident, Key: testKey, Opened: noon, Title: "org_42/claude-3-opus: downgrade", Decision: &d}
	all["only_a_decision"] = card{notice: bare, decisions: map[string]contract.DecisionState{d.ID: d}, now: noon}
	return all
}

func TestSlackCards(t *testing.T) {
	t.Parallel()
	for name, c := range cards() {
		t.Run(name, func(t *testing.T) {
			blocks, fallback := c.blocks()
			text, err := json.MarshalIndent(map[string]any{"text": fallback, "blocks": blocks}, "", "  ")
			require.NoError(t, err)
			// Read back, so that Slack's markup stands in the file as it is.
			shown := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(text)) + "\n"
			path := filepath.Join("testdata", "slack", name+".json")
			if *rewrite {
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, []byte(shown), 0o600))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), shown)
		})
	}
}

// Whatever a state holds, the card is within Slack's limits.
func TestSlackCardFitsSlack(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.Map(rapid.StringMatching(`[<>&*|@! a-z]{0,300}`), func(s string) string { return strings.Repeat(s, 20) }))
	rapid.Check(t, func(r *rapid.T) {
		str := func(name string) string { return text.Draw(r, name) }
		state := incidentState(noon)
		state.Input.Key = usage.Key{Tenant: str("tenant"), Model: str("model")}
		state.Finding.Verdict.Reason, state.Input.Finding.Verdict.Reason, state.Reason, state.Advice = str("reason"), str("first"), str("end"), str("advice")
		state.Phase = rapid.SampledFrom([]contract.Phase{contract.IncidentOpen, contract.IncidentRecovering, contract.IncidentClosing, contract.IncidentClosed}).Draw(r, "phase")
		state.Silent = rapid.Bool().Draw(r, "silent")
		details := map[string]contract.DecisionState{}
		for i := range rapid.IntRange(0, 30).Draw(r, "decisions") {
			d := decisionState(state)
			d.ID = contract.DecisionID(state.ID, fmt.Sprint(i), 1)
			d.Input.Proposal.Value, d.Input.Proposal.Reason, d.Reason = str("value"), str("why"), str("status")
			d.Input.Proposal.Goal = rapid.SampledFrom([]routing.Goal{routing.CutCost, routing.MendQuality, ""}).Draw(r, "goal")
			d.Plan.Plan.Provable = rapid.Bool().Draw(r, "provable")
			if rapid.Bool().Draw(r, "denied") {
				d.Status, d.Verdict = contract.Denied, &contract.DecideRequest{Verdict: contract.Deny, Who: str("who")}
			}
			if rapid.Bool().Draw(r, "known") {
				details[d.ID] = d
			}
			state.Decisions = append(state.Decisions, d.Summary())
		}
		c := card{notice: notice(contract.NoticeUpdated, 1, state), state: &state, decisions: details, now: noon, console: "https://flyball.example/"}
		blocks, fallback := c.blocks()
		raw, err := json.Marshal(blocks)
		require.NoError(r, err)
		require.NoError(r, slacktest.Validate(raw))
		require.NotEmpty(r, fallback)
		// Only our own marks begin with what Slack reads as one.
		var shown any
		require.NoError(r, json.Unmarshal(raw, &shown))
		for _, text := range markup(shown) {
			for part := range strings.SplitSeq(text, "<") {
				if part == text || part == "" {
					continue
				}
				ours := strings.HasPrefix(part, "!date^") || strings.HasPrefix(part, "https://flyball.example/")
				first := strings.HasPrefix(text, part) // what stands before any mark
				require.True(r, ours || first, "%q", part)
			}
		}
	})
}

func TestSlackFromMarkdown(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"## What <b>happened</b>":                     "*What &lt;b&gt;happened&lt;/b&gt;*",
		"- **found**: it & more":                      "• *found*: it &amp; more",
		"see [the page](https://status.example/x)":    "see the page (<https://status.example/x>)",
		"[x](javascript:alert(1))":                    "[x](javascript:alert(1))",
		"a\n| a | b |\n| --- | --- |\n| 1 | 2 |\nend": "a\n```\n| a | b |\n| 1 | 2 |\n```\nend",
		"```\nflyball approve <x> **y**\n```":         "```\nflyball approve &lt;x&gt; **y**\n```",
		"| a |":                                       "```\n| a |\n```",
		"```\nnever closed":                           "```\nnever closed\n```",
	} {
		require.Equal(t, want, fromMarkdown(in), in)
	}
}

// A long text is cut where lines end, within the limit, and code that is cut stays code.
func TestSlackPieces(t *testing.T) {
	t.Parallel()
	text := "intro\n```\n" + strings.Repeat("SELECT 1 FROM kpi_1m\n", 30) + "```\nend"
	parts, cut := pieces(text, 200, 20)
	require.False(t, cut)
	require.Greater(t, len(parts), 3)
	for _, p := range parts {
		require.LessOrEqual(t, len([]rune(p)), 200)
		require.Zero(t, strings.Count(p, "```")%2, "%q", p)
	}
	parts, cut = pieces(text, 200, 2)
	require.True(t, cut)
	require.Len(t, parts, 2)
}
