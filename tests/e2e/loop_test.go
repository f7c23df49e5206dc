//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

// The key that fails in these tests: high-value, so every call is scored.
const (
	tenant = "org_42"
	model  = "claude-3-opus"
)

type incident struct {
	ID       string    `json:"id"`
	Level    string    `json:"level"`
	State    string    `json:"state"`
	Opened   time.Time `json:"opened"`
	Rule     string    `json:"rule"`
	Key      struct{ Tenant, Model string }
	Evidence []struct{ What, Now, Usual string }
}

type decision struct {
	ID       string  `json:"id"`
	Handle   string  `json:"handle"`
	Incident string  `json:"incident"`
	Action   string  `json:"action"`
	Value    string  `json:"value"`
	Waiting  bool    `json:"waiting"`
	Share    float64 `json:"share"`
}

type flag struct {
	Kind     string  `json:"kind"`
	Value    string  `json:"value"`
	Share    float64 `json:"share"`
	Decision string  `json:"decision_id"`
	Key      struct{ Tenant, Model string }
}

func (s *stack) incidents() (list []incident) {
	_ = call(s.t.Context(), http.MethodGet, s.addresses.Console+"/api/incidents", nil, &list)
	return list
}

func (s *stack) decisions() (list []decision) {
	_ = call(s.t.Context(), http.MethodGet, s.addresses.Console+"/api/decisions", nil, &list)
	return list
}

func (s *stack) flags() (list []flag) {
	var body struct{ Flags []flag }
	if err := call(s.t.Context(), http.MethodGet, s.addresses.Ingest+"/v1/flags", nil, &body); err != nil {
		return nil
	}
	return body.Flags
}

// route is the key's route flag; on is false while there is none.
func (s *stack) route() (f flag, on bool) {
	for _, f := range s.flags() {
		if f.Kind == "route" {
			return f, true
		}
	}
	return flag{}, false
}

// decided asks the decision API for many calls and returns the share that it sends elsewhere.
func (s *stack) decided(calls int) float64 {
	s.t.Helper()
	moved := 0
	for i := range calls {
		var answer struct{ Model, Arm string }
		err := call(s.t.Context(), http.MethodPost, s.addresses.Ingest+"/v1/decide", map[string]any{
			"tenant_id": tenant, "requested_model": model, "trace_id": fmt.Sprintf("e2e-%d-%d", i, rand.Int64()), "input_tokens": 100,
		}, &answer)
		require.NoError(s.t, err)
		if answer.Arm == "treated" {
			require.NotEqual(s.t, model, answer.Model)
			moved++
		}
	}
	return float64(moved) / float64(calls)
}

// hops is the table of how long each hop took.
type hops struct {
	last  time.Time
	lines []string
}

func (h *hops) reached(what string, at time.Time) {
	h.lines = append(h.lines, fmt.Sprintf("%s\t%.1f s\t", what, at.Sub(h.last).Seconds()))
	h.last = at
}

func (h *hops) print(t *testing.T) {
	w := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "hop\ttook\t")
	fmt.Fprintln(w, strings.Join(h.lines, "\n"))
	w.Flush()
}

// course is what a test does between hops; what it leaves out is left alone, or approved by command.
type course struct {
	detected, treated func(s *stack)
	approve           func(s *stack, asked decision)
}

// approveByCommand answers as a person at a terminal does.
func approveByCommand(s *stack, asked decision) {
	s.until("the approval is taken", 2*time.Minute, func() bool {
		_, _, err := s.tryCLI("approve", asked.Handle, "--who", "e2e")
		return err == nil
	})
}

// usual is the key's median cost of a call in dollars over the quarter of an hour before t.
func (s *stack) usual(t time.Time) float64 {
	s.t.Helper()
	value, ok := s.number("SELECT quantile(0.5)(cost_pico_usd)/1e12 FROM spans WHERE tenant_id='%s' AND requested_model='%s' AND arm='none' AND timestamp < toDateTime64(%d,3) AND timestamp >= toDateTime64(%d,3)",
		tenant, model, t.Unix(), t.Unix()-900)
	require.True(s.t, ok)
	return value
}

// paged waits for an incident that pages.
func (s *stack) paged() (found incident, at time.Time) {
	s.t.Helper()
	at = s.until("an incident opens", 4*time.Minute, func() bool {
		list := s.incidents()
		i := slices.IndexFunc(list, func(i incident) bool { return i.Level == "PAGE" })
		if i >= 0 {
			found = list[i]
		}
		return i >= 0
	})
	return found, at
}

// asked waits for a decision of the incident that asks a person.
func (s *stack) asked(incident string) (asked decision, at time.Time) {
	s.t.Helper()
	at = s.until("a decision asks a person", 3*time.Minute, func() bool {
		list := s.decisions()
		i := slices.IndexFunc(list, func(d decision) bool { return d.Waiting && d.Incident == incident })
		if i >= 0 {
			asked = list[i]
		}
		return i >= 0
	})
	return asked, at
}

// closeTheLoop injects cost × 3 with quality −20 % on one key and follows it through every hop.
func closeTheLoop(t *testing.T, s *stack, c course) {
	if c.approve == nil {
		c.approve = approveByCommand
	}
	h := &hops{}
	s.until("the key has fresh telemetry", 2*time.Minute, func() bool {
		n, _ := s.number("SELECT sum(requests) FROM kpi_1m WHERE tenant_id='%s' AND requested_model='%s' AND minute >= now() - 120", tenant, model)
		return n > 200
	})
	usual := s.usual(time.Now())
	require.Empty(t, s.incidents(), "nothing is wrong yet")

	h.last = time.Now()
	fault := time.Now()
	s.cli("chaos", "cost", "--tenant", tenant, "--model", model, "--factor", "3", "--quality", "0.8", "--for", "30m")
	h.reached("fault injected", time.Now())

	found, at := s.paged()
	h.reached("incident open", at)
	require.Equal(t, tenant, found.Key.Tenant)
	require.Equal(t, model, found.Key.Model)
	require.NotEmpty(t, found.Evidence)
	if c.detected != nil {
		c.detected(s)
	}

	asked, at := s.asked(found.ID)
	h.reached("approval asked", at)
	require.Equal(t, "downgrade", asked.Action)
	_, on := s.route()
	require.False(t, on, "nothing is done before a person has said so")
	require.Zero(t, s.decided(50))
	c.approve(s, asked)
	h.reached("approved", time.Now())

	h.reached("flag on", s.until("a flag is on", 2*time.Minute, func() bool { _, on := s.route(); return on }))
	first, _ := s.route()
	require.Equal(t, asked.ID, first.Decision)
	require.Equal(t, asked.Value, first.Value)
	share := 0.0
	h.reached("full share", s.until("the rollout reaches its last step", 6*time.Minute, func() bool {
		if f, on := s.route(); on {
			require.GreaterOrEqual(t, f.Share, share-1e-9, "while the fault lasts the share only rises")
			share = f.Share
		}
		return share >= 0.8
	}))
	require.InDelta(t, share, s.decided(400), 0.1, "the decision API obeys the flag")
	if c.treated != nil {
		c.treated(s)
	}

	h.reached("cost down", s.until("treated calls cost under 1.2 × the baseline", 2*time.Minute, func() bool {
		n, _ := s.number("SELECT count() FROM spans WHERE tenant_id='%s' AND requested_model='%s' AND arm='treated' AND timestamp >= now() - 60", tenant, model)
		cost, ok := s.number("SELECT quantile(0.5)(cost_pico_usd)/1e12 FROM spans WHERE tenant_id='%s' AND requested_model='%s' AND arm='treated' AND timestamp >= now() - 60", tenant, model)
		return ok && n >= 50 && cost < 1.2*usual
	}))

	s.cli("chaos", "stop")
	h.last = time.Now()
	ended := time.Now()
	h.reached("flag released", s.until("the flag is released after the fault", 10*time.Minute, func() bool { _, on := s.route(); return !on }))
	h.reached("incident resolved", s.until("the incident resolves", 8*time.Minute, func() bool { return len(s.incidents()) == 0 && len(s.flags()) == 0 }))
	require.Zero(t, s.decided(50))

	s.until("the audit is complete and nothing is left open", 2*time.Minute, func() bool {
		rows := s.sql("SELECT id, state FROM incidents FINAL WHERE opened_at >= toDateTime64(%d,3)", fault.Unix())
		return len(rows) == 1 && rows[0][0] == found.ID && s.running("Incident")+s.running("Decision")+s.running("AlertLoop") == 0
	})
	require.Equal(t, [][]string{{asked.ID}}, s.sql("SELECT id FROM decisions FINAL WHERE incident_id = '%s'", found.ID))
	h.print(t)
	t.Logf("fault's end to released: see the table; the whole turn took %s", ended.Sub(fault).Round(time.Second))
}

func TestTheLoopCloses(t *testing.T) {
	s := up(t, filepath.Join(t.TempDir(), "state"), "--port-base", freeBase(t))
	closeTheLoop(t, s, course{})
	sayNo(t, s)
}

// sayNo breaks the key again, denies the reroute in the console and closes the incident by command: nothing
// is rerouted, and nothing is left open.
func sayNo(t *testing.T, s *stack) {
	s.cli("chaos", "cost", "--tenant", tenant, "--model", model, "--factor", "3", "--quality", "0.8", "--for", "30m")
	found, _ := s.paged()
	asked, _ := s.asked(found.ID)
	var after decision
	require.NoError(t, call(t.Context(), http.MethodPost, s.addresses.Console+"/api/decide",
		map[string]string{"id": asked.ID, "verdict": "deny", "who": "e2e", "reason": "the launch is today"}, &after))
	require.False(t, after.Waiting)
	s.until("the denial is on record", time.Minute, func() bool {
		rows := s.sql("SELECT status, `by` FROM decisions FINAL WHERE id = '%s'", asked.ID)
		return len(rows) == 1 && slices.Equal(rows[0], []string{"denied", "e2e"})
	})
	_, on := s.route()
	require.False(t, on)
	s.cli("chaos", "stop")
	handle := found.ID
	s.cli("incidents", "resolve", handle, "--who", "e2e", "--reason", "a drill")
	s.until("nothing is left open", 2*time.Minute, func() bool {
		return len(s.incidents()) == 0 && len(s.flags()) == 0 && s.running("Incident")+s.running("Decision")+s.running("AlertLoop") == 0
	})
}

// TestTheLoopClosesThroughKills kills the worker, the Temporal server and the engine in the middle: the
// worker runs as a process of its own here, so that its death is not the simulator's.
func TestTheLoopClosesThroughKills(t *testing.T) {
	s := up(t, filepath.Join(t.TempDir(), "state"), "--port-base", freeBase(t), "--no-worker")
	configuration := s.config("demo", s.redisSection())
	worker := start(t, "flyball", "serve", "--role", "worker", "--config", configuration)
	ledger := newLedger(s)
	closeTheLoop(t, s, course{
		detected: func(s *stack) {
			t.Log("kill -9 of the engine")
			require.NoError(t, syscall.Kill(s.child("chserve"), syscall.SIGKILL))
		},
		approve: func(s *stack, asked decision) {
			t.Log("kill -9 of the worker; the approval comes as a signal, meanwhile; kill -9 of the Temporal server")
			worker.kill()
			s.signal(asked.ID, "decide", map[string]string{"verdict": "approve", "who": "e2e", "reason": "by signal"})
			require.NoError(t, syscall.Kill(s.child("temporald"), syscall.SIGKILL))
			worker = start(t, "flyball", "serve", "--role", "worker", "--config", configuration)
		},
		treated: func(s *stack) {
			t.Log("kill -9 of the worker and of the engine, a flag being on")
			worker.kill()
			require.NoError(t, syscall.Kill(s.child("chserve"), syscall.SIGKILL))
			worker = start(t, "flyball", "serve", "--role", "worker", "--config", configuration)
		},
	})
	ledger.settle()
	for _, component := range []string{"ClickHouse", "Temporal"} {
		require.Contains(t, s.output(), component+" died", "a death is reported")
	}
}

// config writes the configuration of a process that joins the stack, with more sections of YAML.
func (s *stack) config(profile string, sections ...string) string {
	s.t.Helper()
	a := s.addresses
	text := fmt.Sprintf("profile: %s\nclickhouse: {url: %q, user: %q, password: %q, database: %q}\ntemporal: {address: %q, namespace: default}\n%s\n",
		profile, a.ClickHouse.URL, a.ClickHouse.User, a.ClickHouse.Password, a.ClickHouse.Database, strings.TrimPrefix(a.Temporal, "http://"), strings.Join(sections, "\n"))
	file, err := os.CreateTemp(s.t.TempDir(), "*.yaml")
	require.NoError(s.t, err)
	defer file.Close()
	_, err = file.WriteString(text)
	require.NoError(s.t, err)
	return file.Name()
}

// redisSection is the configuration of the stack's own Redis.
func (s *stack) redisSection() string {
	at := strings.LastIndexByte(s.addresses.Redis, '@')
	return fmt.Sprintf("redis: {addr: %q, password: %q}", s.addresses.Redis[at+1:], strings.TrimPrefix(s.addresses.Redis[:at], "redis://:"))
}

// ledger sends spans of its own tenant all the time, each until it is acknowledged, some of them twice,
// and counts what was acknowledged.
type ledger struct {
	s     *stack
	stop  chan struct{}
	done  sync.WaitGroup
	spans int64
}

func newLedger(s *stack) *ledger {
	l := &ledger{s: s, stop: make(chan struct{})}
	l.done.Go(func() {
		for batch := 0; ; batch++ {
			select {
			case <-l.stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
			var spans []map[string]any
			for i := range 20 {
				spans = append(spans, map[string]any{
					"tenant_id": "ledger", "trace_id": "t" + strconv.Itoa(batch), "span_id": strconv.Itoa(i), "timestamp": time.Now().UTC().Format(time.RFC3339Nano),
					"provider": "test", "model": "counted", "tokens": map[string]int{"prompt": 7, "completion": 3}, "cost_usd": 0.000001,
				})
			}
			for sent := 0; sent < 1+batch%2; {
				if err := call(s.t.Context(), http.MethodPost, s.addresses.Ingest+"/v1/spans", spans, &struct{}{}); err == nil {
					sent++
				} else if s.t.Context().Err() != nil {
					return
				} else {
					time.Sleep(100 * time.Millisecond)
				}
			}
			l.spans += 20
		}
	})
	s.t.Cleanup(l.end)
	return l
}

func (l *ledger) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.done.Wait()
}

// settle asserts that what was acknowledged is stored, once, in spans and in the rollup.
func (l *ledger) settle() {
	l.end()
	want := strconv.FormatInt(l.spans, 10)
	l.s.until("all of the ledger is stored", time.Minute, func() bool {
		return slices.Equal(l.s.sql("SELECT count() FROM spans WHERE tenant_id='ledger'")[0], []string{want})
	})
	tokens := strconv.FormatInt(7*l.spans, 10)
	require.Equal(l.s.t, []string{want, tokens}, l.s.sql("SELECT uniqExact(trace_id, span_id), sum(uncached_input_tokens) FROM spans WHERE tenant_id='ledger'")[0])
	require.Equal(l.s.t, []string{want, tokens}, l.s.sql("SELECT sum(requests), sum(uncached_input_tokens) FROM kpi_1m WHERE tenant_id='ledger'")[0])
	l.s.t.Logf("ledger: %d spans acknowledged through all kills, stored once each", l.spans)
}
