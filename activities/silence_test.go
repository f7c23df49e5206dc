package activities

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// busyPlant is a plant whose keys are expected to call.
func busyPlant(t *testing.T) *plant {
	t.Helper()
	p := newPlant(t)
	p.request.Shard, p.request.Shards = 0, 1
	for _, k := range []usage.Key{opus, haiku, other} {
		b := usual(k)
		b.LeastCalls = 200
		p.store.computed[k] = b
	}
	return p
}

// watch runs a tick every minute of [from, to), and returns what the loops heard, by minute.
func (p *plant) watch(t *testing.T, from, to int, traffic ...detect.Observation) map[int][]told {
	t.Helper()
	heard := map[int][]told{}
	for minute := from; minute < to; minute++ {
		if all := p.see(t, time.Duration(minute)*time.Minute, traffic...); len(all) > 0 {
			heard[minute] = all
		}
	}
	return heard
}

func investigated(k usage.Key) told {
	return told{key: k, level: detect.Investigate, start: true, epoch: "first"}
}

func stillSilent(k usage.Key) told {
	return told{key: k, level: detect.Investigate, epoch: "first"}
}

func TestSilentKey(t *testing.T) {
	t.Parallel()
	p := busyPlant(t)
	require.Empty(t, p.watch(t, 0, 20, well(opus), well(haiku), well(other), well(whole)))
	// The last tick with calls was that of minute 19, 14 minutes after the last of them at the least.
	heard := p.watch(t, 20, 27, well(haiku), well(other), well(whole))
	require.Equal(t, map[int][]told{25: {investigated(opus)}, 26: {stillSilent(opus)}}, heard, "20 minutes behind its last call, and no pseudo-key")

	trickle := mute(opus)
	trickle.Whole.Requests = 3
	require.Equal(t, []told{stillSilent(opus)}, p.see(t, 27*time.Minute, trickle, well(haiku), well(other)), "a few calls are not the usual ones")
	require.Equal(t, []told{none(opus)}, p.see(t, 28*time.Minute, well(opus), well(haiku), well(other)))
	delete(p.loops.running, opus)
	require.Len(t, p.see(t, 29*time.Minute, well(opus), well(haiku), well(other)), 1)
	require.Empty(t, p.watch(t, 30, 34, well(haiku), well(other)), "silence begins anew")
}

func TestSilenceOfEverything(t *testing.T) {
	t.Parallel()
	p := busyPlant(t)
	require.Empty(t, p.watch(t, 0, 20, well(opus), well(haiku), well(other), well(whole)))
	require.Equal(t, map[int][]told{25: {investigated(usage.Everything)}, 26: {stillSilent(usage.Everything)}}, p.watch(t, 20, 27),
		"one key speaks for all")
	require.Equal(t, []told{none(usage.Everything)}, p.see(t, 27*time.Minute, well(opus), well(haiku), well(other)))

	late := mute(opus) // scores of calls that are long over
	late.Whole = detect.Volume{}
	p = busyPlant(t)
	require.Empty(t, p.watch(t, 0, 20, well(opus), well(haiku), well(other)))
	require.Equal(t, []told{investigated(usage.Everything)}, p.watch(t, 20, 26, late)[25], "late scores are no calls")

	p = busyPlant(t)
	require.Empty(t, p.watch(t, 0, 20, well(opus), well(haiku), well(other)))
	p.store.arrived = 1 // of another shard, or of an experiment
	require.Equal(t, []told{investigated(other), investigated(haiku), investigated(opus)}, p.watch(t, 20, 26, late)[25])
}

func TestSilenceIsNotExpected(t *testing.T) {
	t.Parallel()
	t.Run("of keys that call at other times", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.request.Shard, p.request.Shards = 0, 1
		require.Empty(t, p.watch(t, 0, 10, well(opus), well(haiku), well(other)))
		require.Empty(t, p.watch(t, 10, 45))
	})
	t.Run("of keys of another shard", func(t *testing.T) {
		t.Parallel()
		p := busyPlant(t)
		p.request.Shard, p.request.Shards = 1, 3
		p.store.arrived = 1
		require.NoError(t, p.freshen(t.Context(), now, now))
		watched := map[usage.Key]int{}
		for shard := range p.request.Shards {
			p.request.Shard = shard
			p.expect(now)
			for k := range p.silences.Watched() {
				watched[k]++
			}
		}
		require.Equal(t, map[usage.Key]int{opus: 1, haiku: 1, other: 1, usage.Everything: 3}, watched)
		p.store.arrived = 0
		p.request.Shard = 1
		p.expect(now)
		require.Empty(t, p.watch(t, 1, 45), "the first shard tells of everything")
	})
	t.Run("before it has been watched for long enough", func(t *testing.T) {
		t.Parallel()
		p := busyPlant(t)
		p.store.arrived = 1
		require.Equal(t, map[int][]told{20: {investigated(other), investigated(haiku), investigated(opus)}}, p.watch(t, 0, 21))
	})
	t.Run("any more when the hour is one without calls", func(t *testing.T) {
		t.Parallel()
		p := busyPlant(t)
		require.Empty(t, p.watch(t, 0, 20, well(opus), well(haiku), well(other)))
		require.NotEmpty(t, p.watch(t, 20, 26, well(haiku), well(other)))
		for _, k := range []usage.Key{opus, haiku, other} {
			p.store.computed[k] = usual(k)
		}
		heard := p.watch(t, 26, 60, well(haiku), well(other))
		require.Contains(t, heard, 50)
		require.NotContains(t, heard, 52, "its loop hears nothing more, and knows that by itself")
	})
}

// A page says nothing of a key without calls, and nor does silence of a page.
func TestSilenceUnderAPage(t *testing.T) {
	t.Parallel()
	p := busyPlant(t)
	require.Equal(t, []told{page(opus)}, p.see(t, 0, ill(opus), well(haiku)))
	require.Empty(t, p.watch(t, 1, 2, well(haiku)))
	require.Empty(t, p.watch(t, 2, 40, well(haiku), well(other)), "its loop hears nothing, and tells its incident so")
}

// A new round knows nothing of how long a key has been silent, and lets its alert stand.
func TestSilenceGoesOnInTheNextRound(t *testing.T) {
	t.Parallel()
	p := busyPlant(t)
	p.loops.running[opus] = detect.Investigate
	require.Equal(t, []told{stillSilent(opus)}, p.see(t, 0, well(haiku), well(other)))
	p.loops.running[usage.Everything] = detect.Investigate
	require.Contains(t, p.see(t, time.Minute), stillSilent(usage.Everything))
}

// What is expected of everything is no baseline that is stored: one of the year 1 would be asked for.
func TestSilenceOfEverythingIsOfTheHour(t *testing.T) {
	t.Parallel()
	p := busyPlant(t)
	p.watch(t, 0, 30, well(opus), well(haiku), well(other))
	require.NotEmpty(t, p.store.slots)
	for _, slot := range p.store.slots {
		require.Equal(t, now.Truncate(time.Hour), slot)
	}
}

func TestDrillsAreNoTelemetryToExpect(t *testing.T) {
	t.Parallel()
	drilled := usage.Key{Tenant: "flyball-drill-eu", Model: opus.Model}
	p := busyPlant(t)
	b := usual(drilled)
	b.LeastCalls = 4000
	p.store.computed[drilled] = b
	require.Empty(t, p.watch(t, 0, 20, well(opus), well(haiku), well(other), well(drilled)))
	require.NotContains(t, slices.Collect(p.silences.Watched()), drilled)
	require.EqualValues(t, 600, p.baselines[usage.Everything].LeastCalls, "of the three that are no drill's")
	require.Equal(t, []told{investigated(usage.Everything)}, p.watch(t, 20, 26, well(drilled))[25], "made-up calls do not hide that no others come")
}
