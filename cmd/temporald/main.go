// Command temporald is a real Temporal server with its web UI in one process, kept in one SQLite file, for people who
// have neither docker nor the temporal command line. It listens on loopback only, holds nothing that a Temporal cluster
// would not, and is a module of its own so that nobody who builds the rest has to compile a server.
//
// It prints one line to stdout once clients can connect,
//
//	temporald ready grpc=127.0.0.1:7233 ui=http://127.0.0.1:8233
//
// logs to stderr, and stops on SIGINT, on SIGTERM or, with --exit-with-stdin, when stdin closes. It exits with 2 when it
// was started wrongly (a bad flag, a taken port) and with 1 when it failed later.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/api/enums/v1"
)

// stopWithin bounds a clean stop, which takes about 3 s. Cutting it short loses nothing: every acknowledged write is in
// the file already.
const stopWithin = 10 * time.Second

// options is what the command line says.
type options struct {
	data             string
	listen, ui       netip.AddrPort
	namespace        string
	searchAttributes map[string]enums.IndexedValueType
	exitWithStdin    bool
}

// errUsage marks errors that the caller can mend by starting temporald differently.
var errUsage = errors.New("usage")

func main() {
	stdout := os.Stdout
	os.Stdout = os.Stderr // libraries that log to stdout must not spoil the ready line

	o, err := parse(os.Args[1:])
	if err == nil {
		err = run(o, stdout)
	}
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "temporald:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "temporald:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string) (options, error) {
	o := options{searchAttributes: map[string]enums.IndexedValueType{}}
	f := flag.NewFlagSet("temporald", flag.ContinueOnError)
	f.StringVar(&o.data, "data", "", "`directory` of the database file (required)")
	f.StringVar(&o.namespace, "namespace", "default", "namespace to register")
	f.BoolVar(&o.exitWithStdin, "exit-with-stdin", false, "stop when stdin closes, so that no server outlives its parent")
	f.TextVar(&o.listen, "listen", netip.MustParseAddrPort("127.0.0.1:7233"), "`address` of the gRPC front end")
	f.TextVar(&o.ui, "ui-listen", netip.MustParseAddrPort("127.0.0.1:8233"), "`address` of the web UI")
	f.Func("search-attribute", "`Name=Type` to register in a new namespace, such as FlyballTenant=Keyword (repeatable)",
		func(s string) error {
			name, typ, _ := strings.Cut(s, "=")
			t, err := enums.IndexedValueTypeFromString(typ)
			if err != nil || name == "" {
				return errors.New("want Name=Keyword, Text, Int, Double, Bool, Datetime or KeywordList")
			}
			o.searchAttributes[name] = t
			return nil
		})
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, fmt.Errorf("%w: %w", errUsage, err)
	}
	if o.data == "" || f.NArg() > 0 {
		return o, fmt.Errorf("%w: --data DIR is required and nothing may follow the flags", errUsage)
	}
	return o, nil
}

// run serves until it is told to stop, and writes the ready line to stdout.
func run(o options, stdout io.Writer) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	orphaned := make(chan struct{})
	if o.exitWithStdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(orphaned)
		}()
	}

	for what, addr := range map[string]netip.AddrPort{"--listen": o.listen, "--ui-listen": o.ui} {
		if err := checkFree(addr); err != nil {
			return fmt.Errorf("%w: %s %s: %w: stop what listens there or give another port", errUsage, what, addr, err)
		}
	}
	s, err := start(o)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "temporald ready grpc=%s ui=http://%s\n", o.listen, o.ui)

	select {
	case <-stop:
	case <-orphaned:
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	select {
	case err := <-stopped:
		return err
	case <-time.After(stopWithin):
		return fmt.Errorf("the server did not stop within %s; nothing is lost", stopWithin)
	}
}

// checkFree says why addr cannot be listened on. The UI server would otherwise end the process without saying so.
func checkFree(addr netip.AddrPort) error {
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return err
	}
	return l.Close()
}
