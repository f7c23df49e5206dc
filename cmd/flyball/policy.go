package main

import (
	"errors"
	"fmt"
	"io"
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
		Short: "Check, test and explain policies",
		Long: "Check, test and explain the policies in a directory, or the shipped ones when no directory is named.\n" +
			"A file that the directory does not have is the shipped one.",
		Args: cobra.NoArgs, // a mistyped subcommand is bad usage, not a request for help
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		lintCommand(),
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
		explainCommand(),
		policyBacktestCommand(),
		policyShadowCommand(),
	)
	return cmd
}

// readPolicies compiles the set of a directory, or the shipped one. The error is policy.Problems where files are wrong.
func readPolicies(args []string) (*policy.Set, error) {
	if len(args) == 0 {
		return policy.Compile(policies.Files)
	}
	if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
		return nil, &exitError{exitUsage, fmt.Errorf("%s is not a directory", args[0])}
	}
	return policy.Compile(os.DirFS(args[0]))
}

// compilePolicies is readPolicies that shows what is wrong.
func compilePolicies(args []string, errs io.Writer) (*policy.Set, error) {
	set, err := readPolicies(args)
	var problems policy.Problems
	if errors.As(err, &problems) {
		fmt.Fprintln(errs, problems)
	}
	return set, uncompiled(err)
}

// uncompiled gives the error of readPolicies its exit code.
func uncompiled(err error) error {
	var problems policy.Problems
	var exit *exitError
	switch {
	case err == nil || errors.As(err, &exit):
		return err
	case errors.As(err, &problems):
		return &exitError{exitFailed, fmt.Errorf("the policies have %s", plural(len(problems), "error"))}
	}
	return &exitError{exitFailed, err}
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
