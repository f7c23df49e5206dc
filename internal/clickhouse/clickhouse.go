// Package clickhouse keeps the telemetry: it owns the schema and its migrations, the exactly-once
// inserts, and every question that the governor asks of what is stored. It hides ClickHouse: callers
// pass and receive the project's own types, and no other package speaks SQL. It talks HTTP, which a
// server and the embedded engine both serve.
//
// All times are UTC and all ranges half-open. Queries that look at minutes take whole minutes: a range
// is widened to the minutes that it touches.
package clickhouse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"sync/atomic"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Options say where the database is.
type Options struct {
	URL      string // http://host:port or https://host:port
	User     string
	Password string
	Database string // created by Migrate when it is missing
	// StoragePolicy is the one that Migrate puts the raw tables under; empty leaves them as they are.
	StoragePolicy string
	// Cluster is the one on whose servers Migrate makes replicated tables; empty: this server alone.
	Cluster string
	Logger  *slog.Logger
}

// Store is a connection pool to one database. It is safe for concurrent use.
type Store struct {
	conn     driver.Conn // in the database
	server   driver.Conn // outside of any database, so that it works before Migrate
	database string
	layout   layout
	log      *slog.Logger
	swept    atomic.Int64 // how many keys the last sweep returned
}

// databaseName is what a database may be called, so that it needs no quoting anywhere.
var databaseName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// Open connects to the server and checks that it answers. The database itself may still be missing:
// see Migrate.
func Open(ctx context.Context, o Options) (*Store, error) {
	s, err := New(o)
	if err != nil {
		return nil, err
	}
	if err := s.Ping(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// New is Open for whoever can do without the server for a while: it connects when it is asked for something.
func New(o Options) (*Store, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("opening ClickHouse: the URL is not valid: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("opening ClickHouse: the URL %q must be http://host:port or https://host:port", u.Redacted())
	}
	if !databaseName.MatchString(o.Database) {
		return nil, fmt.Errorf("opening ClickHouse: the database name %q must be letters, digits and underscores", o.Database)
	}
	for setting, name := range map[string]string{"storage policy": o.StoragePolicy, "cluster": o.Cluster} {
		if name != "" && !layoutName.MatchString(name) {
			return nil, fmt.Errorf("opening ClickHouse: the name %q of the %s must be letters, digits, dots, dashes and underscores", name, setting)
		}
	}
	s := &Store{database: o.Database, layout: layout{o.Cluster, o.StoragePolicy}, log: o.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.server, err = ch.Open(options(u, o, "")); err != nil {
		return nil, fmt.Errorf("opening ClickHouse: %w", err)
	}
	if s.conn, err = ch.Open(options(u, o, o.Database)); err != nil {
		return nil, errors.Join(fmt.Errorf("opening ClickHouse: %w", err), s.server.Close())
	}
	return s, nil
}

func options(u *url.URL, o Options, database string) *ch.Options {
	options := &ch.Options{
		Protocol:     ch.HTTP,
		Addr:         []string{u.Host},
		HttpUrlPath:  u.Path,
		Auth:         ch.Auth{Database: database, Username: o.User, Password: o.Password},
		DialTimeout:  5 * time.Second,
		ReadTimeout:  5 * time.Minute,
		MaxOpenConns: 16,
		MaxIdleConns: 8,
	}
	if u.Scheme == "https" {
		options.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return options
}

// outside is the store with its queries outside of the database, which may be missing.
func (s *Store) outside() *Store {
	return &Store{conn: s.server, server: s.server, database: s.database, layout: s.layout, log: s.log}
}

// Close ends the connections.
func (s *Store) Close() error {
	if err := errors.Join(s.conn.Close(), s.server.Close()); err != nil {
		return fmt.Errorf("closing ClickHouse: %w", err)
	}
	return nil
}

// Ping checks that the server answers and accepts the credentials.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.server.QueryRow(ctx, "SELECT toUInt8(1)").Scan(new(uint8)); err != nil {
		return fmt.Errorf("asking ClickHouse for a sign of life: %w", err)
	}
	return nil
}

// collect runs a query and reads every row with scan. A query may fail after its first rows, so none
// are returned with an error.
func collect[T any](ctx context.Context, s *Store, sql string, args []any, scan func(driver.Rows, *T) error) ([]T, error) {
	return collectInto(ctx, s, nil, sql, args, scan)
}

// collectInto is collect with a slice to append to.
func collectInto[T any](ctx context.Context, s *Store, all []T, sql string, args []any, scan func(driver.Rows, *T) error) ([]T, error) {
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var row T
		if err := scan(rows, &row); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return all, nil
}

// minutes widens the half-open range to whole minutes.
func minutes(from, to time.Time) (time.Time, time.Time) {
	return bounded(from).Truncate(time.Minute), bounded(to).Add(time.Minute - 1).Truncate(time.Minute)
}

// millis cuts a time to what a DateTime64(3) parameter holds.
func millis(t time.Time) time.Time { return bounded(t).Truncate(time.Millisecond) }

// The times that parameters may carry. All telemetry lies between; a caller's zero time or "for ever"
// lies beyond what a DateTime holds.
var (
	earliest = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

func bounded(t time.Time) time.Time {
	switch t = t.UTC(); {
	case t.Before(earliest):
		return earliest
	case t.After(latest):
		return latest
	}
	return t
}
