package config

import (
	"fmt"
	"net"
)

// Drills say how the worker reaches the front, whose calls it makes up in a drill.
type Drills struct {
	Ingest string `yaml:"ingest"` // address of ingest and gateway; empty: this machine, at the port of ingest.listen
	Token  string `yaml:"token"`  // where they want one: trusted for all tenants
}

// DrillsTo is where the calls of drills are sent, defaults included.
func (c Config) DrillsTo() Drills {
	if c.Drills.Ingest != "" {
		return c.Drills
	}
	host, port, err := net.SplitHostPort(c.Ingest.Listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return Drills{Ingest: "http://" + net.JoinHostPort(host, port), Token: c.Drills.Token}
}

func (d Drills) problems() []error {
	if d.Ingest != "" && !webAddress(d.Ingest) {
		return []error{fmt.Errorf("drills.ingest: %q is not an http or https address", d.Ingest)}
	}
	return nil
}
