package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/compress"

	"github.com/flyball-dev/flyball/cmd/chserve/chdb"
)

// maxStatementBytes bounds an admin's statement that is not streamed; the data of an INSERT whose statement is in
// the URL is streamed and has no bound.
const maxStatementBytes = 16 << 20

// request is a ClickHouse HTTP request, taken apart.
type request struct {
	database string
	format   string
	revision uint64
	// compressed asks for the answer in ClickHouse's block compression with the method.
	compressed bool
	method     compress.Method
	settings   []setting
	params     []chdb.Param
	// sql is the statement; for an INSERT with data, without its FORMAT clause.
	sql string
	// data holds the rows of an INSERT in dataFormat; nil for every other statement.
	data       io.Reader
	dataFormat string
}

// notSettings are the URL parameters that belong to the HTTP interface. Those without a meaning here
// (quota_key, session_*, role, ...) are accepted because clients send them to every server.
var notSettings = map[string]bool{
	"query": true, "database": true, "default_format": true, "client_protocol_version": true,
	"compress": true, "decompress": true, "query_id": true, "quota_key": true, "user": true,
	"password": true, "wait_end_of_query": true, "buffer_size": true, "stacktrace": true, "role": true,
}

// insertWithFormat finds an INSERT that names the format of the data that follows it.
var insertWithFormat = regexp.MustCompile(`(?is)^\s*(INSERT\s+INTO\s.*?)\s+FORMAT\s+([A-Za-z0-9_]+)\s*;?\s*$`)

// parseRequest takes r apart. It reads the statement, of at most limit bytes, but not the data of an INSERT.
func parseRequest(r *http.Request, limit int64) (*request, error) {
	query := r.URL.Query()
	req := &request{database: query.Get("database"), format: query.Get("default_format"), method: compress.LZ4}
	if req.format == "" {
		req.format = "TabSeparated"
	}
	if revision := query.Get("client_protocol_version"); revision != "" {
		var err error
		if req.revision, err = strconv.ParseUint(revision, 10, 32); err != nil {
			return nil, exception(codeBadArguments, "client_protocol_version is not a number: %q", revision)
		}
	}
	req.compressed = query.Get("compress") == "1"
	if strings.EqualFold(query.Get("network_compression_method"), "ZSTD") {
		req.method = compress.ZSTD
	}
	for name, values := range query {
		if param, ok := strings.CutPrefix(name, "param_"); ok {
			req.params = append(req.params, chdb.Param{Name: param, Value: values[len(values)-1]})
		} else if !notSettings[name] {
			req.settings = append(req.settings, setting{name, values[len(values)-1]})
		}
	}
	// A map has no order; the engine's complaint about two bad settings should.
	slices.SortFunc(req.settings, func(a, b setting) int { return strings.Compare(a.name, b.name) })

	body, err := decodeBody(r, query.Get("decompress") == "1")
	if err != nil {
		return nil, err
	}
	req.sql = query.Get("query")
	if m := insertWithFormat.FindStringSubmatch(req.sql); m != nil && r.ContentLength != 0 {
		req.sql, req.dataFormat, req.data = m[1], m[2], body
		return req, nil
	}
	rest, err := io.ReadAll(io.LimitReader(body, limit+1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, exception(codeTimeout, "Timeout exceeded: the statement was not there after %s", readerSendTime)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the statement: %w", err)
	}
	if int64(len(rest)) > limit {
		return nil, exception(codeSyntaxError, "Max query size exceeded: the statement is longer than %d bytes; send an INSERT's data in the body and its statement in the query parameter", limit)
	}
	if req.sql != "" && len(rest) > 0 {
		req.sql += "\n"
	}
	req.sql += string(rest)
	return req, nil
}

// decodeBody undoes the encodings of a body: HTTP's gzip and ClickHouse's own blocks.
func decodeBody(r *http.Request, blocks bool) (io.Reader, error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		return nil, exception(codeBadArguments, "external tables are not supported: insert the rows into a table, or pass them as an array parameter")
	}
	var body io.Reader = r.Body
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			return nil, exception(codeBadArguments, "the body is not gzip: %v", err)
		}
		body = unzipped
	default:
		return nil, exception(codeBadArguments, "Content-Encoding %q is not supported: use gzip, or none", encoding)
	}
	if blocks {
		body = blockReader{compress.NewReader(bufio.NewReaderSize(body, 1<<16))}
	}
	return body, nil
}

// blockReader reads ClickHouse's compressed blocks. At the clean end of its input ch-go's reader returns
// an io.EOF that is wrapped, which io.Copy would take for a failure.
type blockReader struct{ r *compress.Reader }

func (b blockReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
