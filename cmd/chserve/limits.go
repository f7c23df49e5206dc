package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What a reader, a user who is not admin, may take up: one of them must not stand in the way of the others
// or of the governor, which asks the same engine.
const (
	// maxReaderStatement and maxReaderURL bound what a reader sends, in bytes.
	maxReaderStatement = 256 << 10
	maxReaderURL       = 64 << 10
	// readerQueries run at once for one reader; one more waits readerPatience for its turn.
	readerQueries  = 4
	readerPatience = 5 * time.Second
	// readerSendTime is how long a reader may take to send its statement, and readerTakeTime to take the
	// next piece of the answer.
	readerSendTime = 10 * time.Second
	readerTakeTime = 30 * time.Second
)

// readerLimits are what a reader's statement may use at most; a request may ask for less.
var readerLimits = map[string]uint64{
	"max_block_size":     65_409, // rows; the engine's own default
	"max_execution_time": 60,     // seconds
	"max_memory_usage":   2 << 30,
	"max_result_bytes":   256 << 20,
	"max_result_rows":    1_000_000,
	"max_threads":        4,
}

// readerSettings are set on every reader's connection, where no statement can change them.
var readerSettings = []setting{
	// Not among readerLimits: with a limit of its choice and the error at it, a reader could measure how much
	// others have stored beside its own rows.
	{"max_rows_to_read", "2000000000"},
	// To leave out parts, the engine evaluates a reader's condition on the partition keys of all tenants, and
	// its failures (a division by zero) would tell which days others have rows in. Ranges of times still
	// leave parts out by their minimum and maximum.
	{"use_partition_pruning", "0"},
	{"use_query_condition_cache", "0"}, // what a condition found under one reader's filter is no answer for another
	{"output_format_write_statistics", "0"},
}

// readerFormats are settings that shape a reader's answer and nothing else.
var readerFormats = []string{"date_time_output_format", "output_format_json_quote_64bit_integers"}

// limitSettings refuses what a reader may not set and lowers to the limit what it sets too high. Limits that
// the request does not mention are set.
func limitSettings(req *request) error {
	for i, s := range req.settings {
		limit, bounded := readerLimits[s.name]
		if slices.Contains(readerFormats, s.name) {
			continue
		}
		if !bounded {
			return exception(codeReadonly, "Cannot modify '%s' setting in readonly mode: a reader may set only %s", s.name, strings.Join(readerMaySet(), ", "))
		}
		value, err := strconv.ParseFloat(s.value, 64)
		if err != nil {
			return exception(codeBadArguments, "%s is not a number: %q", s.name, s.value)
		}
		if !(value > 0 && value <= float64(limit)) { // 0 would be no limit
			req.settings[i].value = strconv.FormatUint(limit, 10)
		}
	}
	for name, limit := range readerLimits {
		if !slices.ContainsFunc(req.settings, func(s setting) bool { return s.name == name }) {
			req.settings = append(req.settings, setting{name, strconv.FormatUint(limit, 10)})
		}
	}
	return nil
}

// readerMaySet names the settings of a reader's request, in order.
func readerMaySet() []string {
	names := slices.Clone(readerFormats)
	for name := range readerLimits {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// readerHeaders are ClickHouse's headers that a reader may send. A server takes others as orders (database,
// format, role), so they are refused here, not ignored.
var readerHeaders = []string{"X-Clickhouse-User", "X-Clickhouse-Key"}

// checkReader refuses what a reader's request may not carry beside its statement.
func checkReader(u user, r *http.Request) error {
	if len(r.URL.RawQuery) > maxReaderURL {
		return exception(codeBadArguments, "%s: the URL is longer than %d bytes: send the statement in the body", u.Name, maxReaderURL)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Clickhouse-") && !slices.Contains(readerHeaders, name) {
			return exception(codeReadonly, "%s: the header %s is not taken from a reader: send the statement, its parameters and its format", u.Name, name)
		}
	}
	for name, values := range r.URL.Query() {
		switch {
		case slices.Contains([]string{"role", "quota_key", "stacktrace", "buffer_size"}, name):
			return exception(codeReadonly, "%s: the parameter %s is not taken from a reader: send the statement, its parameters and its format", u.Name, name)
		case len(values) > 1:
			return exception(codeBadArguments, "%s: the parameter %s is there %d times: send it once", u.Name, name, len(values))
		}
	}
	return nil
}

// turns bounds the statements that run at once: in all, of all readers, so that the governor always finds a
// place, and of each reader.
type turns struct {
	all, readers chan struct{}
	each         map[string]chan struct{}
}

func newTurns(all int, users []user) *turns {
	t := &turns{all: make(chan struct{}, all), readers: make(chan struct{}, max(1, all/2)), each: map[string]chan struct{}{}}
	for _, u := range users {
		if !u.Admin {
			t.each[u.Name] = make(chan struct{}, readerQueries)
		}
	}
	return t
}

// enter waits for a reader's own turn, which it needs before its statement is read; an admin needs none. The
// caller gives it back with leave.
func (t *turns) enter(ctx context.Context, u user) (leave func(), err error) {
	if u.Admin {
		return func() {}, nil
	}
	own := t.each[u.Name]
	if !waitFor(ctx, own) {
		return nil, exception(codeTooManyQueries, "%s: Too many simultaneous queries: %d of this user run already; wait for one to end", u.Name, readerQueries)
	}
	return func() { <-own }, nil
}

// run waits until the statement may run; the caller gives the turn back with done.
func (t *turns) run(ctx context.Context, u user) (done func(), err error) {
	if !u.Admin && !waitFor(ctx, t.readers) {
		return nil, exception(codeTooManyQueries, "%s: Too many simultaneous queries: other readers' queries fill the engine; try again later", u.Name)
	}
	select {
	case t.all <- struct{}{}:
	case <-ctx.Done():
		if !u.Admin {
			<-t.readers
		}
		return nil, ctx.Err()
	}
	return func() {
		<-t.all
		if !u.Admin {
			<-t.readers
		}
	}, nil
}

// waitFor takes a place in the channel and reports whether it got one within a reader's patience.
func waitFor(ctx context.Context, places chan struct{}) bool {
	ctx, cancel := context.WithTimeout(ctx, readerPatience)
	defer cancel()
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// sendBy bounds the time in which the rest of a request must have come; the zero time ends the bound, which
// would otherwise end the request.
func sendBy(w http.ResponseWriter, deadline time.Time) error {
	if err := http.NewResponseController(w).SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("bounding the time of a request: %w", err)
	}
	return nil
}
