//go:build e2e

package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// tool is a command line of Temporal's own, by which people speak to workflows without Flyball.
type tool struct {
	s       *stack
	program string
	start   func(workflowType, id, input string) []string
	signal  func(id, name, input string) []string
	query   func(id string) []string
	list    func(query string) []string
}

// tctl is the old one, which has no updates: whatever people may ask for has a signal. It is pinned in tools/.
func tctl(s *stack) tool {
	words := func(words ...string) []string {
		return append([]string{"--address", strings.TrimPrefix(s.addresses.Temporal, "http://"), "--namespace", "default", "workflow"}, words...)
	}
	return tool{
		s: s, program: filepath.Join(root, "bin", "tctl"),
		start: func(workflowType, id, input string) []string {
			return words("start", "--tq", contract.TaskQueue, "--wt", workflowType, "--wid", id, "--et", "3600", "-i", input)
		},
		signal: func(id, name, input string) []string { return words("signal", "-w", id, "-n", name, "-i", input) },
		query:  func(id string) []string { return words("query", "-w", id, "-qt", contract.State) },
		list:   func(query string) []string { return words("list", "-q", query, "--print_json") },
	}
}

// temporal is the new one.
func temporal(s *stack) tool {
	words := func(words ...string) []string {
		return append(append([]string{"workflow"}, words...), "--address", strings.TrimPrefix(s.addresses.Temporal, "http://"))
	}
	return tool{
		s: s, program: "temporal",
		start: func(workflowType, id, input string) []string {
			return words("start", "--task-queue", contract.TaskQueue, "--type", workflowType, "--workflow-id", id, "--input", input)
		},
		signal: func(id, name, input string) []string {
			return words("signal", "--workflow-id", id, "--name", name, "--input", input)
		},
		query: func(id string) []string {
			return words("query", "--workflow-id", id, "--type", contract.State, "--output", "json")
		},
		list: func(query string) []string { return words("list", "--query", query, "--output", "json") },
	}
}

// try runs the tool and returns all that it prints.
func (c tool) try(args []string) (string, error) {
	out, err := exec.CommandContext(c.s.t.Context(), c.program, args...).CombinedOutput()
	return string(out), err
}

func (c tool) run(args []string) string {
	c.s.t.Helper()
	out, err := c.try(args)
	require.NoErrorf(c.s.t, err, "%s %s: %s", c.program, strings.Join(args, " "), out)
	return out
}

// state reads a workflow's state out of what a query printed: tctl prints it after a heading, in a list, and
// temporal within its own object. It reports whether there is one.
func (c tool) state(id string, into any) bool {
	out, err := c.try(c.query(id))
	from := strings.IndexByte(out, '{')
	if err != nil || from < 0 {
		return false
	}
	var wrapped struct {
		QueryResult []json.RawMessage `json:"queryResult"`
	}
	var answer json.RawMessage
	if json.NewDecoder(strings.NewReader(out[from:])).Decode(&answer) != nil {
		return false
	}
	if json.Unmarshal(answer, &wrapped) == nil && len(wrapped.QueryResult) == 1 {
		answer = wrapped.QueryResult[0]
	}
	return json.Unmarshal(answer, into) == nil
}

// until polls a state until it is as wanted.
func until[T any](c tool, what, id string, wanted func(T) bool) (last T) {
	c.s.t.Helper()
	c.s.until(what, 2*time.Minute, func() bool {
		var state T
		if !c.state(id, &state) {
			return false
		}
		last = state
		return wanted(state)
	})
	return last
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// What docs/operations.md says can be done by hand is done here: by tctl, and by temporal where it is installed.
func TestByHand(t *testing.T) {
	s := up(t, filepath.Join(t.TempDir(), "state"), "--port-base", freeBase(t), "--no-simulator")
	for name, open := range map[string]func(*stack) tool{"tctl": tctl, "temporal": temporal} {
		t.Run(name, func(t *testing.T) {
			local := *s
			local.t = t
			c := open(&local)
			if _, err := exec.LookPath(c.program); err != nil {
				t.Skipf("%s is not there: %v (make bin/tctl builds tctl; the temporal command is Temporal's to install)", name, err)
			}
			recalibrateByHand(t, c, name)
			decideByHand(t, c, usage.Key{Tenant: "byhand-" + name, Model: "gpt-4o"})
			muteByHand(t, c, usage.Key{Tenant: "byhand-" + name, Model: "o3"})
		})
	}
}

// recalibrateByHand starts a calibration and asks it for one more. It ends when nobody wants more, so it may
// have to be started again until the signal finds it running.
func recalibrateByHand(t *testing.T, c tool, tenant string) {
	id := contract.CalibrationID(tenant)
	ask := asJSON(t, contract.RecalibrateRequest{Who: "ann", Reason: "a new model version"})
	c.s.until("a calibration takes the signal", 2*time.Minute, func() bool {
		_, _ = c.try(c.start(contract.Calibration, id, asJSON(t, map[string]string{"tenant": tenant}))) // it may run already
		_, err := c.try(c.signal(id, contract.Recalibrate, ask))
		return err == nil
	})
	until(c, "the baselines are computed as ann asked", id, func(s contract.CalibrationState) bool { return s.Runs > 0 && s.Who == "ann" && s.Failed == "" })
}

// decideByHand starts a decision that asks, finds it by its state, and denies it by signal.
func decideByHand(t *testing.T, c tool, key usage.Key) {
	incident := contract.IncidentID(key, time.Now())
	id := contract.DecisionID(incident, "downgrade", 1)
	c.run(c.start(contract.Decision, id, asJSON(t, contract.DecisionInput{
		Key: key, Incident: incident, Attempt: 1, Tuning: contract.NewTuning(0.1),
		Proposal: contract.Proposal{
			Action: "downgrade", Mode: contract.Ask, Kind: routing.Route, Value: "gpt-4o-mini", Expiry: time.Hour, Rule: "byhand", Reason: "a drill",
		},
	})))
	until(c, "the decision asks", id, func(s contract.DecisionState) bool { return s.Status == contract.AwaitingApproval })
	c.s.until("the list finds it by its state", time.Minute, func() bool {
		return strings.Contains(c.run(c.list(`WorkflowType="Decision" AND FlyballState="awaiting_approval"`)), id)
	})
	require.NotContains(t, c.run(c.list(`WorkflowType="Decision" AND FlyballState="holding"`)), id)
	c.run(c.signal(id, contract.Decide, asJSON(t, contract.DecideRequest{Verdict: contract.Deny, Who: "ann", Reason: "the launch is today"})))
	denied := until(c, "the denial is heard", id, func(s contract.DecisionState) bool { return s.Status == contract.Denied })
	require.Equal(t, "ann", denied.Verdict.Who, "the decision keeps who decided")
}

// muteByHand mutes a quiet key, which Flyball's own command starts the loop for, then sets a longer mute by
// signal, and ends it by one: the loop then has nothing left to own.
func muteByHand(t *testing.T, c tool, key usage.Key) {
	id := contract.AlertLoopID(key)
	c.s.cli("mute", key.String(), "--for", "10m", "--who", "ann", "--reason", "a drill")
	first := until(c, "the mute is on", id, func(s contract.AlertLoopState) bool { return s.Mute != nil })
	c.s.until("the list finds its loop by tenant and model", time.Minute, func() bool {
		return strings.Contains(c.run(c.list(`WorkflowType="AlertLoop" AND FlyballTenant="`+key.Tenant+`" AND FlyballModel="`+key.Model+`"`)), id)
	})
	require.NotContains(t, c.run(c.list(`WorkflowType="AlertLoop" AND FlyballTenant="nobody"`)), id)
	c.run(c.signal(id, contract.SetMute, asJSON(t, contract.MuteRequest{For: time.Hour, Who: "bob", Reason: "a longer drill"})))
	longer := until(c, "the longer mute is on", id, func(s contract.AlertLoopState) bool { return s.Mute != nil && s.Mute.Who == "bob" })
	require.True(t, longer.Mute.Until.After(first.Mute.Until))
	require.Contains(t, c.s.cli("mutes"), key.String())
	c.run(c.signal(id, contract.SetMute, asJSON(t, contract.MuteRequest{Who: "bob"})))
	c.s.until("nothing is muted", time.Minute, func() bool { return !strings.Contains(c.s.cli("mutes"), key.String()) })
}
