// Package notify is how Flyball and people reach each other through the tools that they are called by:
// it brings notices to Slack and PagerDuty, and carries what people press there back to the workflows.
package notify

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Channel brings notices to people. It posts a notice once however often it is given it, and says by its
// error when it could not: the caller then tries again, or another channel. An error may say more by the
// methods Retryable() bool, false when trying again is no use until a person has mended something, and
// RetryAfter() time.Duration, how long the channel wants to be left alone.
type Channel interface {
	Post(ctx context.Context, n contract.Notice) error
}

// People carries the word of people back to the workflows. Each call returns once the word is kept
// durably: a worker that is away hears it when it is back. IDs are workflow ids; the one to mute is that of
// an incident (its key is muted), of a group, or of the alert loop of a key or of a tenant (alert/<tenant>/*).
// ErrGone says that it comes too late; after any other error it may be said again.
type People interface {
	Decide(ctx context.Context, decision string, r contract.DecideRequest) error
	Acknowledge(ctx context.Context, incident string, r contract.AcknowledgeRequest) error
	Resolve(ctx context.Context, incident string, r contract.ResolveRequest) error
	Annotate(ctx context.Context, incident string, r contract.AnnotateRequest) error
	Mute(ctx context.Context, what string, r contract.MuteRequest) error
}

// ErrGone is what People say of a workflow that has ended, or never was.
var ErrGone = errors.New("it does not run any more")

// onceKey is the context's key of an id of a person's word.
type onceKey struct{}

// WithID names what a person said by the id that its channel gave it, so that a channel that sends it again,
// to this process or another, is heard once.
func WithID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, onceKey{}, id)
}

// ID is the id that WithID gave; empty: none.
func ID(ctx context.Context) string {
	id, _ := ctx.Value(onceKey{}).(string)
	return id
}

// Links leads people from a channel to the whole story.
type Links struct {
	Console    string // its address; empty: no links to it
	TemporalUI string // likewise
	Namespace  string // of the workflows
}

// Incident is the page of an incident, a group or a decision in the console; empty: there is none.
func (l Links) Incident(id string) string {
	if l.Console == "" {
		return ""
	}
	return strings.TrimRight(l.Console, "/") + "/#" + url.PathEscape(id)
}

// Workflow is the page of a workflow in Temporal's UI; empty: there is none.
func (l Links) Workflow(id string) string {
	if l.TemporalUI == "" {
		return ""
	}
	return strings.TrimRight(l.TemporalUI, "/") + "/namespaces/" + url.PathEscape(l.Namespace) + "/workflows/" + url.PathEscape(id)
}

// retryable reports whether trying again can help with nothing mended by a person.
func retryable(err error) bool {
	var says interface{ Retryable() bool }
	return !errors.As(err, &says) || says.Retryable()
}

// retryAfter is how long the channel wants to be left alone; 0 where it does not say.
func retryAfter(err error) time.Duration {
	var says interface{ RetryAfter() time.Duration }
	if !errors.As(err, &says) {
		return 0
	}
	return says.RetryAfter()
}
