package replay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// What a row gets that names no tenant or no model.
const (
	DefaultTenant = "replay"
	DefaultModel  = "gpt-4o-mini"
)

// A batch is sent when it has this many rows or bytes, and at this pace when a speed is asked for.
const (
	batchRows  = 1000
	batchBytes = 1 << 20
	batchEvery = 250 * time.Millisecond
)

// maxWait keeps a due time at an absurdly low speed inside a Duration: a century, in nanoseconds.
const maxWait = 100 * 365 * 24 * 3600 * 1e9

// Options say how a file is replayed.
type Options struct {
	Tenant string  // overrides the rows' own; empty: theirs, else DefaultTenant
	Model  string  // likewise, with DefaultModel
	Run    string  // the same run of the same file makes the same ids
	Speed  float64 // of the trace's own pace; 0 is as fast as it goes
	Shift  bool    // so that the last row lands at the moment it is sent

	OnSent func(bytes int64)   // told how much of the file has been answered for
	OnBad  func(err *RowError) // told of each row that could not be read or was refused
}

// Result counts rows. Sent = Accepted + Refused + Duplicates once everything is answered.
type Result struct {
	Sent       int `json:"sent"`
	Accepted   int `json:"accepted"`   // acknowledged, and new
	Refused    int `json:"refused"`    // sent, and not taken
	Duplicates int `json:"duplicates"` // acknowledged by an earlier send of the same run
	Unreadable int `json:"unreadable"` // never sent
}

// Send sends one batch of spans and returns when it is answered for.
type Send func(ctx context.Context, spans []json.RawMessage) (Receipt, error)

// Replay sends every row of the file and counts what became of them. When it ends with an error the
// Result holds what had been answered for by then; the same Run again completes it.
func Replay(ctx context.Context, f *File, o Options, send Send) (Result, error) {
	r := replayer{file: f, Options: o, send: send}
	if o.Shift || o.Speed > 0 {
		if err := r.survey(); err != nil {
			return r.result, err
		}
	}
	r.start = time.Now()
	for row, err := range f.Rows() {
		var bad *RowError
		if errors.As(err, &bad) {
			r.result.Unreadable++
			r.OnBad(bad)
			continue
		}
		if err != nil {
			return r.result, err
		}
		if err := r.add(ctx, row); err != nil {
			return r.result, err
		}
	}
	return r.result, r.flush(ctx)
}

type replayer struct {
	Options
	file        *File
	send        Send
	first, last time.Time // of the trace
	start       time.Time // of the replay
	batch       []json.RawMessage
	lines       []int // of the batch's rows
	bytes       int
	end         int64         // of the batch, in the file
	due         time.Duration // of the batch, from start
	result      Result
}

// survey finds the trace's first and last time, reading the file once more rather than holding it.
func (r *replayer) survey() error {
	for row, err := range r.file.Rows() {
		var bad *RowError
		if errors.As(err, &bad) {
			continue
		}
		if err != nil {
			return err
		}
		if r.first.IsZero() || row.At.Before(r.first) {
			r.first = row.At
		}
		if row.At.After(r.last) {
			r.last = row.At
		}
	}
	return nil
}

func (r *replayer) add(ctx context.Context, row Row) error {
	if due := r.dueAt(row); due > r.due || len(r.batch) >= batchRows || r.bytes >= batchBytes {
		if err := r.flush(ctx); err != nil {
			return err
		}
		r.due = max(due, r.due)
		if err := sleep(ctx, r.due-time.Since(r.start)); err != nil {
			return fmt.Errorf("waiting for the row at line %d: %w", row.Line, err)
		}
	}
	span, err := json.Marshal(r.stamp(row))
	if err != nil {
		return fmt.Errorf("encoding the row at line %d: %w", row.Line, err)
	}
	r.batch = append(r.batch, span)
	r.lines = append(r.lines, row.Line)
	r.bytes += len(span)
	r.end = row.End
	return nil
}

// dueAt is when the row is to be sent, counted from the start and rounded up to whole batches.
func (r *replayer) dueAt(row Row) time.Duration {
	if r.Speed <= 0 {
		return 0
	}
	due := time.Duration(min(float64(row.At.Sub(r.first))/r.Speed, maxWait))
	return (due + batchEvery - 1).Truncate(batchEvery)
}

func (r *replayer) flush(ctx context.Context) error {
	if len(r.batch) == 0 {
		return nil
	}
	receipt, err := r.send(ctx, r.batch)
	if err != nil {
		return err
	}
	r.result.Sent += len(r.batch)
	r.result.Accepted += receipt.Accepted
	r.result.Duplicates += receipt.Duplicates
	r.result.Refused += len(receipt.Refused)
	for _, refusal := range receipt.Refused {
		if refusal.Index >= 0 && refusal.Index < len(r.lines) {
			reason := refusal.Reason
			if refusal.Field != "" {
				reason = refusal.Field + ": " + reason
			}
			r.OnBad(&RowError{Line: r.lines[refusal.Index], Reason: "refused: " + reason})
		}
	}
	r.OnSent(r.end)
	r.batch, r.lines, r.bytes = r.batch[:0], r.lines[:0], 0
	return nil
}

// stamp completes a row to a span: what its file leaves out, the shifted time, and ids that depend
// on the tenant, the file, the row and the run only. A row's own trace id keeps grouping what it
// grouped, so it is hashed in place of the row.
func (r *replayer) stamp(row Row) map[string]any {
	f := row.Fields
	tenant := fill(f, "tenant_id", r.Tenant, DefaultTenant)
	if requested, _ := f["requested_model"].(string); requested != "" && r.Model == "" {
		fill(f, "model", "", requested)
	} else if r.Model != "" {
		f["requested_model"] = r.Model
	}
	model := fill(f, "model", r.Model, DefaultModel)
	if r.Model != "" {
		delete(f, "provider")
	}
	fill(f, "provider", "", ProviderOf(model))

	at := row.At
	if r.Shift {
		landing := r.start
		if r.Speed > 0 {
			landing = landing.Add(time.Duration(float64(r.last.Sub(r.first)) / r.Speed))
		}
		at = landing.Add(at.Sub(r.last))
	}
	f["timestamp"] = at.UTC().Format(time.RFC3339Nano)

	if quality, ok := f["quality"].(map[string]any); ok {
		delete(quality, "id") // ingest gives an evaluation without them the span's
		delete(quality, "timestamp")
	}

	name := filepath.Base(r.file.Path)
	f["span_id"] = id("span", tenant, name, fmt.Sprint(row.Line), r.Run)[:16]
	if own, _ := f["trace_id"].(string); own != "" {
		f["trace_id"] = id("trace of", tenant, name, own, r.Run)
	} else {
		f["trace_id"] = id("trace", tenant, name, fmt.Sprint(row.Line), r.Run)
	}
	return f
}

// fill sets f[name] to override, else leaves what is there, else sets fallback; it returns the value.
func fill(f map[string]any, name, override, fallback string) string {
	if own, _ := f[name].(string); override == "" && own != "" {
		return own
	}
	if override == "" {
		override = fallback
	}
	f[name] = override
	return override
}

func id(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		// The length before each part keeps ("a", "bc") and ("ab", "c") apart.
		fmt.Fprintf(h, "%d:", len(p))
		_, _ = io.WriteString(h, p) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// ProviderOf names the provider whose model names begin like model's; OpenAI when none does.
func ProviderOf(model string) string {
	for prefix, provider := range map[string]string{
		"claude": "anthropic", "gemini": "google", "mistral": "mistral", "codestral": "mistral",
		"deepseek": "deepseek", "command": "cohere", "grok": "xai",
	} {
		if strings.HasPrefix(model, prefix) {
			return provider
		}
	}
	return "openai"
}
