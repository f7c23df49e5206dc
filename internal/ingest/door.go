package ingest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Token lets a sender in.
type Token struct {
	Hash   string // HashToken of the secret
	Tenant string // whose telemetry it may send; "" is trusted for all tenants
}

// ErrNoToken is why a request is refused that needs a token and brings none that is known: 401 over HTTP.
// Every other refusal of a Door is a 403.
var ErrNoToken = errors.New("send a valid ingest token: Authorization: Bearer …")

// Door decides who may speak to ingest, and to whatever else is served beside it.
type Door struct {
	tenants map[string]string // by hash of the token
}

// NewDoor returns the door to which tokens are the keys. Without any it lets in programs on this machine alone.
func NewDoor(tokens []Token) (*Door, error) {
	d := &Door{tenants: map[string]string{}}
	for _, t := range tokens {
		if len(t.Hash) != sha256.Size*2 {
			return nil, fmt.Errorf("ingest token of tenant %q: want the hex SHA-256 of the secret", t.Tenant)
		}
		d.tenants[t.Hash] = t.Tenant
	}
	return d, nil
}

// Admit finds the tenant that the sender's token names, "" when it may speak for all.
func (d *Door) Admit(r *http.Request) (tenant string, err error) {
	if len(d.tenants) == 0 {
		return "", admitLocal(r)
	}
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if tenant, known := d.tenants[HashToken(strings.TrimSpace(secret))]; ok && known {
		return tenant, nil
	}
	return "", ErrNoToken
}

// admitLocal lets programs on this machine in, and no web page that runs in a browser here: neither one
// that says where it is from, nor one whose own host name was made to point to this machine.
func admitLocal(r *http.Request) error {
	switch {
	case !loopback(r.RemoteAddr):
		return errors.New("no ingest tokens are configured, so only loopback is let in: configure a token for this sender")
	case r.Header.Get("Origin") != "":
		return errors.New("web pages are not let in without an ingest token")
	case !plainHost(r.Host):
		return fmt.Errorf("no ingest tokens are configured, so the host name %q is not answered to: use localhost or an IP address", r.Host)
	}
	return nil
}

func loopback(remote string) bool {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// plainHost reports whether the host that a request names is an IP address or localhost, which nobody
// else's DNS can make to mean this machine.
func plainHost(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	host = strings.Trim(strings.ToLower(host), "[]")
	_, err = netip.ParseAddr(host)
	return err == nil || host == "localhost"
}
