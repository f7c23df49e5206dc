package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/flyball-dev/flyball/internal/config"
)

// dialError says that no connection came about: of the call nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// errPrivate is why an address is not dialled.
var errPrivate = errors.New("the upstream's address is of a private network: say allow_private if that is meant")

// newTransport makes an upstream's connections. There is no proxy between and no redirect is followed (a RoundTripper
// follows none), so the address that is checked is the one that is spoken to.
func newTransport(c config.Upstream) *http.Transport {
	dialer := &net.Dialer{Timeout: c.Timeouts.Connect, KeepAlive: 30 * time.Second}
	if !c.AllowPrivate {
		// The address as it was resolved, for each attempt: a name that means another machine the next time is of no use.
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("dialling %s: %w", address, err)
			}
			if !public(to.Addr()) {
				return errPrivate
			}
			return nil
		}
	}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, &dialError{err}
			}
			return conn, nil
		},
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: c.Timeouts.Connect,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		DisableCompression:  true, // usage is read as it passes by
		MaxIdleConnsPerHost: 2048,
		IdleConnTimeout:     90 * time.Second,
		// An answer's headers are kept in memory.
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// special are the blocks of addresses that are not machines on the internet, beyond those that netip knows: of
// carriers, of tests, of documentation, reserved ones, and those that carry an IPv4 address within (whatever it is).
var special = func() (blocks []netip.Prefix) {
	for _, block := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10",
	} {
		blocks = append(blocks, netip.MustParsePrefix(block))
	}
	return blocks
}()

// public reports whether an address may be that of a provider.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	for _, block := range special {
		if block.Contains(a) {
			return false
		}
	}
	return true
}
