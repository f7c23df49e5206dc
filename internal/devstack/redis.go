package devstack

import (
	"fmt"

	"github.com/alicebob/miniredis/v2"
)

// StartRedis serves an in-process Redis on a loopback port, with keys that expire by the real clock. It is the
// one stand-in of the stack and keeps nothing: a restart begins empty, as a Redis that lost its data would,
// and Flyball rebuilds what it held. The returned function stops it.
func StartRedis(port int, password string) (stop func(), err error) {
	server := miniredis.NewMiniRedis()
	server.RequireAuth(password)
	server.ClockTTL(true)
	if err := server.StartAddr(address(port)); err != nil {
		return nil, fmt.Errorf("starting Redis on port %d: %w", port, err)
	}
	return server.Close, nil
}
