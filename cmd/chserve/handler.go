package main

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/google/uuid"

	"github.com/flyball-dev/flyball/cmd/chserve/chdb"
)

// handler serves ClickHouse's HTTP interface from the engine.
type handler struct {
	db    *database
	guard *guard
	users []user
	turns *turns
}

func newHandler(db *database, guard *guard, opts options) *handler {
	return &handler{db: db, guard: guard, users: opts.users, turns: newTurns(opts.concurrency, opts.users)}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ping" {
		_, _ = io.WriteString(w, "Ok.\n")
		return
	}
	queryID := r.URL.Query().Get("query_id")
	if queryID == "" {
		queryID = uuid.NewString()
	}
	answer := newResponse(w, queryID)
	if err := h.serve(answer, r); err != nil {
		answer.fail(err) // a client that has gone does not mind
	}
}

// serve runs the statement of r and writes its output.
func (h *handler) serve(answer *response, r *http.Request) error {
	u, err := authenticate(h.users, r)
	if err != nil {
		return err
	}
	leave, err := h.turns.enter(r.Context(), u)
	if err != nil {
		return err
	}
	defer leave()
	req, err := receive(answer, r, u)
	if err != nil {
		return err
	}
	done, err := h.turns.run(r.Context(), u)
	if err != nil {
		return err
	}
	defer done()
	if req.compressed {
		answer.blocks = compress.NewWriter(compress.LevelZero, req.method)
	}
	if err := h.guard.checkRequest(u, req); err != nil {
		return err
	}
	if strings.TrimSpace(req.sql) == helloQuery && req.format == "Native" {
		return answer.hello(h.db, req.revision)
	}
	marker := newMarker(u)
	conn, err := h.db.connect(u, marker, req.settings, req.database)
	if err != nil {
		return err
	}
	defer conn.Close()
	analysis, err := conn.Classify(req.sql)
	if err != nil {
		return err
	}
	if err := h.guard.checkStatement(conn, u, req, analysis); err != nil {
		return err
	}
	defer h.killWhenDone(r.Context(), marker)()
	switch {
	case req.data != nil:
		return insert(conn, req, answer)
	case analysis.Class == chdb.ReadOnly && selects.MatchString(req.sql):
		return stream(conn, req, answer)
	}
	result, err := conn.Query(req.sql, req.format, req.params)
	if err != nil {
		return err
	}
	if u.Admin { // what was read counts the rows that a filter left out
		answer.summary(result)
	}
	_, err = answer.Write(result.Data)
	return err
}

// receive takes the request apart, a reader's within its bounds.
func receive(answer *response, r *http.Request, u user) (*request, error) {
	if u.Admin {
		return parseRequest(r, maxStatementBytes)
	}
	if err := checkReader(u, r); err != nil {
		return nil, err
	}
	answer.patience = readerTakeTime
	if err := sendBy(answer.http, time.Now().Add(readerSendTime)); err != nil {
		return nil, err
	}
	req, err := parseRequest(r, maxReaderStatement)
	if err != nil {
		return nil, err
	}
	return req, sendBy(answer.http, time.Time{})
}

// killInterval is the time between attempts to stop a statement whose client has gone.
const killInterval = 50 * time.Millisecond

// killWhenDone stops the statement with the marker once ctx is done, which is when its client has gone or
// the server stops. It tries until the returned function is called, because the engine may not have
// registered the statement yet.
func (h *handler) killWhenDone(ctx context.Context, marker string) (finished func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		ticker := time.NewTicker(killInterval)
		defer ticker.Stop()
		for {
			h.db.kill(marker)
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}

// insert pipes the body's rows into the engine. The answer is sent after the engine has committed them.
func insert(conn *chdb.Conn, req *request, answer *response) error {
	rows, err := conn.Insert(req.sql, req.dataFormat, req.params)
	if err != nil {
		return err
	}
	defer rows.Close()
	if _, err := io.CopyBuffer(rows, struct{ io.Reader }{req.data}, make([]byte, 1<<18)); err != nil {
		return err
	}
	result, err := rows.Done()
	if err != nil {
		return err
	}
	answer.summary(result)
	return nil
}

// selects recognises, among statements that only read, those that the engine can stream.
var selects = regexp.MustCompile(`(?is)^(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(SELECT|WITH|FROM)\b`)

// stream sends a SELECT's output while the engine makes it.
func stream(conn *chdb.Conn, req *request, answer *response) error {
	output, err := conn.Stream(req.sql, req.format, req.params)
	if err != nil {
		return err
	}
	defer output.Close()
	for {
		piece, err := output.Next()
		if err != nil {
			return err
		}
		if piece == nil {
			return nil
		}
		// What was written before goes out now; a short answer is left to net/http, which then sends it
		// with its length.
		if answer.started {
			if err := answer.flush(); err != nil {
				return err
			}
		}
		if _, err := answer.Write(piece); err != nil {
			return err
		}
	}
}
