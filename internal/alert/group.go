package alert

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Grouping says when keys that fail are taken to fail together.
type Grouping struct {
	Keys   int           // with a finding at the least
	Share  float64       // of the judged keys that the cause could touch
	Linger time.Duration // below half of both, after which the keys that still fail have another cause
}

// DefaultGrouping is the product's. What lingers does so for the longest window of detection: the finding
// of a key with little traffic is drawn from one, and outlives its cause by as much.
var DefaultGrouping = Grouping{Keys: 10, Share: 0.5, Linger: 15 * time.Minute}

// Observed is a key that a tick could judge. A key without data says nothing and must be left out.
type Observed struct {
	Key      usage.Key
	Provider string // of its requested model; empty: unknown
	Found    bool   // it has a finding
}

// Storm is many keys failing together by one cause.
type Storm struct {
	Opened time.Time
	Low    time.Time // since when too few keys fail to say so; zero: enough do
}

// Storms is what is remembered of storms from tick to tick. The zero value is calm. Values are not
// changed in place: Step returns the next.
type Storms struct {
	Open map[string]Storm     // by cause; a cause has one storm at a time
	Of   map[usage.Key]string // the cause of each key that fails in one
}

// The kinds of cause. A cause is "<kind>:<name>".
const (
	providerCause = "provider:"
	modelCause    = "model:"
	tenantCause   = "tenant:"
)

// others is how many keys must fail beside the largest part of a cause before the whole is to blame: one
// more is no evidence.
const others = 2

// Step says which of the keys that were judged at a tick fail together, and by which cause:
//
//   - provider: many keys of the provider, and still half as good a share of them without its worst model
//     and without its worst tenant, since a part that explains the whole is the better explanation;
//   - model: many tenants' keys for the same requested model;
//   - tenant: many models of one tenant. That is a storm too: a change of the tenant's own breaks all of
//     its models at once, and one message about it says more than ten.
//
// New causes are sought in this order, each among the keys that no other explains, so that a fault of three
// models of a provider is one storm and not three. A key that fails later joins the most specific of the
// open causes that fit it: model, provider, tenant. Once in a storm it stays for as long as both last, so
// neither the order of keys nor a second cause moves it, and a storm lasts until fewer than half of what
// opened it have failed for Linger. Pseudo-keys, experiments and the key of all telemetry are in no storm:
// the first say again what others say, the second page nobody, and the last is one message already.
func (s Storms) Step(observed []Observed, g Grouping, now time.Time) Storms {
	next := Storms{Open: map[string]Storm{}, Of: map[usage.Key]string{}}
	keys := slices.DeleteFunc(slices.Clone(observed), func(o Observed) bool { return !groupable(o.Key) })
	next.keep(s, keys, g, now)
	free := make([]Observed, 0, len(keys))
	for _, o := range keys {
		cause, in := s.Of[o.Key]
		if _, open := next.Open[cause]; !in || !open {
			cause = next.matching(o)
		}
		switch {
		case cause == "":
			free = append(free, o)
		case o.Found:
			next.Of[o.Key] = cause
		}
	}
	for _, kind := range []string{providerCause, modelCause, tenantCause} {
		free = next.form(kind, free, g, now)
	}
	return next
}

// Calm reports whether there is no storm.
func (s Storms) Calm() bool { return len(s.Open) == 0 }

// groupable reports whether the key may be in a storm.
func groupable(k usage.Key) bool {
	_, _, experiment := k.Experiment()
	return !k.Pseudo() && !experiment && k != usage.Everything
}

// keep takes over the storms that last.
func (s Storms) keep(before Storms, keys []Observed, g Grouping, now time.Time) {
	tally := map[string]count{}
	for _, o := range keys {
		for _, cause := range o.causes() {
			if _, open := before.Open[cause]; open {
				tally[cause] = tally[cause].add(o)
			}
		}
	}
	half := Grouping{Keys: (g.Keys + 1) / 2, Share: g.Share / 2}
	for cause, storm := range before.Open {
		switch {
		case tally[cause].enough(half):
			storm.Low = time.Time{}
		case storm.Low.IsZero():
			storm.Low = now
		case now.Sub(storm.Low) >= g.Linger:
			continue
		}
		s.Open[cause] = storm
	}
}

// matching is the most specific open cause that fits the key; empty when none does.
func (s Storms) matching(o Observed) string {
	for _, cause := range o.causes() {
		if _, open := s.Open[cause]; open {
			return cause
		}
	}
	return ""
}

// causes are those that could touch the key, the most specific first.
func (o Observed) causes() []string {
	causes := []string{o.cause(modelCause)}
	if o.Provider != "" {
		causes = append(causes, o.cause(providerCause))
	}
	return append(causes, o.cause(tenantCause))
}

func (o Observed) cause(kind string) string {
	switch kind {
	case providerCause:
		if o.Provider == "" {
			return ""
		}
		return kind + o.Provider
	case modelCause:
		return kind + o.Key.Model
	}
	return kind + o.Key.Tenant
}

// form opens the storms of one kind among the keys that nothing explains yet, and returns those that stay
// so.
func (s Storms) form(kind string, free []Observed, g Grouping, now time.Time) []Observed {
	parts := map[string][]Observed{}
	for _, o := range free {
		if cause := o.cause(kind); cause != "" {
			parts[cause] = append(parts[cause], o)
		}
	}
	for cause, part := range parts {
		if tallied(part).enough(g) && (kind != providerCause || wide(part, modelCause, g) && wide(part, tenantCause, g)) {
			s.Open[cause] = Storm{Opened: now}
		}
	}
	return slices.DeleteFunc(free, func(o Observed) bool {
		cause := o.cause(kind)
		_, open := s.Open[cause]
		if open && o.Found {
			s.Of[o.Key] = cause
		}
		return open
	})
}

// wide reports whether keys still fail, at half the share, without the part, by the given kind, of which the
// most do.
func wide(keys []Observed, kind string, g Grouping) bool {
	tally := map[string]count{}
	for _, o := range keys {
		tally[o.cause(kind)] = tally[o.cause(kind)].add(o)
	}
	worst := slices.MaxFunc(slices.Sorted(maps.Keys(tally)), func(a, b string) int {
		return cmp.Or(cmp.Compare(tally[a].found, tally[b].found), strings.Compare(b, a))
	})
	rest := tallied(keys).less(tally[worst])
	return rest.enough(Grouping{Keys: others, Share: g.Share / 2})
}

// count is how many keys there are and how many of them fail.
type count struct{ all, found int }

func tallied(keys []Observed) (c count) {
	for _, o := range keys {
		c = c.add(o)
	}
	return c
}

func (c count) add(o Observed) count {
	c.all++
	if o.Found {
		c.found++
	}
	return c
}

func (c count) less(part count) count { return count{c.all - part.all, c.found - part.found} }

func (c count) enough(g Grouping) bool {
	return c.found >= g.Keys && float64(c.found) >= g.Share*float64(c.all)
}
