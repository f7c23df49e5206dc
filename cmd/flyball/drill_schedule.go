package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
)

// scheduleName is what a schedule may be called.
var scheduleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func drillScheduleCommand() *cobra.Command {
	var o drillOptions
	var cron string
	cmd := &cobra.Command{
		Use:   "schedule NAME --cron '0 3 * * 2'",
		Short: "Drill at set times, by a Temporal schedule",
		Long: `Drill at set times, by the Temporal schedule drill/NAME. A drill that is due while one of the tenant is under way is
left out. The same name again replaces the schedule. Results: flyball chaos drill results.`,
		Example: "  flyball chaos drill schedule weekly --cron '0 3 * * 2'\n  flyball chaos drill schedule eu --cron '@daily' --window 02:00-04:00 --tenant flyball-drill-eu",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := o.input()
			switch {
			case err != nil:
				return err
			case cron == "":
				return &exitError{exitUsage, errors.New("say when with --cron, in UTC: '0 3 * * 2' is each Tuesday at 03:00")}
			case !scheduleName.MatchString(args[0]):
				return &exitError{exitUsage, fmt.Errorf("%q is no name of a schedule: letters, digits, dots, dashes and underscores", args[0])}
			}
			in.Schedule = args[0]
			c, err := o.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			if err := scheduleDrill(cmd.Context(), c, in, cron); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Scheduled %s: %s UTC, tenant %s\n", args[0], cron, in.Tenant)
			return nil
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&cron, "cron", "", "when, in UTC: minute, hour, day of month, month, day of week")
	return cmd
}

// scheduleDrill puts the schedule there, in place of one of the same name.
func scheduleDrill(ctx context.Context, c client.Client, in contract.DrillInput, cron string) error {
	id := contract.DrillSchedule(in.Schedule)
	action := &client.ScheduleWorkflowAction{
		ID: "drill-schedule/" + in.Schedule, Workflow: contract.Drill, TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
		StaticSummary: "a drill of " + in.Key().String(), TypedSearchAttributes: drillAttributes(in), Args: []any{in},
	}
	spec := client.ScheduleSpec{CronExpressions: []string{cron}}
	_, err := c.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID: id, Action: action, Spec: spec, Overlap: enums.SCHEDULE_OVERLAP_POLICY_SKIP,
		CatchupWindow: time.Minute, // a drill that was missed is not made good at another time than was chosen
	})
	if errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		err = c.ScheduleClient().GetHandle(ctx, id).Update(ctx, client.ScheduleUpdateOptions{
			DoUpdate: func(have client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
				have.Description.Schedule.Action, have.Description.Schedule.Spec = action, &spec
				return &client.ScheduleUpdate{Schedule: &have.Description.Schedule}, nil
			},
		})
	}
	var invalid *serviceerror.InvalidArgument
	switch {
	case errors.As(err, &invalid):
		return &exitError{exitUsage, fmt.Errorf("--cron %q: %w", cron, err)}
	case err != nil:
		return &exitError{exitAway, fmt.Errorf("scheduling the drill: %w", err)}
	}
	return nil
}

// scheduled is one schedule as `drill list` shows it.
type scheduled struct {
	Name   string               `json:"name"`
	Next   time.Time            `json:"next,omitzero"`
	Last   time.Time            `json:"last,omitzero"`
	Paused bool                 `json:"paused,omitempty"`
	Drill  *contract.DrillInput `json:"drill,omitempty"`
}

func drillListCommand() *cobra.Command {
	var o drillOptions
	cmd := &cobra.Command{
		Use: "list", Short: "List the schedules of drills", Example: "  flyball chaos drill list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			all, err := drillSchedules(cmd.Context(), c)
			if err != nil {
				return err
			}
			if o.json {
				return writeLines(cmd.OutOrStdout(), all)
			}
			if len(all) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no drill is scheduled")
				return nil
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "NAME\tNEXT (UTC)\tLAST (UTC)\tTENANT\tWINDOW")
			for _, s := range all {
				var in contract.DrillInput
				if s.Drill != nil {
					in = *s.Drill
				}
				next := drillTime(s.Next)
				if s.Paused {
					next = "paused"
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.Name, next, drillTime(s.Last), in.Tenant, in.Window)
			}
			return table.Flush()
		},
	}
	o.server(cmd)
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON object per schedule")
	return cmd
}

func drillTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// drillSchedules are those of drills, by name.
func drillSchedules(ctx context.Context, c client.Client) ([]scheduled, error) {
	entries, err := c.ScheduleClient().List(ctx, client.ScheduleListOptions{PageSize: 100})
	if err != nil {
		return nil, &exitError{exitAway, fmt.Errorf("listing the schedules: %w", err)}
	}
	var all []scheduled
	for entries.HasNext() {
		entry, err := entries.Next()
		if err != nil {
			return nil, &exitError{exitAway, fmt.Errorf("listing the schedules: %w", err)}
		}
		name, is := contract.DrillScheduleName(entry.ID)
		if !is {
			continue
		}
		s := scheduled{Name: name, Paused: entry.Paused}
		if d, err := c.ScheduleClient().GetHandle(ctx, entry.ID).Describe(ctx); err == nil {
			if len(d.Info.NextActionTimes) > 0 {
				s.Next = d.Info.NextActionTimes[0]
			}
			if n := len(d.Info.RecentActions); n > 0 {
				s.Last = d.Info.RecentActions[n-1].ActualTime
			}
			s.Drill = drillOf(d.Schedule.Action)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b scheduled) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all, nil
}

// drillOf is the drill that a schedule starts; nil: it cannot be read.
func drillOf(action client.ScheduleAction) *contract.DrillInput {
	start, ok := action.(*client.ScheduleWorkflowAction)
	if !ok || len(start.Args) != 1 {
		return nil
	}
	payload, ok := start.Args[0].(*commonpb.Payload) // as a description has it
	var in contract.DrillInput
	if !ok || drillData.FromPayload(payload, &in) != nil {
		return nil
	}
	return &in
}

func drillRemoveCommand() *cobra.Command {
	var o drillOptions
	cmd := &cobra.Command{
		Use: "remove NAME", Short: "Drill by the schedule no more", Example: "  flyball chaos drill remove weekly", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			err = c.ScheduleClient().GetHandle(cmd.Context(), contract.DrillSchedule(args[0])).Delete(cmd.Context())
			var notFound *serviceerror.NotFound
			switch {
			case errors.As(err, &notFound):
				return &exitError{exitFailed, fmt.Errorf("no drill is scheduled as %q: flyball chaos drill list shows those that are", args[0])}
			case err != nil:
				return &exitError{exitAway, fmt.Errorf("removing the schedule: %w", err)}
			}
			fmt.Fprintln(cmd.OutOrStdout(), "Removed", args[0])
			return nil
		},
	}
	o.server(cmd)
	return cmd
}

// maxDrillResults bounds how many ended drills are read.
const maxDrillResults = 100

func drillResultsCommand() *cobra.Command {
	var o drillOptions
	var limit int
	cmd := &cobra.Command{
		Use: "results", Short: "List what past drills showed, newest first", Args: cobra.NoArgs,
		Long:    "List what past drills showed, newest first, for as long as Temporal keeps ended workflows. --json has every measure.",
		Example: "  flyball chaos drill results\n  flyball chaos drill results --limit 1 --markdown",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > maxDrillResults {
				return &exitError{exitUsage, fmt.Errorf("--limit %d is not between 1 and %d", limit, maxDrillResults)}
			}
			c, err := o.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			all, err := drillResults(cmd.Context(), c, limit)
			if err != nil {
				return err
			}
			return o.answerResults(cmd.OutOrStdout(), cmd.ErrOrStderr(), all)
		},
	}
	o.server(cmd)
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON object per drill")
	cmd.Flags().BoolVar(&o.markdown, "markdown", false, "print the reports as Markdown")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many")
	return cmd
}

func (o *drillOptions) answerResults(out, errs io.Writer, all []contract.DrillResult) error {
	switch {
	case o.json:
		encoder := json.NewEncoder(out)
		for _, r := range all {
			if err := encoder.Encode(r); err != nil {
				return &exitError{exitFailed, fmt.Errorf("writing the results: %w", err)}
			}
		}
	case o.markdown:
		for _, r := range all {
			fmt.Fprintf(out, "# %s\n\n%s\n", r.Title(), r.Markdown())
		}
	case len(all) == 0:
		fmt.Fprintln(errs, "no drill has ended yet")
	default:
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "BEGAN (UTC)\tVERDICT\tTENANT\tMODEL\tSCHEDULE\tMISSED\tREASON")
		for _, r := range all {
			missed := 0
			for _, m := range r.Measures {
				if m.Verdict == contract.DrillFail {
					missed++
				}
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", drillTime(r.Began), r.Verdict, r.Tenant, r.Model, r.Schedule, missed, r.Reason)
		}
		return table.Flush()
	}
	return nil
}

// drillResults reads the results of ended drills. A schedule's own workflow tells its child's once more, and is left
// out unless it had none.
func drillResults(ctx context.Context, c client.Client, limit int) ([]contract.DrillResult, error) {
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType=%q AND ExecutionStatus=%q", contract.Drill, "Completed"), PageSize: maxDrillResults,
	}
	var all []contract.DrillResult
	for len(all) < limit {
		page, err := c.ListWorkflow(ctx, request)
		if err != nil {
			return nil, &exitError{exitAway, fmt.Errorf("listing the drills: %w", err)}
		}
		for _, e := range page.GetExecutions() {
			var r contract.DrillResult
			if err := c.GetWorkflow(ctx, e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId()).Get(ctx, &r); err != nil {
				continue // its history is gone
			}
			if id := contract.DrillID(r.Tenant); id == e.GetExecution().GetWorkflowId() || r.Reason == contract.DrillOverlap {
				all = append(all, r)
			}
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
	}
	slices.SortStableFunc(all, func(a, b contract.DrillResult) int { return b.Began.Compare(a.Began) })
	return all[:min(len(all), limit)], nil
}
