package notify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/PagerDuty/go-pagerduty/webhookv3"

	"github.com/flyball-dev/flyball/internal/contract"
)

// OpenIncidents lists the ids of the incidents, groups included, that are open now.
type OpenIncidents interface {
	OpenIncidents(ctx context.Context) ([]string, error)
}

// PagerDutyHookOptions are what the webhooks stand on.
type PagerDutyHookOptions struct {
	Secrets []string // of the webhook subscriptions; any of them signs, so that one can be replaced by another
	People  People
	Open    OpenIncidents
	Names   func(user string) string // the name of a PagerDuty user, by id, where it is known; else that of PagerDuty is used
	Log     *slog.Logger
	Now     func() time.Time
}

// PagerDutyHook takes PagerDuty's webhooks (v3): what people say of an incident there is so here.
type PagerDutyHook struct {
	o PagerDutyHookOptions

	mu   sync.Mutex
	seen *recent[string] // ids of events that were heard
}

// NewPagerDutyHook returns the handler.
func NewPagerDutyHook(o PagerDutyHookOptions) *PagerDutyHook {
	return &PagerDutyHook{o: o, seen: newRecent[string](memorized)}
}

// The bounds of a webhook. PagerDuty drops those above 256 KB, tries for twenty minutes and waits five
// seconds for an answer.
const (
	maxWebhook    = 256 << 10
	maxWebhookAge = time.Hour
	hookTimeout   = 4 * time.Second
	maxSaid       = 2000 // bytes of a note
	maxWho        = 200  // bytes of a name
)

// pagerDutyWebhook is the part of a webhook that is read here.
type pagerDutyWebhook struct {
	Event struct {
		ID         string              `json:"id"`
		Type       string              `json:"event_type"`
		OccurredAt time.Time           `json:"occurred_at"`
		Agent      *pagerDutyReference `json:"agent"`
		Data       struct {
			Type        string             `json:"type"`
			ID          string             `json:"id"`
			IncidentKey string             `json:"incident_key"` // of an incident: the deduplication key of its alert
			Content     string             `json:"content"`      // of a note
			Incident    pagerDutyReference `json:"incident"`     // of a note; it has no key
		} `json:"data"`
	} `json:"event"`
}

type pagerDutyReference struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Summary string `json:"summary"`
}

// ServeHTTP answers one webhook. 202 says that its word is kept or means nothing here, 503 that PagerDuty is
// to send it again; other refusals make PagerDuty switch the subscription off after a few, and are for
// callers that are not PagerDuty.
func (h *PagerDutyHook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), hookTimeout)
	defer cancel()
	body, status, why := h.verified(w, r)
	if status != 0 {
		h.o.Log.WarnContext(ctx, "a webhook of PagerDuty's was refused", "why", why, "from", r.RemoteAddr)
		answerHook(w, status, "refused", why)
		return
	}
	var hook pagerDutyWebhook
	if err := json.Unmarshal(body, &hook); err != nil || hook.Event.ID == "" {
		h.o.Log.WarnContext(ctx, "a webhook of PagerDuty's cannot be read", "error", err)
		answerHook(w, http.StatusAccepted, "ignored", "this is no event of webhooks v3")
		return
	}
	ignored, err := h.take(ctx, hook)
	switch {
	case err != nil:
		h.o.Log.ErrorContext(ctx, "what was said in PagerDuty could not be kept; PagerDuty sends it again", "event", hook.Event.Type, "id", hook.Event.ID, "error", err)
		w.Header().Set("Retry-After", "10")
		answerHook(w, http.StatusServiceUnavailable, "away", "it cannot be kept now; send it again")
	case ignored != "":
		h.o.Log.InfoContext(ctx, "a webhook of PagerDuty's means nothing here", "event", hook.Event.Type, "id", hook.Event.ID, "why", ignored)
		answerHook(w, http.StatusAccepted, "ignored", ignored)
	default:
		h.o.Log.InfoContext(ctx, "a person said something in PagerDuty", "event", hook.Event.Type, "id", hook.Event.ID, "who", h.who(hook.Event.Agent))
		answerHook(w, http.StatusAccepted, "accepted", "")
	}
}

// answerHook writes the answer.
func answerHook(w http.ResponseWriter, status int, result, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"result": result, "why": why}) // an error means that the caller has gone
}

// verified reads the body and checks who signed it. A status other than 0 refuses the request.
func (h *PagerDutyHook) verified(w http.ResponseWriter, r *http.Request) (body []byte, status int, why string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWebhook))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxWebhook)
	case err != nil:
		return nil, http.StatusBadRequest, "the body could not be read"
	}
	for _, secret := range h.o.Secrets {
		r.Body = io.NopCloser(bytes.NewReader(body)) // which the check reads
		if err = webhookv3.VerifySignature(r, secret); err == nil {
			return body, 0, ""
		}
	}
	return nil, http.StatusForbidden, "no signature of X-PagerDuty-Signature is by a secret of notify.pagerduty.webhook_secrets"
}

// take carries what the event says to the workflows. It returns why an event means nothing here, or the
// error for which it is to be sent again.
func (h *PagerDutyHook) take(ctx context.Context, hook pagerDutyWebhook) (ignored string, err error) {
	e := hook.Event
	h.mu.Lock()
	seen := h.seen.has(e.ID)
	h.mu.Unlock()
	switch {
	case seen:
		return "it has come before", nil
	case h.o.Now().Sub(e.OccurredAt) > maxWebhookAge:
		return "it is older than an hour", nil
	case !saidBy(e.Agent):
		return "no person did it", nil // most often we ourselves, by an event
	}
	ignored, err = h.carry(ctx, hook)
	if errors.Is(err, ErrGone) {
		ignored, err = "the incident has ended", nil
	}
	if err == nil && ignored == "" {
		h.mu.Lock()
		h.seen.add(e.ID)
		h.mu.Unlock()
	}
	return ignored, err
}

// saidBy reports whether a person did it: integrations, services and automations have other types.
func saidBy(agent *pagerDutyReference) bool {
	return agent != nil && (agent.Type == "user_reference" || agent.Type == "user")
}

// who is how a person is recorded.
func (h *PagerDutyHook) who(agent *pagerDutyReference) string {
	if agent == nil {
		return ""
	}
	name := inert(cmp.Or(h.o.Names(agent.ID), agent.Summary, agent.ID))
	return cut(name, maxWho-len(" via PagerDuty")) + " via PagerDuty"
}

// carry finds the incident and says there what was said.
func (h *PagerDutyHook) carry(ctx context.Context, hook pagerDutyWebhook) (ignored string, err error) {
	e := hook.Event
	say, ok := map[string]func(ctx context.Context, incident string) error{
		"incident.acknowledged": func(ctx context.Context, incident string) error {
			return h.o.People.Acknowledge(ctx, incident, contract.AcknowledgeRequest{Who: h.who(e.Agent)})
		},
		"incident.resolved": func(ctx context.Context, incident string) error {
			return h.o.People.Resolve(ctx, incident, contract.ResolveRequest{Who: h.who(e.Agent), Reason: "resolved in PagerDuty"})
		},
		"incident.annotated": func(ctx context.Context, incident string) error {
			return h.o.People.Annotate(ctx, incident, contract.AnnotateRequest{Who: h.who(e.Agent), Text: cut(e.Data.Content, maxSaid)})
		},
	}[e.Type]
	if !ok {
		return "nothing follows from " + cut(e.Type, 64) + " here", nil
	}
	incident, err := h.find(ctx, hook)
	if err != nil {
		return "", err
	}
	if incident == "" {
		return "no open incident of ours is meant", nil
	}
	return "", say(WithID(ctx, "pagerduty/"+e.ID), incident)
}

// find is the id of the incident that the event is about; empty: it is none of ours. An incident's event has
// the deduplication key that we gave it. A note's has only the summary, whose end is the incident's handle.
func (h *PagerDutyHook) find(ctx context.Context, hook pagerDutyWebhook) (string, error) {
	key, handle := hook.Event.Data.IncidentKey, ""
	if key == "" {
		handle = handleIn(hook.Event.Data.Incident.Summary)
	}
	switch _, err := contract.OpenedAt(key); {
	case key != "" && err == nil && !strings.HasPrefix(key, hashedKey):
		return key, nil
	case !strings.HasPrefix(key, hashedKey) && handle == "":
		return "", nil
	}
	open, err := h.o.Open.OpenIncidents(ctx)
	if err != nil {
		return "", err
	}
	meant := slices.DeleteFunc(open, func(id string) bool {
		return handle == "" && dedupKey(id) != key || handle != "" && contract.Handle(id) != handle
	})
	if len(meant) != 1 { // two of one handle: better none than the wrong one
		return "", nil
	}
	return meant[0], nil
}
