package activities

import (
	"context"
	"errors"
	"log/slog"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Channel brings notices to people. It must post a notice once however often it is given it: notices
// are told apart by kind and id.
type Channel interface {
	Post(ctx context.Context, n contract.Notice) error
}

// Notify tells the people on call. The inbox needs no channel: it reads what waits from Temporal.
type Notify struct {
	Channels []Channel
}

// Post gives a notice to every channel; one that fails does not keep it from the others.
func (n *Notify) Post(ctx context.Context, notice contract.Notice) error {
	var failed []error
	for _, c := range n.Channels {
		failed = append(failed, c.Post(ctx, notice))
	}
	return errors.Join(failed...)
}

// LogChannel writes notices to a log, one line each.
type LogChannel struct {
	Log *slog.Logger
}

// Post writes the notice's line.
func (l LogChannel) Post(ctx context.Context, n contract.Notice) error {
	l.Log.InfoContext(ctx, n.Title, "notice", n.Kind, "id", n.ID, "handle", contract.Handle(n.ID), "key", n.Key.String(), "level", n.Level)
	return nil
}
