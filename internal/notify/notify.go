// Package notify is how Flyball and people reach each other through the tools that they are called by:
// it brings notices to Slack and PagerDuty, and carries what people press there back to the workflows.
package notify

import (
	"context"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Channel brings notices to people. It posts a notice once however often it is given it, and says by its
// error when it could not: the caller then tries again, or another channel.
type Channel interface {
	Post(ctx context.Context, n contract.Notice) error
}

// People carries the word of people back to the workflows. Each call returns once the word is kept
// durably: a worker that is away hears it when it is back. IDs are workflow ids; the one to mute is that of
// an incident (its key is muted), of a group, or of the alert loop of a key or of a tenant (alert/<tenant>/*).
type People interface {
	Decide(ctx context.Context, decision string, r contract.DecideRequest) error
	Acknowledge(ctx context.Context, incident string, r contract.AcknowledgeRequest) error
	Resolve(ctx context.Context, incident string, r contract.ResolveRequest) error
	Annotate(ctx context.Context, incident string, r contract.AnnotateRequest) error
	Mute(ctx context.Context, what string, r contract.MuteRequest) error
}
