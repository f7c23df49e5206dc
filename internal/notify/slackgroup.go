package notify

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/flyball-dev/flyball/internal/contract"
)

// many draws the incident of many keys that fail together: one message, however many they are.
func (c card) many(b *drawing, g contract.GroupState) {
	closed := g.Phase == contract.IncidentClosed
	in := members(g.Keys)
	b.header(fmt.Sprintf("%s %s · %s · %s", icon(g.Level, closed), level(g.Level, closed), g.Input.Cause, keys(g.Joined)))
	reason := cmp.Or(g.Reason, keys(g.Joined)+" fail together")
	b.fallback += ": " + oneLine(reason, 300)
	if closed {
		b.section("*" + sentence(reason, 1000) + "* " + lasted(g.Input.Opened, g.ClosedAt))
	} else {
		b.section(sentence(reason, 1000))
		b.section(c.unreached())
		b.section(muted(g.Mute, c.now))
	}
	b.fields([]string{
		fmt.Sprintf("*Failing now*\n%s", keys(g.In)),
		fmt.Sprintf("*Left*\n%s, resolved or by another cause", keys(g.Joined-g.In)),
	})
	b.section(listed(in, g.In))
	b.section(cause(g.Steps, g.Evidence, closed))
	if !closed {
		c.taken(b, g.ID, g.Acknowledged, g.Mute)
	}
	b.context(c.foot())
}

// members are the keys that are in a group, as far as they are named.
func members(keys []contract.GroupKey) (in []contract.GroupKey) {
	for _, k := range keys {
		if k.LeftAt.IsZero() {
			in = append(in, k)
		}
	}
	return in
}

// listed names the first keys, and how many more of all there are.
func listed(keys []contract.GroupKey, all int) string {
	shown := min(len(keys), shownKeys)
	var lines []string
	for _, k := range keys[:shown] {
		lines = append(lines, fmt.Sprintf("• %s %s · %s", icon(k.Level, k.Well), code(k.Key.String(), 120), sentence(k.Reason, 120)))
	}
	if more := all - shown; shown > 0 && more > 0 {
		lines = append(lines, fmt.Sprintf("• … and %d more: see the console", more))
	}
	return strings.Join(lines, "\n")
}

func keys(n int) string {
	if n == 1 {
		return "1 key"
	}
	return fmt.Sprintf("%d keys", n)
}
