package redis

import (
	"context"
	"fmt"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flyball-dev/flyball/internal/routing"
)

// trustKey is a hash of tenants to the fallback rule that each trusts. It lapses with its publisher, like a flag.
const trustKey = "flyball:trust:fallback"

// PublishTrust says which tenants trust their fallback rule, and which rule that is, in place of what was said before.
func (c *Client) PublishTrust(ctx context.Context, rules map[string]string) error {
	_, err := c.rdb.TxPipelined(ctx, func(p goredis.Pipeliner) error {
		p.Del(ctx, trustKey)
		if len(rules) > 0 {
			p.HSet(ctx, trustKey, rules)
			p.PExpire(ctx, trustKey, routing.TTL)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("publishing who trusts the fallback rule: %w", err)
	}
	return nil
}

// Trust is what PublishTrust last said, empty when nobody has for routing.TTL or Redis was wiped: until it is said
// again nobody is trusted, which changes no call.
func (c *Client) Trust(ctx context.Context) (rules map[string]string, err error) {
	if rules, err = c.rdb.HGetAll(ctx, trustKey).Result(); err != nil {
		return nil, fmt.Errorf("reading who trusts the fallback rule: %w", err)
	}
	return rules, nil
}
