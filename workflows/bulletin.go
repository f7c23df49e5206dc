package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
)

// bulletin tells people, beside what the workflow does: a channel that is away must not delay it, and the
// inbox shows everything all the same. Notices go out one after another, in the order in which they were
// given, each with what it is about as that is when it goes out. Changes of the card that no other notice
// tells of are told once all others are out, the newest state only.
type bulletin struct {
	ordered bool // 0 tells of openings, escalations, reports and ends only, each beside the others
	fill    func(*contract.Notice)
	queue   []contract.Notice
	stale   bool // the card shows less than the state
	busy    bool
	closed  bool
	seq     int // of the last notice
	pending int // unordered ones
}

// open starts the bulletin; fill completes a notice with the state of now.
func (b *bulletin) open(ctx workflow.Context, fill func(*contract.Notice)) {
	b.fill = fill
	// 1: before it, notices carried no state, and a closed incident could be told of before it was opened.
	b.ordered = workflow.GetVersion(ctx, "notices", workflow.DefaultVersion, 1) >= 1
	if !b.ordered {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.GoNamed(ctx, "bulletin", func(ctx workflow.Context) {
		for {
			_ = workflow.Await(ctx, func() bool { return len(b.queue) > 0 || b.stale || b.closed })
			n, ok := b.next()
			if !ok {
				return
			}
			b.busy = true
			b.seq++
			n.Seq = b.seq
			b.send(telling(ctx, n.Kind), n)
			b.busy = false
		}
	})
}

// next takes what is to be told next.
func (b *bulletin) next() (n contract.Notice, ok bool) {
	if len(b.queue) == 0 {
		ok, b.stale = b.stale, false
		return contract.Notice{Kind: contract.NoticeUpdated}, ok
	}
	n, b.queue = b.queue[0], b.queue[1:]
	switch n.Kind {
	case contract.NoticeOpened, contract.NoticeEscalated, contract.NoticeClosed: // which show the card
		b.stale = false
	}
	return n, true
}

// post gives out a notice. An empty title or text is that of the state when it goes out.
func (b *bulletin) post(ctx workflow.Context, n contract.Notice) {
	n.At = workflow.Now(ctx)
	if b.ordered {
		b.queue = append(b.queue, n)
		return
	}
	switch n.Kind {
	case contract.NoticeUpdated, contract.NoticeStep, contract.NoticeDecided, contract.NoticeActed:
		return
	}
	b.fill(&n)
	b.pending++
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.GoNamed(ctx, "post", func(ctx workflow.Context) {
		b.send(asking(ctx, "tell the people on call: "+string(n.Kind)), n)
		b.pending--
	})
}

// changed asks for the card to be shown as it now is.
func (b *bulletin) changed() { b.stale = b.ordered && !b.closed }

func (b *bulletin) send(ctx workflow.Context, n contract.Notice) {
	if b.ordered {
		if n.At.IsZero() {
			n.At = workflow.Now(ctx)
		}
		b.fill(&n)
	}
	if err := workflow.ExecuteActivity(ctx, notify.Post, n).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("a notice could not be posted", "kind", n.Kind, "error", err)
	}
}

// close waits until every notice is out, or has failed for as long as it may.
func (b *bulletin) close(ctx workflow.Context) {
	b.closed = true
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	_ = workflow.Await(ctx, func() bool { return b.pending == 0 && len(b.queue) == 0 && !b.stale && !b.busy })
}

// How long a notice is tried for before the next one has its turn: one that calls people as long as a channel
// may reasonably be away, the others, which the card makes good later, shorter.
const (
	callWithin = 10 * time.Minute
	showWithin = 2 * time.Minute
)

// telling is the context of a notice that goes out.
func telling(ctx workflow.Context, kind contract.NoticeKind) workflow.Context {
	within := showWithin
	switch kind {
	case contract.NoticeOpened, contract.NoticeEscalated, contract.NoticeQuestion, contract.NoticeClosed:
		within = callWithin
	}
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    attempt,
		ScheduleToCloseTimeout: within,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: 15 * time.Second},
		Summary:                "tell people: " + string(kind),
	})
}
