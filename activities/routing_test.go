package activities

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// slot is the place of one flag.
type slot struct {
	key  usage.Key
	kind routing.Kind
}

// fakeFlags keeps flags as a store does: the newest sequence wins, and one that was released leaves its
// sequence behind.
type fakeFlags struct {
	flags  map[slot]routing.Flag
	fences map[slot]routing.Sequence
	err    map[slot]error
}

func newFlags() *fakeFlags {
	return &fakeFlags{flags: map[slot]routing.Flag{}, fences: map[slot]routing.Sequence{}, err: map[slot]error{}}
}

func (f *fakeFlags) Apply(_ context.Context, flag routing.Flag) (bool, routing.Flag, error) {
	s := slot{flag.Key, flag.Kind}
	if err := f.err[s]; err != nil {
		return false, routing.Flag{}, err
	}
	if flag.Sequence.Compare(f.fences[s]) < 0 {
		return false, f.flags[s], nil
	}
	f.flags[s], f.fences[s] = flag, flag.Sequence
	return true, flag, nil
}

func (f *fakeFlags) Release(_ context.Context, key usage.Key, kind routing.Kind, seq routing.Sequence) (bool, error) {
	s := slot{key, kind}
	if err := f.err[s]; err != nil {
		return false, err
	}
	if seq.Compare(f.fences[s]) < 0 {
		return false, nil
	}
	f.fences[s] = seq
	delete(f.flags, s)
	return true, nil
}

func (f *fakeFlags) Renew(_ context.Context, key usage.Key, kind routing.Kind, seq routing.Sequence, at time.Time) (bool, error) {
	s := slot{key, kind}
	if err := f.err[s]; err != nil {
		return false, err
	}
	flag, there := f.flags[s]
	if !there || flag.Sequence != seq {
		return false, nil
	}
	flag.RenewedAt = at
	f.flags[s] = flag
	return true, nil
}

// order is a flag of opus at a step of its loop.
func order(kind routing.Kind, n int64) routing.Flag {
	return routing.Flag{
		Key: opus, Kind: kind, Value: haiku.Model, Share: 0.5, Decision: "decision/1",
		Sequence: routing.Sequence{Loop: 1, N: n}, RenewedAt: now,
	}
}

func TestFlagsArePutOnAndTakenOff(t *testing.T) {
	t.Parallel()
	flags := newFlags()
	logger, text := recorded()
	r := &Routing{Flags: flags, Log: logger}
	place := slot{opus, routing.Route}

	require.NoError(t, r.ApplyFlag(t.Context(), order(routing.Route, 2)))
	require.Equal(t, order(routing.Route, 2), flags.flags[place])
	require.NoError(t, r.ApplyFlag(t.Context(), order(routing.Route, 2)), "a retry is no error")
	require.Empty(t, text.String())

	require.NoError(t, r.ApplyFlag(t.Context(), order(routing.Route, 1)), "a late order has lost, and that is well")
	require.NoError(t, r.ReleaseFlag(t.Context(), order(routing.Route, 1)))
	require.Equal(t, order(routing.Route, 2), flags.flags[place])
	require.Contains(t, text.String(), "a newer order for this flag is stored")

	require.NoError(t, r.ReleaseFlag(t.Context(), order(routing.Route, 3)))
	require.Empty(t, flags.flags)

	flags.err[place] = errAway
	require.ErrorIs(t, r.ApplyFlag(t.Context(), order(routing.Route, 4)), errAway)
	require.ErrorIs(t, r.ReleaseFlag(t.Context(), order(routing.Route, 4)), errAway)
}

func TestRenewFlags(t *testing.T) {
	t.Parallel()
	route, sampling := slot{opus, routing.Route}, slot{opus, routing.Sampling}
	later := now.Add(routing.RenewEvery)
	ours := []routing.Flag{order(routing.Route, 2), order(routing.Sampling, 3)}
	for i := range ours {
		ours[i].RenewedAt = later
	}
	for name, tc := range map[string]struct {
		stored []routing.Flag
		fail   slot
		want   map[slot]routing.Flag
		err    error
	}{
		"that are there": {
			stored: []routing.Flag{order(routing.Route, 2), order(routing.Sampling, 3)},
			want:   map[slot]routing.Flag{route: ours[0], sampling: ours[1]},
		},
		"all of which are lost": {want: map[slot]routing.Flag{route: ours[0], sampling: ours[1]}},
		"one of which is lost": {
			stored: []routing.Flag{order(routing.Sampling, 3)},
			want:   map[slot]routing.Flag{route: ours[0], sampling: ours[1]},
		},
		"one of which is older than ours": {
			stored: []routing.Flag{order(routing.Route, 1), order(routing.Sampling, 3)},
			want:   map[slot]routing.Flag{route: ours[0], sampling: ours[1]},
		},
		"one of which somebody has replaced since": {
			stored: []routing.Flag{order(routing.Route, 9), order(routing.Sampling, 3)},
			want:   map[slot]routing.Flag{route: order(routing.Route, 9), sampling: ours[1]},
		},
		"one of which cannot be written": {
			stored: []routing.Flag{order(routing.Route, 2)}, fail: sampling,
			want: map[slot]routing.Flag{route: ours[0]}, err: errAway,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flags := newFlags()
			r := &Routing{Flags: flags, Log: silent()}
			for _, f := range tc.stored {
				require.NoError(t, r.ApplyFlag(t.Context(), f))
			}
			if tc.err != nil {
				flags.err[tc.fail] = tc.err
			}
			require.ErrorIs(t, r.RenewFlags(t.Context(), ours), tc.err)
			require.Equal(t, tc.want, flags.flags)
		})
	}
}
