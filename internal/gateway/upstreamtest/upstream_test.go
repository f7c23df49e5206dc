package upstreamtest_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
)

func post(ctx context.Context, t *testing.T, url, body string, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer sk-1")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

const streamed = `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hi"}]}`

func TestSpendEndsWhereTheClientLeaves(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{OutputTokens: 100_000, Pace: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	response := post(ctx, t, url, streamed)
	lines := bufio.NewScanner(response.Body)
	for seen := 0; seen < 5 && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data:") {
			seen++
		}
	}
	cancel()
	require.Eventually(t, func() bool { return upstream.InFlight() == 0 }, 10*time.Second, time.Millisecond)
	spend := upstream.Spend()
	require.EqualValues(t, 1, spend.Calls)
	require.GreaterOrEqual(t, spend.Output, int64(4))
	require.Less(t, spend.Output, int64(100_000))
	call := upstream.Calls()[0]
	require.False(t, call.Whole)
	require.Equal(t, spend.Output, call.Output)
	require.Equal(t, spend.Input, call.Input)
}

func TestStreamBreaksMidway(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{})
	response := post(t.Context(), t, url, streamed, upstreamtest.FailureHeader, "cut=3")
	body, err := io.ReadAll(response.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, 3+1, strings.Count(string(body), "data:"), "one for the role")
	require.EqualValues(t, 3, upstream.Spend().Output)
}

func TestHangsUntilTheClientIsGone(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{})
	upstream.Fail(upstreamtest.Failure{Hang: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", strings.NewReader(streamed))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer sk-1")
	_, err = http.DefaultClient.Do(r)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Eventually(t, func() bool { return upstream.InFlight() == 0 }, 10*time.Second, time.Millisecond)
	require.EqualValues(t, 0, upstream.Spend().Output)
	require.Positive(t, upstream.Spend().Input, "a call that was taken costs its input")
}

func TestConstantAnswersCountTheSame(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{Constant: true})
	whole := strings.Replace(streamed, `"stream":true`, `"stream":false`, 1)
	var sizes []int
	for range 3 {
		body, err := io.ReadAll(post(t.Context(), t, url, whole).Body)
		require.NoError(t, err)
		sizes = append(sizes, len(body))
	}
	require.InDelta(t, 2_048, sizes[0], 300)
	require.Equal(t, []int{sizes[0], sizes[0], sizes[0]}, sizes)
	require.Equal(t, upstreamtest.Spend{Calls: 3, Input: 3 * 5, Output: 3 * 270}, upstream.Spend())
	body, err := io.ReadAll(post(t.Context(), t, url, streamed).Body)
	require.NoError(t, err)
	require.Contains(t, string(body), "data: [DONE]\n\n")
}
