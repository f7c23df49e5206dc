// Package redis keeps routing flags in Redis and is the only importer of its client. It hides the
// key layout, the fencing of late writers, and how readers learn of changes. Redis is a cache here:
// every flag has an owner that can write it again, and the epoch tells the owners when they must.
package redis

import (
	"context"
	"fmt"
	"log/slog"
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
	rdb *goredis.Client
	log *slog.Logger
}

// Open returns a client. It connects when first used, and again whenever the connection is lost.
func Open(o Options) *Client {
	// The driver has one logger for the whole process and only repeats errors that its calls return.
	goredis.SetLogger(driverLog{o.Logger})
	return &Client{
		log: o.Logger,
		rdb: goredis.NewClient(&goredis.Options{
			Addr:                  o.Addr,
			Password:              o.Password,
			DialTimeout:           time.Second,
			ReadTimeout:           time.Second,
			WriteTimeout:          time.Second,
			ContextTimeoutEnabled: true,
			DisableIdentity:       true,
			MaintNotificationsConfig: &maintnotifications.Config{
				Mode: maintnotifications.ModeDisabled, // a hosted service's own extension
			},
		}),
	}
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
