package routing

import (
	"math"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
)

// Mix is a turn of a tenant's callers to a model, which an act on that model answers. Nothing ails the model's own
// calls, so its holdback cannot show when the fault is over: the requested mix does.
type Mix struct {
	Usual   float64 `json:"usual"`   // the model's share of the tenant's calls before
	Shifted float64 `json:"shifted"` // and when the act was proposed
}

// health judges the mix over the shortest run of minutes, at most 15, in which the tenant has the minimum calls. It is
// well when the model's share is back within half of the way to the usual, and ill when it is beyond that by
// more than the luck of so few calls. Calls of every arm count: a flag changes who serves them, not what they
// ask for.
func (m Mix) health(model, tenant []kpi.Minute, now time.Time, minimum int) health {
	half := (m.Usual + m.Shifted) / 2
	current := now.Truncate(time.Minute)
	for n := 1; n <= detect.Windows[len(detect.Windows)-1]; n++ {
		from := current.Add(-time.Duration(n-1) * time.Minute)
		all := requests(tenant, from)
		if all < float64(max(minimum, 1)) {
			continue
		}
		share := requests(model, from) / all
		switch luck := math.Sqrt(half * (1 - half) / all); {
		case share <= half:
			return isWell
		case share > half+illZ*luck:
			return isIll
		}
		return unwell
	}
	return unknown
}

// requests are the calls in the minutes from the given one on.
func requests(minutes []kpi.Minute, from time.Time) (n float64) {
	for _, m := range minutes {
		if !m.Start.Before(from) {
			n += float64(m.Requests)
		}
	}
	return n
}
