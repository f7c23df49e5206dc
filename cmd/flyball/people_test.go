package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The work that is open in these tests.
var (
	peopleKey = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	began     = time.Date(2026, 1, 15, 9, 30, 0, 0, time.UTC)
	anIncident, aGroup, aDecision,
	aLoop = contract.IncidentID(peopleKey, began), contract.GroupID("provider:openai", began),
		contract.DecisionID(contract.IncidentID(peopleKey, began), "downgrade", 1), contract.AlertLoopID(peopleKey)
)

// memory is a Temporal with that work, whose worker answers every update with the workflow's state. The
// methods that the inbox does not use are nobody's.
type memory struct {
	inbox.Temporal
	states  map[string]any // what workflows answer, by id
	refuse  error
	updates []client.UpdateWorkflowOptions
}

func newMemory() *memory {
	muted := &contract.Mute{Until: time.Now().Add(time.Hour), Who: "ann", Reason: "load test"}
	return &memory{states: map[string]any{
		anIncident: contract.IncidentState{ID: anIncident, Phase: contract.IncidentOpen, Input: contract.IncidentInput{Key: peopleKey, Opened: began}},
		aGroup: contract.GroupState{
			ID: aGroup, Phase: contract.IncidentOpen, Input: contract.GroupInput{Cause: "provider:openai", Opened: began},
			Keys: []contract.GroupKey{{Key: peopleKey}},
		},
		aDecision: contract.DecisionState{
			ID: aDecision, Status: contract.AwaitingApproval,
			Input: contract.DecisionInput{Key: peopleKey, Incident: anIncident, Proposal: contract.Proposal{Action: "downgrade", Value: "claude-3-haiku"}},
		},
		aLoop: contract.AlertLoopState{Key: peopleKey, Mute: muted},
	}}
}

func (m *memory) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	page := &workflowservice.ListWorkflowExecutionsResponse{}
	for kind, id := range map[string]string{contract.Incident: anIncident, contract.Group: aGroup, contract.Decision: aDecision, contract.AlertLoop: aLoop} {
		if strings.Contains(r.GetQuery(), `"`+kind+`"`) {
			page.Executions = append(page.Executions, &workflow.WorkflowExecutionInfo{Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
		}
	}
	return page, nil
}

func (m *memory) QueryWorkflow(_ context.Context, id, _, query string, _ ...any) (converter.EncodedValue, error) {
	if query != contract.State {
		return said{&sdk.WorkflowMetadata{CurrentDetails: "the story"}}, nil
	}
	if s, ok := m.states[id]; ok {
		return said{s}, nil
	}
	return nil, errors.New("no such workflow")
}

func (m *memory) UpdateWorkflow(_ context.Context, o client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	m.updates = append(m.updates, o)
	answer := m.states[o.WorkflowID]
	if o.UpdateName == contract.SetMute {
		answer = contract.MuteState{}
		if d := o.Args[0].(contract.MuteRequest).For; d > 0 {
			answer = contract.MuteState{Mute: &contract.Mute{Until: began.Add(d)}}
		}
	}
	return taken{value: said{answer}}, m.refuse
}

func (m *memory) NewWithStartWorkflowOperation(client.StartWorkflowOptions, any, ...any) client.WithStartWorkflowOperation {
	return nil
}

func (m *memory) UpdateWithStartWorkflow(ctx context.Context, o client.UpdateWithStartWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	return m.UpdateWorkflow(ctx, o.UpdateOptions)
}

type said struct{ v any }

func (s said) HasValue() bool { return true }
func (s said) Get(into any) error {
	text, err := json.Marshal(s.v)
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(text, into)
}

type taken struct {
	client.WorkflowUpdateHandle
	value said
}

func (t taken) Get(_ context.Context, into any) error { return t.value.Get(into) }

// people runs one of the people's commands on m.
func people(t *testing.T, m *memory, args ...string) (code int, out, errs string) {
	t.Helper()
	root := &cobra.Command{Use: "flyball", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(peopleCommands(func(context.Context, string, string) (inbox.Temporal, func(), error) { return m, func() {}, nil })...)
	var stdout, stderr bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = execute(t.Context(), root)
	return code, stdout.String(), stderr.String()
}

func TestWhatPeopleAskFor(t *testing.T) {
	t.Parallel()
	incident, group, decision := contract.Handle(anIncident), contract.Handle(aGroup), contract.Handle(aDecision)
	for name, c := range map[string]struct {
		args     []string
		workflow string
		update   string
		arg      any
		says     string
	}{
		"approve":        {[]string{"approve", decision, "--who", "ann"}, aDecision, contract.Decide, contract.DecideRequest{Verdict: "approve", Who: "ann"}, "downgrade of org_42/claude-3-opus to claude-3-haiku"},
		"deny":           {[]string{"deny", decision, "--who", "ann", "--reason", "no"}, aDecision, contract.Decide, contract.DecideRequest{Verdict: "deny", Who: "ann", Reason: "no"}, "downgrade"},
		"ack":            {[]string{"incidents", "ack", incident, "--who", "ann", "--note", "looking"}, anIncident, contract.Acknowledge, contract.AcknowledgeRequest{Who: "ann", Note: "looking"}, "Taken on by ann: " + anIncident},
		"ack of a group": {[]string{"incidents", "ack", group, "--who", "ann"}, aGroup, contract.Acknowledge, contract.AcknowledgeRequest{Who: "ann"}, "Taken on by ann: " + aGroup},
		"resolve":        {[]string{"incidents", "resolve", incident, "--who", "ann", "--reason", "over"}, aLoop, contract.Resolve, contract.ResolveRequest{Who: "ann", Reason: "over"}, "Resolved: " + anIncident},
		"resolve all":    {[]string{"incidents", "resolve", group, "--who", "ann"}, aGroup, contract.Resolve, contract.ResolveRequest{Who: "ann"}, "Resolved: " + aGroup},
		"skip":           {[]string{"incidents", "skip", incident, "T+2", "--who", "ann", "--reason", "no"}, anIncident, contract.SkipStep, contract.SkipStepRequest{Step: "T+2", Who: "ann", Reason: "no"}, "T+2 is skipped"},
		"rerun":          {[]string{"incidents", "rerun", incident, "T0", "--who", "ann"}, anIncident, contract.RerunStep, contract.RerunStepRequest{Step: "T0", Who: "ann"}, "T0 is walked once more"},
		"note":           {[]string{"incidents", "note", incident, "rolled back", "--who", "ann"}, anIncident, contract.Annotate, contract.AnnotateRequest{Who: "ann", Text: "rolled back"}, "Noted: "},
		"split":          {[]string{"incidents", "split", group, "org_42/claude-3-opus", "--who", "ann", "--reason", "its own"}, aGroup, contract.Split, contract.SplitRequest{Key: peopleKey, Who: "ann", Reason: "its own"}, "org_42/claude-3-opus is out of"},
		"mute a key":     {[]string{"mute", "org_42/claude-3-opus", "--for", "2h", "--who", "ann", "--reason", "test"}, aLoop, contract.SetMute, contract.MuteRequest{For: 2 * time.Hour, Who: "ann", Reason: "test"}, "Muted until 2026-01-15T11:30:00Z"},
		"mute a tenant":  {[]string{"mute", "org_42", "--for", "2h", "--who", "ann", "--reason", "test"}, "alert/org_42/%2A", contract.SetMute, contract.MuteRequest{For: 2 * time.Hour, Who: "ann", Reason: "test"}, "Muted until"},
		"mute a group":   {[]string{"mute", group, "--for", "30m", "--who", "ann", "--reason", "test"}, aGroup, contract.SetMute, contract.MuteRequest{For: 30 * time.Minute, Who: "ann", Reason: "test"}, "Muted until"},
		"unmute":         {[]string{"unmute", incident, "--who", "ann"}, aLoop, contract.SetMute, contract.MuteRequest{Who: "ann"}, "Not muted: " + aLoop},
		"accept a level": {[]string{"accept-level", incident, "--who", "ann", "--reason", "meant"}, aLoop, contract.AcceptLevel, contract.AcceptLevelRequest{Who: "ann", Reason: "meant"}, "The new level is the usual one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			code, out, errs := people(t, m, c.args...)
			require.Zero(t, code, errs)
			require.Contains(t, out, c.says)
			require.Len(t, m.updates, 1)
			require.Equal(t, c.workflow, m.updates[0].WorkflowID)
			require.Equal(t, c.update, m.updates[0].UpdateName)
			require.Equal(t, []any{c.arg}, m.updates[0].Args)

			code, out, errs = people(t, newMemory(), append(c.args, "--json")...)
			require.Zero(t, code, errs)
			var answer struct{ Outcome inbox.Outcome }
			require.NoError(t, json.Unmarshal([]byte(out), &answer))
			require.True(t, answer.Outcome.Answered)

			m = newMemory()
			m.refuse = temporal.NewNonRetryableApplicationError("it is over", contract.ErrRefused, nil)
			code, _, errs = people(t, m, c.args...)
			require.Equal(t, exitFailed, code)
			require.Contains(t, errs, "it is over")
		})
	}
}

func TestWhatPeopleSee(t *testing.T) {
	t.Parallel()
	incident := contract.Handle(anIncident)
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"all":      {[]string{"incidents"}, []string{"provider:openai  1 key,", incident, "downgrade to claude-3-haiku: awaiting approval", "muted   org_42/claude-3-opus"}},
		"as JSON":  {[]string{"incidents", "--json"}, []string{`"groups":[{`, `"incidents":[{`, `"decisions":[{`, `"target":"org_42/claude-3-opus"`}},
		"one":      {[]string{"incidents", "show", incident}, []string{anIncident + "\n\nthe story\n"}},
		"its data": {[]string{"incidents", "show", incident, "--json"}, []string{`"details":"the story"`, `"phase":"open"`}},
		"report":   {[]string{"incidents", "report", incident}, []string{"There is no report yet", "the story"}},
		"mutes":    {[]string{"mutes"}, []string{"muted   org_42/claude-3-opus for 1h0m0s by ann: load test"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := people(t, newMemory(), c.args...)
			require.Zero(t, code, errs)
			for _, text := range c.says {
				require.Contains(t, out, text)
			}
		})
	}
	code, _, errs := people(t, newMemory(), "incidents", "show", "zzz")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, `"zzz"`)
}

// Every command of theirs shows by example how it is used, and says who asks.
func TestPeoplesCommandsExplainThemselves(t *testing.T) {
	t.Parallel()
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		require.Contains(t, c.Example, c.CommandPath(), c.CommandPath())
		require.NotNil(t, c.Flags().Lookup("json"), c.CommandPath())
		for _, below := range c.Commands() {
			check(below)
		}
	}
	root := &cobra.Command{Use: "flyball"}
	root.AddCommand(peopleCommands(nil)...)
	for _, c := range root.Commands() {
		check(c)
	}
}
