package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"

	"github.com/flyball-dev/flyball/cmd/chserve/chdb"
)

// response writes an answer as ClickHouse's HTTP interface does: a failure before the first byte of
// output is a status with headers, a later one a frame inside the output.
type response struct {
	http http.ResponseWriter
	// blocks compresses the output; nil writes it as it is.
	blocks *compress.Writer
	// tag is announced in a header and repeated in an exception frame, so that rows that contain the
	// frame's marker are not taken for one.
	tag     string
	started bool
	// patience is how long the client may take to receive a piece of output; 0 is for ever.
	patience time.Duration
}

func newResponse(w http.ResponseWriter, queryID string) *response {
	var tag [8]byte
	_, _ = rand.Read(tag[:]) // never fails: crypto/rand stops the program instead
	r := &response{http: w, tag: hex.EncodeToString(tag[:])}
	w.Header().Set("X-ClickHouse-Server-Display-Name", serverName)
	w.Header().Set("X-ClickHouse-Query-Id", queryID)
	w.Header().Set("X-ClickHouse-Exception-Tag", r.tag)
	return r
}

// maxBlockBytes bounds the output put into one compressed block.
const maxBlockBytes = 1 << 20

// Write sends output, compressed when the request asked for it.
//
//nolint:unparam // the signature is io.Writer's
func (r *response) Write(p []byte) (int, error) {
	if len(p) > 0 {
		r.started = true
	}
	r.extend()
	if r.blocks == nil {
		return r.http.Write(p)
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxBlockBytes)
		if err := r.blocks.Compress(rest[:n]); err != nil {
			return 0, fmt.Errorf("compressing the output: %w", err)
		}
		if _, err := r.http.Write(r.blocks.Data); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// extend gives the client its time anew. A request before this one on the same connection may have left a
// deadline behind.
func (r *response) extend() {
	var deadline time.Time
	if r.patience > 0 {
		deadline = time.Now().Add(r.patience)
	}
	_ = http.NewResponseController(r.http).SetWriteDeadline(deadline) // only a test's recorder has no deadlines
}

// flush sends what has been written so far.
func (r *response) flush() error { return http.NewResponseController(r.http).Flush() }

// fail ends the answer with a failure. After the first byte of output it can only be told inside the
// output, as an uncompressed frame at its end; the client finds it when the rows before it are decoded.
func (r *response) fail(err error) {
	e := asException(err)
	r.extend()
	if r.started {
		fmt.Fprintf(r.http, "\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", r.tag, e.Message, len(e.Message), r.tag)
		return
	}
	header := r.http.Header()
	header.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.Code))
	header.Set("Content-Type", "text/plain; charset=UTF-8")
	r.http.WriteHeader(httpStatus(e.Code))
	fmt.Fprintln(r.http, e.Message)
}

// summary announces what a finished statement read and wrote. It must come before the output.
func (r *response) summary(result *chdb.Result) {
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	text, err := json.Marshal(map[string]string{
		"read_rows": number(result.RowsRead), "read_bytes": number(result.BytesRead),
		"written_rows": number(result.RowsWritten), "written_bytes": number(result.BytesWritten),
	})
	if err == nil { // a map of strings always marshals
		r.http.Header().Set("X-ClickHouse-Summary", string(text))
	}
}

// serverName is what chserve calls itself in headers and in its hello.
const serverName = "chserve"

// helloQuery is what clickhouse-go asks first on every connection. The engine's answer would be of no
// use: it must be encoded for the client's revision, and the revision that it reports decides how the
// client decodes every later block. Revision 0 means plain Native blocks, which is what the engine makes.
const helloQuery = "SELECT displayName(), version(), revision(), timezone()"

// hello answers helloQuery at the revision that the client asked for.
func (r *response) hello(db *database, revision uint64) error {
	name, version, zone := new(chproto.ColStr), new(chproto.ColStr), new(chproto.ColStr)
	name.Append(serverName)
	version.Append(db.version)
	zone.Append(db.timezone)
	buffer := new(chproto.Buffer)
	block := chproto.Block{Rows: 1, Columns: 4}
	if err := block.EncodeBlock(buffer, int(revision), []chproto.InputColumn{
		{Name: "displayName()", Data: name},
		{Name: "version()", Data: version},
		{Name: "revision()", Data: &chproto.ColUInt32{0}},
		{Name: "timezone()", Data: zone},
	}); err != nil {
		return fmt.Errorf("answering the client's hello: %w", err)
	}
	_, err := r.Write(buffer.Buf)
	return err
}
