package router

import (
	"fmt"
	"math"
	"time"
)

// The bounds of a verdict on a version.
const (
	// LeastScored is how many scored calls a version is judged by at least.
	LeastScored = 200
	// mostScored is when a version that is still not shown to be better is taken not to be.
	mostScored = 2000
	// margin is the share of the other's log loss by which a version must be better to be used: below it a change is
	// not worth the risk.
	margin = 0.01
	// shadowMost is how long a version may wait in the shadow for calls to be judged by.
	shadowMost = 28 * 24 * time.Hour
	// recentScored is by how many of the newest scored calls it is seen that a version has turned bad which was good for
	// long, and recentSigmas how many standard errors that takes: it is looked at each hour.
	recentScored = 1000
	recentSigmas = 3
)

// Comparison is a version against another, or against its own mean, on the same scored calls, none of which it was
// trained on. Gains are of log loss, a call; positive: it is better.
type Comparison struct {
	N        int      `json:"n"`
	LogLoss  float64  `json:"log_loss"`
	Other    float64  `json:"other_log_loss"`
	AUC      *float64 `json:"auc"`
	OtherAUC *float64 `json:"other_auc"`
	Gain     float64  `json:"gain"`
	Low      float64  `json:"low"` // of its interval of 95 %
	High     float64  `json:"high"`
}

func (c Comparison) String() string {
	return fmt.Sprintf("log loss %.4f against %.4f over %d scored calls (gain %.4f, 95 %%: %.4f to %.4f)", c.LogLoss, c.Other, c.N, c.Gain, c.Low, c.High)
}

// Compare judges p by the tuples that it can predict. A call that the other says nothing of, or no other, is compared
// with what p would have said without having read the prompt.
func Compare(tuples []Tuple, p, other *Predictor) Comparison {
	var c Comparison
	var mine, others, found, gains []float64
	for i := range tuples {
		t := &tuples[i]
		q, ok := p.Score(t.Task, t.Model, &t.Features)
		if !ok {
			continue
		}
		o, ok := other.Score(t.Task, t.Model, &t.Features)
		if !ok {
			o, _ = p.Base(t.Task, t.Model)
		}
		mine, others, found = append(mine, q), append(others, o), append(found, t.Score)
		a, b := lossOf(q, t.Score), lossOf(o, t.Score)
		c.LogLoss, c.Other = c.LogLoss+a, c.Other+b
		gains = append(gains, b-a)
	}
	c.N = len(found)
	if c.N == 0 {
		return c
	}
	n := float64(c.N)
	c.LogLoss, c.Other = c.LogLoss/n, c.Other/n
	c.Gain = c.Other - c.LogLoss
	squares := 0.0
	for _, g := range gains {
		squares += (g - c.Gain) * (g - c.Gain)
	}
	half := 1.96 * math.Sqrt(squares/max(1, n-1)/n)
	c.Low, c.High = c.Gain-half, c.Gain+half
	if auc, ok := AUC(mine, found); ok {
		c.AUC = &auc
	}
	if auc, ok := AUC(others, found); ok {
		c.OtherAUC = &auc
	}
	return c
}

// lossOf is the log loss of a probability. Certainty that was wrong costs much, not everything.
func lossOf(p, y float64) float64 {
	p = min(max(p, 1e-6), 1-1e-6)
	return -y*math.Log(p) - (1-y)*math.Log(1-p)
}

// Known are the line-up's models, as far as it has them, and the scored calls by which each is judged.
type Known struct {
	Lineup                Lineup
	InUse, Before, Shadow *Predictor
	Scored                []Tuple // in the order of time, at least since the version in use, or the shadow, became so
	Watch                 bool    // only the newest calls count, and the version in use alone is looked at
}

// Verdict is what becomes of the versions, and why.
type Verdict struct {
	Changes []Change    `json:"changes,omitempty"`
	InUse   *Comparison `json:"in_use,omitempty"` // against its mean, or against the version before
	Shadow  *Comparison `json:"shadow,omitempty"` // against the version in use, or its mean
	Says    []string    `json:"says,omitempty"`   // for people
}

// Judging is who changes the versions.
const Judging = "router training"

// Judge looks at the version in use first: one that is worse than the mean alone, or than the version before, is
// rolled back. Then at the shadow: it is used when it is better by the margin, beyond doubt; retired when it is not by
// the time that enough is known; else it waits.
func Judge(k Known, now time.Time) (v Verdict) {
	if now := k.Lineup.InUse; now != nil {
		v.lookAtUsed(k)
	}
	if len(v.Changes) > 0 {
		if changes, err := k.Lineup.Rollback(now, Judging, v.Changes[0].Reason); err == nil {
			v.Changes = changes
		}
		return v // the shadow is judged against what is in use then, the next time
	}
	if k.Lineup.Shadow != nil && !k.Watch {
		v.lookAtShadow(k, now)
	}
	return v
}

func since(tuples []Tuple, at time.Time) []Tuple {
	var kept []Tuple
	for _, t := range tuples {
		if !t.At.Before(at) {
			kept = append(kept, t)
		}
	}
	return kept
}

func (v *Verdict) lookAtUsed(k Known) {
	used := k.Lineup.InUse
	scored := since(k.Scored, used.Since)
	for _, against := range []struct {
		other *Predictor
		what  string
	}{{nil, "the mean alone"}, {k.Before, "the version before"}} {
		if against.other == nil && against.what != "the mean alone" {
			continue
		}
		c := Compare(scored, k.InUse, against.other)
		worse, lately := c.N >= LeastScored && c.High < 0 && !k.Watch, ""
		if n := len(scored) - recentScored; !worse && (k.Watch || n > 0) {
			newest := Compare(scored[max(0, n):], k.InUse, against.other)
			if worse = newest.N >= LeastScored && newest.Gain+(newest.High-newest.Gain)*recentSigmas/1.96 < 0; worse || k.Watch {
				c, lately = newest, "lately "
			}
		}
		if v.InUse == nil || c.N > 0 {
			v.InUse = &c
		}
		if worse {
			reason := lately + "worse than " + against.what + ": " + c.String()
			v.Changes = []Change{{used.Version, RolledBack, time.Time{}, Judging, reason}}
			v.Says = append(v.Says, fmt.Sprintf("**%s** is rolled back: %s.", used.Version, reason))
			return
		}
	}
}

func (v *Verdict) lookAtShadow(k Known, now time.Time) {
	shadow := k.Lineup.Shadow
	c := Compare(since(k.Scored, shadow.Since), k.Shadow, k.InUse)
	v.Shadow = &c
	retire := func(why string) {
		v.Changes = append(v.Changes, Change{shadow.Version, Retired, now, Judging, why})
		v.Says = append(v.Says, fmt.Sprintf("**%s** leaves the shadow unused: %s.", shadow.Version, why))
	}
	switch {
	case c.N >= LeastScored && c.Low > 0 && c.Gain >= margin*c.Other:
		reason := "better: " + c.String()
		v.Changes = k.Lineup.Use(shadow.Version, Retired, now, Judging, reason)
		v.Says = append(v.Says, fmt.Sprintf("**%s** is used from now on: %s.", shadow.Version, reason))
	case c.N >= LeastScored && c.High < 0:
		retire("worse: " + c.String())
	case c.N >= mostScored:
		retire("not better: " + c.String())
	case now.Sub(shadow.Since) >= shadowMost:
		retire(fmt.Sprintf("too few calls in %d days to tell: %s", int(shadowMost.Hours()/24), c.String()))
	}
}
