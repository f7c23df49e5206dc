package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// StartGroup sees to it that an incident of many keys runs. It is not started twice: one that has ended has
// told people so, and ended reports it.
func (l *Loop) StartGroup(ctx context.Context, in contract.GroupInput) (ended bool, err error) {
	options := startOptions(contract.GroupID(in.Cause, in.Opened), keyAttributes(usage.Key{Tenant: usage.AnyModel, Model: in.Cause}))
	options.WorkflowIDReusePolicy = enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
	options.WorkflowExecutionErrorWhenAlreadyStarted = true
	options.StaticSummary = "many keys fail together: " + in.Cause
	_, err = l.Client.ExecuteWorkflow(ctx, options, contract.Group, in)
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &started) || temporal.IsWorkflowExecutionAlreadyStartedError(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("starting the group of %s: %w", in.Cause, err)
	}
	return false, nil
}

// Groups lists the ids of the incidents of many keys that run.
func (l *Loop) Groups(ctx context.Context) ([]string, error) {
	var ids []string
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType=%q AND ExecutionStatus=%q", contract.Group, "Running"), PageSize: 200,
	}
	for {
		page, err := l.Client.ListWorkflow(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("listing the groups: %w", err)
		}
		for _, e := range page.GetExecutions() {
			ids = append(ids, e.GetExecution().GetWorkflowId())
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return ids, nil
		}
	}
}

// storms is what a round of ticks knows of keys that fail together.
type storms struct {
	alert.Storms
	observed    []alert.Observed // the keys that this tick could judge
	providers   map[usage.Key]string
	providersAt time.Time
	running     map[string]time.Time // when the group of an id was last seen to run
}

// providersEvery is how often the providers of the keys are read while keys fail together, and providersOver
// the time that they are read from: longer than a key is silent before that is a finding.
const (
	providersEvery = time.Minute
	providersOver  = 30 * time.Minute
)

// observe notes a key that this tick has judged. One whose telemetry says nothing is not: no data is neither
// well nor ill. Nor is a drill's: a fault that was made up joins no storm, makes none, and says nothing of a provider.
func (s *storms) observe(f detect.Finding) {
	if usage.IsDrill(f.Key.Tenant) {
		return
	}
	found := up(f.Verdict.Level)
	if found || f.Facts.CostKnown || f.Facts.QualityKnown {
		s.observed = append(s.observed, alert.Observed{Key: f.Key, Found: found})
	}
}

// recall takes over the groups that run, whoever started them: another shard, or a worker that has died.
func (s *sweep) recall(ctx context.Context, now time.Time) error {
	ids, err := s.Loops.Groups(ctx)
	if err != nil {
		return err
	}
	open := map[string]alert.Storm{}
	for _, id := range ids {
		if cause, opened, err := contract.GroupOf(id); err != nil {
			s.Log.WarnContext(ctx, "a group under a foreign id is left alone", "workflow", id, "error", err)
		} else if before, known := open[cause]; !known || opened.Before(before.Opened) {
			open[cause] = alert.Storm{Opened: opened}
		}
	}
	for cause, storm := range open {
		if _, known := s.storms.Open[cause]; !known {
			s.storms.remember(cause, storm, now)
		}
	}
	return nil
}

// remember notes a storm whose group runs.
func (s *storms) remember(cause string, storm alert.Storm, now time.Time) {
	if s.Open == nil {
		s.Open = map[string]alert.Storm{}
	}
	if s.running == nil {
		s.running = map[string]time.Time{}
	}
	s.Open[cause] = storm
	s.running[contract.GroupID(cause, storm.Opened)] = now
}

// belongs notes that a listed loop is in a group, so that its key stays there.
func (s *sweep) belongs(key usage.Key, group string) {
	cause, opened, err := contract.GroupOf(group)
	if err != nil || !s.storms.Open[cause].Opened.Equal(opened) {
		return
	}
	if s.storms.Of == nil {
		s.storms.Of = map[usage.Key]string{}
	}
	s.storms.Of[key] = cause
}

// message is what a loop is told of a finding.
type message struct {
	contract.FactsMessage
	start bool // a loop that is not there is started
}

// group says which of the findings belong together, sees to it that their groups run, and returns what the
// loops are to hear now: what is due, and what has come to belong elsewhere.
func (s *sweep) group(ctx context.Context, findings []detect.Finding, now time.Time) ([]message, error) {
	s.gather(ctx, now)
	messages := make([]message, 0, len(findings))
	busy := map[string]bool{} // causes that get a key
	for _, f := range findings {
		h := s.held[f.Key]
		m := message{FactsMessage: contract.FactsMessage{Finding: f, Epoch: s.epoch}}
		// A finding starts a loop, unless it was judged by the thresholds that hold a level: once a person has
		// resolved a page, the next tick judges the key anew, by those that enter one.
		m.start = up(f.Verdict.Level) && (h == nil || !up(h.level))
		if cause, in := s.storms.Of[f.Key]; in && up(f.Verdict.Level) {
			m.Group = contract.GroupID(cause, s.storms.Open[cause].Opened)
			busy[cause] = busy[cause] || m.start || h.group != m.Group
		}
		moved := h != nil && up(f.Verdict.Level) && h.group != m.Group
		if moved || s.due(h, f.Verdict.Level, now) {
			messages = append(messages, m)
		}
	}
	return s.started(ctx, messages, busy, now)
}

// gather takes the step from the storms of the last tick to those of this one. Few findings in a calm need
// none, which is the common case.
func (s *sweep) gather(ctx context.Context, now time.Time) {
	found := 0
	for _, o := range s.storms.observed {
		if o.Found {
			found++
		}
	}
	if s.storms.Calm() && found < alert.DefaultGrouping.Keys {
		return
	}
	if now.Sub(s.storms.providersAt) >= providersEvery {
		providers, err := s.Store.Providers(ctx, now.Add(-providersOver), now)
		if err != nil {
			s.Log.WarnContext(ctx, "the providers of keys that fail could not be read; the last known serve on", "error", err)
		} else { // a key that has fallen silent is served by nobody now, and fails by the one who did
			if s.storms.Calm() || s.storms.providers == nil {
				s.storms.providers = map[usage.Key]string{}
			}
			maps.Copy(s.storms.providers, providers)
		}
		s.storms.providersAt = now
	}
	for i := range s.storms.observed {
		o := &s.storms.observed[i]
		o.Provider = s.storms.providers[o.Key]
	}
	grouping := alert.DefaultGrouping
	grouping.Linger = s.request.Tuning.Scaled(grouping.Linger)
	s.storms.Storms = s.storms.Step(s.storms.observed, grouping, now)
}

// started sees to it that the groups that messages name run, before a loop tries to join one. A storm whose
// group has ended opens another, unless it was about to be over: what still fails is then left to itself.
// Loops whose group cannot be started hear nothing this time.
func (s *sweep) started(ctx context.Context, messages []message, busy map[string]bool, now time.Time) ([]message, error) {
	var failed []error
	renamed, away := map[string]string{}, map[string]bool{}
	for _, cause := range slices.Sorted(maps.Keys(s.storms.Open)) {
		storm := s.storms.Open[cause]
		id := contract.GroupID(cause, storm.Opened)
		if seen, runs := s.storms.running[id]; runs && !busy[cause] && now.Sub(seen) < relistEvery || !names(messages, id) {
			continue
		}
		name, err := s.startGroup(ctx, cause, storm, now)
		switch {
		case err != nil:
			failed = append(failed, err)
			away[id] = true
		case name != id:
			renamed[id] = name
		}
	}
	messages = slices.DeleteFunc(messages, func(m message) bool { return away[m.Group] })
	for i := range messages {
		if name, is := renamed[messages[i].Group]; is {
			messages[i].Group = name
		}
	}
	return messages, errors.Join(failed...)
}

func names(messages []message, group string) bool {
	return slices.ContainsFunc(messages, func(m message) bool { return m.Group == group })
}

// startGroup starts the group of a storm, and returns the id of the one that runs; empty: none does.
func (s *sweep) startGroup(ctx context.Context, cause string, storm alert.Storm, now time.Time) (id string, err error) {
	in := contract.GroupInput{Cause: cause, Opened: storm.Opened, Tuning: s.request.Tuning}
	id = contract.GroupID(cause, in.Opened)
	ended, err := s.Loops.StartGroup(ctx, in)
	if err == nil && ended {
		delete(s.storms.running, id)
		if !storm.Low.IsZero() {
			delete(s.storms.Open, cause)
			maps.DeleteFunc(s.storms.Of, func(_ usage.Key, of string) bool { return of == cause })
			return "", nil
		}
		storm = alert.Storm{Opened: now}
		in.Opened = now
		id = contract.GroupID(cause, in.Opened)
		if ended, err = s.Loops.StartGroup(ctx, in); ended {
			err = fmt.Errorf("the group of %s has ended within the second", cause)
		}
	}
	if err != nil {
		return "", err
	}
	s.storms.remember(cause, storm, now)
	return id, nil
}
