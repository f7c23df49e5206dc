package redis

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"time"
	"unicode/utf8"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The keys that all tenants share. A tenant's own keys carry the tenant as cluster hash tag, so
// that one script may touch them all.
const (
	versionKey = "flyball:flags:version" // counts announced changes
	tenantsKey = "flyball:flags:tenants" // tenants that ever had a flag, escaped
	epochKey   = "flyball:epoch"         // a random word; another one means that Redis lost its data
	serverKey  = "flyball:server"        // the run id of the server that wrote last: another one may have lost data
	channel    = "flyball:flags"         // carries the version after each change
)

// FenceTTL is how long a key remembers its highest sequence after its flag is gone. It must exceed
// the longest time for which any writer retries one order.
const FenceTTL = 24 * time.Hour

// The bounds on what is stored: names, the whole flag, and how many flags a reader takes in.
const (
	maxName  = 512
	maxFlag  = 16 << 10
	maxFlags = 100_000
)

// names are the Redis keys of one flag.
type names struct {
	flag  string // the flag's JSON; gone when the flag is
	fence string // "loop n on|off": the highest sequence seen, and whether it put a flag on
	index string // the tenant's flag keys
}

// namesOf escapes tenant and model, so that neither can forge another key or another hash tag;
// plain names stay readable.
func namesOf(key usage.Key, kind routing.Kind) names {
	tenant := "{" + url.QueryEscape(key.Tenant) + "}"
	rest := tenant + ":" + url.QueryEscape(key.Model) + ":" + string(kind)
	return names{
		flag:  "flyball:flag:" + rest,
		fence: "flyball:fence:" + rest,
		index: indexOf(url.QueryEscape(key.Tenant)),
	}
}

func indexOf(escapedTenant string) string { return "flyball:flags:{" + escapedTenant + "}" }

func (n names) keys() []string { return []string{n.flag, n.fence, n.index} }

// fencing is shared by the scripts that write: it reads the fence and compares it with the order's
// sequence (ARGV 1 and 2). Sequences stay below 2^53, which Lua's numbers hold exactly.
const fencing = `
local loop, n = tonumber(ARGV[1]), tonumber(ARGV[2])
local order, on = 1, false
local fence = redis.call('GET', KEYS[2])
if fence then
  local l, m, state = string.match(fence, '^(%d+) (%d+) (%a+)$')
  l, m, on = tonumber(l), tonumber(m), state == 'on'
  if loop < l or (loop == l and n < m) then order = -1
  elseif loop == l and n == m then order = 0 end
end
`

// applyScript answers {applied, flag's JSON or an empty string, fence}. ARGV: loop, n, JSON, flag TTL in ms (0:
// none), fence TTL in ms. A retry of the newest order changes nothing, unless the flag has lapsed.
var applyScript = goredis.NewScript(fencing + `
local current = redis.call('GET', KEYS[1])
if order < 0 or (order == 0 and not on) then return {0, current or '', fence} end
if order == 0 and current then return {1, current, fence} end
fence = ARGV[1] .. ' ' .. ARGV[2] .. ' on'
if ARGV[4] == '0' then
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('SET', KEYS[2], fence)
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  redis.call('SET', KEYS[2], fence, 'PX', ARGV[5])
end
redis.call('SADD', KEYS[3], KEYS[1])
return {1, ARGV[3], fence}
`)

// releaseScript answers 1 when no order newer than this one is known. ARGV: loop, n, fence TTL in ms.
var releaseScript = goredis.NewScript(fencing + `
if order < 0 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[3], KEYS[1])
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2] .. ' off', 'PX', ARGV[3])
return 1
`)

// renewScript swaps the flag's JSON if nobody wrote it since it was read. ARGV: old JSON, new JSON,
// flag TTL in ms (0: none), fence TTL in ms.
var renewScript = goredis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return 1
`)

// announceScript counts a change and tells the subscribers.
var announceScript = goredis.NewScript(`
local version = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[1], version)
return version
`)

// pruneScript takes a flag that has lapsed out of its tenant's index. KEYS: flag, index.
var pruneScript = goredis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], KEYS[1]) end
return 0
`)

// Apply puts the flag on unless a newer order for its key and kind is known. It is idempotent: a
// retry of the newest order reports true again. The current flag is the one now stored; where a
// newer release won, it has only a key, a kind and that release's sequence. After an error the
// caller applies again: the flag may be stored and not yet announced.
func (c *Client) Apply(ctx context.Context, f routing.Flag) (applied bool, current routing.Flag, err error) {
	if err := check(f); err != nil {
		return false, routing.Flag{}, fmt.Errorf("applying the %s flag of %s: %w", f.Kind, f.Key, err)
	}
	f.RenewedAt, f.ExpiresAt = f.RenewedAt.UTC(), f.ExpiresAt.UTC()
	stored, err := json.Marshal(f)
	if err != nil {
		return false, routing.Flag{}, fmt.Errorf("encoding the %s flag of %s: %w", f.Kind, f.Key, err)
	}
	if len(stored) > maxFlag {
		return false, routing.Flag{}, fmt.Errorf("the %s flag of %s is %d bytes long, more than %d: shorten its reason", f.Kind, f.Key, len(stored), maxFlag)
	}
	// The tenant is listed first, so that no reader can miss a flag that is stored.
	if err := c.rdb.SAdd(ctx, tenantsKey, url.QueryEscape(f.Key.Tenant)).Err(); err != nil {
		return false, routing.Flag{}, fmt.Errorf("listing tenant %q in redis: %w", f.Key.Tenant, err)
	}
	reply, err := applyScript.Run(ctx, c.rdb, namesOf(f.Key, f.Kind).keys(),
		f.Sequence.Loop, f.Sequence.N, stored, ttl(f.Kind).Milliseconds(), FenceTTL.Milliseconds()).Slice()
	if err != nil {
		return false, routing.Flag{}, fmt.Errorf("applying the %s flag of %s: %w", f.Kind, f.Key, err)
	}
	won, now, fence := reply[0].(int64) == 1, reply[1].(string), reply[2].(string)
	if now == "" {
		current = routing.Flag{Key: f.Key, Kind: f.Kind}
		if _, err := fmt.Sscanf(fence, "%d %d", &current.Sequence.Loop, &current.Sequence.N); err != nil {
			return false, routing.Flag{}, fmt.Errorf("reading the fence %q of %s: %w", fence, f.Key, err)
		}
	} else if err := json.Unmarshal([]byte(now), &current); err != nil {
		return false, routing.Flag{}, fmt.Errorf("reading the stored %s flag of %s: %w", f.Kind, f.Key, err)
	}
	if !won {
		return false, current, nil
	}
	return true, current, c.announce(ctx)
}

// Release takes the flag off unless a newer order is known, and remembers the sequence for FenceTTL,
// so that no late retry of an older order can bring the flag back. It is idempotent, and releasing a
// flag that has lapsed succeeds.
func (c *Client) Release(ctx context.Context, key usage.Key, kind routing.Kind, seq routing.Sequence) (released bool, err error) {
	if err := errors.Join(checkKey(key), checkKind(kind), checkSequence(seq)); err != nil {
		return false, fmt.Errorf("releasing the %s flag of %s: %w", kind, key, err)
	}
	n, err := releaseScript.Run(ctx, c.rdb, namesOf(key, kind).keys(), seq.Loop, seq.N, FenceTTL.Milliseconds()).Int()
	if err != nil {
		return false, fmt.Errorf("releasing the %s flag of %s: %w", kind, key, err)
	}
	if n == 0 {
		return false, nil
	}
	return true, c.announce(ctx)
}

// Renew says that the flag's owner is alive: it starts the flag's TTL again and advances its
// RenewedAt. It reports false when the flag of this sequence is not stored (it lapsed, or Redis was
// wiped, or another order took its place): the owner then applies its current order again.
func (c *Client) Renew(ctx context.Context, key usage.Key, kind routing.Kind, seq routing.Sequence, renewedAt time.Time) (bool, error) {
	if err := errors.Join(checkKey(key), checkKind(kind), checkSequence(seq)); err != nil {
		return false, fmt.Errorf("renewing the %s flag of %s: %w", kind, key, err)
	}
	names := namesOf(key, kind)
	for range 10 { // one key has one owner: a lost race is rare, and ten in a row are a fault
		old, err := c.rdb.Get(ctx, names.flag).Result()
		if errors.Is(err, goredis.Nil) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("reading the %s flag of %s: %w", kind, key, err)
		}
		var f routing.Flag
		if err := json.Unmarshal([]byte(old), &f); err != nil {
			return false, fmt.Errorf("reading the stored %s flag of %s: %w", kind, key, err)
		}
		if f.Sequence != seq {
			return false, nil
		}
		if renewedAt.After(f.RenewedAt) {
			f.RenewedAt = renewedAt.UTC()
		}
		renewed, err := json.Marshal(f)
		if err != nil {
			return false, fmt.Errorf("encoding the %s flag of %s: %w", kind, key, err)
		}
		swapped, err := renewScript.Run(ctx, c.rdb, names.keys(), old, renewed, ttl(kind).Milliseconds(), FenceTTL.Milliseconds()).Int()
		if err != nil {
			return false, fmt.Errorf("renewing the %s flag of %s: %w", kind, key, err)
		}
		if swapped == 1 {
			return true, c.announce(ctx)
		}
	}
	return false, fmt.Errorf("renewing the %s flag of %s: another writer kept changing it", kind, key)
}

// announce makes a change known to all gateways.
func (c *Client) announce(ctx context.Context) error {
	if _, err := c.epoch(ctx); err != nil {
		return err
	}
	if err := announceScript.Run(ctx, c.rdb, []string{versionKey}, channel).Err(); err != nil {
		return fmt.Errorf("announcing a flag in redis: %w", err)
	}
	return nil
}

// epoch reads the epoch and begins a new one when Redis has none: it is new, or was wiped.
func (c *Client) epoch(ctx context.Context) (string, error) {
	epoch, err := c.rdb.Get(ctx, epochKey).Result()
	if err == nil {
		return epoch, nil
	}
	if !errors.Is(err, goredis.Nil) {
		return "", fmt.Errorf("reading redis's epoch: %w", err)
	}
	if err := c.rdb.SetNX(ctx, epochKey, rand.Text(), 0).Err(); err != nil {
		return "", fmt.Errorf("beginning a redis epoch: %w", err)
	}
	if epoch, err = c.rdb.Get(ctx, epochKey).Result(); err != nil {
		return "", fmt.Errorf("reading redis's new epoch: %w", err)
	}
	return epoch, nil
}

// Revision is the state of the flags, cheap enough to read every second. When its epoch differs from
// the one that an owner of flags saw last, the owner applies its flags again.
func (c *Client) Revision(ctx context.Context) (routing.Revision, error) {
	epoch, err := c.epoch(ctx)
	if err != nil {
		return routing.Revision{}, err
	}
	version, err := c.rdb.Get(ctx, versionKey).Int64()
	if err != nil && !errors.Is(err, goredis.Nil) {
		return routing.Revision{}, fmt.Errorf("reading the flags' version: %w", err)
	}
	return routing.Revision{Epoch: epoch, Version: version}, nil
}

// Flags reads all flags. The revision is read before them, so a change during the read shows as a
// newer revision at the next look. Values that are not what their key says are logged and left out:
// one bad value must not blind every gateway.
func (c *Client) Flags(ctx context.Context) ([]routing.Flag, routing.Revision, error) {
	revision, err := c.Revision(ctx)
	if err != nil {
		return nil, routing.Revision{}, err
	}
	tenants, err := c.rdb.SMembers(ctx, tenantsKey).Result()
	if err != nil {
		return nil, routing.Revision{}, fmt.Errorf("listing the tenants with flags: %w", err)
	}
	indexes := make([]*goredis.StringSliceCmd, len(tenants))
	if err := c.pipelined(ctx, func(p goredis.Pipeliner) {
		for i, t := range tenants {
			indexes[i] = p.SMembers(ctx, indexOf(t))
		}
	}); err != nil {
		return nil, routing.Revision{}, fmt.Errorf("listing the flags: %w", err)
	}
	type stored struct {
		key, index string
		value      *goredis.StringCmd
	}
	var all []stored
	for i, t := range tenants {
		for _, key := range indexes[i].Val() {
			all = append(all, stored{key: key, index: indexOf(t)})
		}
	}
	if len(all) > maxFlags {
		return nil, routing.Revision{}, fmt.Errorf("redis lists %d flags, more than the %d that a reader takes", len(all), maxFlags)
	}
	if err := c.pipelined(ctx, func(p goredis.Pipeliner) {
		for i := range all {
			all[i].value = p.Get(ctx, all[i].key)
		}
	}); err != nil {
		return nil, routing.Revision{}, fmt.Errorf("reading the flags: %w", err)
	}
	flags := make([]routing.Flag, 0, len(all))
	for _, s := range all {
		if errors.Is(s.value.Err(), goredis.Nil) {
			if err := pruneScript.Run(ctx, c.rdb, []string{s.key, s.index}).Err(); err != nil {
				return nil, routing.Revision{}, fmt.Errorf("unlisting the lapsed flag %s: %w", s.key, err)
			}
			continue
		}
		var f routing.Flag
		if err := json.Unmarshal([]byte(s.value.Val()), &f); err != nil || namesOf(f.Key, f.Kind).flag != s.key || check(f) != nil {
			c.log.WarnContext(ctx, "ignoring a value in redis that is not the flag that its key names", "key", s.key)
			continue
		}
		flags = append(flags, f)
	}
	return flags, revision, nil
}

// pipelined sends many commands at once. That a value does not exist is no error.
func (c *Client) pipelined(ctx context.Context, queue func(goredis.Pipeliner)) error {
	p := c.rdb.Pipeline()
	queue(p)
	if p.Len() == 0 {
		return nil
	}
	commands, err := p.Exec(ctx)
	if err == nil || !errors.Is(err, goredis.Nil) {
		return err
	}
	for _, cmd := range commands {
		if err := cmd.Err(); err != nil && !errors.Is(err, goredis.Nil) {
			return err
		}
	}
	return nil
}

// Subscribe calls changed after each announced change, and each time the subscription is set up
// anew, since changes may have been missed. It returns when ctx ends, and never calls concurrently.
func (c *Client) Subscribe(ctx context.Context, changed func()) error {
	sub := c.rdb.Subscribe(ctx, channel)
	defer sub.Close()
	messages := sub.ChannelWithSubscriptions()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-messages:
			if !ok {
				return errors.New("redis closed the subscription to flags")
			}
			changed()
		}
	}
}

// ttl is how long Redis keeps a flag whose owner is silent; 0 is for ever. A pin must outlive its
// owner: it undoes a deployment.
func ttl(kind routing.Kind) time.Duration {
	if kind == routing.Pin {
		return 0
	}
	return routing.TTL
}

// check refuses flags that no gateway could obey.
func check(f routing.Flag) error {
	err := errors.Join(checkKey(f.Key), checkKind(f.Kind), checkSequence(f.Sequence))
	if !(f.Share >= 0 && f.Share <= 1) { // so written, it also refuses NaN
		err = errors.Join(err, fmt.Errorf("the share %v is not in 0..1", f.Share))
	}
	if (f.Kind == routing.Route || f.Kind == routing.Pin) && f.Value == "" {
		err = errors.Join(err, errors.New("it names no model to serve the calls"))
	}
	return err
}

func checkKey(key usage.Key) error {
	for _, name := range []struct{ what, is string }{{"tenant", key.Tenant}, {"model", key.Model}} {
		switch {
		case name.is == "":
			return fmt.Errorf("its %s is empty", name.what)
		case len(name.is) > maxName:
			return fmt.Errorf("its %s is %d bytes long, more than %d", name.what, len(name.is), maxName)
		case !utf8.ValidString(name.is):
			return fmt.Errorf("its %s %q is not UTF-8", name.what, name.is)
		}
	}
	if !key.OwnsFlags() {
		return fmt.Errorf("%s owns no flags: it is no single model's production", key)
	}
	return nil
}

func checkKind(kind routing.Kind) error {
	switch kind {
	case routing.Route, routing.Pin, routing.Stop, routing.Shape, routing.Sampling:
		return nil
	}
	return fmt.Errorf("there is no kind of flag %q", kind)
}

func checkSequence(s routing.Sequence) error {
	const exact = math.MaxInt64 >> 10 // 2^53 − 1
	if s.Loop < 0 || s.N < 0 || s.Loop > exact || s.N > exact {
		return fmt.Errorf("the sequence %d.%d is not in 0..2^53", s.Loop, s.N)
	}
	return nil
}
