package chservetest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
)

func TestStartAnswersQueries(t *testing.T) {
	url, user, password := chservetest.Start(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("SELECT 40 + 2"))
	require.NoError(t, err)
	request.SetBasicAuth(user, password)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode, string(body))
	require.Equal(t, "42\n", string(body))
}
