package notify

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/notify/pagerdutytest"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

var updatePagerDuty = flag.Bool("update-pagerduty", false, "write the golden events of PagerDuty anew")

var allLinks = Links{Console: "https://flyball.example.com", TemporalUI: "https://temporal.example.com", Namespace: "default"}

func pagerOf(server *pagerdutytest.Server) *PagerDuty {
	return NewPagerDuty(PagerDutyOptions{RoutingKey: pagerdutytest.RoutingKey, API: server.URL, Links: allLinks})
}

// story is an incident's notice with its state.
func story(kind contract.NoticeKind, change ...func(*contract.IncidentState)) contract.Notice {
	n := page(kind, 0)
	finding := detect.Finding{
		Key: opus, Verdict: detect.Verdict{Level: detect.Page, Rule: "cost_and_quality", Reason: "cost 3.00× its baseline, quality 0.80×"},
		Facts: detect.Facts{
			CostKnown: true, CostUSD: 0.0132, CostBaseline: 0.0044, CostRatio: 3, QualityKnown: true, Quality: 0.7, QualityBaseline: 0.875, QualityRatio: 0.8,
			SpendKnown: true, SpendPerMinute: 3.96, SpendBaseline: 1.32, SpendRatio: 3,
		},
	}
	n.State = &contract.IncidentState{
		ID: incidentID, Input: contract.IncidentInput{Key: opus, Opened: n.Opened, Level: detect.Page, Finding: finding},
		Level: detect.Page, Phase: contract.IncidentOpen, Finding: finding, Step: runbook.T0,
	}
	for _, c := range change {
		c(n.State)
	}
	return n
}

func acknowledged(s *contract.IncidentState) {
	s.Acknowledged = &contract.Acknowledgement{Who: "ann", At: s.Input.Opened.Add(2 * time.Minute)}
}

func in(phase contract.Phase) func(*contract.IncidentState) {
	return func(s *contract.IncidentState) { s.Phase = phase }
}

func mutedKey(s *contract.IncidentState) {
	s.Mute = &contract.Mute{Who: "ann", At: s.Input.Opened, Until: s.Input.Opened.Add(time.Hour)}
}

// question is a decision's notice.
func question() contract.Notice {
	n := story(contract.NoticeQuestion)
	n.ID = contract.DecisionID(incidentID, "downgrade", 1)
	n.Title = "org_42/claude-3-opus: downgrade to claude-3-sonnet?"
	n.Decision = &contract.DecisionState{
		ID: n.ID, Status: contract.AwaitingApproval, Reason: "cost per call is 3.00× its baseline", ExpiresAt: n.At.Add(30 * time.Minute),
		Input: contract.DecisionInput{Key: opus, Incident: incidentID, Proposal: contract.Proposal{Action: "downgrade", Value: "claude-3-sonnet"}},
	}
	return n
}

// acted is a notice of an act of ours.
func acted() contract.Notice {
	n := question()
	n.Kind, n.Title = contract.NoticeActed, "org_42/claude-3-opus: downgrade to claude-3-sonnet at 10 %"
	n.Decision.Status, n.Decision.Share, n.Decision.Effect = contract.Actuating, 0.1, contract.Unproven
	return n
}

// TestPagerDutyFollowsAnIncident: one alert from its opening to its end, however often each notice comes.
func TestPagerDutyFollowsAnIncident(t *testing.T) {
	t.Parallel()
	server := pagerdutytest.New(t)
	p := pagerOf(server)
	status := func() string { return server.Incidents()[0].Status }
	for _, step := range []struct {
		notice contract.Notice
		events int
		status string
	}{
		{story(contract.NoticeOpened), 1, "triggered"},
		{story(contract.NoticeOpened), 2, "triggered"},
		{story(contract.NoticeUpdated), 2, "triggered"},
		{story(contract.NoticeStep), 2, "triggered"},
		{question(), 3, "triggered"},
		{story(contract.NoticeDecided), 3, "triggered"},
		{story(contract.NoticeEscalated), 4, "triggered"},
		{story(contract.NoticeReminder), 5, "triggered"},
		{story(contract.NoticeUpdated, acknowledged), 6, "acknowledged"},
		{story(contract.NoticeReport, acknowledged), 7, "acknowledged"},
		{story(contract.NoticeUpdated, in(contract.IncidentClosing)), 7, "acknowledged"},
		{story(contract.NoticeClosed, in(contract.IncidentClosed)), 8, "resolved"},
		{story(contract.NoticeClosed, in(contract.IncidentClosed)), 8, "resolved"},
		{story(contract.NoticeOpened), 8, "resolved"}, // which came late
	} {
		require.NoError(t, p.Post(t.Context(), step.notice))
		require.Len(t, server.Incidents(), 1, "%s: one page", step.notice.Kind)
		require.Len(t, server.Incidents()[0].Events, step.events, step.notice.Kind)
		require.Equal(t, step.status, status(), step.notice.Kind)
	}
	require.Equal(t, incidentID, server.Incidents()[0].DedupKey)
	require.Empty(t, server.Changes())
}

// TestPagerDutyMakesUpForWhatItMissed: an incident that it was not told of is paged by the next word of it,
// unless somebody has it, mutes it, or it is over.
func TestPagerDutyHearsOfDrillsByTheirOwnServiceAlone(t *testing.T) {
	t.Parallel()
	drilled := func(kind contract.NoticeKind) contract.Notice {
		n := story(kind)
		n.Audience, n.Key.Tenant = contract.Drills, "flyball-drill"
		return n
	}
	server := pagerdutytest.New(t)
	silent := pagerOf(server)
	for _, kind := range []contract.NoticeKind{contract.NoticeOpened, contract.NoticeEscalated, contract.NoticeReminder, contract.NoticeActed, contract.NoticeReport, contract.NoticeClosed} {
		require.NoError(t, silent.Post(t.Context(), drilled(kind)))
	}
	require.Empty(t, server.Incidents(), "it has no service for drills")

	o := PagerDutyOptions{RoutingKey: "wakes", ChangeRoutingKey: "shows", DrillRoutingKey: "drills"}
	require.Equal(t, "drills", alertEvent(drilled(contract.NoticeOpened), pagerTrigger, o).RoutingKey)
	require.Equal(t, "drills", o.changeKey(drilled(contract.NoticeActed)))
	require.Equal(t, "wakes", alertEvent(story(contract.NoticeOpened), pagerTrigger, o).RoutingKey)

	own := NewPagerDuty(PagerDutyOptions{RoutingKey: "wakes", DrillRoutingKey: pagerdutytest.RoutingKey, API: server.URL})
	require.NoError(t, own.Post(t.Context(), drilled(contract.NoticeOpened)))
	require.Len(t, server.Incidents(), 1)
	report := drilled(contract.NoticeReport)
	report.ID, report.Incident, report.State = "drill/flyball-drill/1", "drill/flyball-drill/1", nil
	require.NoError(t, own.Post(t.Context(), report))
	require.Len(t, server.Incidents(), 1, "a drill's report is no alert: nothing would resolve it")
}

func TestPagerDutyMakesUpForWhatItMissed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		notice contract.Notice
		pages  int
	}{
		"an update":                 {story(contract.NoticeUpdated), 1},
		"of one that is taken on":   {story(contract.NoticeUpdated, acknowledged), 0},
		"of one that is muted":      {story(contract.NoticeUpdated, mutedKey), 0},
		"a question of a muted one": {story(contract.NoticeQuestion, mutedKey), 0},
		"of one that is closing":    {story(contract.NoticeUpdated, in(contract.IncidentClosing)), 0},
		"its end":                   {story(contract.NoticeClosed, in(contract.IncidentClosed)), 0},
		"a step":                    {story(contract.NoticeStep), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pagerdutytest.New(t)
			require.NoError(t, pagerOf(server).Post(t.Context(), c.notice))
			require.Len(t, server.Incidents(), c.pages)
		})
	}
}

func TestPagerDutyChanges(t *testing.T) {
	t.Parallel()
	server := pagerdutytest.New(t)
	require.NoError(t, pagerOf(server).Post(t.Context(), acted()))
	require.Empty(t, server.Incidents(), "an act pages nobody")
	require.Len(t, server.Changes(), 1)
}

// TestPagerDutyEvents: the events as they go over the wire.
func TestPagerDutyEvents(t *testing.T) {
	t.Parallel()
	group := page(contract.NoticeOpened, 0)
	group.ID = contract.GroupID("provider:openai", group.Opened)
	group.Incident, group.Key, group.Title = group.ID, usage.Key{}, "PAGE provider:openai: 60 keys"
	group.Group = &contract.GroupState{ID: group.ID, Input: contract.GroupInput{Cause: "provider:openai", Opened: group.Opened}, Phase: contract.IncidentOpen}
	for i := range 60 {
		key := contract.GroupKey{Key: usage.Key{Tenant: fmt.Sprintf("org_%02d", i), Model: "gpt-4o"}, Reason: "quality 0.60×"}
		if i == 0 {
			key.LeftAt = group.At
		}
		group.Group.Keys = append(group.Group.Keys, key)
	}
	carried := question()
	carried.Unreached = []string{"slack"}
	report := story(contract.NoticeReport, func(s *contract.IncidentState) { s.Report = "# Report\n\nIt was the deployment." })
	hostile := story(contract.NoticeOpened)
	hostile.Title, hostile.Key = "PAGE\r\n\u202eevil\x00"+strings.Repeat("é", 2000), usage.Key{Tenant: "a\nb", Model: strings.Repeat("m", 300)}

	for name, n := range map[string]contract.Notice{
		"opened": story(contract.NoticeOpened), "question": question(), "carried": carried, "report": report, "hostile": hostile,
		"group": group, "acted": acted(), "acknowledged": story(contract.NoticeUpdated, acknowledged), "closed": story(contract.NoticeClosed, in(contract.IncidentClosed)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var event any = changeEvent(n, PagerDutyOptions{ChangeRoutingKey: "key", Links: allLinks})
			if n.Kind != contract.NoticeActed {
				event = alertEvent(n, pagerAction(n, false), PagerDutyOptions{RoutingKey: "key", Links: allLinks})
			}
			got, err := json.MarshalIndent(event, "", "  ")
			require.NoError(t, err)
			file := filepath.Join("testdata", "pagerduty", name+".json")
			if *updatePagerDuty {
				require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
				require.NoError(t, os.WriteFile(file, append(got, '\n'), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, strings.TrimSpace(string(want)), string(got))

			server := pagerdutytest.New(t)
			require.NoError(t, pagerOf(server).Post(t.Context(), n), "PagerDuty takes it")
		})
	}
}

func TestDedupKeys(t *testing.T) {
	t.Parallel()
	require.Equal(t, incidentID, dedupKey(incidentID))
	long := contract.IncidentID(usage.Key{Tenant: strings.Repeat("t", 300), Model: "m"}, time.Unix(1, 0))
	key := dedupKey(long)
	require.LessOrEqual(t, len(key), maxDedupKey)
	require.True(t, strings.HasPrefix(key, hashedKey))
	require.NotEqual(t, key, dedupKey(long+"0"))
}

func TestHandlesInSummaries(t *testing.T) {
	t.Parallel()
	for _, title := range []string{"PAGE a/b: cost", "", strings.Repeat("é", 1000), "it says [abc123] already"} {
		summary := titled(title, incidentID)
		require.LessOrEqual(t, len(summary), maxSummary)
		require.Equal(t, contract.Handle(incidentID), handleIn(summary))
	}
	require.Empty(t, handleIn("The server is on fire."))
	require.Empty(t, handleIn("[abc123] The server is on fire."))
}

// TestPagerDutyFails: how each failure is judged, and that nothing is doubled by it.
func TestPagerDutyFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer       pagerdutytest.Answer
		says         string
		retryable    bool
		after        time.Duration
		changes      int // after a second try, where that is made
		changeIsLast bool
	}{
		"429":                      {answer: pagerdutytest.Answer{Status: 429, RetryAfter: "7"}, says: "answers 429", retryable: true, after: 7 * time.Second, changes: 1},
		"500":                      {answer: pagerdutytest.Answer{Status: 500}, says: "answers 500", retryable: true, changes: 1},
		"503":                      {answer: pagerdutytest.Answer{Status: 503}, says: "answers 503", retryable: true, changes: 1},
		"400":                      {answer: pagerdutytest.Answer{Status: 400}, says: "is notify.pagerduty.routing_key that of an Events API v2 integration"},
		"a redirect":               {answer: pagerdutytest.Answer{Status: 307}, says: "answers 307"},
		"a timeout":                {answer: pagerdutytest.Answer{Hangs: true}, says: "deadline exceeded", retryable: true, changeIsLast: true},
		"a timeout after it took":  {answer: pagerdutytest.Answer{Hangs: true, Takes: true}, says: "deadline exceeded", retryable: true, changes: 1, changeIsLast: true},
		"an error although it did": {answer: pagerdutytest.Answer{Status: 502, Takes: true}, says: "answers 502", retryable: true, changes: 1, changeIsLast: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pagerdutytest.New(t)
			p := pagerOf(server)
			post := func(n contract.Notice) error {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				return p.Post(ctx, n)
			}
			server.Script(c.answer)
			err := post(story(contract.NoticeOpened))
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.retryable, retryable(err))
			require.Equal(t, c.after, retryAfter(err))
			require.NotContains(t, err.Error(), pagerdutytest.RoutingKey)
			if c.retryable {
				require.NoError(t, p.Post(t.Context(), story(contract.NoticeOpened)))
				require.Len(t, server.Incidents(), 1, "one page")
			}

			server.Script(c.answer)
			err = post(acted())
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.retryable && !c.changeIsLast, retryable(err))
			if retryable(err) {
				require.NoError(t, p.Post(t.Context(), acted()))
			}
			require.Len(t, server.Changes(), c.changes)
		})
	}
}

// TestPagerDutyThroughTheRouter: an outage that outlasts one delivery, and what is there when it is over.
func TestPagerDutyThroughTheRouter(t *testing.T) {
	t.Parallel()
	server := pagerdutytest.New(t)
	board := &scripted{}
	r := both(pagerOf(server), board)
	post := func(n contract.Notice) (contract.PostResult, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 1100*time.Millisecond) // too short for a second round
		defer cancel()
		return r.Post(ctx, n)
	}
	server.Always(&pagerdutytest.Answer{Status: http.StatusInternalServerError})
	for range 2 { // which Temporal tries again
		result, err := post(story(contract.NoticeOpened))
		require.Error(t, err)
		require.Equal(t, []string{"slack"}, result.Posted)
		require.Contains(t, result.Unreached["pagerduty"], "answers 500")
	}
	require.Len(t, board.got, 1)
	require.Equal(t, []string{"pagerduty"}, board.got[0].Unreached)

	server.Always(nil)
	update := story(contract.NoticeUpdated)
	update.Seq = 1
	result, err := post(update)
	require.NoError(t, err)
	require.Equal(t, []string{"pagerduty", "slack"}, result.Posted)
	require.Len(t, server.Incidents(), 1, "it is paged as soon as PagerDuty is back")
	require.Equal(t, "triggered", server.Incidents()[0].Status)
}

// TestPagerDutyPagesOnceThroughAnyOutage: whatever PagerDuty answers, taking the event or not, and whichever of two
// workers tries again, an incident is one page, and its end is the page's.
func TestPagerDutyPagesOnceThroughAnyOutage(t *testing.T) {
	t.Parallel()
	course := []contract.Notice{
		story(contract.NoticeOpened), story(contract.NoticeStep), story(contract.NoticeUpdated), question(), acted(),
		story(contract.NoticeReminder), story(contract.NoticeUpdated, acknowledged), story(contract.NoticeReport, acknowledged),
		story(contract.NoticeClosed, in(contract.IncidentClosed)),
	}
	rapid.Check(t, func(rt *rapid.T) {
		server := pagerdutytest.New(t)
		workers := []*PagerDuty{pagerOf(server), pagerOf(server)}
		for _, n := range course {
			for try, told := 0, 0; told == 0 || try < rapid.IntRange(0, 3).Draw(rt, "tries"); try++ {
				server.Script(pagerdutytest.Answer{
					Status: rapid.SampledFrom([]int{0, 0, 0, 429, 500, 502, 503}).Draw(rt, "status"), Takes: rapid.Bool().Draw(rt, "takes"),
				})
				if try > 4 {
					server.Script()
				}
				err := workers[rapid.IntRange(0, 1).Draw(rt, "worker")].Post(t.Context(), n)
				if err == nil || !retryable(err) {
					told++
				}
			}
			require.LessOrEqual(rt, len(server.Incidents()), 1)
		}
		require.Len(rt, server.Incidents(), 1)
		require.Equal(rt, "resolved", server.Incidents()[0].Status)
	})
}

func TestAskedPause(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "-7": 0, "x": 0, "99999999999999999999": 0, "86400": maxAsked,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second, "Thu, 01 Jan 2026 03:04:35 GMT": 0,
	} {
		require.Equal(t, want, askedPause(header, now), header)
	}
}
