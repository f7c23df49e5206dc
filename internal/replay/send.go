// Package replay brings recorded calls in: it reads trace files of several formats as a stream,
// stamps their rows with ids that a second run repeats, and sends them to the ingest API, politely
// and until they are acknowledged.
package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrAway says that the ingest API gave no usable answer for as long as the client had patience.
var ErrAway = errors.New("the ingest API is away")

// Refusal is one record of a batch that the ingest API would not take.
type Refusal struct {
	Index  int    `json:"index"`
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Receipt is the ingest API's answer to a batch: Accepted are new records, now durable, and
// Duplicates are records that it had acknowledged before.
type Receipt struct {
	Accepted   int       `json:"accepted"`
	Duplicates int       `json:"duplicates"`
	Refused    []Refusal `json:"refused"`
}

// Client sends batches to the ingest API at URL. It is not safe for concurrent use.
type Client struct {
	URL   string
	Token string // of the ingest API; empty where it is open, on loopback
	// Patience is how long to go on without an acknowledgement before giving up with ErrAway; zero
	// is for ever. A connection refused before the first answer is given up at once.
	Patience time.Duration
	HTTP     *http.Client

	answered bool
}

// The pauses between attempts double from the first to the last, with jitter, unless the server
// names its own.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// maxAnswer bounds what is read of an answer; a refusal of every record of a batch fits.
const maxAnswer = 4 << 20

// Send posts records as one JSON array to path and returns when the ingest API has answered for
// each. While it pushes back or is away, Send waits and tries again, which is safe because records
// carry ids; a batch that is too large is halved.
func (c *Client) Send(ctx context.Context, path string, records []json.RawMessage) (Receipt, error) {
	body := encodeArray(records)
	var waited time.Duration
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		receipt, retryAfter, err := c.post(ctx, path, body)
		if err == nil {
			return receipt, nil
		}
		var status *statusError
		switch {
		case ctx.Err() != nil:
			return Receipt{}, fmt.Errorf("sending %d records to %s: %w", len(records), path, ctx.Err())
		case errors.As(err, &status) && status.code == http.StatusRequestEntityTooLarge && len(records) > 1:
			return c.halves(ctx, path, records)
		case errors.As(err, &status) && !status.temporary():
			return Receipt{}, fmt.Errorf("sending %d records to %s: %w", len(records), c.URL+path, err)
		case c.Patience > 0 && (waited >= c.Patience || !c.answered && errors.Is(err, syscall.ECONNREFUSED)):
			return Receipt{}, fmt.Errorf("%w: %w", ErrAway, err)
		}
		wait := pause/2 + rand.N(pause)
		if retryAfter > 0 {
			wait = retryAfter
		}
		waited += wait
		if err := sleep(ctx, wait); err != nil {
			return Receipt{}, fmt.Errorf("waiting to send to %s: %w", path, err)
		}
	}
}

func (c *Client) halves(ctx context.Context, path string, records []json.RawMessage) (Receipt, error) {
	half := len(records) / 2
	first, err := c.Send(ctx, path, records[:half])
	if err != nil {
		return first, err
	}
	second, err := c.Send(ctx, path, records[half:])
	for _, r := range second.Refused {
		r.Index += half
		first.Refused = append(first.Refused, r)
	}
	first.Accepted += second.Accepted
	first.Duplicates += second.Duplicates
	return first, err
}

// post makes one attempt. The duration is the pause that the server asked for, zero when it did not.
func (c *Client) post(ctx context.Context, path string, body []byte) (Receipt, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return Receipt{}, 0, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return Receipt{}, 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Receipt{}, 0, fmt.Errorf("reading the answer: %w", err)
	}
	c.answered = true

	// A batch of which every record is refused may come with a 4xx status, but its answer still
	// names each of them.
	var receipt Receipt
	parsed := json.Unmarshal(answer, &receipt)
	if resp.StatusCode/100 == 2 && parsed == nil || resp.StatusCode/100 == 4 && parsed == nil && len(receipt.Refused) > 0 {
		return receipt, 0, nil
	}
	var retryAfter time.Duration
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		retryAfter = min(time.Duration(s)*time.Second, time.Minute)
	}
	return Receipt{}, retryAfter, &statusError{resp.StatusCode, strings.TrimSpace(string(answer[:min(len(answer), 300)]))}
}

type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the ingest API answered %d %s: %s", e.code, http.StatusText(e.code), e.body)
}

// temporary reports whether the same request may succeed later: back-pressure and server errors.
func (e *statusError) temporary() bool {
	return e.code == http.StatusTooManyRequests || e.code >= 500 || e.code == http.StatusRequestTimeout
}

func encodeArray(records []json.RawMessage) []byte {
	size := 2 + len(records)
	for _, r := range records {
		size += len(r)
	}
	body := make([]byte, 0, size)
	body = append(body, '[')
	for i, r := range records {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, r...)
	}
	return append(body, ']')
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
