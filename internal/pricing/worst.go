package pricing

import (
	"fmt"
	"math/bits"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Worst is the most that a call can cost that has at most so many tokens: all of its input in the dearest bucket, in
// the dearest of the tiers that it can reach. It fails as Cost does.
func (q *Quote) Worst(input, output int64) (usage.PicoUSD, error) {
	if err := (usage.Tokens{UncachedInput: input, Output: output}).Validate(); err != nil {
		return 0, err
	}
	worst, err := q.most(&q.service.Rates, input, output)
	if err != nil {
		return 0, err
	}
	for i := range q.service.Tiers {
		t := &q.service.Tiers[i]
		if input <= t.Above {
			break // tiers ascend
		}
		dearer, err := q.most(&t.Rates, input, output)
		if err != nil {
			return 0, err
		}
		worst = max(worst, dearer)
	}
	return worst, nil
}

// most is the cost of the tokens by one table of prices, all input in its dearest bucket.
func (q *Quote) most(r *Rates, input, output int64) (usage.PicoUSD, error) {
	dearest := r.Input
	for _, rate := range [...]Rate{r.CacheRead, r.CacheWrite5m, r.CacheWrite1h} {
		if rate.known && rate.pico > dearest.pico {
			dearest = rate
		}
	}
	if input > 0 && !r.Input.known || output > 0 && !r.Output.known {
		return 0, fmt.Errorf("model %q: %w", q.Model, ErrUnknown)
	}
	over, in := bits.Mul64(uint64(input), uint64(dearest.pico))
	over2, out := bits.Mul64(uint64(output), uint64(r.Output.pico))
	sum, carry := bits.Add64(in, out, 0)
	if over != 0 || over2 != 0 || carry != 0 || sum > 1<<63-1 {
		return 0, fmt.Errorf("the most that model %q can cost: %w", q.Model, ErrRange)
	}
	return usage.PicoUSD(sum), nil
}
