package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/flyball-dev/flyball/cmd/chserve/chdb"
)

// ClickHouse's codes for the failures that chserve finds itself.
const (
	codeBadArguments         = 36
	codeUnknownSetting       = 115
	codeSyntaxError          = 62
	codeReadonly             = 164
	codeTooManyQueries       = 202
	codeTimeout              = 159
	codeAccessDenied         = 497
	codeAuthenticationFailed = 516
	codeUnknownException     = 1002
)

var codeNames = map[int]string{
	codeBadArguments:         "BAD_ARGUMENTS",
	codeUnknownSetting:       "UNKNOWN_SETTING",
	codeSyntaxError:          "SYNTAX_ERROR",
	codeReadonly:             "READONLY",
	codeTooManyQueries:       "TOO_MANY_SIMULTANEOUS_QUERIES",
	codeTimeout:              "TIMEOUT_EXCEEDED",
	codeAccessDenied:         "ACCESS_DENIED",
	codeAuthenticationFailed: "AUTHENTICATION_FAILED",
	codeUnknownException:     "UNKNOWN_EXCEPTION",
}

// exception builds a failure in the words of a ClickHouse server.
func exception(code int, format string, args ...any) *chdb.Error {
	return &chdb.Error{
		Code:    code,
		Message: fmt.Sprintf("Code: %d. DB::Exception: %s (%s)", code, fmt.Sprintf(format, args...), codeNames[code]),
	}
}

// asException turns any error into one with a code: the engine's own where there is one.
func asException(err error) *chdb.Error {
	var known *chdb.Error
	if errors.As(err, &known) && known.Code != 0 {
		return known
	}
	return exception(codeUnknownException, "%v", err)
}

// httpStatus maps an error code as a ClickHouse server does; clients read the code, people the status.
func httpStatus(code int) int {
	switch code {
	case codeAuthenticationFailed, codeAccessDenied, codeReadonly:
		return http.StatusForbidden
	case codeBadArguments, codeSyntaxError, 6, 26, 27, 38, 41, 47, 53, 72: // unparsable values, mismatched types
		return http.StatusBadRequest
	case codeUnknownSetting, 16, 46, 50, 60, 73, 81: // unknown column, function, type, table, format, database
		return http.StatusNotFound
	case codeTooManyQueries:
		return http.StatusTooManyRequests
	case codeTimeout:
		return http.StatusRequestTimeout
	}
	return http.StatusInternalServerError
}
