package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/devstack"
	"github.com/flyball-dev/flyball/internal/notify"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workers"
)

// doctorOptions are the flags of `flyball doctor`.
type doctorOptions struct {
	state  string
	config string
	ingest string
	within time.Duration
	json   bool
}

// doctorCommand pushes a canary through the loop.
func doctorCommand() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check every connection and push a canary through both ends of the loop",
		Long: "Check every connection, then push a canary of the tenant " + canaryTenant + " through both ends of the loop:\n" +
			"  in:   a call through ingest, storage and rollups, and whether the sweep ticks over them;\n" +
			"  out:  a flag through a durable alert loop, Redis and the gateway's decision, and off again;\n" +
			"        a budget of one micro-dollar through ClickHouse and Redis to the gateway's refusal, and removed again.\n" +
			notExercised + "\n" +
			"Each hop is one line; the first that fails is named with its mend. The canary leaves no flag and no budget behind.\n" +
			"Where ingest and gateway want a token, it is taken from the environment variable " + ingestToken + ": one\n" +
			"that is trusted for all tenants.\n" +
			"Exit 0 when all hops work, 3 when a service does not answer, 1 when a later hop fails.",
		Example: "  flyball doctor\n  flyball doctor --config deploy/flyball.yaml --ingest http://gateway:8080",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return doctor(cmd.Context(), o, cmd.OutOrStdout()) },
	}
	cmd.Flags().StringVar(&o.state, "state", ".flyball", "state folder of the running flyball up")
	cmd.Flags().StringVar(&o.config, "config", "", "configuration of a real deployment, in place of --state")
	cmd.Flags().StringVar(&o.ingest, "ingest", "", "address of ingest and gateway (with --config; default http:// and its ingest.listen)")
	cmd.Flags().DurationVar(&o.within, "within", 30*time.Second, "how long each hop may take")
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON object per hop")
	return cmd
}

// notExercised says what the canary does not show. A regression has to hold, and an act to be proved
// against a holdback, which takes minutes of traffic and a person.
const notExercised = "What is between is not exercised: no finding, incident, decision or approval is made for the canary.\n" +
	"Those are shown by flyball chaos under flyball up, and by flyball incidents in earnest."

const (
	canaryTenant = "flyball-canary"
	canaryModel  = "canary"
	canaryRoute  = "canary-rerouted"
)

// hop is one thing that must work.
type hop struct {
	name string
	mend string
	run  func(context.Context) error // nil: it cannot be tried, and mend says why
	code int                         // the exit code when it does not
	more time.Duration               // that it may take beyond what each may
}

// hopResult is one line of the doctor's answer.
type hopResult struct {
	Hop   string `json:"hop"`
	OK    bool   `json:"ok"`
	MS    int64  `json:"ms"`
	Error string `json:"error,omitempty"`
	Mend  string `json:"mend,omitempty"`
	Note  string `json:"note,omitempty"` // why it was not run
}

// examination is one run of the doctor.
type examination struct {
	config   config.Config
	ingest   string
	id       string // of this canary
	store    *clickhouse.Store
	temporal client.Client
	loop     *activities.Loop
	slack    *notify.Slack // nil: not configured
	flagged  bool          // a flag was ordered, and so may be on
	budgeted bool          // a budget was ordered, and so may be in force
	limited  bool          // it was set
	opening  time.Duration // that a tenant's first budget may take to open
}

// doctor examines what the options name.
func doctor(ctx context.Context, o doctorOptions, out io.Writer) error {
	e := &examination{id: uuid.NewString()}
	if err := e.configure(o); err != nil {
		return &exitError{exitUsage, err}
	}
	defer e.close()
	if err := e.examine(ctx, e.hops(), o, out); err != nil {
		return err
	}
	if !o.json {
		fmt.Fprintln(out, notExercised)
	}
	return nil
}

// examine runs the hops in order and stops at the first that fails, since later ones stand on it.
func (e *examination) examine(ctx context.Context, hops []hop, o doctorOptions, out io.Writer) error {
	for _, h := range hops {
		if h.run == nil {
			hopResult{Hop: h.name, OK: true, Note: h.mend}.print(out, o.json)
			continue
		}
		began := time.Now()
		err := within(ctx, o.within+h.more, h.run)
		r := hopResult{Hop: h.name, OK: err == nil, MS: time.Since(began).Milliseconds()}
		if err != nil {
			r.Error, r.Mend = err.Error(), h.mend
		}
		r.print(out, o.json)
		if err != nil {
			return &exitError{h.code, errors.Join(fmt.Errorf("this hop does not work: %s", h.name), e.abandon(ctx))}
		}
	}
	return nil
}

func (r hopResult) print(out io.Writer, asJSON bool) {
	if asJSON {
		_ = json.NewEncoder(out).Encode(r)
		return
	}
	if r.Note != "" {
		fmt.Fprintf(out, "--    %-38s %s\n", r.Hop, r.Note)
		return
	}
	if r.OK {
		fmt.Fprintf(out, "ok    %-38s %6d ms\n", r.Hop, r.MS)
		return
	}
	fmt.Fprintf(out, "FAIL  %-38s %s\n      mend: %s\n", r.Hop, r.Error, r.Mend)
}

// within runs one hop until it works or its time is up.
func within(ctx context.Context, limit time.Duration, run func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error // that was not merely time running out
	for {
		err := run(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// configure takes the addresses from a running stack or a configuration file.
func (e *examination) configure(o doctorOptions) error {
	e.opening = budgetOpens
	if o.config != "" {
		c, err := loadConfig(o.config)
		if err != nil {
			return err
		}
		e.config, e.ingest = c, o.ingest
		if e.ingest == "" {
			e.ingest = "http://" + c.Ingest.Listen
		}
		e.slack, err = (&system{config: c}).newSlack()
		return err
	}
	a, err := devstack.ReadAddresses(o.state)
	if err != nil {
		return err
	}
	e.config = config.Default()
	e.config.ClickHouse = embeddedClickHouse(a.ClickHouse)
	e.config.Temporal.Address = strings.TrimPrefix(a.Temporal, "http://")
	e.ingest = a.Ingest
	return nil
}

func (e *examination) close() {
	if e.store != nil {
		_ = e.store.Close()
	}
	if e.temporal != nil {
		e.temporal.Close()
	}
}

var canaryKey = usage.Key{Tenant: canaryTenant, Model: canaryModel}

func (e *examination) hops() []hop { return slices.Concat(e.connections(), e.channels(), e.canary()) }

// channels are the ways to people that are configured.
func (e *examination) channels() []hop {
	var hops []hop
	if e.config.Notify.PagerDuty.On() {
		hops = append(hops, hop{name: "PagerDuty", mend: "configured, not checked: its events API has no call that tells nobody anything"})
	}
	if e.slack != nil {
		hops = append(hops, hop{"Slack knows the bot", "check notify.slack.bot_token; flyball slack manifest prints the app that it is of", e.slack.Check, exitAway, 0})
	}
	return hops
}

// connections are the services that everything else needs.
func (e *examination) connections() []hop {
	quiet := slog.New(slog.DiscardHandler)
	return []hop{
		{"ingest answers", "start it: flyball up, or flyball serve --role ingest,gateway", func(ctx context.Context) error {
			return e.call(ctx, http.MethodGet, "/healthz", nil, nil)
		}, exitAway, 0},
		{"ClickHouse answers", "check clickhouse.url, user and password", func(ctx context.Context) (err error) {
			if e.store == nil {
				e.store, err = clickhouse.Open(ctx, storeOptions(e.config.ClickHouse, quiet))
			}
			return err
		}, exitAway, 0},
		{"Temporal answers", "check temporal.address; the first flyball up builds the server for some minutes", func(ctx context.Context) (err error) {
			if e.temporal == nil {
				e.temporal, err = workers.Dial(ctx, e.config.Temporal.Address, e.config.Temporal.Namespace, quiet)
				e.loop = &activities.Loop{Client: e.temporal, Log: quiet}
			}
			return err
		}, exitAway, 0},
	}
}

// canary is the canary's way: a call in, and a flag out and off.
func (e *examination) canary() []hop {
	return []hop{
		{"a call is acknowledged", "read the ingest's log: is its disk full? Does it want a token (environment variable " + ingestToken + ")?", e.sendSpan, exitFailed, 0},
		{"it is stored", "read the ingest's log: its spool cannot reach ClickHouse", e.stored, exitFailed, 0},
		{"it is rolled up into kpi_1m", "apply the schema: flyball migrate", e.rolledUp, exitFailed, 0},
		{"the sweep is ticking", "start a worker: flyball serve --role worker", e.sweeping, exitFailed, 0},
		{"a durable loop puts a flag on", "start a worker; look for the workflow alert/" + canaryTenant + "/" + canaryModel, func(ctx context.Context) error {
			return e.setFlag(ctx, "on", 1)
		}, exitFailed, 0},
		{"the gateway obeys it", "check redis.addr of worker and gateway: they must share one Redis. Does it want a token for all tenants (environment variable " + ingestToken + ")?", func(ctx context.Context) error {
			return e.decided(ctx, canaryRoute)
		}, exitFailed, 0},
		{"the flag comes off", "look for the workflow alert/" + canaryTenant + "/" + canaryModel, func(ctx context.Context) error {
			if err := e.setFlag(ctx, "off", 0); err != nil {
				return err
			}
			return e.decided(ctx, canaryModel)
		}, exitFailed, 0},
		{"a budget refuses a call", "read the logs of gateway and worker: budgets need Redis, ClickHouse and a worker that opens them, and the token (environment variable " + ingestToken + ") the scopes decide and budgets", e.budgetRefuses, exitFailed, e.opening},
		{"the budget is gone", "remove it: flyball budget remove " + canaryTenant + " " + canaryBudget, e.removeBudget, exitFailed, 0},
	}
}

// call speaks to ingest and gateway.
func (e *examination) call(ctx context.Context, method, path string, body, into any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, e.ingest+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if token := os.Getenv(ingestToken); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", path, response.Status, bytes.TrimSpace(answer))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

func (e *examination) sendSpan(ctx context.Context) error {
	return e.call(ctx, http.MethodPost, "/v1/spans", map[string]any{
		"trace_id": e.id, "span_id": "canary", "timestamp": time.Now().UTC(), "provider": "flyball", "model": canaryModel,
		"tenant_id": canaryTenant, "tokens": map[string]int{"prompt": 1, "completion": 1}, "cost_usd": "0.000001",
	}, nil)
}

func (e *examination) stored(ctx context.Context) error {
	found, err := e.store.HasSpan(ctx, canaryTenant, e.id)
	if err == nil && !found {
		err = errors.New("the call is not in the table spans yet")
	}
	return err
}

func (e *examination) rolledUp(ctx context.Context) error {
	now := time.Now().UTC()
	minutes, err := e.store.Minutes(ctx, canaryKey, now.Add(-2*time.Minute), now.Add(time.Minute))
	if err == nil && len(minutes) == 0 {
		err = errors.New("the call is not in the rollups yet")
	}
	return err
}

// sweeping asks the sweep for its last tick.
func (e *examination) sweeping(ctx context.Context) error {
	description, err := e.temporal.DescribeWorkflowExecution(ctx, contract.SweepID(0), "")
	if err != nil {
		return fmt.Errorf("the workflow %s: %w", contract.SweepID(0), err)
	}
	for _, a := range description.GetPendingActivities() {
		if age := time.Since(a.GetLastHeartbeatTime().AsTime()); age < 20*time.Second {
			return nil
		}
	}
	return errors.New("its activity has not been heard of for 20 s")
}

// canaryExpiry is how long the canary's flag is obeyed should the doctor die.
const canaryExpiry = 2 * time.Minute

// setFlag orders the canary's route flag through its durable loop, as a decision would. The same order
// repeated is one.
func (e *examination) setFlag(ctx context.Context, order string, share float64) error {
	e.flagged = true
	_, err := e.loop.SetKeyFlag(ctx, contract.SetKeyFlagRequest{
		Key: canaryKey, Tuning: config.Standard.Tuning(), Start: true,
		UpdateID: e.id + "/" + order,
		Flag: contract.SetFlagRequest{
			Kind: routing.Route, Value: canaryRoute, Share: share, Reason: "flyball doctor",
			Decision: "doctor/" + e.id, ExpiresAt: time.Now().UTC().Add(canaryExpiry),
		},
	})
	return err
}

func (e *examination) decided(ctx context.Context, want string) error {
	var answer struct {
		Model string `json:"model"`
	}
	err := e.call(ctx, http.MethodPost, "/v1/decide", map[string]any{
		"tenant_id": canaryTenant, "trace_id": e.id, "requested_model": canaryModel, "input_tokens": 1,
	}, &answer)
	if err == nil && answer.Model != want {
		err = fmt.Errorf("it decides %q, want %q", answer.Model, want)
	}
	return err
}

// abandon takes the canary's flag off and its budget away after a failure, also when whoever called the doctor has gone.
func (e *examination) abandon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var errs []error
	if e.flagged {
		if err := e.setFlag(ctx, "abandon", 0); err != nil {
			errs = append(errs, fmt.Errorf("the canary's flag could not be taken off, and ends by itself within %s: %w", canaryExpiry, err))
		}
	}
	if e.budgeted {
		if err := e.removeBudget(ctx); err != nil {
			errs = append(errs, fmt.Errorf("the canary's budget could not be removed, and binds the tenant %s alone: %w", canaryTenant, err))
		}
	}
	return errors.Join(errs...)
}
