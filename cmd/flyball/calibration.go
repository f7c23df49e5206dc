package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/standing"
)

// calibrationCommand has baselines and evaluators calibrated, and says what becomes of what has drifted.
func calibrationCommand(c connector) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "calibration",
		Short: "Calibrate baselines and evaluators, see how far they have drifted, approve or deny moves",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		runCalibrationCommand(c), showCalibrationCommand(c), restoreCommand(),
		movesCommand(c, contract.Approve, "Let baselines move beyond their bounds: the level is calibrated anew"),
		movesCommand(c, contract.Deny, "Keep baselines where they are held: the level was right, the calls are not"),
	)
	return cmd
}

func runCalibrationCommand(c connector) *cobra.Command {
	var p person
	var in contract.CalibrationInput
	cmd := asking(&cobra.Command{
		Use:   "run",
		Short: "Compute baselines anew and compare them with where they were calibrated, or judge evaluators, now",
		Long: "Compute the baselines of a tenant, or of all, anew, and compare them with where they were calibrated; with --evaluators,\n" +
			"judge evaluators against people's ratings. It goes on by itself; flyball calibration show tells what came of it.",
		Example: "  flyball calibration run --reason 'the price book has changed'\n  flyball calibration run --tenant org_42\n  flyball calibration run --evaluators",
		Args:    cobra.NoArgs,
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, _ []string) (answer, error) {
		outcome, err := box.Calibrate(ctx, in, contract.RecalibrateRequest{Who: p.who, Reason: p.reason})
		return answer{outcome: outcome, done: "Asked for: " + outcome.ID}, err
	})
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if in.Evaluators && in.Tenant != "" {
			return &exitError{exitUsage, errors.New("evaluators are judged over all tenants: leave --tenant or --evaluators out")}
		}
		in.Tuning, in.Bounds = contract.NewTuning(1), contract.DefaultBounds
		return nil
	}
	cmd.Flags().StringVar(&in.Tenant, "tenant", "", "whose baselines (default: all)")
	cmd.Flags().BoolVar(&in.Evaluators, "evaluators", false, "judge evaluators against people's ratings")
	return cmd
}

func showCalibrationCommand(c connector) *cobra.Command {
	var tenant string
	cmd := showing(&cobra.Command{
		Use:     "show",
		Short:   "Tell what the open calibrations found and what waits for a person; when none is open, the last",
		Example: "  flyball calibration show\n  flyball calibration show --tenant org_42 --json",
		Args:    cobra.NoArgs,
	}, c, func(ctx context.Context, box *inbox.Inbox, _ []string) (any, string, error) {
		all, err := box.Calibrations(ctx)
		if err != nil {
			return nil, "", err
		}
		found := []inbox.Calibration{}
		var text strings.Builder
		for _, one := range all {
			if tenant != "" && one.State.Tenant != tenant && one.State.Tenant != "" {
				continue
			}
			found = append(found, one)
			switch {
			case !one.Answered:
				fmt.Fprintf(&text, "%s\n\nNo worker is there to tell more.\n\n", one.ID)
			default:
				fmt.Fprintf(&text, "%s\n\n%s\n\n", one.ID, strings.TrimSpace(one.Details))
			}
		}
		if len(found) == 0 {
			text.WriteString("Nothing has been calibrated within Temporal's retention: flyball calibration run\n")
		}
		return found, text.String(), nil
	})
	cmd.Flags().StringVar(&tenant, "tenant", "", "those about a tenant, or all")
	return cmd
}

func movesCommand(c connector, verdict, short string) *cobra.Command {
	p := person{must: "it is kept with the level"}
	var all bool
	var measure string
	var r contract.DecideMovesRequest
	cmd := asking(&cobra.Command{
		Use:   verdict + " [TENANT/MODEL | TENANT]",
		Short: short,
		Long: short + ". A key, a whole tenant, or --all of what flyball calibration show lists.\n" +
			"When no worker is there the verdict is kept, and takes effect when one is back.\nExit 1 when no such move waits, 3 when Temporal is away.",
		Example: fmt.Sprintf("  flyball calibration %[1]s org_42/claude-3-opus --reason 'as agreed on the call'\n  flyball calibration %[1]s org_42 --measure cost --reason 'the new prices'\n"+
			"  flyball calibration %[1]s --all --reason 'as agreed on the call' --json", verdict),
		Args: cobra.MaximumNArgs(1),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, _ []string) (answer, error) {
		r.Who, r.Reason = p.who, p.reason
		outcomes, moves, err := box.DecideMoves(ctx, r)
		if err != nil {
			return answer{}, err
		}
		last := outcomes[len(outcomes)-1]
		return answer{last, fmt.Sprintf("%s: %s of %s", verdict, plural(moves, "move"), last.ID), map[string]any{"moves": moves, "calibrations": outcomes}}, nil
	})
	cmd.PreRunE = func(_ *cobra.Command, args []string) error {
		if all == (len(args) == 1) {
			return &exitError{exitUsage, errors.New("say which moves: TENANT/MODEL, TENANT, or --all")}
		}
		r = contract.DecideMovesRequest{Verdict: verdict, Measure: contract.Measure(measure)}
		switch r.Measure {
		case "", contract.CostMeasure, contract.QualityMeasure:
		default:
			return &exitError{exitUsage, fmt.Errorf("--measure is %q: it must be cost or quality", measure)}
		}
		if len(args) == 0 {
			return nil
		}
		if !strings.Contains(args[0], "/") {
			r.Tenant = args[0]
			return nil
		}
		key, err := inbox.Key(args[0])
		if err != nil {
			return &exitError{exitUsage, err}
		}
		r.Tenant, r.Model = key.Tenant, key.Model
		return nil
	}
	cmd.Flags().BoolVar(&all, "all", false, "all moves that wait")
	cmd.Flags().StringVar(&measure, "measure", "", "cost or quality (default: both)")
	return cmd
}

func restoreCommand() *cobra.Command {
	o := judging{}
	cmd := &cobra.Command{
		Use:   "restore NAME VERSION",
		Short: "Let an evaluator that failed against people count again",
		Long: "Let a version of an evaluator that failed against people's ratings count again: its scores reach detection and\n" +
			"baselines from two minutes on. The next monthly calibration judges it as any other. Exit 1 when it does not fail.",
		Example: "  flyball calibration restore helpfulness 2026-05 --reason 'the rubric is mended'",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.reason == "" {
				return &exitError{exitUsage, errors.New("say why with --reason: it is kept with the evaluator")}
			}
			who, err := o.by(o.reason)
			if err != nil {
				return err
			}
			store, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			history, err := store.EvaluatorHistory(cmd.Context())
			if err != nil {
				return storeError(err)
			}
			record, err := standing.Restore(history, contract.EvaluatorVersion{Evaluator: args[0], Version: args[1]}, time.Now(), who)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			return o.store(cmd.Context(), store, []contract.EvaluatorRecord{record}, cmd.OutOrStdout())
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.who, "who", whoami(), "who says so")
	cmd.Flags().StringVar(&o.reason, "reason", "", "why")
	return cmd
}
