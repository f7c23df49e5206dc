package contract

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestTheIDOfACaseSaysWhatItIs(t *testing.T) {
	c := FallbackCase{Tenant: "org 42/eu", Trace: "t/1", At: time.Unix(1772420400, 5).UTC(), Case: routing.Case{Model: "claude-3-opus", Instead: "claude-3-haiku"}}
	require.Equal(t, "decision/fallback/org%2042%2Feu/claude-3-opus/1772420400/t%2F1", c.ID())
	require.True(t, IsFallback(c.ID()))
	require.False(t, IsFallback(FallbackID))
	key, err := KeyOf(c.ID())
	require.NoError(t, err)
	require.Equal(t, usage.Key{Tenant: "org 42/eu", Model: "claude-3-opus"}, key)
	at, err := OpenedAt(c.ID())
	require.NoError(t, err)
	require.Equal(t, c.At.Truncate(time.Second), at)

	in := c.Decision(NewTuning(1), TrustAnswer{Approved: 3})
	require.True(t, in.Proposal.Wanted())
	story := DecisionState{ID: c.ID(), Input: in, Status: AwaitingApproval, Opened: c.At}.Story(c.At)
	require.Contains(t, story, "the call of trace t/1")
	require.Contains(t, story, "tradeoff.yaml")
	require.NotContains(t, story, "act.yaml")
}
