package activities

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Router brings notices to the channels of their audience: package notify. A notice that it is given again
// is posted only where it is missing. Its error says that a channel does not have the notice, though others
// may, as the result says; a method Retryable() bool that answers false says that trying again is no use.
type Router interface {
	Post(ctx context.Context, n contract.Notice) (contract.PostResult, error)
}

// Notify tells people. The inbox needs no channel: it reads what waits from Temporal.
type Notify struct {
	Router Router // nil: the log alone is told
	Mutes  *Mutes // nil: nobody is muted
	Log    *slog.Logger
}

// Post writes a notice to the log and gives it to the channels of its audience, unless its tenant is muted.
// It is an error when nobody heard. It is one too, while another try may help, when a channel did not hear of
// an incident's end: no later notice makes up for that one.
func (n *Notify) Post(ctx context.Context, notice contract.Notice) (contract.PostResult, error) {
	if !activity.IsActivity(ctx) || activity.GetInfo(ctx).Attempt <= 1 {
		n.Log.InfoContext(ctx, notice.Title, "notice", notice.Kind, "id", notice.ID, "handle", contract.Handle(notice.ID),
			"key", notice.Key.String(), "level", notice.Level, "audience", notice.For())
	}
	if muted := n.Mutes.holds(ctx, notice); muted != "" {
		return contract.PostResult{Muted: muted}, nil
	}
	if n.Router == nil {
		return contract.PostResult{}, nil
	}
	result, err := n.Router.Post(ctx, notice)
	var says interface{ Retryable() bool }
	switch final := errors.As(err, &says) && !says.Retryable(); {
	case err == nil, len(result.Posted) > 0 && (final || notice.Kind != contract.NoticeClosed || lastTry(ctx)):
		return result, nil
	case final:
		return result, badInput("no channel takes the notice: "+err.Error(), err)
	}
	return result, err
}

// lastTry reports whether Temporal will not try again: the time that the workflow gives is nearly over.
func lastTry(ctx context.Context) bool {
	if !activity.IsActivity(ctx) {
		return true
	}
	info := activity.GetInfo(ctx)
	return info.ScheduleToCloseTimeout > 0 && time.Until(info.ScheduledTime.Add(info.ScheduleToCloseTimeout)) < info.StartToCloseTimeout
}
