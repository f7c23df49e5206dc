package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/simulate"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workers"
)

// drillOptions are the flags of `flyball chaos drill`.
type drillOptions struct {
	temporal  string
	namespace string
	json      bool
	markdown  bool
	yes       bool
	approve   bool
	in        contract.DrillInput
}

// drillCommand runs drills, now or by a schedule.
func drillCommand() *cobra.Command {
	var o drillOptions
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Rehearse the loop in earnest: faults in made-up calls, measured against the objectives",
		Long: `A drill makes up the calls of a marked tenant and sends them through the deployment's own pipeline: ingest, store,
sweep, incident, decision, flag. It strikes them with a cost spike and a drop of quality, one after the other, and
measures when each was found, opened, told, answered, obeyed and released, against the objectives.

It runs in a worker, as the Temporal workflow drill/<tenant>: one at a time for each tenant. Ctrl-C calls it off; the
faults end, and what is still open is closed. Real tenants are not touched, nobody is woken, and notices go to the
channel of drills. The drill approves its own acts as "drill", which is on record with the decision.
Calls and scores are kept like all others, and are left out of every sum over tenants.

Objectives follow the deployment's profile, and are stated for 5 calls a second of which a tenth is scored.
Exit 0 when all were met, 1 when one was missed or the drill could not be walked to its end, 3 when a service is away.`,
		Example: `  flyball chaos drill --yes
  flyball chaos drill --window 02:00-04:00 --faults cost --factor 10 --yes
  flyball chaos drill --tenant flyball-drill-eu --rate 2 --slo-detect 5m --json --yes
  flyball chaos drill schedule weekly --cron '0 3 * * 2'
  flyball chaos drill results`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.json, "json", false, "print the result as JSON")
	cmd.Flags().BoolVar(&o.markdown, "markdown", false, "print the report as Markdown, as the channel gets it")
	cmd.Flags().BoolVar(&o.yes, "yes", false, "do not ask before it begins")
	cmd.AddCommand(drillScheduleCommand(), drillListCommand(), drillRemoveCommand(), drillResultsCommand())
	return cmd
}

// server are the flags that name the Temporal server.
func (o *drillOptions) server(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.temporal, "temporal", "", "Temporal's host:port (default from "+addressesFile+", else 127.0.0.1:7233)")
	cmd.Flags().StringVar(&o.namespace, "namespace", "default", "Temporal namespace")
}

// flags are those that say what a drill is.
func (o *drillOptions) flags(cmd *cobra.Command) {
	o.server(cmd)
	usual := contract.DrillInput{}.WithDefaults()
	f, in := cmd.Flags(), &o.in
	f.StringVar(&in.Tenant, "tenant", usual.Tenant, "tenant to make up: "+usage.DrillPrefix+" or "+usage.DrillPrefix+"-<name>")
	f.StringVar(&in.Model, "model", usual.Model, "model that its calls ask for: "+strings.Join(simulate.Models(), ", "))
	f.StringSliceVar(&in.Faults, "faults", usual.Faults, "what to strike with, in this order: cost, quality")
	f.Float64Var(&in.Factor, "factor", usual.Factor, "how many times as much a call costs")
	f.Float64Var(&in.CostScores, "cost-scores", usual.CostScores, "factor on the scores of the cost fault; 1 is cost alone, which is looked at, pages nobody and is not acted on")
	f.Float64Var(&in.QualityFactor, "quality", usual.QualityFactor, "factor on the scores of the quality fault")
	f.Float64Var(&in.Rate, "rate", usual.Rate, "calls a second")
	f.Float64Var(&in.Scored, "scored", usual.Scored, "share of the calls that is scored at the least")
	f.DurationVar(&in.WarmUp, "warm-up", usual.WarmUp, "steady calls before the first fault")
	f.DurationVar(&in.For, "for", 0, "how long each fault lasts at the most (default: as long as its objectives allow; it ends when all has been seen)")
	f.StringVar(&in.Window, "window", "", "begin within this time of day, UTC, and end faults with it, as 02:00-04:00")
	f.BoolVar(&o.approve, "approve", true, "approve the drill's own acts; without it they stay proposals")
	f.StringVar(&in.Who, "who", whoami(), "who drills")
	for name, slo := range map[string]struct {
		at   *time.Duration
		what string
	}{
		"detect":  {&in.SLO.Detect, "from a fault's begin to the incident"},
		"tell":    {&in.SLO.Tell, "from the first finding until the channel has the notice, the hold included"},
		"propose": {&in.SLO.Propose, "from the incident to a proposal"},
		"obey":    {&in.SLO.Obey, "from the approval to the first call that goes elsewhere"},
		"full":    {&in.SLO.Full, "from there to the rollout's last share"},
		"release": {&in.SLO.Release, "from the fault's end until its flag is off"},
	} {
		f.DurationVar(slo.at, "slo-"+name, 0, "objective "+slo.what+" (default: the profile's)")
	}
}

// input is the drill that the flags say.
func (o *drillOptions) input() (contract.DrillInput, error) {
	in := o.in
	in.Watch = !o.approve
	if err := in.Validate(); err != nil {
		return in, &exitError{exitUsage, err}
	}
	return in, nil
}

// dial connects to Temporal.
func (o *drillOptions) dial(ctx context.Context) (client.Client, error) {
	address := o.temporal
	if address == "" {
		at, err := serviceURL("", "temporal", "http://127.0.0.1:7233")
		if err != nil {
			return nil, err
		}
		address = strings.TrimPrefix(at, "http://")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := workers.Dial(ctx, address, o.namespace, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, &exitError{exitAway, fmt.Errorf("%w: is flyball up running?", err)}
	}
	return c, nil
}

// run starts a drill and follows it to its end.
func (o *drillOptions) run(cmd *cobra.Command) error {
	in, err := o.input()
	if err != nil {
		return err
	}
	if !o.yes {
		if err := agree(in, cmd.InOrStdin(), cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	c, err := o.dial(cmd.Context())
	if err != nil {
		return err
	}
	defer c.Close()
	run, err := startDrill(cmd.Context(), c, in)
	if err != nil {
		return err
	}
	result, err := followDrill(cmd.Context(), c, run, newDrillScreen(cmd.ErrOrStderr()))
	if err != nil {
		return err
	}
	return o.answer(cmd.OutOrStdout(), result)
}

// agree asks whoever sits there.
func agree(in contract.DrillInput, answers io.Reader, errs io.Writer) error {
	fmt.Fprintf(errs, "This makes up %.3g calls a second of the tenant %s for %s, sends them through the real pipeline, and strikes them with: %s.\nNo other tenant is touched and nobody is woken. Go on? [y/N] ",
		in.Rate, in.Tenant, in.Model, strings.Join(in.Faults, ", "))
	said, _ := bufio.NewReader(answers).ReadString('\n')
	if said = strings.ToLower(strings.TrimSpace(said)); said != "y" && said != "yes" {
		fmt.Fprintln(errs)
		return &exitError{exitUsage, errors.New("not begun: say y, or pass --yes")}
	}
	return nil
}

// startDrill starts the tenant's drill, unless one runs.
func startDrill(ctx context.Context, c client.Client, in contract.DrillInput) (client.WorkflowRun, error) {
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: contract.DrillID(in.Tenant), TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL, WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary: "a drill of " + in.Key().String(), TypedSearchAttributes: drillAttributes(in),
	}, contract.Drill, in)
	switch {
	case temporal.IsWorkflowExecutionAlreadyStartedError(err):
		return nil, &exitError{exitFailed, fmt.Errorf("a drill of %s is under way already: see the workflow %s, or take another --tenant", in.Tenant, contract.DrillID(in.Tenant))}
	case err != nil:
		return nil, &exitError{exitAway, fmt.Errorf("starting the drill: %w", err)}
	}
	return run, nil
}

func drillAttributes(in contract.DrillInput) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(
		temporal.NewSearchAttributeKeyKeyword(contract.AttrTenant).ValueSet(in.Tenant),
		temporal.NewSearchAttributeKeyKeyword(contract.AttrModel).ValueSet(in.Model),
	)
}

// answer prints the result and gives it its exit code.
func (o *drillOptions) answer(out io.Writer, r contract.DrillResult) error {
	switch {
	case o.json:
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return &exitError{exitFailed, fmt.Errorf("writing the result: %w", err)}
		}
	case o.markdown:
		fmt.Fprintf(out, "# %s\n\n%s", r.Title(), r.Markdown())
	default:
		printDrill(out, r)
	}
	switch {
	case r.Verdict == contract.DrillPass && r.Left == "":
		return nil
	case r.Away:
		return &exitError{exitAway, errors.New(r.Reason)}
	case r.Left != "":
		return &exitError{exitFailed, fmt.Errorf("the drill left behind: %s", r.Left)}
	}
	return &exitError{exitFailed, fmt.Errorf("drill %s: %s", r.Verdict, r.Reason)}
}

func printDrill(out io.Writer, r contract.DrillResult) {
	fmt.Fprintf(out, "%s\n%s; %s, %d calls made up\n", r.Title(), r.Reason, r.Ended.Sub(r.Began).Round(time.Second), r.Calls)
	if len(r.Measures) == 0 {
		return
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FAULT\tSTEP\tTOOK\tOBJECTIVE\tVERDICT\tFROM\tNOTE")
	for _, m := range r.Measures {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Fault, m.Step, m.TookText(), m.SLOText(), m.Verdict, m.Since, m.Note)
	}
	_ = table.Flush()
}

// followDrill shows where the drill stands until it has ended. When ctx ends it calls the drill off, and follows it
// while it cleans up.
func followDrill(ctx context.Context, c client.Client, run client.WorkflowRun, screen *drillScreen) (contract.DrillResult, error) {
	defer screen.clear()
	patient, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	var result contract.DrillResult
	go func() { ended <- run.Get(patient, &result) }()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	calledOff := ctx.Done()
	for {
		select {
		case err := <-ended:
			return result, drillError(err)
		case <-calledOff:
			calledOff = nil
			screen.say("Calling the drill off: its faults end, and what is open of it is closed")
			if err := c.CancelWorkflow(patient, run.GetID(), run.GetRunID()); err != nil {
				return result, &exitError{exitAway, fmt.Errorf("the drill could not be called off: %w: cancel the workflow %s", err, run.GetID())}
			}
		case <-look.C:
			screen.show(drillProgress(patient, c, run))
		}
	}
}

// drillError says why a drill has no result.
func drillError(err error) error {
	var application *temporal.ApplicationError
	var unavailable *serviceerror.Unavailable
	switch {
	case err == nil:
		return nil
	case temporal.IsCanceledError(err):
		return &exitError{exitFailed, errors.New("the drill was called off before it began")}
	case errors.As(err, &application) && application.Type() == contract.ErrBadInput:
		return &exitError{exitUsage, errors.New(application.Message())}
	case errors.As(err, &unavailable):
		return &exitError{exitAway, fmt.Errorf("%w: the drill goes on in its worker; flyball chaos drill results shows it", err)}
	}
	return &exitError{exitFailed, err}
}

// drillProgress is where the drill stands, by its activity's heartbeat, or its own word while it waits for its window.
func drillProgress(ctx context.Context, c client.Client, run client.WorkflowRun) contract.DrillProgress {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var p contract.DrillProgress
	d, err := c.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
	if err != nil {
		return contract.DrillProgress{Phase: "unknown", Waiting: "Temporal to answer"}
	}
	if len(d.GetPendingActivities()) == 0 {
		var s contract.DrillState
		if answer, err := c.QueryWorkflow(ctx, run.GetID(), run.GetRunID(), contract.State); err == nil && answer.Get(&s) == nil && s.Phase == "waiting" {
			p = contract.DrillProgress{Phase: "window", Waiting: "the window to begin at " + s.Until.UTC().Format("15:04") + " UTC", Bound: time.Until(s.Until)}
		}
	}
	for _, a := range d.GetPendingActivities() {
		p = contract.DrillProgress{Phase: "starting", Waiting: "a worker"}
		if details := a.GetHeartbeatDetails(); details != nil {
			_ = drillData.FromPayloads(details, &p)
		}
	}
	return p
}
