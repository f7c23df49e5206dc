package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/policy"
)

// lintCommand compiles policies and warns of what compiles and is still wrong.
func lintCommand() *cobra.Command {
	var configFile string
	var strict, asJSON bool
	cmd := &cobra.Command{
		Use:   "lint [DIR]",
		Short: "Compile policies, show every error in its place, and warn of rules that do not do what they say",
		Long: `Compile the policies and show every error with its place and how to mend it. What compiles is warned of when

  not-asked      a rule holds of facts that the sweep never puts to the policy, so that it does not fire on them
  unreachable    no facts that were tried reach a rule
  untested       no test reaches a rule
  unknown-value  a fact is compared with what it never is
  unknown-model  a model has no tier in tradeoff.yaml
  unknown-group  approvers are not among notify.approvers of --config

Facts to try are made of the values in the conditions, a few thousand for each rule, the same every time. What they do
not reach may still be reached by others.

It exits with 0 when there are warnings only, and with 1 on an error or, with --strict, on a warning.`,
		Example: "  flyball policy lint\n  flyball policy lint policies --strict\n  flyball policy lint policies --config deploy/flyball.yaml --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var groups []string
			if configFile != "" {
				c, err := loadConfig(configFile)
				if err != nil {
					return err
				}
				groups = slices.Sorted(maps.Keys(c.Notify.Approvers))
				if len(args) == 0 && c.Policies != "" {
					args = []string{c.Policies}
				}
			}
			set, err := readPolicies(args)
			var problems policy.Problems
			if errors.As(err, &problems); err != nil && problems == nil {
				return uncompiled(err)
			}
			var warnings []policy.Warning
			if err == nil {
				warnings = set.Lint(groups)
			}
			switch {
			case asJSON:
				if failed := writeLint(cmd.OutOrStdout(), set, problems, warnings); failed != nil {
					return failed
				}
			case err == nil:
				printLint(cmd.OutOrStdout(), cmd.ErrOrStderr(), set, warnings)
			default:
				fmt.Fprintln(cmd.ErrOrStderr(), problems)
			}
			if err == nil && strict && len(warnings) > 0 {
				return &exitError{exitFailed, fmt.Errorf("the policies have %s", plural(len(warnings), "warning"))}
			}
			return uncompiled(err)
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration whose approvers and policies are meant")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printLint(out, errs io.Writer, set *policy.Set, warnings []policy.Warning) {
	for _, c := range set.Test().Policies {
		fmt.Fprintf(out, "ok  %-14s %s%s\n", c.File, plural(c.Rules, "rule"), shippedMark(set, c.File))
	}
	t := set.Tradeoff()
	fmt.Fprintf(out, "ok  %-14s %s, %s%s\n", "tradeoff.yaml", plural(len(t.Tiers), "tier"), plural(len(t.Tenants), "tenant"), shippedMark(set, "tradeoff.yaml"))
	fmt.Fprintf(out, "revision %s\n", set.Revision())
	for _, w := range warnings {
		fmt.Fprintln(errs, "warning:", w)
	}
}

// lintLine is an error or a warning in JSON. The kind of an error is "error".
type lintLine struct {
	Kind    policy.WarningKind `json:"kind"`
	File    string             `json:"file"`
	Line    int                `json:"line,omitempty"`
	Col     int                `json:"col,omitempty"`
	Message string             `json:"message"`
	Mend    string             `json:"mend,omitempty"`
}

// writeLint writes one JSON object. Without a set, which did not compile, there is no revision.
func writeLint(out io.Writer, set *policy.Set, problems policy.Problems, warnings []policy.Warning) error {
	line := func(kind policy.WarningKind, p policy.Problem) lintLine {
		return lintLine{kind, p.File, p.Line, p.Col, p.Message, p.Mend}
	}
	found := []lintLine{}
	for _, p := range problems {
		found = append(found, line("error", p))
	}
	for _, w := range warnings {
		found = append(found, line(w.Kind, w.Problem))
	}
	revision := ""
	if set != nil {
		revision = set.Revision()
	}
	return json.NewEncoder(out).Encode(map[string]any{"revision": revision, "found": found})
}
