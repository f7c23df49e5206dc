package activities

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
)

// fakeChannel keeps what was posted.
type fakeChannel struct {
	posted []contract.Notice
	err    error
}

func (f *fakeChannel) Post(_ context.Context, n contract.Notice) error {
	f.posted = append(f.posted, n)
	return f.err
}

var notice = contract.Notice{
	Kind: contract.NoticeOpened, ID: "incident/org_42/claude-3-opus/1", Key: opus, Level: detect.Page, At: now, Title: "PAGE org_42/claude-3-opus",
}

func TestPostTellsEveryChannel(t *testing.T) {
	t.Parallel()
	first, second, third := &fakeChannel{err: errAway}, &fakeChannel{}, &fakeChannel{err: errors.New("channel_not_found")}
	err := (&Notify{Channels: []Channel{first, second, third}}).Post(t.Context(), notice)
	require.ErrorIs(t, err, errAway, "so that it is tried again")
	require.ErrorContains(t, err, "channel_not_found")
	for _, c := range []*fakeChannel{first, second, third} {
		require.Equal(t, []contract.Notice{notice}, c.posted)
	}
	require.NoError(t, (&Notify{Channels: []Channel{second}}).Post(t.Context(), notice))
	require.NoError(t, (&Notify{}).Post(t.Context(), notice))
}

func TestLogChannelWritesALine(t *testing.T) {
	t.Parallel()
	logger, text := recorded()
	require.NoError(t, LogChannel{Log: logger}.Post(t.Context(), notice))
	for _, part := range []string{notice.Title, "notice=opened", "id=" + notice.ID, "handle=" + contract.Handle(notice.ID), "key=org_42/claude-3-opus", "level=PAGE"} {
		require.Contains(t, text.String(), part)
	}
}
