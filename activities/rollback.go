package activities

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// RollbackHook is where a service's deployments are undone. Secret signs what is sent there.
type RollbackHook struct {
	Service, URL, Secret string
}

// RollbackHooks are those of all services.
type RollbackHooks []RollbackHook

// Has reports whether the service's deployments can be undone.
func (h RollbackHooks) Has(service string) bool {
	_, ok := h.of(service)
	return ok
}

func (h RollbackHooks) of(service string) (RollbackHook, bool) {
	for _, hook := range h {
		if hook.Service == service {
			return hook, true
		}
	}
	return RollbackHook{}, false
}

// Rollback undoes deployments through the webhooks of their services.
type Rollback struct {
	Client *http.Client
	Hooks  RollbackHooks
}

// The bounds on a webhook: how long it may take to answer, and how much of its answer is kept.
const (
	hookTimeout = 10 * time.Second
	answerKept  = 1 << 10
)

// The headers of a call. The signature is that of Stripe's webhooks: HMAC-SHA256 over "<unix time>.<body>".
const (
	SignatureHeader   = "X-Flyball-Signature"
	IdempotencyHeader = "Idempotency-Key"
)

// RollbackOrder is the body of a call.
type RollbackOrder struct {
	Action     string           `json:"action"` // rollback
	Incident   string           `json:"incident"`
	Tenant     string           `json:"tenant"`
	Model      string           `json:"model"`
	Deployment usage.Deployment `json:"deployment"` // to be undone; previous says what was there before
}

// CallRollback orders the deployment to be undone. It is worth another try when no answer came, or 429 or 5xx; any
// other answer that is no success is final. Every try has the same idempotency key, since one whose answer was
// lost may have been obeyed.
func (r *Rollback) CallRollback(ctx context.Context, request contract.RollbackRequest) (contract.RollbackResult, error) {
	d := request.Deployment
	result := contract.RollbackResult{Service: d.Service, Version: d.Version}
	hook, ok := r.Hooks.of(d.Service)
	if !ok {
		return result, refuseHook("no rollback webhook is configured for " + d.Service)
	}
	body, err := json.Marshal(RollbackOrder{
		Action: contract.RollBack, Incident: request.Incident, Tenant: request.Key.Tenant, Model: request.Key.Model, Deployment: d,
	})
	if err != nil {
		return result, badInput("the rollback cannot be written as JSON", err)
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return result, refuseHook("the webhook's address is wrong")
	}
	post.Header.Set("Content-Type", "application/json")
	post.Header.Set(IdempotencyHeader, request.IdempotencyKey())
	post.Header.Set(SignatureHeader, Sign(hook.Secret, time.Now(), body))
	response, err := r.Client.Do(post)
	if err != nil {
		return result, fmt.Errorf("calling the webhook of %s: %w", d.Service, withoutAddress(err))
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, answerKept))
	if err != nil && len(answer) == 0 {
		answer = []byte("its answer broke off")
	}
	result.Status, result.Body = response.StatusCode, strings.TrimSpace(strings.ToValidUTF8(string(answer), string(utf8.RuneError)))
	switch status := response.StatusCode; {
	case status >= 200 && status < 300:
		return result, nil
	case status == http.StatusTooManyRequests || status >= 500:
		return result, fmt.Errorf("the webhook of %s answered %s: %s", d.Service, response.Status, result.Body)
	}
	result.Failed = fmt.Sprintf("it answered %s: %s", response.Status, result.Body)
	return result, nil // which another try would not change
}

// Sign is the signature of a body sent at a time: t=<unix time>,v1=<hex of HMAC-SHA256>. The time is part of
// what is signed, so that a receiver can refuse an old call that is sent again.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

func refuseHook(message string) error {
	return temporal.NewNonRetryableApplicationError(message, contract.ErrRefused, nil)
}

// withoutAddress leaves out the address, which may carry a secret of its own.
func withoutAddress(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
