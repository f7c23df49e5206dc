package upstreamtest

import (
	"net/url"
	"strconv"
	"time"
)

// FailureHeader lets one call fail as it says: a query string of Failure's fields in lower case, as in
// "status=429&retry_after=2s" or "cut=3". It must reach the provider; the queue of Fail needs no header.
const FailureHeader = "X-Upstream-Failure"

// Failure is what goes wrong with a call. The zero value is nothing.
type Failure struct {
	Status     int           // is answered instead, before anything is spent
	RetryAfter time.Duration // is said beside it
	Hang       time.Duration // passes before the first byte, or until the client is gone
	Cut        int           // the connection breaks after so many tokens
	Err        int           // the stream ends in an error event after so many tokens
}

func parseFailure(text string) Failure {
	values, _ := url.ParseQuery(text)
	number := func(name string) int {
		n, _ := strconv.Atoi(values.Get(name))
		return n
	}
	duration := func(name string) time.Duration {
		d, _ := time.ParseDuration(values.Get(name))
		return d
	}
	return Failure{
		Status: number("status"), RetryAfter: duration("retry_after"), Hang: duration("hang"), Cut: number("cut"), Err: number("err"),
	}
}
