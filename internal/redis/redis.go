// Package redis keeps routing flags in Redis and is the only importer of its client. It hides the
// key layout, the fencing of late writers, and how readers learn of changes. Redis is a cache here:
// every flag has an owner that can write it again, and the epoch tells the owners when they must.
package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options says where Redis is.
type Options struct {
	Addr     string // host:port
	Password string
	Logger   *slog.Logger
}

// Client talks to one Redis. It is safe for concurrent use.
type Client struct {
	rdb    *goredis.Client
	log    *slog.Logger
	server atomic.Pointer[string] // the life of the server that connections were made to last
}

// Open returns a client. It connects when first used, and again whenever the connection is lost.
func Open(o Options) *Client {
	// The driver has one logger for the whole process and only repeats errors that its calls return.
	goredis.SetLogger(driverLog{o.Logger})
	c := &Client{log: o.Logger}
	c.rdb = goredis.NewClient(&goredis.Options{
		Addr:                  o.Addr,
		Password:              o.Password,
		DialTimeout:           time.Second,
		ReadTimeout:           time.Second,
		WriteTimeout:          time.Second,
		ContextTimeoutEnabled: true,
		DisableIdentity:       true,
		OnConnect:             c.recognise,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled, // a hosted service's own extension
		},
	})
	return c
}

// recogniseScript begins another epoch when the server is not the process that it was, or has an epoch and does not say
// whose: it was wiped, then saved, then restarted. ARGV: its run id, a new epoch.
var recogniseScript = goredis.NewScript(`
local before = redis.call('GET', KEYS[1])
if before == ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
if before or redis.call('EXISTS', KEYS[2]) == 1 then redis.call('SET', KEYS[2], ARGV[2]) end
return 1
`)

// recognise notices, before anything is asked on a connection, that the server was restarted or that another took its
// place. Either may have lost its last second without a trace, so what it has is not what was written: the epoch
// tells the owners of flags and the holders of budgets. A server that does not tell its run id is believed.
func (c *Client) recognise(ctx context.Context, conn *goredis.Conn) error {
	info, err := conn.Info(ctx, "server").Result()
	if err != nil {
		c.log.DebugContext(ctx, "redis does not tell its run id", "error", err)
		return nil
	}
	_, rest, ok := strings.Cut(info, "run_id:")
	if !ok {
		return nil
	}
	id, _, _ := strings.Cut(rest, "\r\n")
	if known := c.server.Load(); known != nil && *known == id {
		return nil
	}
	if err := recogniseScript.Run(ctx, conn, []string{serverKey, epochKey}, id, rand.Text()).Err(); err != nil {
		return fmt.Errorf("telling redis's servers apart: %w", err)
	}
	c.server.Store(&id)
	return nil
}

// Close closes the connections.
func (c *Client) Close() error { return c.rdb.Close() }

// Ping asks whether Redis answers.
func (c *Client) Ping(ctx context.Context) error {
	if err := c.rdb.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("pinging redis: %w", err)
	}
	return nil
}

// driverLog passes what the driver prints to slog, for those who debug.
type driverLog struct{ log *slog.Logger }

func (d driverLog) Printf(ctx context.Context, format string, v ...any) {
	d.log.DebugContext(ctx, "redis driver", "message", fmt.Sprintf(format, v...))
}
