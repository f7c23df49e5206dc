package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/evaluate"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// evaluatorsCommand checks evaluators before anyone relies on them, and asks the judge by hand.
func evaluatorsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "evaluators",
		Short: "Check and test evaluators; compare answers by a rubric",
		Long: "Check and test the evaluators in a directory, or the shipped ones when no directory is named.\n" +
			"A file of the directory replaces the shipped one of the same name, with its tests.",
		Example: "  flyball evaluators lint policies/evaluators\n  flyball evaluators test\n  flyball evaluators pair helpful pairs.ndjson --config flyball.yaml",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "lint [DIR]",
		Short:   "Read evaluators and show every error in its place",
		Example: "  flyball evaluators lint policies/evaluators",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := compileEvaluators(args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			for _, r := range set.Test().Results {
				fmt.Fprintf(cmd.OutOrStdout(), "ok  %-24s %-12s %s\n", r.Evaluator.Name, r.Evaluator.Kind, r.Evaluator.Version)
				if r.Tests == 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s has no tests: nothing would tell that a change broke it\n", r.Evaluator.File)
				}
			}
			return nil
		},
	}, &cobra.Command{
		Use:     "test [DIR]",
		Short:   "Run the *_test.yaml of evaluators",
		Example: "  flyball evaluators test policies/evaluators",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := compileEvaluators(args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return testEvaluators(set, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}, evaluatorsPairCommand())
	return cmd
}

func compileEvaluators(args []string, errs io.Writer) (*evaluate.Set, error) {
	var fsys fs.FS
	if len(args) == 1 {
		if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
			return nil, &exitError{exitUsage, fmt.Errorf("%s is not a directory", args[0])}
		}
		fsys = os.DirFS(args[0])
	}
	set, err := evaluate.Compile(fsys)
	var problems policy.Problems
	switch {
	case err == nil:
		return set, nil
	case errors.As(err, &problems):
		fmt.Fprintln(errs, problems)
		return nil, &exitError{exitFailed, fmt.Errorf("the evaluators have %s", plural(len(problems), "error"))}
	}
	return nil, &exitError{exitFailed, err}
}

func testEvaluators(set *evaluate.Set, out, errs io.Writer) error {
	report := set.Test()
	failed := 0
	for _, r := range report.Results {
		verdict := "ok  "
		if r.Failed > 0 {
			verdict = "FAIL"
		}
		failed += r.Failed
		fmt.Fprintf(out, "%s %-24s %s, %d failed\n", verdict, r.Evaluator.Name, plural(r.Tests, "test"), r.Failed)
	}
	if failed == 0 {
		return nil
	}
	fmt.Fprintln(errs, report.Failures)
	return &exitError{exitFailed, fmt.Errorf("%s failed", plural(failed, "test"))}
}

// evaluatorsPairCommand compares answers two by two.
func evaluatorsPairCommand() *cobra.Command {
	var file, most string
	cmd := &cobra.Command{
		Use:   "pair EVALUATOR FILE",
		Short: "Compare two answers to each question by a judge's rubric, in both orders",
		Long: `Pair reads NDJSON {"input","a","b"} and asks the judge of the configuration which answer is the better one,
twice: with the answers in either order. On stdout, a line each: {"better":"a"|"b"|"tie","confidence"}.
The confidence is 1 where both orders agree, 0.5 where one found a winner and the other none, and 0 where the judge
preferred a position; the last two are ties.

Nothing is stored; what the calls cost is printed at the end, and --max-usd bounds it.`,
		Example: "  flyball evaluators pair helpful pairs.ndjson --config flyball.yaml --max-usd 0.50",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			if c.Judge.Model == "" {
				return &exitError{exitUsage, errors.New("the configuration names no judge: give judge.model, see docs/evaluators.md")}
			}
			c.Judge.MaxUSDPerDay = most
			if _, err := c.Judge.Cap(); err != nil {
				return &exitError{exitUsage, fmt.Errorf("--max-usd: %q is not an amount above 0", most)}
			}
			from := c.Evaluators
			if from == "" {
				from = "shipped"
			}
			set, err := loadEvaluators(from)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			e := set.Find(args[0])
			if e == nil || e.Kind != evaluate.JudgeKind {
				return &exitError{exitUsage, fmt.Errorf("%s is no evaluator of the kind judge", args[0])}
			}
			s := &system{config: c, log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))}
			if s.book, err = loadBook(c.PriceBook); err != nil {
				return &exitError{exitUsage, err}
			}
			var spent usage.PicoUSD
			judge, err := s.handJudge(func(p usage.Span) { spent += p.Cost })
			if err != nil {
				return &exitError{exitUsage, err}
			}
			in, err := os.Open(filepath.Clean(args[1]))
			if err != nil {
				return &exitError{exitUsage, err}
			}
			defer in.Close()
			err = pairs(cmd.Context(), judge, e, args[1], in, cmd.OutOrStdout())
			fmt.Fprintf(cmd.ErrOrStderr(), "spent %s dollars\n", pricing.Format(spent))
			return err
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	cmd.Flags().StringVar(&most, "max-usd", "1", "that all calls may cost together")
	return cmd
}

// maxPair bounds one line of pairs, in bytes.
const maxPair = 4 << 20

func pairs(ctx context.Context, judge *evaluate.Judge, e *evaluate.Evaluator, name string, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxPair)
	failed, encoder := 0, json.NewEncoder(out)
	for n := 1; lines.Scan(); n++ {
		var pair struct {
			Input string `json:"input"`
			A     string `json:"a"`
			B     string `json:"b"`
		}
		result := map[string]any{}
		err := json.Unmarshal(lines.Bytes(), &pair)
		if err == nil {
			var better int
			var confidence float64
			about := evaluate.About{ID: fmt.Sprintf("pair-%d-%d", time.Now().UnixNano(), n), Evaluator: e}
			if better, confidence, err = judge.Compare(ctx, about, pair.Input, pair.A, pair.B); err == nil {
				result["better"], result["confidence"] = map[int]string{1: "a", -1: "b", 0: "tie"}[better], confidence
			}
		}
		if errors.Is(err, evaluate.ErrAway) || errors.Is(err, evaluate.ErrPaused) {
			return &exitError{exitAway, fmt.Errorf("%s:%d: %w", name, n, err)}
		}
		if errors.Is(err, evaluate.ErrCap) {
			return &exitError{exitFailed, fmt.Errorf("%s:%d: --max-usd is spent", name, n)}
		}
		if err != nil {
			failed++
			result["error"] = fmt.Sprintf("line %d: %v", n, err)
		}
		if err := encoder.Encode(result); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if failed > 0 {
		return &exitError{exitFailed, fmt.Errorf("%s of %s gave no verdict", plural(failed, "line"), name)}
	}
	return nil
}
