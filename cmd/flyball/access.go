package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/devstack"
)

// accessCommand turns the configuration's groups into roles and row policies of a ClickHouse server.
func accessCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "access",
		Short: "Roles from identity-provider groups: who may read which rows",
		Long: "The section access of the configuration says what the identity provider's groups may read.\n" +
			"On a ClickHouse server it becomes one role per group, row policies on every table with a\n" +
			"tenant_id, rights to read these and nothing else, and limits. Users come from your directory\n" +
			"(LDAP role mapping) or from CREATE USER: give them the role of their group.\n\n" +
			"The embedded engine of flyball up has no roles: flyball up --access FILE binds the same rules\n" +
			"to one user per group.",
		Example: "  flyball access show --config deploy/flyball.yaml\n" +
			"  flyball access apply --config deploy/flyball.yaml --dry-run   # the SQL, without a server\n" +
			"  flyball access plan --config deploy/flyball.yaml              # exit code 1: the server differs\n" +
			"  flyball access apply --config deploy/flyball.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&file, "config", "", "configuration file (YAML)")
	var dryRun bool
	apply := &cobra.Command{
		Use:     "apply",
		Short:   "Make the server as the configuration says; what is so already is left alone",
		Example: "  flyball access apply --config deploy/flyball.yaml\n  flyball access apply --config deploy/flyball.yaml --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			if dryRun {
				return dryRunAccess(c, cmd.OutOrStdout())
			}
			plan, err := withPlan(cmd, c, (*clickhouse.Store).ApplyAccess)
			if err == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s applied\n", plural(len(plan), "change"))
			}
			return err
		},
	}
	apply.Flags().BoolVar(&dryRun, "dry-run", false, "print the SQL for a server that has none of it, and ask no server")
	cmd.AddCommand(apply, &cobra.Command{
		Use:     "plan",
		Short:   "Print the SQL of what differs on the server; exit code 1 when something does",
		Example: "  flyball access plan --config deploy/flyball.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			plan, err := withPlan(cmd, c, nil)
			if err != nil || len(plan) == 0 {
				return err
			}
			return &exitError{exitFailed, fmt.Errorf("%s: flyball access apply makes the server as the configuration says", plural(len(plan), "difference"))}
		},
	}, &cobra.Command{
		Use:     "show",
		Short:   "Show what each group may read, without asking a server",
		Example: "  flyball access show --config deploy/flyball.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			return showAccess(c, cmd.OutOrStdout())
		},
	})
	return cmd
}

// accessOf is the configuration's access as ClickHouse's package knows it.
func accessOf(c config.Config) clickhouse.Access {
	a := clickhouse.Access{
		Groups:          map[string]clickhouse.Group{},
		EmbargoedModels: c.Access.EmbargoedModels,
		Unrestricted:    append([]string{c.ClickHouse.User}, c.Access.Unrestricted...),
	}
	for _, role := range config.EveryTenant() {
		a.Roles = append(a.Roles, string(role))
	}
	for name, g := range c.Access.Groups {
		group := clickhouse.Group{Tenants: g.Tenants, Embargoed: g.Has(config.Embargo), Contents: g.Has(config.Contents)}
		for _, role := range config.EveryTenant() {
			if g.Has(role) {
				group.Roles = append(group.Roles, string(role))
			}
		}
		a.Groups[name] = group
	}
	return a
}

// sharingOf binds the configuration's access to users of the embedded engine, one per group.
func sharingOf(c config.Config, database string) (devstack.Sharing, error) {
	tables, err := clickhouse.TenantTables()
	if err != nil {
		return devstack.Sharing{}, err
	}
	a := accessOf(c)
	sharing := devstack.Sharing{EmbargoedModels: a.EmbargoPattern()}
	for _, r := range a.Readers() {
		sharing.Readers = append(sharing.Readers, devstack.Reader(r))
	}
	for _, t := range tables {
		if t.Contents {
			continue // the embedded engine shows a reader all shared tables or none: texts are its admin's alone
		}
		sharing.TenantTables = append(sharing.TenantTables, database+"."+t.Name)
		if t.Quality {
			for _, model := range t.Models {
				sharing.EmbargoColumns = append(sharing.EmbargoColumns, database+"."+t.Name+"."+model)
			}
		}
	}
	return sharing, nil
}

func dryRunAccess(c config.Config, out io.Writer) error {
	tables, err := clickhouse.TenantTables()
	if err != nil {
		return err
	}
	printSQL(out, accessOf(c).AccessSQL(c.ClickHouse.Database, tables))
	return nil
}

// carryOut does something with a plan.
type carryOut func(*clickhouse.Store, context.Context, []string) error

// withPlan prints what differs on the server and, when carry is given, carries it out.
func withPlan(cmd *cobra.Command, c config.Config, carry carryOut) ([]string, error) {
	ctx := cmd.Context()
	store, err := openStore(ctx, c.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	plan, err := store.PlanAccess(ctx, accessOf(c))
	if err == nil {
		printSQL(cmd.OutOrStdout(), plan)
		if carry != nil {
			err = carry(store, ctx, plan)
		}
	}
	switch {
	case errors.Is(err, clickhouse.ErrNoAccessManagement):
		return plan, &exitError{exitUsage, fmt.Errorf("%w\nOn a server, give clickhouse.user the right ACCESS MANAGEMENT or run this as a user who has it.\n"+
			"The embedded engine has no roles: flyball up --access FILE binds the groups to its users", err)}
	case err != nil && clickhouse.Retryable(err):
		return plan, &exitError{exitAway, err}
	}
	return plan, err
}

func printSQL(out io.Writer, statements []string) {
	for _, statement := range statements {
		fmt.Fprintf(out, "%s;\n", statement)
	}
}

// showAccess prints a line per group, and what an embargo covers.
func showAccess(c config.Config, out io.Writer) error {
	tables, err := clickhouse.TenantTables()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "GROUP\tROLES\tTENANTS\tEMBARGOED MODELS")
	for _, name := range slices.Sorted(maps.Keys(c.Access.Groups)) {
		g := c.Access.Groups[name]
		tenants, embargoed := "all", "hidden"
		if g.Has(config.Tenant) {
			tenants = strings.Join(g.Tenants, ", ")
		}
		if g.Has(config.Embargo) {
			embargoed = "shown"
		}
		var roles []string
		for _, role := range g.Roles {
			roles = append(roles, string(role))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", name, strings.Join(roles, ", "), tenants, embargoed)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var shared, quality, contents []string
	for _, t := range tables {
		if t.Contents {
			contents = append(contents, t.Name)
			continue
		}
		shared = append(shared, t.Name)
		if t.Quality {
			quality = append(quality, t.Name)
		}
	}
	fmt.Fprintf(out, "\nTables   %s\n", strings.Join(shared, ", "))
	fmt.Fprintf(out, "Contents %s, for the role contents alone\n", strings.Join(contents, ", "))
	if len(c.Access.EmbargoedModels) > 0 {
		fmt.Fprintf(out, "Embargo  %s, in %s\n", strings.Join(c.Access.EmbargoedModels, ", "), strings.Join(quality, ", "))
	}
	return nil
}
