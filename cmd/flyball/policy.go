package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/policies"
)

// policyCommand checks policy directories before anyone relies on them.
func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check and test policies",
		Long: "Check and test the policies in a directory, or the shipped ones when no directory is named.\n" +
			"A file that the directory does not have is the shipped one.",
		Args: cobra.NoArgs, // a mistyped subcommand is bad usage, not a request for help
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "lint [DIR]",
			Short: "Compile policies and show every error in its place",
			Args:  cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				set, err := compilePolicies(args, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				return lintPolicies(set, cmd.OutOrStdout(), cmd.ErrOrStderr())
			},
		},
		&cobra.Command{
			Use:   "test [DIR]",
			Short: "Run the *_test.yaml of policies and show what they cover",
			Args:  cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				set, err := compilePolicies(args, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				return testPolicies(set, cmd.OutOrStdout(), cmd.ErrOrStderr())
			},
		},
		policyBacktestCommand(),
		policyShadowCommand(),
	)
	return cmd
}

func compilePolicies(args []string, errs io.Writer) (*policy.Set, error) {
	var fsys fs.FS = policies.Files
	if len(args) == 1 {
		if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
			return nil, &exitError{exitUsage, fmt.Errorf("%s is not a directory", args[0])}
		}
		fsys = os.DirFS(args[0])
	}
	set, err := policy.Compile(fsys)
	var problems policy.Problems
	switch {
	case err == nil:
		return set, nil
	case errors.As(err, &problems):
		fmt.Fprintln(errs, problems)
		return nil, &exitError{exitFailed, fmt.Errorf("the policies have %s", plural(len(problems), "error"))}
	default:
		return nil, &exitError{exitFailed, err}
	}
}

// lintPolicies warns of what compiles and is still not as it should be: rules that nothing tests.
func lintPolicies(set *policy.Set, out, errs io.Writer) error {
	for _, c := range set.Test().Policies {
		fmt.Fprintf(out, "ok  %-14s %s%s\n", c.File, plural(c.Rules, "rule"), shippedMark(set, c.File))
		if c.Tests == 0 {
			fmt.Fprintf(errs, "warning: %s has no tests: nothing would tell that a change broke it\n", c.File)
		}
	}
	t := set.Tradeoff()
	fmt.Fprintf(out, "ok  %-14s %s, %s%s\n", "tradeoff.yaml", plural(len(t.Tiers), "tier"), plural(len(t.Tenants), "tenant"), shippedMark(set, "tradeoff.yaml"))
	fmt.Fprintf(out, "revision %s\n", set.Revision())
	return nil
}

func testPolicies(set *policy.Set, out, errs io.Writer) error {
	report := set.Test()
	failed := 0
	for _, c := range report.Policies {
		verdict := "ok  "
		if c.Failed > 0 {
			verdict = "FAIL"
		}
		failed += c.Failed
		fmt.Fprintf(out, "%s %-14s %s, %d failed; %d of %s covered\n", verdict, c.File,
			plural(c.Tests, "test"), c.Failed, c.Rules-len(c.Uncovered), plural(c.Rules, "rule"))
		for _, p := range c.Uncovered {
			fmt.Fprintln(out, indent(p.String()))
		}
	}
	if failed == 0 {
		return nil
	}
	fmt.Fprintln(errs, report.Failures)
	return &exitError{exitFailed, fmt.Errorf("%s failed", plural(failed, "policy test"))}
}

func shippedMark(set *policy.Set, file string) string {
	if slices.Contains(set.Shipped(), file) {
		return " (shipped)"
	}
	return ""
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func indent(text string) string { return "     " + strings.ReplaceAll(text, "\n", "\n     ") }
