package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
)

// TestBenchGateway measures the gateway, with all that it does on, against a bare reverse proxy before the same provider,
// clients and provider in this process too, and prints a table: FLYBALL_BENCH=1.
func TestBenchGateway(t *testing.T) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		t.Skip("set FLYBALL_BENCH=1: see make bench-gateway")
	}
	leased := newWholeRig(t, upstreamtest.Options{Constant: true}, false)
	asked := newWholeRig(t, upstreamtest.Options{Constant: true}, true)
	to, err := url.Parse(leased.url)
	require.NoError(t, err)
	bare := httptest.NewServer(&httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 2048, DisableCompression: true},
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Header.Set("Authorization", "Bearer "+upstreamKey)
		},
	})
	defer bare.Close()
	fmt.Println("clients  stream  what                 calls/s     p50 µs     p99 µs  allocs/call  ratio p50  ratio p99  ratio calls/s  failed")
	for _, clients := range []int{10, 100, 1000} {
		for _, body := range []string{chat, streamed} {
			var base measured
			for _, it := range []struct{ name, url string }{
				{"bare", bare.URL}, {"gateway, leases", leased.server.URL}, {"gateway, Redis too", asked.server.URL},
			} {
				m := load(t, it.url, body, clients)
				if it.name == "bare" {
					base = m
				}
				fmt.Printf("%7d  %6t  %-18s %9.0f %10d %10d %12.0f %10.2f %10.2f %14.2f %7d %s\n", clients, body != chat, it.name, m.rate,
					m.p50.Microseconds(), m.p99.Microseconds(), m.allocs, float64(m.p50)/float64(base.p50), float64(m.p99)/float64(base.p99),
					m.rate/base.rate, m.failed, m.why)
			}
		}
	}
}

type measured struct {
	rate, allocs float64
	p50, p99     time.Duration
	failed       int
	why          string
}

// load makes calls for two seconds, after a warm-up, and measures them.
func load(t *testing.T, to, body string, clients int) measured {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var all []time.Duration
	m := measured{}
	run := func(d time.Duration, keep bool) {
		var wg sync.WaitGroup
		until := time.Now().Add(d)
		for range clients {
			wg.Go(func() {
				var own []time.Duration
				for time.Now().Before(until) {
					began := time.Now()
					request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, to+"/v1/chat/completions", strings.NewReader(body))
					request.Header.Set("Authorization", "Bearer "+keyA)
					answer, err := client.Do(request)
					why := ""
					if err != nil {
						why = err.Error()
					} else {
						said, broken := io.ReadAll(answer.Body)
						_ = answer.Body.Close()
						if answer.StatusCode != http.StatusOK || broken != nil {
							why = fmt.Sprintf("%s %s %v", answer.Status, said, broken)
						}
					}
					if why != "" {
						mu.Lock()
						m.failed, m.why = m.failed+1, why
						mu.Unlock()
						continue
					}
					own = append(own, time.Since(began))
				}
				mu.Lock()
				defer mu.Unlock()
				if keep {
					all = append(all, own...)
				}
			})
		}
		wg.Wait()
	}
	run(500*time.Millisecond, false)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const d = 2 * time.Second
	run(d, true)
	runtime.ReadMemStats(&after)
	require.NotEmpty(t, all, m.why)
	slices.Sort(all)
	n := len(all)
	m.rate, m.allocs = float64(n)/d.Seconds(), float64(after.Mallocs-before.Mallocs)/float64(n)
	m.p50, m.p99 = all[n/2], all[n*99/100]
	return m
}
