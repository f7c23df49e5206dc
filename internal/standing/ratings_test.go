package standing

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func readAll(t testing.TB, file string, scale *Scale) (ratings []Rating, bad []string) {
	r, err := ReadRatings(strings.NewReader(file), scale, at)
	require.NoError(t, err)
	for {
		rating, err := r.Next()
		var row *RowError
		switch {
		case errors.Is(err, io.EOF):
			return ratings, bad
		case errors.As(err, &row):
			bad = append(bad, row.Error())
		default:
			require.NoError(t, err)
			ratings = append(ratings, rating)
		}
	}
}

func TestReadRatings(t *testing.T) {
	t.Parallel()
	got, bad := readAll(t, "\ufeffrater, Rating ,TRACE_ID,timestamp,tenant_id,model,span_id\nana,4,t1,2026-05-01T10:00:00Z,org,m,s1\n,1,t2,,,,\n", &Scale{1, 5})
	require.Empty(t, bad)
	require.Equal(t, []Rating{
		{ID: got[0].ID, TraceID: "t1", SpanID: "s1", TenantID: "org", Model: "m", Rater: "ana", Score: 0.75, Kind: "human", Timestamp: "2026-05-01T10:00:00Z", Line: 2},
		{ID: got[1].ID, TraceID: "t2", Rater: "people", Score: 0, Kind: "human", Timestamp: "2026-05-04T09:00:00Z", Line: 3},
	}, got)
	text, err := json.Marshal(got[1])
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"`+got[1].ID+`","trace_id":"t2","evaluator":"people","score":0,"kind":"human","timestamp":"2026-05-04T09:00:00Z"}`, string(text))

	_, bad = readAll(t, "trace_id,score\nt1,1.2\n,0.5\nt2,\nt3,good\nt4,NaN\nt5\nt6,0.5,x\n\xff,0.5\nt7,\"0.5\"1\nt8,-0\n", nil)
	require.Equal(t, []string{
		"line 2: score must be from 0 to 1 (1.2)", "line 3: the trace_id is missing", "line 4: the score is missing", `line 5: score "good" is not a number`,
		"line 6: score must be from 0 to 1 (NaN)", "line 7: wrong number of fields", "line 8: wrong number of fields", "line 9: column 1 is not valid UTF-8",
		`line 10: extraneous or missing " in quoted-field`,
	}, bad)
	_, bad = readAll(t, "trace_id,score,timestamp\nt1,1,yesterday\n", nil)
	require.Equal(t, []string{`line 2: timestamp "yesterday" is not a time: write 2026-01-15T09:23:47Z`}, bad)

	for message, test := range map[string]struct {
		file  string
		scale *Scale
	}{
		"is empty":             {"", nil},
		`a column "whom"`:      {"trace_id,score,whom\n", nil},
		`a column "score"`:     {"trace_id,score,score\n", nil},
		"no trace_id":          {"score\n", nil},
		"either score":         {"trace_id\n", nil},
		"either score (0 to 1": {"trace_id,score,rating\n", nil},
		"pass --scale":         {"trace_id,rating\n", nil},
		"need no --scale":      {"trace_id,score\n", &Scale{1, 5}},
		"reading the header":   {"\"trace_id,score\n", nil},
	} {
		_, err := ReadRatings(strings.NewReader(test.file), test.scale, at)
		require.ErrorContains(t, err, message)
	}
}

// The id of a rating depends on all that the file says, and on nothing else.
func TestRatingIDs(t *testing.T) {
	t.Parallel()
	const header = "trace_id,span_id,tenant_id,rater,score,timestamp\n"
	first, _ := readAll(t, header+"t,s,org,ana,0.5,\nt,s,org,ana,0.6,\nt,s,org,ben,0.5,\nt,s2,org,ana,0.5,\nts,,org,ana,0.5,\nt,s,or,gana,0.5,\nt,s,org,ana,0.5,2026-05-01T10:00:00Z\n", nil)
	again, err := ReadRatings(strings.NewReader("timestamp,rater,score,tenant_id,trace_id,span_id\n,ana,0.50,org,t,s\n"), nil, at.Add(time.Hour))
	require.NoError(t, err)
	later, err := again.Next()
	require.NoError(t, err)
	require.Equal(t, first[0].ID, later.ID, "whatever the order of columns, and whenever it is sent")
	seen := map[string]bool{}
	for _, r := range first {
		require.False(t, seen[r.ID])
		seen[r.ID] = true
	}
}

func TestParseScale(t *testing.T) {
	t.Parallel()
	got, err := ParseScale("-1..1.5")
	require.NoError(t, err)
	require.Equal(t, Scale{-1, 1.5}, got)
	for _, text := range []string{"", "5", "1-5", "5..1", "1..1", "NaN..1", "0..Inf", "a..b", "1..2..3", "0..1e300"} {
		_, err := ParseScale(text)
		require.ErrorContains(t, err, "as 1..5", text)
	}
}

// Whatever the file is, each of its rows is a rating in bounds or complained of.
func FuzzRatings(f *testing.F) {
	for _, file := range []string{"trace_id,rating\nt,4\n", "\ufeffscore, Trace_ID\n0.5,t\n", "trace_id,score\n\"a\n", "trace_id,score,timestamp\nt,1,2026-05-01T10:00:00+02:00\n"} {
		f.Add([]byte(file), true)
		f.Add([]byte(file), false)
	}
	f.Fuzz(func(t *testing.T, file []byte, scaled bool) {
		var scale *Scale
		if scaled {
			scale = &Scale{1, 5}
		}
		r, err := ReadRatings(bytes.NewReader(file), scale, at)
		if err != nil {
			return
		}
		for {
			rating, err := r.Next()
			var row *RowError
			if errors.As(err, &row) {
				require.Positive(t, row.Line)
				continue
			}
			if err != nil {
				require.ErrorIs(t, err, io.EOF)
				return
			}
			require.True(t, rating.Score >= 0 && rating.Score <= 1 && rating.TraceID != "" && rating.Rater != "" && rating.Kind == "human")
			_, err = time.Parse(time.RFC3339, rating.Timestamp)
			require.NoError(t, err)
		}
	})
}
