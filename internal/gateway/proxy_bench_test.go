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
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
)

// TestBenchGateway measures the gateway against a bare reverse proxy before the same provider, clients and provider in
// this process too, and prints a table: FLYBALL_BENCH=1.
func TestBenchGateway(t *testing.T) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		t.Skip("set FLYBALL_BENCH=1: see make bench-gateway")
	}
	r := newRig(t, upstreamtest.Options{Constant: true}, nil)
	to, err := url.Parse(r.url)
	require.NoError(t, err)
	bare := &httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 2048, DisableCompression: true},
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Header.Set("Authorization", "Bearer "+upstreamKey)
		},
	}
	server := httptest.NewServer(bare)
	defer server.Close()
	fmt.Println("clients  stream  what     calls/s     p50 µs     p99 µs  allocs/call  ratio p50  ratio p99")
	for _, clients := range []int{10, 100, 1000} {
		for _, body := range []string{chat, strings.Replace(streamed, `"stream":true, `, `"stream":true,`, 1)} {
			base := load(t, server.URL, body, clients)
			ours := load(t, r.server.URL, body, clients)
			for i, m := range []measured{base, ours} {
				name := [...]string{"bare", "gateway"}[i]
				fmt.Printf("%7d  %6t  %-7s %8.0f %10d %10d %12.0f %10.2f %10.2f\n", clients, body != chat, name, m.rate, m.p50.Microseconds(), m.p99.Microseconds(), m.allocs,
					float64(m.p50)/float64(base.p50), float64(m.p99)/float64(base.p99))
			}
		}
	}
}

type measured struct {
	rate, allocs float64
	p50, p99     time.Duration
}

// load makes calls for two seconds, after a warm-up, and measures them.
func load(t *testing.T, to, body string, clients int) measured {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var all []time.Duration
	var failed atomic.Int64
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
					if err != nil || answer.StatusCode != http.StatusOK {
						failed.Add(1)
						return
					}
					_, _ = io.Copy(io.Discard, answer.Body)
					_ = answer.Body.Close()
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
	require.Zero(t, failed.Load())
	slices.Sort(all)
	n := len(all)
	return measured{float64(n) / d.Seconds(), float64(after.Mallocs-before.Mallocs) / float64(n), all[n/2], all[n*99/100]}
}
