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
	in, resolved, parted := members(g.Keys)
	b.header(fmt.Sprintf("%s %s · %s · %s", icon(g.Level, closed), level(g.Level, closed), g.Input.Cause, counted(len(g.Keys), "key")))
	reason := cmp.Or(g.Reason, counted(len(g.Keys), "key")+" fail together")
	b.fallback += ": " + oneLine(reason, 300)
	if closed {
		b.section("*" + sentence(reason, 1000) + "* " + lasted(g.Input.Opened, g.ClosedAt))
	} else {
		b.section(sentence(reason, 1000))
		b.section(c.unreached())
		b.section(muted(g.Mute, c.now))
	}
	counts := []string{fmt.Sprintf("*Failing now*\n%s", counted(len(in), "key"))}
	if resolved+parted > 0 {
		counts = append(counts, fmt.Sprintf("*Left*\n%d resolved, %d with another cause", resolved, parted))
	}
	b.fields(counts)
	b.section(listed(in))
	b.section(cause(g.Steps, g.Evidence, closed))
	if !closed {
		c.taken(b, g.ID, g.Acknowledged, g.Mute)
	}
	b.context(c.foot())
}

// members splits a group's keys into those that are in it and how many have left it by which way.
func members(keys []contract.GroupKey) (in []contract.GroupKey, resolved, parted int) {
	for _, k := range keys {
		switch {
		case k.LeftAt.IsZero():
			in = append(in, k)
		case k.Left == contract.Parted:
			parted++
		default:
			resolved++
		}
	}
	return in, resolved, parted
}

// listed names the first keys, and how many more there are.
func listed(keys []contract.GroupKey) string {
	var lines []string
	for i, k := range keys {
		if i == shownKeys {
			lines = append(lines, fmt.Sprintf("• … and %d more: see the console", len(keys)-shownKeys))
			break
		}
		lines = append(lines, fmt.Sprintf("• %s %s · %s", icon(k.Level, false), code(k.Key.String(), 120), sentence(k.Reason, 120)))
	}
	return strings.Join(lines, "\n")
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
