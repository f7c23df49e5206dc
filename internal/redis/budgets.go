package redis

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flyball-dev/flyball/internal/budget"
)

// How budgets are kept. All of a tenant's keys carry it as cluster hash tag, and the epoch: one server's life. Redis
// may come back from a crash without its last second, or as a replica that was behind, so what another life counted
// is never believed: a tenant's budgets are closed until its counters are rebuilt (see Reopen).
//
//	flyball:budget:{tenant}:<epoch>            hash: state (opening, open), opens_at (ms)
//	flyball:budget:{tenant}:<epoch>:holds      sorted set: hold → when it lapses (ms)
//	flyball:budget:{tenant}:<epoch>:hold:<id>  hash: counter → amount held of it
//	flyball:budget:{tenant}:<epoch>:counters   set: the keys of its counters, but for sessions' of which nothing is held
//	                                           and the ledger knew all when it was read last
//	flyball:budget:{tenant}:<epoch>:<counter>  hash:
//	    held                   what live holds hold
//	    spent                  confirmed, and all fields below
//	    confirmed, as_of       what the ledger knows of, and when it was read (ms)
//	    m:<process>:<minute>   what a process has spent in a minute, in all, and how much of it is confirmed: told
//	                           twice, it is counted once
//	    p:<hold>               what a hold that lapsed may have spent: spent, until the ledger or its process says
//
// All scripts read the server's clock, so that no gateway's clock moves a hold's end.

// budgetPrelude begins every script. KEYS[1] is the tenant's state.
const budgetPrelude = `
local base = KEYS[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local function n(v) return tonumber(v or '0') end
local function parts(v)
  local total, confirmed = string.match(v or '0 0', '^(%d+) (%d+)$')
  return n(total), n(confirmed)
end
local function add(counter, field, by) if by ~= 0 then redis.call('HINCRBY', counter, field, string.format('%.0f', by)) end end
local function free(id, lapsed)
  local held = redis.call('HGETALL', base .. ':hold:' .. id)
  for i = 1, #held, 2 do
    local amount = n(held[i + 1])
    add(held[i], 'held', -amount)
    if lapsed and amount > 0 then
      add(held[i], 'spent', amount)
      redis.call('HSET', held[i], 'p:' .. id, held[i + 1])
    end
  end
  redis.call('DEL', base .. ':hold:' .. id)
  redis.call('ZREM', base .. ':holds', id)
  return #held > 0
end
local function lapse()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', base .. ':holds', '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)) do
    free(id, true)
  end
end
local function state()
  local s = redis.call('HMGET', base, 'state', 'opens_at')
  return s[1] or 'closed', n(s[2])
end
-- Tells what a process has spent: triples of counter, field (m:process:minute) and total, from ARGV[from] on.
local function tell(from)
  for i = from, #ARGV, 3 do
    local before, confirmed = parts(redis.call('HGET', ARGV[i], ARGV[i + 1]))
    local total = n(ARGV[i + 2])
    if total > before then
      redis.call('SADD', base .. ':counters', ARGV[i])
      redis.call('HSET', ARGV[i], ARGV[i + 1], ARGV[i + 2] .. ' ' .. string.format('%.0f', confirmed))
      add(ARGV[i], 'spent', total - before)
    end
  end
end
-- What a hold was presumed to have spent when it lapsed is forgotten once its process says.
local function forget(id, counters)
  for _, counter in ipairs(counters) do
    local presumed = n(redis.call('HGET', counter, 'p:' .. id))
    if presumed > 0 then
      redis.call('HDEL', counter, 'p:' .. id)
      add(counter, 'spent', -presumed)
    end
  end
end
`

// holdScript holds an amount of every counter, or of none. ARGV: id, amount, TTL in ms, 1 to hold whatever is there,
// then ceiling and last day (ms; 0: a session's) of each counter. KEYS from 2 on: the counters. It answers {1, left of
// each}, {0, number of the counter that has too little, what it has left}, or {-1, state}.
var holdScript = goredis.NewScript(budgetPrelude + `
local s = state()
local id, amount, force = ARGV[1], n(ARGV[2]), ARGV[4] == '1'
if s ~= 'open' and not (force and s == 'opening') then return {-1, s} end
lapse()
local left, known = {}, redis.call('EXISTS', base .. ':hold:' .. id) == 1
for i = 2, #KEYS do
  local c = redis.call('HMGET', KEYS[i], 'spent', 'held')
  local rest = n(ARGV[3 + 2 * (i - 1)]) - n(c[1]) - n(c[2])
  if not known then
    if rest < amount and not force then return {0, i - 2, string.format('%.0f', rest)} end
    rest = rest - amount
  end
  left[i - 1] = string.format('%.0f', rest)
end
if not known then
  for i = 2, #KEYS do
    add(KEYS[i], 'held', amount)
    redis.call('HSET', base .. ':hold:' .. id, KEYS[i], ARGV[2])
    redis.call('SADD', base .. ':counters', KEYS[i])
    local last = n(ARGV[4 + 2 * (i - 1)])
    if last == 0 then last = now + 604800000 end
    redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', last))
  end
  redis.call('ZADD', base .. ':holds', string.format('%.0f', now + n(ARGV[3])), id)
end
return {1, unpack(left)}
`)

// settleScript ends a hold, and tells what its process has spent. ARGV: id, then as tell. KEYS from 2 on: the hold's
// counters. Repeating it changes nothing.
var settleScript = goredis.NewScript(budgetPrelude + `
lapse()
free(ARGV[1], false)
local counters = {}
for i = 2, #KEYS do counters[i - 1] = KEYS[i] end
forget(ARGV[1], counters)
tell(2)
return 1
`)

// renewScript sets what a hold holds of every counter, and when it lapses; it answers 0 when the hold has lapsed.
// ARGV: id, amount, TTL in ms, then as tell.
var renewHoldScript = goredis.NewScript(budgetPrelude + `
lapse()
tell(4)
local hold = base .. ':hold:' .. ARGV[1]
local held = redis.call('HGETALL', hold)
if #held == 0 then return 0 end
for i = 1, #held, 2 do
  if n(ARGV[2]) > n(held[i + 1]) then return redis.error_reply('a hold is only ever lowered') end
end
for i = 1, #held, 2 do
  add(held[i], 'held', n(ARGV[2]) - n(held[i + 1]))
  redis.call('HSET', hold, held[i], ARGV[2])
end
redis.call('ZADD', base .. ':holds', string.format('%.0f', now + n(ARGV[3])), ARGV[1])
return 1
`)

// lapseScript ends a hold before its time. ARGV: id.
var lapseScript = goredis.NewScript(budgetPrelude + `
free(ARGV[1], true)
return 1
`)

// reopenScript begins a tenant's budgets in this epoch, and ends the waiting once it has been long enough. ARGV: the
// time to wait in ms. It answers the state.
var reopenScript = goredis.NewScript(budgetPrelude + `
local s, opens = state()
if s == 'closed' then
  redis.call('HSET', base, 'state', 'opening', 'opens_at', string.format('%.0f', now + n(ARGV[1])))
  return 'opening'
end
if s == 'opening' and now >= opens then
  redis.call('HSET', base, 'state', 'open')
  return 'open'
end
return s
`)

// reconcileScript sets what the ledger knows of a counter, unless it was told something newer. ARGV: the amount, the
// counter's last day (ms; 0: none), when the ledger was read (ms),
// then pairs: a process and the minute up to which the ledger knows what it told, for one whose clock was set back also
// '>process' and '<process' with the first and the last of the later minutes of which it knows that, then, behind '--',
// the lapsed holds of which the ledger knows what they spent. KEYS[2]: the counter. What is confirmed is remembered for an hour, so
// that a process that tells it late changes nothing.
var reconcileScript = goredis.NewScript(budgetPrelude + `
lapse()
local counter, upTo, known, settled = KEYS[2], {}, false, {}
if n(redis.call('HGET', counter, 'as_of')) > n(ARGV[3]) then return 0 end
local i = 4
while i <= #ARGV do
  if ARGV[i] == '--' then known, i = true, i + 1
  elseif known then settled['p:' .. ARGV[i]], i = true, i + 1
  else upTo[ARGV[i]], i = n(ARGV[i + 1]), i + 2 end
end
local all, spent = redis.call('HGETALL', counter), n(ARGV[1])
for k = 1, #all, 2 do
  local process, minute = string.match(all[k], '^m:(.+):(%d+)$')
  if process then
    local total, confirmed = parts(all[k + 1])
    process, minute = string.match(process, '^(.*)~') or process, n(minute)
    local known, from, to = upTo[process] or -1, upTo['>' .. process], upTo['<' .. process]
    if minute <= known or from and minute >= from and minute <= to then
      confirmed = total
      if minute < known - 60 then redis.call('HDEL', counter, all[k])
      else redis.call('HSET', counter, all[k], string.format('%.0f %.0f', total, total)) end
    end
    spent = spent + total - confirmed
  elseif string.sub(all[k], 1, 2) == 'p:' then
    if settled[all[k]] then redis.call('HDEL', counter, all[k]) else spent = spent + n(all[k + 1]) end
  end
end
redis.call('HSET', counter, 'as_of', ARGV[3], 'confirmed', ARGV[1], 'spent', string.format('%.0f', spent))
local last = n(ARGV[2])
if last == 0 then
  last = now + 604800000
  if spent == n(ARGV[1]) and n(redis.call('HGET', counter, 'held')) == 0 then redis.call('SREM', base .. ':counters', counter)
  else redis.call('SADD', base .. ':counters', counter) end
else redis.call('SADD', base .. ':counters', counter) end
redis.call('PEXPIREAT', counter, string.format('%.0f', last))
return 1
`)

// seedScript sets counters that Redis does not have, and answers which it has that stand otherwise. ARGV: the counters'
// last day (ms; 0: none), when the ledger was read (ms), then the amount of each. KEYS from 2 on: the counters.
var seedScript = goredis.NewScript(budgetPrelude + `
lapse()
local otherwise, last = {}, n(ARGV[1])
for i = 2, #KEYS do
  local key, amount = KEYS[i], ARGV[i + 1]
  local have = redis.call('HMGET', key, 'spent', 'held', 'confirmed')
  if not have[1] and not have[2] then
    redis.call('HSET', key, 'as_of', ARGV[2], 'confirmed', amount, 'spent', amount)
    if last > 0 then
      redis.call('SADD', base .. ':counters', key)
      redis.call('PEXPIREAT', key, string.format('%.0f', last))
    else redis.call('PEXPIREAT', key, string.format('%.0f', now + 604800000)) end
  elseif n(have[1]) ~= n(amount) or n(have[2]) ~= 0 or n(have[3]) ~= n(amount) then table.insert(otherwise, i - 2) end
end
return otherwise
`)

// readScript answers spent, held and confirmed of each counter, behind the state. KEYS from 2 on: the counters.
var readScript = goredis.NewScript(budgetPrelude + `
lapse()
local answer = {(state())}
for i = 2, #KEYS do
  for _, v in ipairs(redis.call('HMGET', KEYS[i], 'spent', 'held', 'confirmed')) do table.insert(answer, v or '0') end
end
return answer
`)

// ErrBudgetsClosed says that a tenant's counters are not to be believed yet: Redis is new, or was restarted, and they
// have not been rebuilt.
var ErrBudgetsClosed = errors.New("the budgets in redis are not rebuilt yet")

// keepAfter is how long a counter outlives its window: late calls of it are still told.
const keepAfter = 48 * time.Hour

// Limit is a counter with the ceiling that it is held to.
type Limit struct {
	Counter budget.Counter
	Ceiling budget.Micro
}

// Hold asks for an amount of every counter at once. Its id makes a retry the same hold.
type Hold struct {
	ID     string
	Amount budget.Micro
	TTL    time.Duration // then it counts as spent until the ledger, or whoever held it, says what it spent
	Limits []Limit
}

// Grant answers a Hold.
type Grant struct {
	Granted bool
	Lacking int            // the limit that has too little left, where it was not granted
	Left    []budget.Micro // of each limit, after the hold; of the lacking one alone where it was not granted
}

// RunMark stands between the name of a process and that of one of its runs: each run counts from nothing, and the
// ledger knows the process.
const RunMark = "~"

// Told is what a process, or one of its runs (<process>~<run>), has spent of a counter in a minute by its telemetry's
// clock, in all. It only ever grows, so telling it twice, or late, counts it once.
type Told struct {
	Counter budget.Counter
	Process string // whose spool sends the telemetry of it to the ledger
	Minute  time.Time
	Total   budget.Micro
}

// Budgets is where the counters of one epoch are. The zero value is not usable: see Client.Budgets.
type Budgets struct {
	client *Client
	rdb    *goredis.Client
	epoch  string
	server *string
}

// Budgets are the counters of the epoch that Redis is in now. When they answer ErrBudgetsClosed, or a connection was
// lost, they are asked for anew.
func (c *Client) Budgets(ctx context.Context) (*Budgets, error) {
	epoch, err := c.epoch(ctx)
	if err != nil {
		return nil, err
	}
	return &Budgets{c, c.rdb, epoch, c.server.Load()}, nil
}

// Epoch names the life of Redis that the counters are of.
func (b *Budgets) Epoch() string { return b.epoch }

// current refuses an answer of a server that is not the one that the epoch was read from: it was restarted since, and
// what it has of the epoch may be older than what it had said.
func (b *Budgets) current(tenant string) error {
	if b.client.server.Load() != b.server {
		return fmt.Errorf("the budgets of %q: redis was restarted: %w", tenant, ErrBudgetsClosed)
	}
	return nil
}

// state is the key of the tenant's state; all its other keys begin with it.
func (b *Budgets) state(tenant string) string {
	return "flyball:budget:{" + url.QueryEscape(tenant) + "}:" + b.epoch
}

func (b *Budgets) counter(tenant string, c budget.Counter) string {
	return fmt.Sprintf("%s:c:%s:%s:%d", b.state(tenant), url.QueryEscape(c.Budget), url.QueryEscape(c.Of), max(0, c.Window.From.Unix()))
}

// last is when a counter may be forgotten, in unix milliseconds; 0 for a session's, which goes a week after its last
// hold.
func last(c budget.Counter) int64 {
	if c.Window.To.IsZero() {
		return 0
	}
	return c.Window.To.Add(keepAfter).UnixMilli()
}

// Hold holds the amount of every counter, or, where one has too little left, of none. ErrBudgetsClosed tells that
// nothing can be said.
func (b *Budgets) Hold(ctx context.Context, tenant string, h Hold) (Grant, error) {
	return b.hold(ctx, tenant, h, false)
}

// Reassert holds again what its holder still holds, whatever the counters have left, also while they are being
// rebuilt.
func (b *Budgets) Reassert(ctx context.Context, tenant string, h Hold) (Grant, error) {
	return b.hold(ctx, tenant, h, true)
}

func (b *Budgets) hold(ctx context.Context, tenant string, h Hold, force bool) (Grant, error) {
	if h.ID == "" || h.Amount < 0 || h.Amount > budget.MaxMicro || h.TTL <= 0 || len(h.Limits) == 0 {
		return Grant{}, fmt.Errorf("holding %d µ$ of %d budgets of %q for %s as %q: want an id, an amount, a time and a budget", h.Amount, len(h.Limits), tenant, h.TTL, h.ID)
	}
	keys := []string{b.state(tenant)}
	args := []any{h.ID, int64(h.Amount), h.TTL.Milliseconds(), boolean(force)}
	for _, l := range h.Limits {
		keys = append(keys, b.counter(tenant, l.Counter))
		args = append(args, int64(l.Ceiling), last(l.Counter))
	}
	reply, err := holdScript.Run(ctx, b.rdb, keys, args...).Slice()
	if err != nil {
		return Grant{}, fmt.Errorf("holding a budget of %q: %w", tenant, err)
	}
	if err := b.current(tenant); err != nil {
		return Grant{}, err
	}
	switch reply[0].(int64) {
	case 1:
		left, err := amounts(reply[1:])
		return Grant{Granted: true, Left: left}, err
	case 0:
		left, err := amounts(reply[2:])
		return Grant{Lacking: int(reply[1].(int64)), Left: left}, err
	}
	return Grant{}, fmt.Errorf("holding a budget of %q: %w", tenant, ErrBudgetsClosed)
}

func boolean(v bool) int {
	if v {
		return 1
	}
	return 0
}

func amounts(reply []any) ([]budget.Micro, error) {
	list := make([]budget.Micro, len(reply))
	for i, v := range reply {
		n, err := strconv.ParseInt(fmt.Sprint(v), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading an amount from redis: %w", err)
		}
		list[i] = budget.Micro(n)
	}
	return list, nil
}

// Settle ends the hold of the counters, whether or not it has lapsed, and tells what its process has spent of them.
// Repeating it changes nothing.
func (b *Budgets) Settle(ctx context.Context, tenant, id string, counters []budget.Counter, told []Told) error {
	keys := []string{b.state(tenant)}
	for _, c := range counters {
		keys = append(keys, b.counter(tenant, c))
	}
	if err := settleScript.Run(ctx, b.rdb, keys, b.telling(tenant, []any{id}, told)...).Err(); err != nil {
		return fmt.Errorf("settling a hold of %q: %w", tenant, err)
	}
	return b.current(tenant)
}

// Renew lowers what a hold holds of every counter to the amount, makes it last TTL from now, and tells what its
// process has spent. It reports false when the hold has lapsed: whatever was left of it is gone.
func (b *Budgets) Renew(ctx context.Context, tenant, id string, amount budget.Micro, ttl time.Duration, told []Told) (bool, error) {
	n, err := renewHoldScript.Run(ctx, b.rdb, []string{b.state(tenant)}, b.telling(tenant, []any{id, int64(amount), ttl.Milliseconds()}, told)...).Int()
	if err != nil {
		return false, fmt.Errorf("renewing a hold of %q: %w", tenant, err)
	}
	return n == 1, b.current(tenant)
}

// Lapse ends a hold as its time would: it counts as spent until the ledger knows, or its process says. Whoever knows
// that a holder is dead need not wait.
func (b *Budgets) Lapse(ctx context.Context, tenant, id string) error {
	if err := lapseScript.Run(ctx, b.rdb, []string{b.state(tenant)}, id).Err(); err != nil {
		return fmt.Errorf("ending a hold of %q: %w", tenant, err)
	}
	return b.current(tenant)
}

// telling appends what was told to a script's arguments.
func (b *Budgets) telling(tenant string, args []any, told []Told) []any {
	for _, t := range told {
		args = append(args, b.counter(tenant, t.Counter), fmt.Sprintf("m:%s:%d", url.QueryEscape(t.Process), t.Minute.Unix()/60), int64(t.Total))
	}
	return args
}

// Reopen begins a tenant's budgets in this epoch, and reports true once they are open: after wait, in which every
// gateway that is alive reasserts what it holds, and whoever calls this has set the counters by Reconcile.
func (b *Budgets) Reopen(ctx context.Context, tenant string, wait time.Duration) (bool, error) {
	state, err := reopenScript.Run(ctx, b.rdb, []string{b.state(tenant)}, wait.Milliseconds()).Text()
	if err != nil {
		return false, fmt.Errorf("opening the budgets of %q: %w", tenant, err)
	}
	return state == "open", nil
}

// Minutes are those from one to another, both included.
type Minutes struct{ From, To time.Time }

// Ledger is what the ledger knows of a counter.
type Ledger struct {
	At      time.Time // when it was read: an older reading never replaces a newer one
	Counter budget.Counter
	Spent   budget.Micro
	UpTo    map[string]time.Time // process: the minute up to which what it told is in Spent
	Earlier map[string]Minutes   // process whose clock was set back: later minutes whose totals are in Spent, being from before
	Settled []string             // holds that lapsed, what they spent being in Spent
}

// Reconcile sets a counter by the ledger: what processes told up to the minute that it knows of is in it, what they
// told since is added, and so is what lapsed holds may have spent of which the ledger does not know. A reading that is
// older than the last one changes nothing.
func (b *Budgets) Reconcile(ctx context.Context, tenant string, l Ledger) error {
	args := []any{int64(l.Spent), last(l.Counter), l.At.UnixMilli()}
	for process, minute := range l.UpTo {
		args = append(args, url.QueryEscape(process), minute.Unix()/60)
	}
	for process, m := range l.Earlier {
		process = url.QueryEscape(process)
		args = append(args, ">"+process, m.From.Unix()/60, "<"+process, m.To.Unix()/60)
	}
	args = append(args, "--")
	for _, id := range l.Settled {
		args = append(args, id)
	}
	if err := reconcileScript.Run(ctx, b.rdb, []string{b.state(tenant), b.counter(tenant, l.Counter)}, args...).Err(); err != nil {
		return fmt.Errorf("reconciling %s of %q with the ledger: %w", l.Counter.Budget, tenant, err)
	}
	return nil
}

// seedAtOnce bounds the counters that one script sets: Redis does nothing else meanwhile.
const seedAtOnce = 100

// Seed sets counters of one window that Redis does not have by what the ledger knew when it was read, and answers those
// that it has and that stand otherwise: Reconcile is for these. A new Redis may have to learn of a great many sessions.
func (b *Budgets) Seed(ctx context.Context, tenant string, at time.Time, counters []budget.Counter, spent func(budget.Counter) budget.Micro) (otherwise []budget.Counter, err error) {
	for some := range slices.Chunk(counters, seedAtOnce) {
		keys, args := []string{b.state(tenant)}, []any{last(some[0]), at.UnixMilli()}
		for _, c := range some {
			keys, args = append(keys, b.counter(tenant, c)), append(args, int64(spent(c)))
		}
		list, err := seedScript.Run(ctx, b.rdb, keys, args...).Int64Slice()
		if err != nil {
			return nil, fmt.Errorf("setting %d budgets of %q by the ledger: %w", len(some), tenant, err)
		}
		for _, i := range list {
			otherwise = append(otherwise, some[i])
		}
	}
	return otherwise, nil
}

// Standing is what a counter says.
type Standing struct {
	Spent     budget.Micro `json:"spent_micro_usd"` // confirmed, told since, or presumed of holds that lapsed
	Held      budget.Micro `json:"held_micro_usd"`
	Confirmed budget.Micro `json:"confirmed_micro_usd"` // what the ledger knew when it was asked last
}

// Read answers what the counters say, and whether the budgets are open.
func (b *Budgets) Read(ctx context.Context, tenant string, counters []budget.Counter) (standings []Standing, open bool, err error) {
	keys := []string{b.state(tenant)}
	for _, c := range counters {
		keys = append(keys, b.counter(tenant, c))
	}
	reply, err := readScript.Run(ctx, b.rdb, keys).Slice()
	if err != nil {
		return nil, false, fmt.Errorf("reading the budgets of %q: %w", tenant, err)
	}
	list, err := amounts(reply[1:])
	if err != nil {
		return nil, false, err
	}
	for i := 0; i+2 < len(list); i += 3 {
		standings = append(standings, Standing{list[i], list[i+1], list[i+2]})
	}
	return standings, reply[0] == "open", nil
}
