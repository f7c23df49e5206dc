//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// TestChaos lets many keys fail at once, each for a cause of its own, and kills everything meanwhile: the
// worker, the Temporal server, the engine, Redis with all that it holds; the channels refuse. A person
// approves, denies and leaves questions open all the time. Afterwards every incident has ended, people were
// told once of each, no flag is on, every approval was carried out once and every denial never.
// FLYBALL_SOAK makes it 200 keys and a quarter of an hour of kills; FLYBALL_CHAOS_N changes the number of keys.
func TestChaos(t *testing.T) {
	keys, lasts := 10, time.Duration(0)
	if os.Getenv("FLYBALL_SOAK") != "" {
		keys, lasts = 200, 15*time.Minute
	}
	if n, err := strconv.Atoi(os.Getenv("FLYBALL_CHAOS_N")); err == nil && n > 0 {
		keys = n
	}
	c := newChaos(t, keys)
	c.rage(lasts)
	c.mend()
	c.settle(lasts == 0)
	c.check()
}

// chaos is a stack that is being killed.
type chaos struct {
	*stack
	streams  []*stream
	worker   *process
	channels channels
	gateway  string
	redis    *redisServer // nil where no redis-server is on the PATH: the stack's own is not wiped
	settings string
	temporal client.Client
	began    time.Time
	looked   time.Time
	strikes  map[string]int
	verdicts map[string]string // by decision: approve, deny or nothing
}

func newChaos(t *testing.T, keys int) *chaos {
	c := &chaos{strikes: map[string]int{}, verdicts: map[string]string{}}
	for n := range keys {
		c.streams = append(c.streams, &stream{n: n, rate: 1.5, scored: 1})
	}
	c.stack = up(t, filepath.Join(t.TempDir(), "state"), "--port-base", freeBase(t), "--no-simulator", "--no-worker")
	section := c.redisSection()
	if path, err := exec.LookPath("redis-server"); err == nil {
		c.redis = startRedis(t, path)
		section = fmt.Sprintf("redis: {addr: %q}", c.redis.address)
	}
	c.gateway = c.front(c.streams, section)
	c.channels = c.fakeChannels()
	policies := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(policies, "tradeoff.yaml"), []byte(tradeoff(c.streams)), 0o600))
	c.settings = c.config("demo", append(c.channels.sections, section, fmt.Sprintf("policies: %q", policies))...)
	c.temporal = c.dialTemporal()
	t.Cleanup(c.temporal.Close)

	traffic := newTraffic(t, c.gateway, 0.3, 0.05, c.streams)
	traffic.storeHistory(c.stack, time.Now())
	for _, s := range c.streams { // the first tick finds them all, and what follows is under one storm of kills
		s.inject(fault{cost: 3, quality: 0.7, volume: 1})
		s.fault.begins = time.Now().Add(-75 * time.Second)
	}
	traffic.start(time.Now().Add(-16 * time.Minute)) // a rollout is sized by the last quarter of an hour
	c.until("the traffic is there", 5*time.Minute, traffic.caughtUp)
	c.began = time.Now()
	c.startWorker()
	return c
}

// tradeoff gives each key's model a tier, and a cheaper one that its calls can be sent to.
func tradeoff(streams []*stream) string {
	var b strings.Builder
	b.WriteString("tiers:\n")
	for _, s := range streams {
		fmt.Fprintf(&b, "  - {provider: %s, model: %s, cost_mult: 3, quality_floor: 0.9}\n  - {provider: %[1]s, model: %[2]s-small, cost_mult: 1, quality_floor: 0.85}\n", providerOf(s.n), modelOf(s.n))
	}
	b.WriteString("on_exhausted: floor\ndefault: {class: standard, risk: ordinary, quality_floor: 0.80}\n")
	return b.String()
}

func (c *chaos) startWorker() {
	c.worker = start(c.t, "flyball", "serve", "--role", "worker", "--config", c.settings)
}

// rage strikes again and again, each thing once at least, until the time is over and every key has put its
// question to the person. After the first round there is time between two kills of the worker for the sweep,
// whose heartbeat must be missed before another worker takes it up.
func (c *chaos) rage(lasts time.Duration) {
	c.until("the first incidents are open", 3*time.Minute, func() bool {
		c.worker.alive()
		return c.running(contract.Incident) > 0
	})
	pause := 4 * time.Second
	next, rounds := time.Now(), 0
	var left []string
	c.until("the kills are over and every question is answered", lasts+20*time.Minute, func() bool {
		c.live()
		over := time.Since(c.began) > lasts
		switch {
		case len(left) > 0 && time.Now().After(next):
			c.strike(left[0])
			left = left[1:]
			next = time.Now().Add(pause/2 + rand.N(pause))
		case len(left) > 0:
		case rounds > 0 && over && c.allAsked():
			return true
		case rounds > 2 && over: // enough was killed; the person still waits for questions
		default:
			left = c.targets()
			if rounds++; rounds > 1 {
				pause = 15 * time.Second
			}
		}
		return false
	})
}

// targets are what can be struck, in random order.
func (c *chaos) targets() []string {
	all := []string{"worker", "Temporal", "engine", "channels"}
	if c.redis != nil {
		all = append(all, "Redis")
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// strike kills something with SIGKILL; it comes back by itself, the worker and Redis by us.
func (c *chaos) strike(what string) {
	c.t.Logf("%s: %s", time.Since(c.began).Round(time.Second), what)
	c.channels.fail(what == "channels")
	switch what {
	case "worker":
		c.worker.kill()
		c.startWorker()
	case "Temporal", "engine":
		if pid, ok := c.findChild(map[string]string{"Temporal": "temporald", "engine": "chserve"}[what]); ok {
			require.NoError(c.t, syscall.Kill(pid, syscall.SIGKILL))
		}
	case "Redis":
		c.redis.wipe()
	}
	c.strikes[what]++
}

// live is what everybody else does, every three seconds: gateways obey the flags, and the person answers new
// questions.
func (c *chaos) live() {
	if time.Since(c.looked) < 3*time.Second {
		return
	}
	c.looked = time.Now()
	c.worker.alive() // each is killed and followed by the next at once
	var body struct{ Flags []flag }
	if call(c.t.Context(), http.MethodGet, c.gateway+"/v1/flags", nil, &body) == nil {
		routes := map[string]route{}
		for _, f := range body.Flags {
			if f.Kind == "route" {
				routes[f.Key.Tenant] = route{f.Share, f.Value, f.Decision}
			}
		}
		for _, s := range c.streams {
			s.obey(routes[s.key().Tenant])
		}
	}
	for _, d := range c.decisions() {
		if _, seen := c.verdicts[d.ID]; seen || !d.Waiting {
			continue
		}
		verdict := []string{contract.Approve, contract.Approve, contract.Deny, ""}[rand.N(4)]
		if verdict == "" || c.say(d.ID, contract.Decide, contract.DecideRequest{Verdict: verdict, Who: "chaos", Reason: "by signal"}) {
			c.verdicts[d.ID] = verdict
		}
	}
}

// say signals a workflow, now and then twice, as an impatient person does. It reports whether the signal is
// kept; one whose answer was lost may be too, and is sent again.
func (c *chaos) say(id, name string, message any) bool {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	err := c.temporal.SignalWorkflow(ctx, id, "", name, message)
	if err == nil && rand.N(3) == 0 {
		_ = c.temporal.SignalWorkflow(ctx, id, "", name, message)
	}
	return err == nil
}

// allAsked reports whether every key has had its question.
func (c *chaos) allAsked() bool {
	asked := map[string]bool{}
	for id := range c.verdicts {
		key, err := contract.KeyOf(id)
		require.NoError(c.t, err)
		asked[key.Tenant] = true
	}
	return len(asked) == len(c.streams)
}

func (c *chaos) mend() {
	c.channels.fail(false)
	for _, s := range c.streams {
		s.mend()
	}
	c.t.Logf("%s: all faults end, and the kills too", time.Since(c.began).Round(time.Second))
}

// settle waits until nothing is open. The person closes every other incident once its finding is gone, or,
// in a hurry, each of them; the others resolve by themselves when their flag has been let go.
func (c *chaos) settle(hurry bool) {
	closed := map[string]bool{}
	looked := time.Now()
	c.until("nothing is open any more", 45*time.Minute, func() bool {
		c.live()
		if time.Since(looked) < 3*time.Second {
			return false
		}
		looked = time.Now()
		for _, i := range c.incidents() {
			var n int
			_, err := fmt.Sscanf(i.Key.Tenant, "bench-%d", &n)
			require.NoError(c.t, err)
			if i.State == string(contract.IncidentRecovering) && !closed[i.ID] && (hurry || n%2 == 0) {
				loop := contract.AlertLoopID(usage.Key{Tenant: i.Key.Tenant, Model: i.Key.Model})
				closed[i.ID] = c.say(loop, contract.Resolve, contract.ResolveRequest{Who: "chaos", Reason: "it is over"})
			}
		}
		open, err := c.open()
		return err == nil && open == 0
	})
	c.t.Logf("%s: nothing is open any more; the person closed %d", time.Since(c.began).Round(time.Second), len(closed))
}

// open counts the workflows that run, but for those that always do.
func (c *chaos) open() (int64, error) {
	answer, err := c.temporal.CountWorkflow(c.t.Context(), &workflowservice.CountWorkflowExecutionsRequest{
		Query: fmt.Sprintf("ExecutionStatus = 'Running' AND WorkflowType NOT IN (%q, %q, %q, %q, %q, %q)",
			contract.Sweep, contract.Autonomy, contract.Calibration, contract.Effects, contract.Fallback, contract.RouterTraining),
	})
	return answer.GetCount(), err
}

// fate is what became of a decision.
type fate struct {
	status   contract.Status
	actuated int // times that it began to act
	acted    bool
}

// fates reads the decisions' audit.
func (c *chaos) fates() map[string]fate {
	all := map[string]fate{}
	for _, row := range c.sql("SELECT id, status, base64Encode(toString(detail)) FROM decisions FINAL") { // encoded, for its tabs
		var state struct {
			History []contract.Transition `json:"history"`
		}
		detail, err := base64.StdEncoding.DecodeString(row[2])
		require.NoError(c.t, err)
		require.NoError(c.t, json.Unmarshal(detail, &state))
		f := fate{status: contract.Status(row[1])}
		before := contract.Proposed
		for _, h := range state.History {
			if h.Status == contract.Actuating && before != contract.Actuating {
				f.actuated++
			}
			before = h.Status
			f.acted = f.acted || h.Share > 0
		}
		all[row[0]] = f
	}
	return all
}

// check asserts what must be so whatever was killed, and prints it.
func (c *chaos) check() {
	ended, perKey, groups := c.allIncidents()
	fates := c.fates()
	rows := map[string][4]int{} // verdict → decisions, carried out once, more often, not at all
	for id, verdict := range c.verdicts {
		f := fates[id]
		r := rows[verdict]
		r[0]++
		switch {
		case f.actuated == 1 && f.acted:
			r[1]++
		case f.actuated > 1:
			r[2]++
		default:
			r[3]++
		}
		rows[verdict] = r
		if verdict == contract.Approve && f.actuated != 1 || verdict != contract.Approve && f.acted {
			c.t.Errorf("%s was given %q and is %+v", id, verdict, f)
		}
	}
	flags := c.orphans()
	table := tabwriter.NewWriter(c.t.Output(), 0, 4, 2, ' ', 0)
	fmt.Fprintf(table, "struck\t%s\n", counted(c.strikes))
	fmt.Fprintf(table, "keys\t%d\nincidents\t%d, ended %d, of many keys %d\n", len(c.streams), len(perKey), ended, groups)
	told := func(name string, n map[string]int) {
		once, more := 0, 0
		for id := range perKey {
			switch {
			case n[id] == 1:
				once++
			case n[id] > 1:
				more++
			}
		}
		fmt.Fprintf(table, "%s\tonce %d, more often %d, never %d\n", name, once, more, len(perKey)-once-more)
		require.Equal(c.t, len(perKey), once+more, "%s: every incident is told", name)
		require.Zero(c.t, more, "%s: none is told twice", name)
	}
	defer func() { require.NoError(c.t, table.Flush()) }()
	told("pages", c.channels.pages())
	told("messages", c.channels.messages())
	for _, verdict := range []string{contract.Approve, contract.Deny, ""} {
		r := rows[verdict]
		fmt.Fprintf(table, "%s\t%d: carried out once %d, more often %d, not %d\n", map[string]string{contract.Approve: "approved", contract.Deny: "denied", "": "left open"}[verdict], r[0], r[1], r[2], r[3])
	}
	fmt.Fprintf(table, "flags left\t%d\n", len(flags))
	require.Empty(c.t, flags, "no flag outlives its decision")
	require.Equal(c.t, len(perKey), ended, "every incident has ended")
	require.Zero(c.t, groups, "the keys share no cause")
	for _, s := range c.streams {
		require.Contains(c.t, slices.Collect(maps.Values(perKey)), s.key().Tenant, "every key had its incident")
	}
	var tenants []string
	for _, s := range c.streams[:min(len(c.streams), 20)] {
		tenants = append(tenants, s.key().Tenant)
	}
	c.printIncidentActions(tenants)
}

// allIncidents are all incidents with their tenants, how many of them have ended, and how many were of many keys.
func (c *chaos) allIncidents() (ended int, tenantOf map[string]string, groups int) {
	tenantOf = map[string]string{}
	request := &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("WorkflowType IN (%q, %q)", contract.Incident, contract.Group)}
	for {
		page, err := c.temporal.ListWorkflow(c.t.Context(), request)
		require.NoError(c.t, err)
		for _, e := range page.GetExecutions() {
			id := e.GetExecution().GetWorkflowId()
			if contract.IsGroup(id) {
				groups++
				continue
			}
			key, err := contract.KeyOf(id)
			require.NoError(c.t, err)
			tenantOf[id] = key.Tenant
			if e.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED {
				ended++
			}
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return ended, tenantOf, groups
		}
	}
}

// orphans are the flags that are still in Redis, and those that gateways still obey.
func (c *chaos) orphans() []string {
	var all []string
	var body struct{ Flags []flag }
	require.NoError(c.t, call(c.t.Context(), http.MethodGet, c.gateway+"/v1/flags", nil, &body))
	for _, f := range body.Flags {
		all = append(all, f.Key.Tenant+" "+f.Kind)
	}
	if c.redis != nil {
		all = append(all, c.redis.keys("flyball:flag:*")...)
	}
	return all
}

func counted(n map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, n[name]))
	}
	return strings.Join(parts, ", ")
}

// redisServer is a real one, without persistence: whatever it holds is gone when it dies.
type redisServer struct {
	t       *testing.T
	path    string
	port    string
	address string
	cmd     *exec.Cmd
}

func startRedis(t *testing.T, path string) *redisServer {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &redisServer{t: t, path: path, address: listener.Addr().String()}
	_, r.port, err = net.SplitHostPort(r.address)
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	r.start()
	t.Cleanup(func() { _ = r.cmd.Process.Kill(); _ = r.cmd.Wait() })
	return r
}

func (r *redisServer) start() {
	r.cmd = exec.Command(r.path, "--port", r.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.t.TempDir())
	require.NoError(r.t, r.cmd.Start())
	require.Eventually(r.t, func() bool {
		conn, err := net.Dial("tcp", r.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
}

// wipe kills it and starts it empty.
func (r *redisServer) wipe() {
	require.NoError(r.t, r.cmd.Process.Kill())
	_ = r.cmd.Wait()
	r.start()
}

// keys asks redis-cli, which comes with the server.
func (r *redisServer) keys(pattern string) []string {
	out, err := exec.CommandContext(r.t.Context(), filepath.Join(filepath.Dir(r.path), "redis-cli"), "-p", r.port, "keys", pattern).Output()
	require.NoError(r.t, err)
	return strings.Fields(string(out))
}
