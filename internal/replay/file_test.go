package replay

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func write(t *testing.T, name, text string) string {
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// read returns the file's rows and its bad rows.
func read(t *testing.T, f *File) (rows []Row, bad []RowError) {
	for row, err := range f.Rows() {
		var e *RowError
		if errors.As(err, &e) {
			bad = append(bad, *e)
			continue
		}
		require.NoError(t, err)
		rows = append(rows, row)
	}
	return rows, bad
}

func counts(r Row) [3]int64 {
	tokens := r.Fields["tokens"].(map[string]any)
	return [3]int64{tokens["prompt"].(int64), tokens["completion"].(int64), tokens["cached"].(int64)}
}

func TestAzureCSV(t *testing.T) {
	t.Parallel()
	f, err := Open(write(t, "a.csv", "\ufeffTIMESTAMP,ContextTokens,GeneratedTokens\r\n"+
		"2023-11-16 18:17:03.9799600,4808,10\r\n"+
		"\r\n"+
		"2024-05-10 00:00:00.009930+00:00, 34 ,0\n"+
		"yesterday,1,2\n"+
		"2023-11-16 18:17:04,-1,2\n"+
		"2023-11-16 18:17:04,1,2.5\n"+
		"2023-11-16 18:17:04,1\n"+
		"2023-11-16 18:17:05,7,8"), "")
	require.NoError(t, err)
	require.Equal(t, AzureCSV, f.Format)
	require.True(t, f.Dated())
	rows, bad := read(t, f)
	require.Len(t, rows, 3)
	require.Equal(t, time.Date(2023, 11, 16, 18, 17, 3, 979960000, time.UTC), rows[0].At)
	require.Equal(t, [3]int64{4808, 10, 0}, counts(rows[0]))
	require.Equal(t, time.Date(2024, 5, 10, 0, 0, 0, 9930000, time.UTC), rows[1].At)
	require.Equal(t, [3]int64{34, 0, 0}, counts(rows[1]))
	require.Equal(t, 9, rows[2].Line)
	lines := []int{}
	for _, b := range bad {
		lines = append(lines, b.Line)
		require.NotEmpty(t, b.Reason)
	}
	require.Equal(t, []int{5, 6, 7, 8}, lines)
}

func TestMooncakeCountsThePrefixesThatWereSeen(t *testing.T) {
	t.Parallel()
	f, err := Open(write(t, "m.jsonl", `{"timestamp": 0, "input_length": 1200, "output_length": 6, "hash_ids": [0, 1, 2]}
{"timestamp": 1500, "input_length": 1200, "output_length": 6, "hash_ids": [0, 1, 2]}
{"timestamp": 1500.5, "input_length": 2000, "output_length": 1, "hash_ids": [0, 1, 7, 8]}
{"timestamp": 1600, "input_length": 600, "output_length": 1, "hash_ids": [9, 8]}
{"timestamp": 1700, "input_length": 600, "output_length": 1, "hash_ids": []}
{"timestamp": 1700, "input_length": 600}
{"timestamp": -1, "input_length": 600, "output_length": 1}
{"timestamp": 1e300, "input_length": 600, "output_length": 1}
nonsense
{"timestamp": 1800, "input_length": 1025, "output_length": 2, "hash_ids": [9, 8, 10]}
`), "")
	require.NoError(t, err)
	require.Equal(t, MooncakeJSONL, f.Format)
	require.False(t, f.Dated())
	for range 2 { // a second reading starts with an empty cache
		rows, bad := read(t, f)
		got := [][3]int64{}
		for _, r := range rows {
			got = append(got, counts(r))
		}
		require.Equal(t, [][3]int64{
			{1200, 6, 0},
			{1200, 6, 1200}, // three blocks, but never more than the input
			{2000, 1, 1024}, // two of four
			{600, 1, 0},     // 8 was seen, but after another prefix
			{600, 1, 0},
			{1025, 2, 1024},
		}, got)
		require.Len(t, bad, 4)
		require.Equal(t, 1500*time.Millisecond, rows[1].At.Sub(rows[0].At))
	}
}

func TestSpans(t *testing.T) {
	t.Parallel()
	f, err := Open(write(t, "s.ndjson", `{"trace_id":"t","timestamp":"2024-01-15T09:23:47.123Z","usage":{"input_tokens":12345678901234567890},"model":"x"}
[{"trace_id":"t"}]
{"trace_id":"t","timestamp":"noon"}
{"trace_id":"t"} {"trace_id":"u"}
"text"
{"trace_id":"u","timestamp":"2024-01-15T10:23:47+01:00"}
`), "")
	require.NoError(t, err)
	require.Equal(t, Spans, f.Format)
	rows, bad := read(t, f)
	require.Len(t, rows, 2)
	require.Len(t, bad, 4)
	require.Contains(t, bad[0].Reason, "jq")
	require.Equal(t, "12345678901234567890", rows[0].Fields["usage"].(map[string]any)["input_tokens"].(interface{ String() string }).String(), "numbers pass through")
	require.Equal(t, time.Date(2024, 1, 15, 9, 23, 47, 0, time.UTC), rows[1].At)
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		format     Format
		says       string
	}{
		{"empty", "", "", "is empty"},
		{"blank", "\n\n", "", "is empty"},
		{"strange", "when,what\n", "", "pass --format"},
		{"other object", `{"a":1}`, "", "pass --format"},
		{"unknown format", "x", "parquet", `unknown format "parquet"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Open(write(t, "f", c.text), c.format)
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err := Open(filepath.Join(t.TempDir(), "none"), "")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestALongLineIsBadAndTheNextIsRead(t *testing.T) {
	t.Parallel()
	f, err := Open(write(t, "l.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n"+
		strings.Repeat("9", 3*maxLine)+"\n2023-11-16 18:17:05,7,8\n"), AzureCSV)
	require.NoError(t, err)
	rows, bad := read(t, f)
	require.Len(t, bad, 1)
	require.Equal(t, 2, bad[0].Line)
	require.Len(t, rows, 1)
	require.Equal(t, 3, rows[0].Line)
}

// Whatever a file holds, reading it ends, and every line is a row, a bad row or blank.
func TestReadersTakeAnything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.SliceOfN(rapid.OneOf(
			rapid.String(),
			rapid.StringMatching(`20[0-9]{2}-0[1-9]-1[0-9] 1[0-9]:00:00(\.[0-9]{1,7})?,[0-9]{1,5},[0-9]{1,5}`),
			rapid.StringMatching(`\{"timestamp":[0-9]{1,4},"input_length":[0-9]{1,4},"output_length":[0-9],"hash_ids":\[[0-9]\]\}`),
			rapid.StringMatching(`\{"timestamp":"2024-01-1[0-9]T09:23:47Z"\}`),
		), 0, 20).Draw(rt, "lines")
		path := filepath.Join(dir, "any")
		require.NoError(rt, os.WriteFile(path, []byte(strings.Join(text, "\n")), 0o600))
		for _, format := range []Format{AzureCSV, MooncakeJSONL, Spans} {
			f := &File{Path: path, Format: format}
			last, end := 0, int64(0)
			for row, err := range f.Rows() {
				var bad *RowError
				if err != nil {
					require.ErrorAs(rt, err, &bad)
				}
				require.Greater(rt, row.Line, last)
				require.Greater(rt, row.End, end)
				last, end = row.Line, row.End
			}
		}
	})
}
