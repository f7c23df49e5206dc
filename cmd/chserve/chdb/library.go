// Package chdb binds the C interface of libchdb, the ClickHouse engine built as a library, with
// purego and without cgo. It hides C memory: every handle is a Go value whose Close may be called
// twice and which a finaliser closes if nobody did, and every failure that the engine explains is an
// *Error with ClickHouse's own code.
//
// The library has properties that its callers must arrange for themselves:
//   - one process runs one engine on one data path;
//   - closing the last connection stops the engine, so keep one open for as long as it should run;
//   - a connection runs one statement at a time; connections are independent of each other;
//   - settings belong to the connection, so a short connection per request never leaks them.
package chdb

import (
	"fmt"
	"regexp"
	"strconv"
	"unsafe"

	"github.com/ebitengine/purego"
)

// capi holds the entry points of the C interface, named as in chdb.h without their chdb_ prefix.
// Load fills it once; it is read-only afterwards. Pointers are unsafe.Pointer because they point into
// memory that Go does not own.
var capi struct {
	version                  func() string
	setSignalHandlersEnabled func(int32)
	connect                  func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn                func(conn unsafe.Pointer)
	classifyQuery            func(conn, sql unsafe.Pointer, sqlLen uintptr, target unsafe.Pointer, targetLen uintptr, out unsafe.Pointer) int32

	query             statementFunc
	streamQuery       statementFunc
	streamFetchResult func(conn, stream unsafe.Pointer) unsafe.Pointer
	streamCancelQuery func(conn, stream unsafe.Pointer)
	streamInsert      statementFunc
	streamAppend      func(insert, data unsafe.Pointer, n uintptr) int32
	streamDone        func(insert unsafe.Pointer) unsafe.Pointer
	streamInsertError func(insert unsafe.Pointer) string
	destroyInsert     func(insert unsafe.Pointer)

	destroyResult          func(result unsafe.Pointer)
	resultBuffer           func(result unsafe.Pointer) unsafe.Pointer
	resultLength           func(result unsafe.Pointer) uintptr
	resultError            func(result unsafe.Pointer) string
	resultStorageRowsRead  func(result unsafe.Pointer) uint64
	resultStorageBytesRead func(result unsafe.Pointer) uint64
	resultRowsWritten      func(result unsafe.Pointer) uint64
	resultBytesWritten     func(result unsafe.Pointer) uint64
}

// statementFunc is the shape shared by the three calls that start a statement: SQL and format as
// pointer and length, then the named parameters as four parallel arrays.
type statementFunc func(conn, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr,
	names, nameLens, values, valueLens unsafe.Pointer, count uintptr) unsafe.Pointer

// Load opens the library at path and resolves every symbol that this package calls; a library that
// lacks one (an older engine) is an error that names it. It also keeps the engine from installing
// signal handlers of its own, which would hang a Go program on its first nil dereference. Call it once,
// before anything else.
func Load(path string) error {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return fmt.Errorf("loading %s: %w", path, err)
	}
	for _, symbol := range []struct {
		target any
		name   string
	}{
		{&capi.version, "chdb_version"},
		{&capi.setSignalHandlersEnabled, "chdb_set_signal_handlers_enabled"},
		{&capi.connect, "chdb_connect"},
		{&capi.closeConn, "chdb_close_conn"},
		{&capi.classifyQuery, "chdb_classify_query_n"},
		{&capi.query, "chdb_query_with_params_n"},
		{&capi.streamQuery, "chdb_stream_query_with_params_n"},
		{&capi.streamFetchResult, "chdb_stream_fetch_result"},
		{&capi.streamCancelQuery, "chdb_stream_cancel_query"},
		{&capi.streamInsert, "chdb_stream_insert_with_params_n"},
		{&capi.streamAppend, "chdb_stream_append"},
		{&capi.streamDone, "chdb_stream_done"},
		{&capi.streamInsertError, "chdb_stream_insert_error"},
		{&capi.destroyInsert, "chdb_destroy_insert_stream"},
		{&capi.destroyResult, "chdb_destroy_query_result"},
		{&capi.resultBuffer, "chdb_result_buffer"},
		{&capi.resultLength, "chdb_result_length"},
		{&capi.resultError, "chdb_result_error"},
		{&capi.resultStorageRowsRead, "chdb_result_storage_rows_read"},
		{&capi.resultStorageBytesRead, "chdb_result_storage_bytes_read"},
		{&capi.resultRowsWritten, "chdb_result_rows_written"},
		{&capi.resultBytesWritten, "chdb_result_bytes_written"},
	} {
		address, err := purego.Dlsym(handle, symbol.name)
		if err != nil {
			return fmt.Errorf("loading %s: it lacks %s, so it is older than the engine this program is written for: %w", path, symbol.name, err)
		}
		purego.RegisterFunc(symbol.target, address)
	}
	capi.setSignalHandlersEnabled(0)
	return nil
}

// Version is the version of the loaded library, for example "26.7.3".
func Version() string { return capi.version() }

// Error is a failure that the engine explained.
type Error struct {
	// Code is ClickHouse's error code, or 0 when the message carries none.
	Code int
	// Message is the engine's own text. Where there is a code it starts with "Code: N. ".
	Message string
}

func (e *Error) Error() string { return e.Message }

var codePrefix = regexp.MustCompile(`^Code: (\d+)\.`)

func newError(message string) *Error {
	e := &Error{Message: message}
	if m := codePrefix.FindStringSubmatch(message); m != nil {
		e.Code, _ = strconv.Atoi(m[1]) // digits only; one too long for an int leaves 0, "no code"
	}
	return e
}
