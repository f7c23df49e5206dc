package clickhouse

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one numbered file of SQL statements.
type migration struct {
	version    uint32
	name       string
	statements []string
}

// Migrate creates the database when it is missing and applies the migrations that it lacks, in order, and then
// what the options say of disks. Every statement is harmless when repeated, so a migration that was cut short is
// simply run again, and two processes may migrate at once. A database that knows migrations which this binary does
// not is refused.
func (s *Store) Migrate(ctx context.Context) error {
	if err := s.checkLayout(ctx); err != nil {
		return err
	}
	prepare, err := s.layout.statements([]string{"CREATE DATABASE IF NOT EXISTS " + s.database, migrationsTable})
	if err != nil {
		return err
	}
	if err := s.server.Exec(ctx, prepare[0]); err != nil {
		return fmt.Errorf("creating the database %s: %w", s.database, err)
	}
	if err := s.conn.Exec(ctx, prepare[1]); err != nil {
		return fmt.Errorf("creating the table of migrations: %w", err)
	}
	missing, err := s.missingMigrations(ctx)
	if err != nil {
		return err
	}
	for _, m := range missing {
		for i, statement := range m.statements {
			if err := s.conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("migration %s, statement %d: %w", m.name, i+1, err)
			}
		}
		if err := s.insert(ctx, table{"migrations", []column{{"version", "UInt32"}, {"name", "String"}}}, "", 1, func(int) []any {
			return []any{m.version, m.name}
		}); err != nil {
			return fmt.Errorf("recording migration %s: %w", m.name, err)
		}
		s.log.Info("applied migration", slog.String("migration", m.name), slog.String("database", s.database))
	}
	tiering, err := s.tiering(ctx)
	if err != nil {
		return err
	}
	for _, statement := range tiering {
		if err := s.conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("applying the storage policy %s: %s: %w", s.layout.policy, statement, err)
		}
		s.log.Info("applied storage policy", slog.String("statement", statement), slog.String("database", s.database))
	}
	return nil
}

// PlanMigration are the statements that Migrate would run now, in order, but for its own records of them.
func (s *Store) PlanMigration(ctx context.Context) ([]string, error) {
	if err := s.checkLayout(ctx); err != nil {
		return nil, err
	}
	var plan []string
	missing, err := loadMigrations(migrationFiles)
	if err != nil {
		return nil, err
	}
	if _, definition, err := s.storedUnder(ctx, "migrations"); err != nil {
		return nil, err
	} else if definition == "" {
		plan = []string{"CREATE DATABASE IF NOT EXISTS " + s.database, migrationsTable}
		for _, m := range missing {
			plan = append(plan, m.statements...)
		}
		if plan, err = s.layout.statements(plan); err != nil {
			return nil, err
		}
	} else {
		if missing, err = s.missingMigrations(ctx); err != nil {
			return nil, err
		}
		for _, m := range missing {
			plan = append(plan, m.statements...)
		}
	}
	tiering, err := s.tiering(ctx)
	return append(plan, tiering...), err
}

const migrationsTable = `CREATE TABLE IF NOT EXISTS migrations (
  version    UInt32,
  name       String,
  applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at) ORDER BY version`

// missingMigrations are those that the database lacks, as its layout has them.
func (s *Store) missingMigrations(ctx context.Context) ([]migration, error) {
	migrations, err := loadMigrations(migrationFiles)
	if err != nil {
		return nil, err
	}
	applied, err := collect(ctx, s, "SELECT DISTINCT version FROM migrations ORDER BY version", nil,
		func(rows driver.Rows, version *uint32) error { return rows.Scan(version) })
	if err != nil {
		return nil, fmt.Errorf("reading which migrations the database has: %w", err)
	}
	if len(applied) > 0 {
		if newest, known := applied[len(applied)-1], migrations[len(migrations)-1].version; newest > known {
			return nil, fmt.Errorf("the database %s has migration %d and this binary knows only %d: run a newer flyball", s.database, newest, known)
		}
	}
	var missing []migration
	for _, m := range migrations {
		if slices.Contains(applied, m.version) {
			continue
		}
		if m.statements, err = s.layout.statements(m.statements); err != nil {
			return nil, fmt.Errorf("migration %s: %w", m.name, err)
		}
		missing = append(missing, m)
	}
	return missing, nil
}

// checkLayout asks the server whether it has what the layout needs, before anything is made.
func (s *Store) checkLayout(ctx context.Context) error {
	if policy := s.layout.policy; policy != "" {
		volumes, err := s.volumes(ctx, policy)
		if err != nil {
			return err
		}
		if err := checkVolumes(policy, volumes); err != nil {
			return err
		}
	}
	if s.layout.cluster == "" {
		return nil
	}
	var servers, macros uint64
	if err := s.server.QueryRow(ctx, `SELECT (SELECT count() FROM system.clusters WHERE cluster = {cluster:String}),
  (SELECT count() FROM system.macros WHERE macro IN ('shard', 'replica'))`, ch.Named("cluster", s.layout.cluster)).Scan(&servers, &macros); err != nil {
		return fmt.Errorf("reading the cluster %s: %w", s.layout.cluster, err)
	}
	const see = `see "On a cluster" in docs/operations.md`
	if servers == 0 {
		return fmt.Errorf("%w: clickhouse.cluster: the server knows no cluster %s: declare it under <remote_servers>; %s", ErrLayout, s.layout.cluster, see)
	}
	if macros != 2 {
		return fmt.Errorf("%w: clickhouse.cluster: the server lacks the macros shard and replica, which name the tables' replicas: declare both under <macros>; %s", ErrLayout, see)
	}
	return nil
}

// loadMigrations reads files named 0001_subject.sql from the folder migrations, in order.
func loadMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("listing the migrations: %w", err)
	}
	var all []migration
	for _, path := range names {
		text, err := fs.ReadFile(files, path)
		if err != nil {
			return nil, fmt.Errorf("reading a migration: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("the name of migration %s must begin with its number", name)
		}
		all = append(all, migration{uint32(version), name, splitStatements(string(text))})
	}
	slices.SortFunc(all, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
	for i, m := range all {
		if m.version != uint32(i+1) {
			return nil, fmt.Errorf("migration %s should have number %d", m.name, i+1)
		}
	}
	return all, nil
}

// splitStatements splits SQL at the semicolons that end a line, and leaves comment lines out. Statements
// are sent one by one because the HTTP interface takes no more.
func splitStatements(sql string) []string {
	var statements []string
	var current strings.Builder
	for line := range strings.Lines(sql) {
		if trimmed := strings.TrimSpace(line); trimmed == "" || strings.HasPrefix(trimmed, "--") {
			continue
		}
		body, ended := strings.CutSuffix(strings.TrimRight(line, " \t\r\n"), ";")
		current.WriteString(body)
		current.WriteString("\n")
		if ended {
			statements = append(statements, strings.TrimSpace(current.String()))
			current.Reset()
		}
	}
	if rest := strings.TrimSpace(current.String()); rest != "" {
		statements = append(statements, rest)
	}
	return statements
}
