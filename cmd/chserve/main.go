// Command chserve serves ClickHouse's HTTP interface on loopback from the ClickHouse engine library, so
// that `flyball up` needs no database server: clickhouse-go in HTTP mode works with it unchanged.
//
// It prints one line, "chserve ready http://127.0.0.1:PORT", to standard output once it serves, and logs
// to standard error. It stops on SIGTERM, SIGINT or, with --exit-with-stdin, at the end of standard
// input. Exit codes: 0 stopped when asked to, 1 failed while serving, 2 could not start (bad usage or
// configuration, a data directory in use, a taken port, no engine library).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	opts, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "chserve:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if opts.exitWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			defer cancel()
			_, _ = io.Copy(io.Discard, stdin) // its end matters, however it comes
		}()
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	service, err := start(opts, log)
	if err != nil {
		fmt.Fprintln(stderr, "chserve:", err)
		return 2
	}
	fmt.Fprintf(stdout, "chserve ready %s\n", service.url())
	if err := service.serve(ctx); err != nil {
		fmt.Fprintln(stderr, "chserve:", err)
		return 1
	}
	return 0
}
