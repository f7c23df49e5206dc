package complexity

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/kpi"
)

// Whatever is sent, it is answered record by record or refused as a whole, and what is kept is in bounds and the
// sender's own.
func FuzzPost(f *testing.F) {
	for _, body := range []string{
		`[{"task":"contract","minutes":[240,225,260]},{"task":"chat","score":0.5,"tenant_id":"org"}]`,
		`{"task":"support","canonical":[[0.8,0.6],[0.6,0.8],[1,0]],"embeddings":[[0,1],[0.6,0.8]],"by":"ana"}`,
		`[{"task":"a","score":1e999},{"task":"a","minutes":[1e-400]},null,7,{"task":"a","score":1},{"task":"a","score":2}]`,
		`{"task":"a","canonical":[[1e308,1e308],[5e-324,0]],"embeddings":[[-1e308,1e308]]}`, `[[[[`, `{"task":"\ud800","score":1}`,
	} {
		f.Add([]byte(body), "")
		f.Add([]byte(body), "org")
	}
	f.Fuzz(func(t *testing.T, body []byte, tenant string) {
		store := &memory{}
		s := newScores(store)
		status, text := post(s, tenant, string(body))
		require.Contains(t, []int{200, 400, 413}, status)
		var a answer
		require.NoError(t, json.Unmarshal([]byte(text), &a), text)
		require.Len(t, store.scores, a.Accepted)
		require.Equal(t, status == 200, a.Accepted > 0, text)
		if records, err := split(body); err == nil && status != 413 {
			require.Equal(t, len(records), a.Accepted+len(a.Refused), text)
		}
		for _, score := range store.scores {
			require.True(t, score.Milli >= 1 && score.Milli <= kpi.MaxComplexity*1000, "%+v", score)
			require.True(t, tenant == "" || score.Tenant == tenant, "%+v", score)
			require.Positive(t, s.Of(score.Tenant, score.Task))
		}
	})
}

// Whatever the file is, each of its rows is a time in bounds or complained of.
func FuzzReadTimes(f *testing.F) {
	for _, file := range []string{"classify,9\nanswer,8,org\n", "\ufeffMinutes, Task\n40, letter\n", "a,\"1\"2\nb,1\n", "a\n ,4\na,NaN\na,-1\na,1e999\n", "task,minutes,when\n", "\"a,1\n"} {
		f.Add([]byte(file))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		tasks, err := ReadTimes(bytes.NewReader(file), func(line int, _ string, _ ...any) { require.Positive(t, line) })
		require.True(t, err == nil || tasks == nil)
		seen := map[[2]string]bool{}
		for _, task := range tasks {
			require.NotEmpty(t, task.Task)
			require.False(t, seen[[2]string{task.TenantID, task.Task}], "a task is there once")
			seen[[2]string{task.TenantID, task.Task}] = true
			_, err := kpi.MedianMinutes(task.Minutes)
			require.NoError(t, err)
		}
	})
}
