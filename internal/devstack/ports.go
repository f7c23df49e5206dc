package devstack

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

const loopback = "127.0.0.1"

// The ports that people know by heart.
const (
	defaultIngest  = 8080
	defaultConsole = 8088
	defaultOTLP    = 4317 // a collector may have it already: then another one will do
)

// Free ports are looked for below the range from which systems take the ports of outgoing connections: in it,
// any connection could take the port of a child that is built for minutes or restarts.
const (
	freeFrom = 20000
	freeTo   = 32000
)

// Ports are the loopback ports of a stack.
type Ports struct {
	Ingest, Console, ClickHouse, Redis, Temporal, TemporalUI, OTLP int
}

// PickPorts chooses the ports: seven in a row from base, or, when base is zero, the known ones for ingest and
// console, OTLP's own where it is free, and free ones for the rest. A chosen port that is taken is a SetupError.
func PickPorts(base int) (Ports, error) {
	var p Ports
	named := []struct {
		what string
		port *int
	}{
		{"ingest and gateway", &p.Ingest},
		{"the console", &p.Console},
		{"ClickHouse", &p.ClickHouse},
		{"Redis", &p.Redis},
		{"Temporal", &p.Temporal},
		{"the Temporal UI", &p.TemporalUI},
		{"OTLP", &p.OTLP},
	}
	if base != 0 && (base < 1 || base+len(named)-1 > 65535) {
		return Ports{}, &SetupError{
			Problem: fmt.Sprintf("--port-base %d leaves no room for %d ports", base, len(named)),
			Mend:    "give one from 1024 to 65000",
		}
	}
	if base == 0 {
		p.Ingest, p.Console = defaultIngest, defaultConsole
		if checkFree(defaultOTLP) == nil {
			p.OTLP = defaultOTLP
		}
	} else {
		for i := range named {
			*named[i].port = base + i
		}
	}
	next := freeFrom + rand.IntN(freeTo-freeFrom)
	for _, n := range named {
		if *n.port == 0 {
			free, err := freePort(next)
			if err != nil {
				return Ports{}, err
			}
			*n.port, next = free, free+1
			continue
		}
		if err := checkFree(*n.port); err != nil {
			return Ports{}, &SetupError{
				Problem: fmt.Sprintf("port %d, for %s, cannot be had (%v)", *n.port, n.what, err),
				Mend:    "stop what listens there, or choose other ports with --port-base N",
				Err:     err,
			}
		}
	}
	return p, nil
}

// freePort returns the first free port from start on, going round in the range of free ports.
func freePort(start int) (int, error) {
	for i := range freeTo - freeFrom {
		port := freeFrom + (start-freeFrom+i)%(freeTo-freeFrom)
		if checkFree(port) == nil {
			return port, nil
		}
	}
	return 0, &SetupError{
		Problem: fmt.Sprintf("no port from %d to %d is free", freeFrom, freeTo-1),
		Mend:    "choose ports with --port-base N",
	}
}

func checkFree(port int) error {
	l, err := net.Listen("tcp", address(port))
	if err != nil {
		return err
	}
	return l.Close()
}

// address is the loopback address of a port.
func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
