package activities

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

const hookSecret = "0123456789abcdef"

var rollbackRequest = contract.RollbackRequest{
	Incident: "incident/org_42/claude-3-opus/1", Key: opus, Attempt: 1,
	Deployment: usage.Deployment{ID: "d-9", Service: "support-bot", Version: "8f2c1d", Previous: map[string]string{"prompt_template_version": "rag-v3.1"}},
}

// verify is what docs/operations.md tells receivers to do.
func verify(r *http.Request, body []byte, secret string) error {
	var at, given string
	for part := range strings.SplitSeq(r.Header.Get(SignatureHeader), ",") {
		switch name, value, _ := strings.Cut(part, "="); name {
		case "t":
			at = value
		case "v1":
			given = value
		}
	}
	if sent, err := strconv.ParseInt(at, 10, 64); err != nil || time.Since(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return errors.New("not sent now")
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(append([]byte(at+"."), body...))
	if want := hex.EncodeToString(mac.Sum(nil)); !hmac.Equal([]byte(want), []byte(given)) {
		return errors.New("wrong signature")
	}
	return nil
}

func TestCallRollback(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer  http.HandlerFunc
		secret  string
		failed  string // part of what the result says
		again   string // part of the error that is worth another try
		body    string
		service string
		refused string
	}{
		"taken":              {answer: answering(202, " queued as job 7\n"), body: "queued as job 7"},
		"too busy":           {answer: answering(429, "later"), again: "429 Too Many Requests: later"},
		"broken":             {answer: answering(500, "oops"), again: "500 Internal Server Error: oops"},
		"hung up":            {answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, again: "calling the webhook of support-bot"},
		"not found":          {answer: answering(404, "no such job"), failed: "404 Not Found: no such job"},
		"a secret of theirs": {secret: "another-secret-16", failed: "401 Unauthorized: wrong signature"},
		"endless":            {answer: answering(200, strings.Repeat("é", answerKept)), body: strings.Repeat("é", answerKept/2)},
		"no UTF-8":           {answer: answering(200, "\xff\xfe"), body: "�"},
		"a service that has none": {
			answer: answering(200, ""), service: "another", refused: "no rollback webhook is configured for another",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls++
				body, err := io.ReadAll(r.Body)
				require.NoError(t, err)
				secret := hookSecret
				if tc.secret != "" {
					secret = tc.secret
				}
				if err := verify(r, body, secret); err != nil {
					answering(401, err.Error())(w, r)
					return
				}
				require.Equal(t, http.MethodPost, r.Method)
				require.Equal(t, "application/json", r.Header.Get("Content-Type"))
				require.Equal(t, rollbackRequest.IdempotencyKey(), r.Header.Get(IdempotencyHeader))
				var order RollbackOrder
				require.NoError(t, json.Unmarshal(body, &order))
				require.Equal(t, rollbackRequest.Deployment, order.Deployment)
				require.Equal(t, opus.Model, order.Model)
				tc.answer(w, r)
			}))
			t.Cleanup(server.Close)
			client := server.Client()
			t.Cleanup(client.CloseIdleConnections)
			request := rollbackRequest
			if tc.service != "" {
				request.Deployment.Service = tc.service
			}
			result, err := (&Rollback{Client: client, Hooks: RollbackHooks{{"support-bot", server.URL + "/hush?token=hush", hookSecret}}}).CallRollback(t.Context(), request)
			var application *temporal.ApplicationError
			switch {
			case tc.refused != "":
				require.ErrorAs(t, err, &application)
				require.True(t, application.NonRetryable())
				require.ErrorContains(t, err, tc.refused)
				require.Zero(t, calls)
				return
			case tc.again != "":
				require.ErrorContains(t, err, tc.again)
				require.False(t, errors.As(err, &application) && application.NonRetryable(), "it is worth another try")
				require.NotContains(t, err.Error(), "hush", "an address may hold a secret")
				return
			}
			require.NoError(t, err, "an answer is evidence, whatever it says")
			require.Equal(t, "support-bot", result.Service)
			require.NotZero(t, result.Status)
			require.Equal(t, tc.failed != "", result.Failed != "")
			require.Contains(t, result.Failed, tc.failed)
			if tc.body != "" {
				require.Equal(t, tc.body, result.Body)
			}
		})
	}
}

func TestCallRollbackWaitsNoLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := time.Now()
		hang := transport(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		_, err := (&Rollback{Client: &http.Client{Transport: hang}, Hooks: RollbackHooks{{"support-bot", "http://127.0.0.1/", hookSecret}}}).CallRollback(t.Context(), rollbackRequest)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, asked.Add(hookTimeout), time.Now())
	})
}

func TestIdempotencyKeyIsOfTheDeploymentAndTheIncident(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for name, change := range map[string]func(*contract.RollbackRequest){
		"the same":        func(*contract.RollbackRequest) {},
		"another try":     func(r *contract.RollbackRequest) { r.Attempt++ },
		"another version": func(r *contract.RollbackRequest) { r.Deployment.Version = "v9" },
		"another id":      func(r *contract.RollbackRequest) { r.Deployment.ID = "d-10" },
		"another time":    func(r *contract.RollbackRequest) { r.Incident += "0" },
	} {
		r := rollbackRequest
		change(&r)
		seen[name] = r.IdempotencyKey()
	}
	require.Equal(t, seen["the same"], seen["another try"])
	delete(seen, "another try")
	distinct := map[string]bool{}
	for _, key := range seen {
		distinct[key] = true
	}
	require.Len(t, distinct, 4)
}

// The vector that docs/operations.md shows.
func TestSign(t *testing.T) {
	t.Parallel()
	require.Equal(t, "t=1768900000,v1=02425799bef7cd6f0a3f9a12d326590f73b70613da1c5b32d6f7fdcf969149a8",
		Sign("0123456789abcdef0123456789abcdef", time.Unix(1768900000, 0), []byte(`{"action":"rollback"}`)))
}
