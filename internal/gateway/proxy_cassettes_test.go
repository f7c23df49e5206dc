package gateway_test

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/usage"
)

// TestRecordedTraffic passes recorded calls of others through the gateway, in the folder that FLYBALL_DATA names: what
// comes is what was recorded, and the span has the usage that the recording says.
func TestRecordedTraffic(t *testing.T) {
	root := os.Getenv("FLYBALL_DATA")
	if root == "" {
		t.Skip("FLYBALL_DATA names no folder of recorded data")
	}
	files, err := filepath.Glob(filepath.Join(root, "cassettes", "*", "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var says string
	r := saying(t, func(w http.ResponseWriter, _ *http.Request) {
		kind := "text/event-stream; charset=utf-8"
		if strings.HasPrefix(says, "{") {
			kind = "application/json"
		}
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, says)
	})
	set := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var cassette struct {
			Interactions []struct {
				Request  struct{ URI, Body string }
				Response struct{ Body struct{ String string } }
			}
		}
		require.NoError(t, yaml.Unmarshal(text, &cassette), file)
		for _, i := range cassette.Interactions {
			at, err := url.Parse(i.Request.URI)
			require.NoError(t, err)
			family, known := map[string]string{"api.openai.com": "openai", "api.anthropic.com": "anthropic"}[at.Host]
			if says = i.Response.Body.String; !known || !strings.Contains(says, `"usage"`) {
				continue
			}
			set++
			got := r.post(keyA, at.Path, i.Request.Body)
			require.Equal(t, http.StatusOK, got.StatusCode, "%s: %s", file, got.body)
			span := r.span(set)
			comment := ": x-llm-cost-this-request " + dollars(span.Cost) + "\n"
			require.Equal(t, says, strings.Replace(got.body, comment, "", 1), file)
			require.Equal(t, recordedUsage(t, family, says), span.Tokens, file) // which tests/data holds to the raw JSON
			require.True(t, span.UsageComplete, file)
		}
	}
	require.NotZero(t, set)
	t.Logf("%d recorded calls", set)
}

func recordedUsage(t *testing.T, shape, text string) usage.Tokens {
	t.Helper()
	if strings.HasPrefix(text, "{") {
		report, err := usage.FromBody(shape, []byte(text))
		require.NoError(t, err)
		return report.Tokens
	}
	stream, err := usage.NewStream(shape)
	require.NoError(t, err)
	_, _ = stream.Write([]byte(text))
	return stream.Report().Tokens
}
