package notify

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// scripted is a channel that answers each try as it is told, and well when it is told nothing more.
type scripted struct {
	answers []error
	hangs   time.Duration // before it answers
	got     []contract.Notice
	tries   int
}

func (s *scripted) Post(ctx context.Context, n contract.Notice) error {
	s.tries++
	if s.hangs > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.hangs):
		}
	}
	if len(s.answers) > 0 {
		err := s.answers[0]
		s.answers = s.answers[1:]
		if err != nil {
			return err
		}
	}
	s.got = append(s.got, n)
	return nil
}

// says is an error that says how it is to be taken.
type says struct {
	final bool
	after time.Duration
}

func (s says) Error() string             { return "the channel says no" }
func (s says) Retryable() bool           { return !s.final }
func (s says) RetryAfter() time.Duration { return s.after }

var errAway = errors.New("connection refused")

var opus = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}

const incidentID = "incident/org_42/claude-3-opus/1767225600"

// page is a notice of the incident.
func page(kind contract.NoticeKind, seq int) contract.Notice {
	opened := time.Unix(1767225600, 0).UTC()
	return contract.Notice{
		Kind: kind, ID: incidentID, Incident: incidentID, Seq: seq, Audience: contract.OnCall, Key: opus, Level: detect.Page,
		Opened: opened, At: opened.Add(time.Minute), Title: "PAGE org_42/claude-3-opus: cost × 3", Text: "what happened",
	}
}

// both routes pages to a pager and a board, and the rest to the board.
func both(pager, board Channel) *Router {
	return NewRouter(map[string]Channel{"pagerduty": pager, "slack": board}, map[contract.Audience][]string{
		contract.OnCall: {"pagerduty", "slack"}, contract.Findings: {"slack"},
	}, slog.New(slog.DiscardHandler))
}

// attempt is the context of one try of the activity.
func attempt(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func kinds(notices []contract.Notice) (list []contract.NoticeKind) {
	for _, n := range notices {
		list = append(list, n.Kind)
	}
	return list
}

func TestEveryChannelOfTheAudienceHearsOnce(t *testing.T) {
	t.Parallel()
	pager, board := &scripted{}, &scripted{}
	r := both(pager, board)
	for range 3 { // an activity is tried again, or its answer is lost
		result, err := r.Post(attempt(t), page(contract.NoticeOpened, 0))
		require.NoError(t, err)
		require.Equal(t, contract.PostResult{Posted: []string{"pagerduty", "slack"}}, result)
	}
	require.Equal(t, 1, pager.tries)
	require.Equal(t, 1, board.tries)
	require.Empty(t, board.got[0].Unreached)

	finding := page(contract.NoticeOpened, 1)
	finding.Audience, finding.Level = "", detect.Investigate
	_, err := r.Post(attempt(t), finding)
	require.NoError(t, err)
	require.Equal(t, 1, pager.tries, "INVESTIGATE never pages")
	require.Equal(t, 2, board.tries)

	experiment := page(contract.NoticeOpened, 2)
	experiment.Audience = contract.Experiments
	result, err := r.Post(attempt(t), experiment)
	require.NoError(t, err, "nobody is configured for experiments")
	require.Empty(t, result)
}

// TestOutages: what each channel has, and how often it was tried, when one of them fails in every way.
func TestOutages(t *testing.T) {
	for name, c := range map[string]struct {
		pager, board     scripted
		notice           contract.Notice
		tries            [2]int
		unreached        []string // that the last notice on the board tells of
		carried          []string // that the last notice of the pager tells of
		posted           []string
		retryable, fails bool
		within           time.Duration
	}{
		"an error that passes": {
			pager: scripted{answers: []error{errAway, errAway}}, notice: page(contract.NoticeOpened, 0),
			tries: [2]int{3, 1}, unreached: []string{"pagerduty"}, posted: []string{"pagerduty", "slack"}, within: 3 * time.Second,
		},
		"it asks to be left alone": {
			pager: scripted{answers: []error{says{after: 5 * time.Second}}}, notice: page(contract.NoticeOpened, 0),
			tries: [2]int{2, 1}, unreached: []string{"pagerduty"}, posted: []string{"pagerduty", "slack"}, within: 5 * time.Second,
		},
		"for longer than there is time": {
			pager: scripted{answers: []error{says{after: time.Minute}}}, notice: page(contract.NoticeOpened, 0),
			tries: [2]int{1, 1}, unreached: []string{"pagerduty"}, posted: []string{"slack"}, fails: true, retryable: true,
		},
		"it refuses": {
			pager: scripted{answers: []error{says{final: true}}}, notice: page(contract.NoticeOpened, 0),
			tries: [2]int{1, 1}, unreached: []string{"pagerduty"}, posted: []string{"slack"}, fails: true,
		},
		"it hangs": {
			pager: scripted{hangs: time.Hour}, notice: page(contract.NoticeOpened, 0),
			tries: [2]int{2, 1}, unreached: []string{"pagerduty"}, posted: []string{"slack"}, fails: true, retryable: true, within: 13 * time.Second,
		},
		"the later one is away: the pager carries the question": {
			board: scripted{answers: []error{errAway, errAway, errAway}}, notice: page(contract.NoticeQuestion, 0),
			tries: [2]int{2, 3}, carried: []string{"slack"}, posted: []string{"pagerduty"}, fails: true, retryable: true, within: 3 * time.Second,
		},
		"what asks nothing is not carried": {
			board: scripted{answers: []error{says{final: true}}}, notice: page(contract.NoticeStep, 0),
			tries: [2]int{1, 1}, posted: []string{"pagerduty"}, fails: true,
		},
		"nobody hears": {
			pager: scripted{answers: []error{says{final: true}}}, board: scripted{answers: []error{says{final: true}}}, notice: page(contract.NoticeOpened, 0),
			tries: [2]int{1, 1}, fails: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				result, err := both(&c.pager, &c.board).Post(attempt(t), c.notice)
				require.Equal(t, c.within, time.Since(began))
				require.Equal(t, c.posted, result.Posted)
				require.Equal(t, c.tries, [2]int{c.pager.tries, c.board.tries})
				var undelivered *Undelivered
				require.Equal(t, c.fails, errors.As(err, &undelivered), "%v", err)
				if c.fails {
					require.Equal(t, c.retryable, undelivered.Retryable())
					require.NotEmpty(t, result.Unreached)
				}
				if len(c.board.got) > 0 {
					require.Equal(t, c.unreached, c.board.got[len(c.board.got)-1].Unreached)
				}
				if len(c.pager.got) > 0 {
					require.Equal(t, c.carried, c.pager.got[len(c.pager.got)-1].Unreached)
				}
			})
		})
	}
}

// TestBreaker: a channel that is dead costs the next notices nothing, is looked at again after a while, and
// is used again when it is back.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pager, board := &scripted{hangs: time.Hour}, &scripted{}
		r := both(pager, board)
		for seq := range 2 {
			_, err := r.Post(attempt(t), page(contract.NoticeOpened, seq))
			require.Error(t, err)
		}
		tries := pager.tries
		require.LessOrEqual(t, tries, 4)
		began := time.Now()
		for seq := range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := r.Post(ctx, page(contract.NoticeStep, seq))
			cancel()
			require.ErrorContains(t, err, "pagerduty: not tried again before")
		}
		require.Less(t, time.Since(began), time.Second, "nobody waits for a channel that is dead")
		require.Equal(t, tries, pager.tries)
		require.Len(t, board.got, 52, "the other one has everything")

		pager.hangs = 0
		time.Sleep(maxBreak)
		result, err := r.Post(attempt(t), page(contract.NoticeReminder, 0))
		require.NoError(t, err)
		require.Equal(t, []string{"pagerduty", "slack"}, result.Posted)
		require.Equal(t, []contract.NoticeKind{contract.NoticeReminder}, kinds(pager.got), "what it missed, the next notice makes up for")
	})
}

// TestACallOffIsNobodysFault: a worker that stops says nothing about the channel.
func TestACallOffIsNobodysFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pager, board := &scripted{hangs: time.Hour}, &scripted{}
		r := both(pager, board)
		for seq := range 2 * breakAfter {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := r.Post(ctx, page(contract.NoticeOpened, seq))
			cancel()
			require.Error(t, err)
		}
		pager.hangs = 0
		_, err := r.Post(attempt(t), page(contract.NoticeOpened, 100))
		require.NoError(t, err)
	})
}

func TestRecentForgetsTheOldest(t *testing.T) {
	t.Parallel()
	m := newRecent[int](3)
	for v := range 5 {
		m.add(v)
		m.add(v)
	}
	for v, want := range []bool{false, false, true, true, true} {
		require.Equal(t, want, m.has(v), v)
	}
	require.Len(t, m.set, 3)
}

func TestLinks(t *testing.T) {
	t.Parallel()
	require.Empty(t, Links{}.Incident(incidentID))
	require.Empty(t, Links{}.Workflow(incidentID))
	l := Links{Console: "https://flyball.example.com/", TemporalUI: "http://temporal:8233", Namespace: "default"}
	require.Equal(t, "https://flyball.example.com/#incident%2Forg_42%2Fclaude-3-opus%2F1767225600", l.Incident(incidentID))
	require.Equal(t, "http://temporal:8233/namespaces/default/workflows/incident%2Forg_42%2Fclaude-3-opus%2F1767225600", l.Workflow(incidentID))
}
