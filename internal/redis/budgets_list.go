package redis

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flyball-dev/flyball/internal/budget"
)

// Live is a counter that Redis has.
type Live struct {
	Budget, Of string
	From       time.Time // of its window; zero: a session's
	Standing
	Presumed []string // the holds that have lapsed, and count as spent until the ledger knows of them
}

// liveScript lists a tenant's counters: for each its key, spent, held, confirmed, and lapsed holds. Those that have
// expired are forgotten.
var liveScript = goredis.NewScript(budgetPrelude + `
lapse()
local answer = {}
for _, key in ipairs(redis.call('SMEMBERS', base .. ':counters')) do
  local all = redis.call('HGETALL', key)
  if #all == 0 then redis.call('SREM', base .. ':counters', key)
  else
    local c, presumed = {spent = '0', held = '0', confirmed = '0'}, {}
    for i = 1, #all, 2 do
      if c[all[i]] then c[all[i]] = all[i + 1]
      elseif string.sub(all[i], 1, 2) == 'p:' then table.insert(presumed, string.sub(all[i], 3)) end
    end
    table.insert(answer, {key, c.spent, c.held, c.confirmed, unpack(presumed, 1, 1000)})
  end
end
return answer
`)

// Live lists the counters of a tenant, of its sessions those of which something is held or not in the ledger.
func (b *Budgets) Live(ctx context.Context, tenant string) ([]Live, error) {
	reply, err := liveScript.Run(ctx, b.rdb, []string{b.state(tenant)}).Slice()
	if err != nil {
		return nil, fmt.Errorf("listing the counters of %q: %w", tenant, err)
	}
	list := make([]Live, 0, len(reply))
	for _, item := range reply {
		fields, ok := item.([]any)
		if !ok || len(fields) < 4 {
			return nil, fmt.Errorf("listing the counters of %q: redis answered %v", tenant, item)
		}
		l, ok := parseCounter(strings.TrimPrefix(fmt.Sprint(fields[0]), b.state(tenant)+":c:"))
		if !ok {
			continue // of a later version's making
		}
		money, err := amounts(fields[1:4])
		if err != nil {
			return nil, err
		}
		l.Standing = Standing{money[0], money[1], money[2]}
		for _, p := range fields[4:] {
			l.Presumed = append(l.Presumed, fmt.Sprint(p))
		}
		list = append(list, l)
	}
	return list, nil
}

// parseCounter reads what counter wrote.
func parseCounter(name string) (l Live, ok bool) {
	parts := strings.Split(name, ":")
	if len(parts) != 3 {
		return l, false
	}
	var errs [3]error
	var from int64
	l.Budget, errs[0] = url.QueryUnescape(parts[0])
	l.Of, errs[1] = url.QueryUnescape(parts[1])
	from, errs[2] = strconv.ParseInt(parts[2], 10, 64)
	if from > 0 {
		l.From = time.Unix(from, 0).UTC()
	}
	return l, errs == [3]error{}
}

// CounterOf is the counter that the definition has for what Live lists; ok is false when the definition is another's.
func (l Live) CounterOf(b budget.Budget) (budget.Counter, bool) {
	if l.Budget != b.ID || l.From.IsZero() != (b.Period == budget.Session) || b.Only != "" && b.Only != l.Of {
		return budget.Counter{}, false
	}
	return budget.Counter{Budget: b.ID, Of: l.Of, Window: b.Window(l.From)}, true
}
