package activities

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// fleet is a plant in which so many tenants use two models of one provider.
func fleet(t *testing.T, tenants int) (p *plant, keys []usage.Key) {
	p = newPlant(t)
	p.store.providers = map[usage.Key]string{}
	for n := range tenants {
		for _, model := range []string{"gpt-4o", "gpt-4o-mini"} {
			k := usage.Key{Tenant: fmt.Sprintf("t%02d", n), Model: model}
			p.store.computed[k], p.store.providers[k] = usual(k), "openai"
			keys = append(keys, k)
		}
	}
	return p, keys
}

// each makes the traffic of many keys.
func each(keys []usage.Key, traffic func(usage.Key) detect.Observation) (all []detect.Observation) {
	for _, k := range keys {
		all = append(all, traffic(k))
	}
	return all
}

// groupsOf counts the loops that heard of each group.
func groupsOf(heard []told) map[string]int {
	counts := map[string]int{}
	for _, m := range heard {
		counts[m.group]++
	}
	return counts
}

// openai is the group that formed so long after the tests' beginning.
func openai(after time.Duration) string { return contract.GroupID("provider:openai", now.Add(after)) }

func TestSweepGroupsKeysThatFailTogether(t *testing.T) {
	t.Parallel()
	p, keys := fleet(t, 10)
	failing := each(keys, ill)
	calm := each(keys, well)

	require.Equal(t, map[string]int{"": 8}, groupsOf(p.see(t, 0, append(failing[:8:8], calm[8:]...)...)), "eight keys are no storm")
	heard := p.see(t, 5*time.Second, failing...)
	require.Equal(t, map[string]int{openai(5 * time.Second): 20}, groupsOf(heard), "the new ones, and the eight whose group changed")
	require.Equal(t, map[string]bool{openai(5 * time.Second): true}, p.loops.groups)
	require.Empty(t, p.see(t, 10*time.Second, failing...))
	require.Equal(t, map[string]int{openai(5 * time.Second): 20}, groupsOf(p.see(t, 70*time.Second, failing...)))
	require.LessOrEqual(t, p.loops.starts, 2)

	// It fades, and its last keys have another cause only when they have outlived it.
	fading := append(failing[:2:2], calm[2:]...)
	require.Equal(t, map[string]int{"": 18}, groupsOf(p.see(t, 2*time.Minute, fading...)))
	for m := 3; m < 17; m++ {
		for _, heard := range p.see(t, time.Duration(m)*time.Minute, fading...) {
			if heard.level == detect.Page {
				require.Equal(t, openai(5*time.Second), heard.group)
			}
		}
	}
	parted := 0
	for _, heard := range p.see(t, 17*time.Minute+time.Second, fading...) {
		if heard.level == detect.Page {
			require.Empty(t, heard.group)
			parted++
		}
	}
	require.Equal(t, 2, parted)
}

// A worker that takes over knows the storms from the groups that run, and their keys from the loops.
func TestSweepRecallsGroups(t *testing.T) {
	t.Parallel()
	p, keys := fleet(t, 10)
	id := openai(-time.Hour)
	p.loops.groups = map[string]bool{id: true, "incident/group/nonsense": true}
	p.loops.member = map[usage.Key]string{}
	for _, k := range keys {
		p.loops.running[k], p.loops.member[k] = detect.Page, id
	}
	heard := p.see(t, 0, append(each(keys[:3], ill), each(keys[3:], well)...)...)
	require.Equal(t, map[string]int{id: 3, "": 17}, groupsOf(heard), "though so few would open none")
	require.NotContains(t, p.loops.groups, openai(0))
}

// A group that a person has closed, or that somebody has ended, is not joined again.
func TestSweepOpensAnotherGroupWhenOneHasEnded(t *testing.T) {
	t.Parallel()
	p, keys := fleet(t, 10)
	failing := each(keys, ill)
	p.see(t, 0, failing...)
	p.loops.groups[openai(0)] = false
	p.loops.running = map[usage.Key]detect.Level{}
	p.see(t, time.Minute, failing...) // the loops are gone
	heard := p.see(t, 65*time.Second, failing...)
	require.Len(t, heard, 20)
	for id := range groupsOf(heard) {
		require.True(t, p.loops.groups[id], "%s runs", id)
		require.NotEqual(t, openai(0), id)
	}

	// What fails while a storm that has ended fades is a fault of its own.
	q, keys := fleet(t, 10)
	q.see(t, 0, each(keys, ill)...)
	q.see(t, 5*time.Second, each(keys, well)...)
	q.loops.groups[openai(0)] = false
	require.Equal(t, map[string]int{"": 1}, groupsOf(q.see(t, 10*time.Second, append(each(keys[:1], ill), each(keys[1:], well)...)...)))
}

// While a group cannot be started its keys wait; the others hear.
func TestSweepTellsNobodyOfAGroupThatCannotBeStarted(t *testing.T) {
	t.Parallel()
	p, keys := fleet(t, 10)
	p.store.traffic = append(each(keys, ill), ill(opus))
	p.loops.groupErr = errAway
	require.ErrorIs(t, p.tick(t.Context(), now), errAway)
	require.Equal(t, []told{page(opus)}, p.loops.heard())
	p.loops.groupErr = nil
	require.Equal(t, map[string]int{openai(0): 20}, groupsOf(p.see(t, 5*time.Second, p.store.traffic...)))
}

// Without the providers a storm is seen by model.
func TestSweepGroupsWithoutKnowingProviders(t *testing.T) {
	t.Parallel()
	p, keys := fleet(t, 10)
	p.store.providersErr = errAway
	heard := p.see(t, 0, each(keys, ill)...)
	require.Equal(t, map[string]int{contract.GroupID("model:gpt-4o", now): 10, contract.GroupID("model:gpt-4o-mini", now): 10}, groupsOf(heard))
}

// Keys that fall silent are served by nobody any more.
func TestSweepRemembersTheProvidersOfAStorm(t *testing.T) {
	t.Parallel()
	p, keys := fleet(t, 10)
	failing, calm := each(keys, ill), each(keys, well)
	require.Equal(t, map[string]int{openai(0): 16}, groupsOf(p.see(t, 0, append(failing[:16:16], calm[16:]...)...)))
	p.store.providers = nil
	require.Equal(t, map[string]int{openai(0): 20}, groupsOf(p.see(t, 70*time.Second, failing...)), "the last four join it")
}

// A loop that is open for nothing but a mute does not silence its tenant's pseudo-key.
func TestSweepOfAMutedKey(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.loops.running[opus] = detect.None
	p.loops.muted = map[usage.Key]bool{opus: true}
	heard := p.see(t, 0, well(opus), ill(whole))
	require.Contains(t, heard, page(whole))
}

func (f *fakeTemporal) ExecuteWorkflow(_ context.Context, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	f.started = &start{options: options, workflow: workflow, input: args[0]}
	return nil, f.err
}

func TestStartGroup(t *testing.T) {
	t.Parallel()
	in := contract.GroupInput{Cause: "provider:openai", Opened: now, Tuning: tuning}
	f := &fakeTemporal{}
	loop := &Loop{Client: f, Log: silent()}
	ended, err := loop.StartGroup(t.Context(), in)
	require.NoError(t, err)
	require.False(t, ended)
	require.Equal(t, in, f.started.input)
	require.Equal(t, contract.GroupID(in.Cause, now), f.started.options.ID)
	require.Equal(t, enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE, f.started.options.WorkflowIDReusePolicy)
	require.Equal(t, enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, f.started.options.WorkflowIDConflictPolicy)

	f.err = serviceerror.NewWorkflowExecutionAlreadyStarted("it has completed", "", "")
	ended, err = loop.StartGroup(t.Context(), in)
	require.NoError(t, err)
	require.True(t, ended)

	f.err = errAway
	_, err = loop.StartGroup(t.Context(), in)
	require.ErrorIs(t, err, errAway)
	_, err = loop.Groups(t.Context())
	require.ErrorIs(t, err, errAway)

	f.err, f.listed, f.pages = nil, nil, []*workflowservice.ListWorkflowExecutionsResponse{{}}
	ids, err := loop.Groups(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	require.Contains(t, f.query, `WorkflowType="Group"`)
}

func TestDrillsJoinNoStormAndMakeNone(t *testing.T) {
	t.Parallel()
	p, keys := fleet(t, 10)
	var drills []usage.Key
	for n := range 12 {
		k := usage.Key{Tenant: fmt.Sprintf("flyball-drill-%d", n), Model: "gpt-4o"}
		p.store.computed[k], p.store.providers[k] = usual(k), "openai"
		drills = append(drills, k)
	}
	require.Equal(t, map[string]int{"": 12}, groupsOf(p.see(t, 0, append(each(keys, well), each(drills, ill)...)...)), "they make none")
	heard := p.see(t, time.Minute, append(each(keys, ill), each(drills, ill)...)...)
	for _, m := range heard {
		require.Equal(t, usage.IsDrill(m.key.Tenant), m.group == "", "%s: %q: they join none", m.key, m.group)
	}
	require.NotEmpty(t, heard)
}
