package replay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"
)

// Format names how a trace file is laid out.
type Format string

// The formats.
const (
	// AzureCSV is the Azure LLM inference trace: TIMESTAMP,ContextTokens,GeneratedTokens, in UTC.
	AzureCSV Format = "azure-csv"
	// MooncakeJSONL is the Mooncake trace: timestamp (milliseconds from the start), input_length,
	// output_length, hash_ids (one per 512-token block of the prompt, each naming its whole prefix).
	MooncakeJSONL Format = "mooncake-jsonl"
	// Spans is one object per line, as POST /v1/spans takes them.
	Spans Format = "spans"
)

// maxLine bounds one line of a trace file; the longest of the known traces are a few kilobytes.
const maxLine = 1 << 20

// Row is one call of a trace file. Fields are those of a span on the wire, without what Replay
// stamps on it.
type Row struct {
	Line   int
	End    int64     // bytes of the file up to the row's end
	At     time.Time // counted from the Unix epoch where the format has no dates
	Fields map[string]any
}

// RowError is a row that could not be read; the rows after it can.
type RowError struct {
	Line   int
	Reason string
}

func (e *RowError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// File is a trace file whose format is known.
type File struct {
	Path   string
	Format Format
}

// Open checks that the file can be read and, when format is empty, guesses it from the first line.
func Open(path string, format Format) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the trace file: %w", err)
	}
	defer file.Close()
	switch format {
	case AzureCSV, MooncakeJSONL, Spans:
	case "":
		lines := &lineReader{r: bufio.NewReader(file)}
		for {
			line, err := lines.next()
			if errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("%s is empty", path)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: guessing the format: %w", path, err)
			}
			if len(line) == 0 {
				continue
			}
			if format = guess(line); format == "" {
				return nil, fmt.Errorf("%s: cannot tell its format from the first line: pass --format %s, %s or %s", path, AzureCSV, MooncakeJSONL, Spans)
			}
			break
		}
	default:
		return nil, fmt.Errorf("unknown format %q: there are %s, %s and %s", format, AzureCSV, MooncakeJSONL, Spans)
	}
	return &File{Path: path, Format: format}, nil
}

func guess(line []byte) Format {
	if isAzureHeader(string(line)) {
		return AzureCSV
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(line, &object) != nil {
		return ""
	}
	if _, ok := object["input_length"]; ok {
		return MooncakeJSONL
	}
	for _, name := range []string{"tokens", "usage", "trace_id", "span_id", "tenant_id"} {
		if _, ok := object[name]; ok {
			return Spans
		}
	}
	return ""
}

// Dated reports whether the rows carry dates, not only distances from the trace's start.
func (f *File) Dated() bool { return f.Format != MooncakeJSONL }

// Rows reads the file from its start, one row at a time. An error that is a *RowError concerns its
// row only; any other ends the sequence.
func (f *File) Rows() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		file, err := os.Open(f.Path)
		if err != nil {
			yield(Row{}, fmt.Errorf("opening the trace file: %w", err))
			return
		}
		defer file.Close()
		parse := map[Format]func() func([]byte) (Row, error){
			AzureCSV: newAzureParser, MooncakeJSONL: newMooncakeParser, Spans: newSpanParser,
		}[f.Format]()
		lines := &lineReader{r: bufio.NewReaderSize(file, 64<<10)}
		for {
			line, err := lines.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil && len(line) == 0 {
				continue
			}
			var row Row
			if err == nil {
				row, err = parse(line)
			} else if !errors.Is(err, errLongLine) {
				yield(Row{}, fmt.Errorf("reading %s: %w", f.Path, err))
				return
			}
			if errors.Is(err, errSkip) {
				continue
			}
			row.Line, row.End = lines.n, lines.bytes
			if err != nil {
				err = &RowError{Line: lines.n, Reason: err.Error()}
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

var (
	errSkip     = errors.New("not a row")
	errLongLine = fmt.Errorf("the line is longer than %d bytes", maxLine)
)

// lineReader reads lines of bounded length and goes on after one that is too long.
type lineReader struct {
	r     *bufio.Reader
	n     int
	bytes int64
	buf   []byte
}

// next returns the next line without surrounding space, valid until the following call; io.EOF after
// the last.
func (l *lineReader) next() ([]byte, error) {
	l.buf = l.buf[:0]
	l.n++
	tooLong := false
	for {
		part, err := l.r.ReadSlice('\n')
		l.bytes += int64(len(part))
		if len(l.buf)+len(part) > maxLine {
			tooLong = true
		} else {
			l.buf = append(l.buf, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case tooLong:
			return nil, errLongLine
		case err != nil && len(l.buf) == 0:
			return nil, io.EOF
		}
		line := bytes.TrimSpace(l.buf)
		if l.n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		return line, nil
	}
}

func isAzureHeader(line string) bool {
	return strings.EqualFold(strings.ReplaceAll(line, " ", ""), "TIMESTAMP,ContextTokens,GeneratedTokens")
}

func newAzureParser() func([]byte) (Row, error) {
	return func(line []byte) (Row, error) {
		text := string(line)
		if isAzureHeader(text) {
			return Row{}, errSkip
		}
		cells := strings.Split(text, ",")
		if len(cells) != 3 {
			return Row{}, fmt.Errorf("%d columns in place of TIMESTAMP,ContextTokens,GeneratedTokens", len(cells))
		}
		at, err := azureTime(cells[0])
		if err != nil {
			return Row{}, err
		}
		input, err := tokens("ContextTokens", cells[1])
		if err != nil {
			return Row{}, err
		}
		output, err := tokens("GeneratedTokens", cells[2])
		if err != nil {
			return Row{}, err
		}
		return Row{At: at, Fields: tokenFields(input, output, 0)}, nil
	}
}

// azureTime reads a time of the 2023 traces, which name no zone and mean UTC, or of the 2024 ones,
// which do. Parse takes any number of fractional digits after the seconds.
func azureTime(s string) (time.Time, error) {
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04:05Z07:00"} {
		if t, err := time.Parse(layout, strings.TrimSpace(s)); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("TIMESTAMP %q is not a time like 2023-11-16 18:17:03.9799600", s)
}

func tokens(name, cell string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(cell), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s %q is not a count", name, cell)
	}
	return n, nil
}

func tokenFields(prompt, completion, cached int64) map[string]any {
	return map[string]any{"tokens": map[string]any{"prompt": prompt, "completion": completion, "cached": cached}}
}

// blockTokens is how many prompt tokens one hash id of a Mooncake trace stands for.
const blockTokens = 512

// maxOffset is ten years in milliseconds, far beyond any trace.
const maxOffset = 10 * 365 * 24 * 3600 * 1000

// newMooncakeParser remembers every block seen, as a provider with an unbounded prefix cache would.
// A block's id names the whole prefix up to it, so the longest cached prefix is the number of leading
// ids that have been seen. The memory is what the trace's distinct blocks need.
func newMooncakeParser() func([]byte) (Row, error) {
	seen := map[uint64]struct{}{}
	return func(line []byte) (Row, error) {
		var r struct {
			Timestamp *float64 `json:"timestamp"`
			Input     *int64   `json:"input_length"`
			Output    *int64   `json:"output_length"`
			HashIDs   []uint64 `json:"hash_ids"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return Row{}, fmt.Errorf("not a Mooncake row: %w", err)
		}
		switch {
		case r.Timestamp == nil || *r.Timestamp < 0 || *r.Timestamp > maxOffset:
			return Row{}, errors.New("timestamp is missing, or not milliseconds from the trace's start")
		case r.Input == nil || *r.Input < 0:
			return Row{}, errors.New("input_length is missing or negative")
		case r.Output == nil || *r.Output < 0:
			return Row{}, errors.New("output_length is missing or negative")
		}
		k := 0
		for ; k < len(r.HashIDs); k++ {
			if _, ok := seen[r.HashIDs[k]]; !ok {
				break
			}
		}
		for _, id := range r.HashIDs[k:] {
			seen[id] = struct{}{}
		}
		at := time.Unix(0, 0).UTC().Add(time.Duration(*r.Timestamp * float64(time.Millisecond)))
		return Row{At: at, Fields: tokenFields(*r.Input, *r.Output, min(blockTokens*int64(k), *r.Input))}, nil
	}
}

func newSpanParser() func([]byte) (Row, error) {
	return func(line []byte) (Row, error) {
		if line[0] == '[' {
			return Row{}, errors.New("a JSON array: put one span on each line (jq -c '.[]' does)")
		}
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.UseNumber() // numbers pass through as they were written
		var fields map[string]any
		if err := dec.Decode(&fields); err != nil {
			return Row{}, fmt.Errorf("not a JSON object: %w", err)
		}
		if dec.More() {
			return Row{}, errors.New("more than one JSON value on the line")
		}
		stamp, _ := fields["timestamp"].(string)
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil {
			return Row{}, fmt.Errorf("timestamp %q is not an RFC 3339 time", stamp)
		}
		return Row{At: at.UTC(), Fields: fields}, nil
	}
}
