package simulate

import (
	"iter"
	"time"
)

// The shape of the history. A baseline is made of 15-minute buckets at the live rate, for its spend
// is compared with live spend; so the spans that a first start can afford are spent on whole buckets
// rather than thinly on the whole week.
const (
	historyDays  = 7
	historySpans = 195_000 // expected; Poisson luck stays within a few thousand of it
	bucket       = 15 * time.Minute
	// historyScored bounds the share of a bucket's calls that are scored: its median needs tens of
	// scores, not thousands.
	historyScored = 0.10
)

// historyOffsets are the buckets of each past day, counted from the one that holds this time of day,
// in the order of their worth.
var historyOffsets = []int{0, 1, -1, 2, -2, 3}

// Batch is some minutes of history.
type Batch struct {
	Spans  []Span
	Scores []Score
}

// History yields what the world did in the week before now, one bucket at a time, oldest first: the
// last half hour without a gap, and each earlier day the buckets about this time of day that the
// allowance pays for. A bucket's content depends on the seed, the workload and the bucket only, so a
// second load within the memory of span ids adds nothing twice.
func History(seed uint64, workloads []Workload, now time.Time) iter.Seq[Batch] {
	return batches(seed, workloads, now, historyBuckets(workloads, now))
}

// recent yields the given number of whole buckets before now, and the one that now lies in.
func recent(seed uint64, workloads []Workload, now time.Time, buckets int) iter.Seq[Batch] {
	var starts []time.Time
	for n := buckets; n >= 0; n-- {
		starts = append(starts, now.UTC().Truncate(bucket).Add(-time.Duration(n)*bucket))
	}
	return batches(seed, workloads, now, starts)
}

func batches(seed uint64, workloads []Workload, now time.Time, starts []time.Time) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		for _, start := range starts {
			var b Batch
			for i := range workloads {
				b.add(seed, &workloads[i], start, now)
			}
			if !yield(b) {
				return
			}
		}
	}
}

// historyBuckets chooses the buckets and returns their starts, oldest first.
func historyBuckets(workloads []Workload, now time.Time) []time.Time {
	today := now.UTC().Truncate(bucket)
	allowance := float64(historySpans)
	chosen := map[time.Time]bool{}
	take := func(start time.Time) {
		for i := range workloads {
			allowance -= workloads[i].rateAt(start) * bucket.Seconds()
		}
		if allowance >= 0 {
			chosen[start] = true
		}
	}
	take(today)
	take(today.Add(-bucket))
	for _, offset := range historyOffsets {
		for day := 1; day <= historyDays; day++ {
			take(today.Add(-24*time.Hour*time.Duration(day) + bucket*time.Duration(offset)))
		}
	}
	var starts []time.Time
	for start := today.Add(-24*time.Hour*historyDays - bucket*time.Duration(len(historyOffsets))); !start.After(today); start = start.Add(bucket) {
		if chosen[start] {
			starts = append(starts, start)
		}
	}
	return starts
}

func (b *Batch) add(seed uint64, w *Workload, start, now time.Time) {
	healthy := func(*model) disturbance { return disturbance{1, 1} }
	s := newSource(seed, w, start)
	for from := start; from.Before(start.Add(bucket)) && from.Before(now); from = from.Add(slot) {
		for _, r := range s.draw(from, 1) {
			span, score := r.serve(r.direct(), healthy)
			if span.Timestamp.After(now) {
				continue
			}
			b.Spans = append(b.Spans, span)
			if r.luck.sample < min(historyScored, sampling[w.Tenant.Value]) && !score.Timestamp.After(now) {
				b.Scores = append(b.Scores, score)
			}
		}
	}
}
