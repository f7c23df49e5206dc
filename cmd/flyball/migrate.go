package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
)

// migrateCommand applies the schema.
func migrateCommand() *cobra.Command {
	var file string
	var dry bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create or update the ClickHouse schema",
		Long: "Create or update the ClickHouse schema, on the servers of clickhouse.cluster where that is set, and put the\n" +
			"raw tables under clickhouse.storage_policy where that is set. What is there already is left as it is.",
		Example: "  flyball migrate --config deploy/flyball.yaml --dry-run\n" +
			"  flyball migrate --config deploy/flyball.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			store, err := openStore(cmd.Context(), c.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer store.Close()
			if dry {
				return printMigration(cmd.Context(), cmd.OutOrStdout(), store)
			}
			if err := store.Migrate(cmd.Context()); err != nil {
				return migrateError(err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print the SQL that would be run, and run none of it")
	return cmd
}

// printMigration prints what Migrate would run, as SQL.
func printMigration(ctx context.Context, out io.Writer, store *clickhouse.Store) error {
	plan, err := store.PlanMigration(ctx)
	if err != nil {
		return migrateError(err)
	}
	for _, statement := range plan {
		fmt.Fprintf(out, "%s;\n\n", statement)
	}
	return nil
}

// migrateError tells what the configuration asks for and the server does not have from a server that is away.
func migrateError(err error) error {
	if errors.Is(err, clickhouse.ErrLayout) {
		return &exitError{exitUsage, err}
	}
	return storeError(err)
}
