package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"
)

// errClosed reports a call on a handle after its Close.
var errClosed = errors.New("the engine connection is closed")

// Conn is one connection to the engine of this process. Its methods may be called from several
// goroutines; they wait for each other.
type Conn struct {
	mu sync.Mutex
	// handle is what chdb_connect returned, a pointer to the pointer that the other calls take.
	handle unsafe.Pointer
}

// Connect opens a connection. Each argument is written as on ClickHouse's command line,
// "--name=value": --path and other server options count only for the connection that starts the engine,
// query settings for this connection alone. The library gives no reason for a refusal (a value that a
// setting does not take, a data path that cannot be used): it prints it to standard error.
func Connect(args ...string) (*Conn, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	argv := make([]unsafe.Pointer, 0, len(args)+2)
	for _, arg := range append([]string{"clickhouse"}, args...) {
		argv = append(argv, pinned(&pin, append([]byte(arg), 0)))
	}
	argv = append(argv, nil)
	pin.Pin(&argv[0])
	handle := capi.connect(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	if handle == nil {
		return nil, errors.New("the engine refused the connection; its reason is on standard error")
	}
	c := &Conn{handle: handle}
	runtime.SetFinalizer(c, (*Conn).Close)
	return c, nil
}

// Close closes the connection; closing the last one of the process stops the engine. Streams and
// inserts of the connection must be closed before it.
func (c *Conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle != nil {
		capi.closeConn(c.handle)
		c.handle = nil
		runtime.SetFinalizer(c, nil)
	}
}

// inner is the pointer that statement calls take. The caller holds c.mu, which also keeps the
// finaliser away while the engine is inside a call.
func (c *Conn) inner() (unsafe.Pointer, error) {
	if c.handle == nil {
		return nil, errClosed
	}
	return *(*unsafe.Pointer)(c.handle), nil
}

// Class is what a statement does to state that outlives it, as the engine's parser sees it. Higher
// values are more restricted.
type Class uint32

// The classes of chdb_classify_query_n.
const (
	// ReadOnly statements leave no trace: SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS, CHECK.
	ReadOnly Class = 0
	// Mutating statements change a database: INSERT (FROM INFILE too), CREATE, ALTER, DROP.
	Mutating Class = 1
	// MutatingGlobal statements change what lies beside the databases: functions, users, system tables.
	MutatingGlobal Class = 2
	// Control statements change the session or write outside the engine: USE, SET, SYSTEM, BACKUP, KILL,
	// INTO OUTFILE, INSERT INTO FUNCTION.
	Control Class = 3
	// Unknown text did not parse or is not classified by this engine.
	Unknown Class = 4
)

// Analysis is the engine's parser's report on a text.
type Analysis struct {
	// Statements is how many statements the text holds; 0 when it did not parse.
	Statements int
	// Class is the most restricted class among them.
	Class Class
}

// Classify parses sql with the parser that would execute it and reports what it would do, without
// running it.
func (c *Conn) Classify(sql string) (Analysis, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn, err := c.inner()
	if err != nil {
		return Analysis{}, err
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	// The layout of chdb_query_analysis_v1; the engine fills as many bytes as size says.
	report := &struct{ size, statements, flags, class uint32 }{}
	report.size = uint32(unsafe.Sizeof(*report))
	pin.Pin(report)
	text := append([]byte(sql), 0)
	if state := capi.classifyQuery(conn, pinned(&pin, text), uintptr(len(sql)), nil, 0, unsafe.Pointer(report)); state != 0 {
		return Analysis{}, errors.New("the engine could not analyse the statement")
	}
	return Analysis{Statements: int(report.statements), Class: Class(report.class)}, nil
}

// Param is a named query parameter: Value, in text form, replaces {Name:Type}. The engine binds it; it
// never becomes part of the SQL text.
type Param struct{ Name, Value string }

// Result is what a statement returned, copied into Go memory.
type Result struct {
	// Data is the output in the format asked for.
	Data []byte
	// RowsRead and BytesRead count what storage read; RowsWritten and BytesWritten what the statement
	// wrote, materialized views included.
	RowsRead, BytesRead, RowsWritten, BytesWritten uint64
}

// Query runs one statement of any kind to its end and returns all of its output. A FORMAT clause in sql
// wins over format.
func (c *Conn) Query(sql, format string, params []Param) (*Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	result, err := c.start(capi.query, sql, format, params)
	if err != nil {
		return nil, err
	}
	return take(result)
}

// start makes one of the three statement calls. The caller holds c.mu.
func (c *Conn) start(call statementFunc, sql, format string, params []Param) (unsafe.Pointer, error) {
	conn, err := c.inner()
	if err != nil {
		return nil, err
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	var names, values []unsafe.Pointer
	var nameLens, valueLens []uintptr
	for _, p := range params {
		names = append(names, pinned(&pin, append([]byte(p.Name), 0)))
		nameLens = append(nameLens, uintptr(len(p.Name)))
		values = append(values, pinned(&pin, append([]byte(p.Value), 0)))
		valueLens = append(valueLens, uintptr(len(p.Value)))
	}
	handle := call(conn,
		pinned(&pin, append([]byte(sql), 0)), uintptr(len(sql)),
		pinned(&pin, append([]byte(format), 0)), uintptr(len(format)),
		pinned(&pin, names), pinned(&pin, nameLens), pinned(&pin, values), pinned(&pin, valueLens), uintptr(len(params)))
	if handle == nil {
		return nil, errors.New("the engine returned no result")
	}
	return handle, nil
}

// pinned pins the array behind s, so that C may read it and what it points to, and returns its address;
// nil for an empty slice.
func pinned[T any](pin *runtime.Pinner, s []T) unsafe.Pointer {
	if len(s) == 0 {
		return nil
	}
	pin.Pin(&s[0])
	return unsafe.Pointer(&s[0])
}

// take copies a result out of C memory and frees it.
func take(result unsafe.Pointer) (*Result, error) {
	if result == nil {
		return nil, errors.New("the engine returned no result")
	}
	defer capi.destroyResult(result)
	if message := capi.resultError(result); message != "" {
		return nil, newError(message)
	}
	out := &Result{
		RowsRead:     capi.resultStorageRowsRead(result),
		BytesRead:    capi.resultStorageBytesRead(result),
		RowsWritten:  capi.resultRowsWritten(result),
		BytesWritten: capi.resultBytesWritten(result),
	}
	if n := capi.resultLength(result); n > 0 {
		out.Data = append([]byte(nil), unsafe.Slice((*byte)(capi.resultBuffer(result)), n)...)
	}
	return out, nil
}

// Stream is a SELECT whose output is fetched piece by piece, so that its size is not bounded by memory.
// Its connection takes no other statement until it is closed.
type Stream struct {
	conn   *Conn
	handle unsafe.Pointer
	ended  bool
}

// Stream starts a SELECT; the engine takes no other kind of statement here.
func (c *Conn) Stream(sql, format string, params []Param) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	handle, err := c.start(capi.streamQuery, sql, format, params)
	if err != nil {
		return nil, err
	}
	if message := capi.resultError(handle); message != "" {
		capi.destroyResult(handle)
		return nil, newError(message)
	}
	s := &Stream{conn: c, handle: handle}
	runtime.SetFinalizer(s, (*Stream).Close)
	return s, nil
}

// Next waits for the next piece of output and returns it, nil at the end.
func (s *Stream) Next() ([]byte, error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.ended || s.handle == nil {
		return nil, nil
	}
	conn, err := s.conn.inner()
	if err != nil {
		return nil, err
	}
	result, err := take(capi.streamFetchResult(conn, s.handle))
	if err != nil || len(result.Data) == 0 {
		s.ended = true
		return nil, err
	}
	return result.Data, nil
}

// Close stops the query if it still runs and frees the stream.
func (s *Stream) Close() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.handle == nil {
		return
	}
	if conn, err := s.conn.inner(); err == nil && !s.ended {
		capi.streamCancelQuery(conn, s.handle)
	}
	capi.destroyResult(s.handle)
	s.handle = nil
	runtime.SetFinalizer(s, nil)
}

// Insert is an INSERT whose data is written to it in the statement's format. Nothing is promised until
// Done returned without an error. Its connection takes no other statement until it is closed.
type Insert struct {
	conn   *Conn
	handle unsafe.Pointer
}

// Insert starts an INSERT. sql carries neither a FORMAT clause nor data.
func (c *Conn) Insert(sql, format string, params []Param) (*Insert, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	handle, err := c.start(capi.streamInsert, sql, format, params)
	if err != nil {
		return nil, err
	}
	if message := capi.streamInsertError(handle); message != "" {
		capi.destroyInsert(handle)
		return nil, newError(message)
	}
	i := &Insert{conn: c, handle: handle}
	runtime.SetFinalizer(i, (*Insert).Close)
	return i, nil
}

// Write hands p to the engine, which copies it; it waits when the engine falls behind.
func (i *Insert) Write(p []byte) (int, error) {
	i.conn.mu.Lock()
	defer i.conn.mu.Unlock()
	if i.handle == nil {
		return 0, errClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	if capi.streamAppend(i.handle, pinned(&pin, p), uintptr(len(p))) != 0 {
		return 0, fmt.Errorf("appending to an insert: %w", newError(capi.streamInsertError(i.handle)))
	}
	return len(p), nil
}

// Done ends the data and commits it.
func (i *Insert) Done() (*Result, error) {
	i.conn.mu.Lock()
	defer i.conn.mu.Unlock()
	if i.handle == nil {
		return nil, errClosed
	}
	return take(capi.streamDone(i.handle))
}

// Close frees the insert. Without a Done before it, the insert is cancelled: what the engine had already
// written as whole blocks may stay, as on a server whose client goes away.
func (i *Insert) Close() {
	i.conn.mu.Lock()
	defer i.conn.mu.Unlock()
	if i.handle != nil {
		capi.destroyInsert(i.handle)
		i.handle = nil
		runtime.SetFinalizer(i, nil)
	}
}
