package bench

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

// BenchmarkStorage prints what a call takes on disk: as a raw span, and in each rollup for a thousand calls. The
// traffic has the density of 10 million calls a day of 2,000 keys (3.5 a minute and key), random ids in hex, lognormal
// tokens, costs and latencies, and a tag. Parts are merged before they are measured.
func BenchmarkStorage(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	const keys, calls = 300, 300_000
	e := newEngine(b)
	for b.Loop() {
		random := rand.New(rand.NewPCG(1, 2))
		end := time.Now().UTC().Truncate(time.Hour)
		const length = calls / keys * time.Minute * 10 / 35
		for from := 0; from < calls; from += batchRows {
			require.NoError(b, e.store.InsertSpans(b.Context(), realistic(random, keys, batchRows, end, length), fmt.Sprint("storage-", from)))
		}
	}
	for _, table := range []string{"spans", "kpi_1m", "kpi_1h", "kpi_1d", "sweep_1m"} {
		e.ask(b, "OPTIMIZE TABLE "+table+" FINAL")
		size, err := strconv.ParseFloat(e.ask(b, "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'flyball' AND table = '"+table+"'"), 64)
		require.NoError(b, err)
		if stored := float64(b.N) * calls; table == "spans" {
			b.ReportMetric(size/stored, "B/span")
		} else {
			b.ReportMetric(size/stored, "KB/1000-"+table)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// realistic makes calls whose numbers and names spread as real ones do.
func realistic(random *rand.Rand, keys, n int, end time.Time, length time.Duration) []usage.Span {
	lognormal := func(median, sigma float64) int64 {
		return int64(math.Round(median * math.Exp(sigma*random.NormFloat64())))
	}
	list := make([]usage.Span, n)
	for i := range list {
		k := random.IntN(keys)
		t := usage.Tokens{UncachedInput: lognormal(900, 0.8), Output: lognormal(200, 0.7)}
		if random.IntN(3) > 0 {
			t.CacheRead = 1024
		}
		list[i] = usage.Span{
			TraceID: fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64()), SpanID: fmt.Sprintf("%016x", random.Uint64()),
			Timestamp: end.Add(-time.Duration(random.Int64N(int64(length)))).Truncate(time.Millisecond),
			TenantID:  fmt.Sprint("org_", k%40), SessionID: fmt.Sprint("s", random.IntN(n/4)), Provider: "openai",
			RequestedModel: fmt.Sprint("model-", k/40), Model: fmt.Sprint("model-", k/40), PromptTemplate: fmt.Sprint("rag-v", k%3), Task: "support",
			Tokens: t, UsageComplete: true, Cost: usage.PicoUSD(t.UncachedInput*2_500_000 + t.CacheRead*1_250_000 + t.Output*10_000_000),
			Priced: true, PriceVersion: "2026-01", LatencyMS: lognormal(1800, 0.5), TTFTMS: lognormal(250, 0.4),
			Complexity: 1, Arm: usage.None, Tags: map[string]string{"team": fmt.Sprint("team-", k%7)},
		}
	}
	return list
}

// ask runs one statement by HTTP and returns its answer.
func (e *engine) ask(b *testing.B, statement string) string {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, e.url+"/?"+url.Values{"database": {"flyball"}}.Encode(), strings.NewReader(statement))
	require.NoError(b, err)
	request.SetBasicAuth(e.user, e.password)
	response, err := http.DefaultClient.Do(request)
	require.NoError(b, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, response.StatusCode, string(text))
	return strings.TrimSpace(string(text))
}
