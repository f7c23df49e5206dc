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

// Migrate creates the database when it is missing and applies the migrations that it lacks, in order.
// Every statement is harmless when repeated, so a migration that was cut short is simply run again, and
// two processes may migrate at once. A database that knows migrations which this binary does not is
// refused.
func (s *Store) Migrate(ctx context.Context) error {
	migrations, err := loadMigrations(migrationFiles)
	if err != nil {
		return err
	}
	if err := s.server.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+s.database); err != nil {
		return fmt.Errorf("creating the database %s: %w", s.database, err)
	}
	if err := s.conn.Exec(ctx, `CREATE TABLE IF NOT EXISTS migrations (
  version    UInt32,
  name       String,
  applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at) ORDER BY version`); err != nil {
		return fmt.Errorf("creating the table of migrations: %w", err)
	}
	applied, err := collect(ctx, s, "SELECT DISTINCT version FROM migrations ORDER BY version", nil,
		func(rows driver.Rows, version *uint32) error { return rows.Scan(version) })
	if err != nil {
		return fmt.Errorf("reading which migrations the database has: %w", err)
	}
	if len(applied) > 0 {
		if newest, known := applied[len(applied)-1], migrations[len(migrations)-1].version; newest > known {
			return fmt.Errorf("the database %s has migration %d and this binary knows only %d: run a newer flyball", s.database, newest, known)
		}
	}
	for _, m := range migrations {
		if slices.Contains(applied, m.version) {
			continue
		}
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
