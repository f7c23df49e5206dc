//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/internal/contract"
)

// actions are the billable actions of some workflows by kind, as far as histories show them, counted by
// https://docs.temporal.io/cloud/actions: a workflow started (one for a signal that starts it, two for a
// child), an activity's every attempt, a timer, a signal, an accepted update, an upsert of search attributes,
// a side effect. Histories show neither heartbeats nor queries nor refused updates.
type actions map[string]int

func (a actions) total() (n int) {
	for _, v := range a {
		n += v
	}
	return n
}

func (a actions) add(b actions) {
	for kind, n := range b {
		a[kind] += n
	}
}

func (a actions) minus(b actions) actions {
	rest := maps.Clone(a)
	for kind, n := range b {
		if rest[kind] -= n; rest[kind] == 0 {
			delete(rest, kind)
		}
	}
	return rest
}

func (a actions) String() string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(a)) {
		parts = append(parts, fmt.Sprintf("%s %d", kind, a[kind]))
	}
	return strings.Join(parts, ", ")
}

// actionsOf counts the actions of the workflow's newest run.
func (s *stack) actionsOf(c client.Client, id string) actions { return s.actionsOfRun(c, id, "") }

func (s *stack) actionsOfRun(c client.Client, id, run string) actions {
	a := actions{}
	var before *history.HistoryEvent
	for events := c.GetWorkflowHistory(s.t.Context(), id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		require.NoError(s.t, err)
		if kind, n := action(e, before); n > 0 {
			a[kind] += n
		}
		before = e
	}
	return a
}

// action is what an event counts for; before is the event before it.
func action(e, before *history.HistoryEvent) (kind string, n int) {
	switch e.GetEventType() {
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
		if e.GetWorkflowExecutionStartedEventAttributes().GetParentWorkflowExecution() == nil {
			return "started", 1
		}
	case enums.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
		return "started", 2
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
		first := before.GetEventType() == enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
		if first && before.GetWorkflowExecutionStartedEventAttributes().GetParentWorkflowExecution() == nil {
			return "", 0 // the signal that started it
		}
		return "signals", 1
	case enums.EVENT_TYPE_TIMER_STARTED:
		return "timers", 1
	case enums.EVENT_TYPE_ACTIVITY_TASK_STARTED:
		return "activities", int(e.GetActivityTaskStartedEventAttributes().GetAttempt())
	case enums.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES:
		fields := e.GetUpsertWorkflowSearchAttributesEventAttributes().GetSearchAttributes().GetIndexedFields()
		if _, version := fields["TemporalChangeVersion"]; !version || len(fields) > 1 {
			return "upserts", 1
		}
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
		return "updates", 1
	case enums.EVENT_TYPE_MARKER_RECORDED:
		if e.GetMarkerRecordedEventAttributes().GetMarkerName() != "Version" {
			return "markers", 1
		}
	}
	return "", 0
}

// incidentActions counts, by type of workflow, the actions of everything that a tenant's incidents did, and
// how many incidents those were; open is how many of the workflows have not ended.
func (s *stack) incidentActions(c client.Client, tenant string) (byType map[string]actions, incidents, open int) {
	byType = map[string]actions{}
	request := &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("%s = %q", contract.AttrTenant, tenant)}
	for {
		page, err := c.ListWorkflow(s.t.Context(), request)
		require.NoError(s.t, err)
		for _, e := range page.GetExecutions() {
			kind := e.GetType().GetName()
			if kind == contract.Incident {
				incidents++
			}
			if e.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING && kind != contract.Autonomy {
				open++
			}
			if byType[kind] == nil {
				byType[kind] = actions{}
			}
			byType[kind].add(s.actionsOfRun(c, e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId()))
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return byType, incidents, open
		}
	}
}

// printIncidentActions prints the actions of the tenants' incidents, those that have ended apart from those
// that are still open.
func (s *stack) printIncidentActions(tenants []string) {
	c := s.dialTemporal()
	defer c.Close()
	table := tabwriter.NewWriter(s.t.Output(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "incidents\tn\tactions each\tof which")
	for _, ended := range []bool{true, false} {
		all, incidents := map[string]actions{}, 0
		for _, tenant := range tenants {
			byType, n, open := s.incidentActions(c, tenant)
			if n == 0 || (open == 0) != ended {
				continue
			}
			incidents += n
			for kind, a := range byType {
				if all[kind] == nil {
					all[kind] = actions{}
				}
				all[kind].add(a)
			}
		}
		if incidents == 0 {
			continue
		}
		state := map[bool]string{true: "ended", false: "still open"}[ended]
		total := 0
		for _, a := range all {
			total += a.total()
		}
		fmt.Fprintf(table, "%s\t%d\t%.1f\t\n", state, incidents, float64(total)/float64(incidents))
		for _, kind := range slices.Sorted(maps.Keys(all)) {
			fmt.Fprintf(table, "\t\t%.1f\t%s: %s\n", float64(all[kind].total())/float64(incidents), kind, all[kind])
		}
	}
	require.NoError(s.t, table.Flush())
}

// printActions prints what keys cost in actions, idle and failing.
func (b *alertBench) printActions() {
	perHour := func(n int) float64 { return float64(n) / b.idle.lasted.Hours() }
	perKeys := perHour(b.idle.workflows) * 1000 / float64(b.idle.keys)
	b.t.Logf("%d idle keys for %s: workflows beside the sweep %d, that is %.1f per 1,000 keys and hour; the sweep itself, however many keys: %.0f actions an hour in its history (%s) and %.0f heartbeats",
		b.idle.keys, b.idle.lasted.Round(0), b.idle.workflows, perKeys, perHour(b.idle.sweep.total()), b.idle.sweep, perHour(b.idle.beats))
	var tenants []string
	for _, kind := range b.kinds {
		for _, s := range kind.streams[:min(len(kind.streams), 20)] {
			tenants = append(tenants, s.key().Tenant)
		}
	}
	b.printIncidentActions(tenants)
}
