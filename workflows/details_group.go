package workflows

import (
	"fmt"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
)

// causeText is a group's cause as people say it.
func causeText(cause string) string {
	kind, name, _ := strings.Cut(cause, ":")
	switch kind {
	case "provider":
		return "the provider " + name
	case "model":
		return "the model " + name + " of many tenants"
	case "tenant":
		return "many models of the tenant " + name
	}
	return cause
}

func groupTitle(s contract.GroupState) string {
	return fmt.Sprintf("%s %s: %s", s.Level, causeText(s.Input.Cause), keys(s.In, "fails", "fail together"))
}

// keys is a number of keys with what they do: "1 key fails", "500 keys fail together".
func keys(n int, one, many string) string {
	if n == 1 {
		return "1 key " + one
	}
	return fmt.Sprintf("%d keys %s", n, many)
}

func groupDetails(s contract.GroupState) string {
	var t text
	t.line("**%s %s** · %s · opened %s · handle `%s`. All times are UTC.",
		s.Level, causeText(s.Input.Cause), s.Phase, s.Input.Opened.UTC().Format(time.DateTime), contract.Handle(s.ID))
	t.line("\n%s", sentence(s.Reason))
	muteDetails(&t, s.Mute)
	t.section(fmt.Sprintf("Its keys: %d of %d are in", s.In, s.Joined))
	groupKeys(&t, s)
	t.section("What was checked")
	if len(s.Steps) == 0 {
		t.line("Nothing yet.")
	}
	for _, d := range s.Steps {
		t.line("- **%s** %s, %s: %s", d.Step.Name, clock(d.At), d.Verdict.Status, d.Verdict.Text)
	}
	if h := s.Evidence.Provider; h.Link != "" {
		t.line("- [status page of %s](%s)", h.Provider, h.Link)
	}
	if len(s.Notes) > 0 {
		t.section("What people wrote down")
		for _, n := range s.Notes {
			t.line("- %s %s: %s", clock(n.At), n.Who, n.Text)
		}
	}
	if s.Phase != contract.IncidentClosed {
		groupNext(&t, s)
	}
	return t.String()
}

// groupKeys lists the keys, those in it before those that have left, as many as are worth reading.
func groupKeys(t *text, s contract.GroupState) {
	shown := 0
	for _, left := range []bool{false, true} {
		for _, k := range s.Keys {
			if in(k) == left || shown == contract.GroupKeysShown {
				continue
			}
			shown++
			how := stopped(k.Reason)
			switch {
			case left && k.Left == contract.Parted:
				how = "left at " + clock(k.LeftAt) + ": its cause is another."
			case left:
				how = "resolved at " + clock(k.LeftAt) + "."
			case k.Well:
				how = "recovering."
			}
			t.line("- %s `%s`, %s", k.Level, k.Key, how)
		}
	}
	if more := s.Joined - shown; more > 0 {
		t.line("- and %d more.", more)
	}
	if s.Joined == 0 {
		t.line("None has failed for long enough yet.")
	}
}

// groupNext says what the group waits for and what a person can do.
func groupNext(t *text, s contract.GroupState) {
	t.section("What is next")
	t.line("It ends by itself when every key has left: resolved, or failing by another cause.")
	t.line("\n**No act is decided on for a group**: what is right for one key is not for many. To have one key looked into and acted on by itself, split it off:")
	if len(s.Keys) > 0 {
		k := s.Keys[0].Key
		t.code(`temporal workflow update execute -w '%s' --name split --input '{"key":{"tenant":%q,"model":%q},"who":"you","reason":"why"}'`, s.ID, k.Tenant, k.Model)
	}
	t.line("There is no fault? Say so, which closes the alerts of all its keys:")
	t.code(`temporal workflow update execute -w '%s' --name resolve --input '{"who":"you","reason":"why"}'`, s.ID)
	if a := s.Acknowledged; a != nil {
		t.line("%s has taken it on at %s. %s", a.Who, clock(a.At), a.Note)
		return
	}
	t.line("Nobody has taken it on yet:")
	t.code(`temporal workflow update execute -w '%s' --name acknowledge --input '{"who":"you"}'`, s.ID)
}

// muteDetails says that people are not told, until when and by whose wish.
func muteDetails(t *text, m *contract.Mute) {
	if m != nil {
		t.line("\n**Muted** until %s by %s: %s People are not told; findings, incidents and flags go on.",
			m.Until.UTC().Format(time.DateTime), m.Who, sentence(m.Reason))
	}
}
