package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/flyball-dev/flyball/internal/replay"
)

// replayPatience is how long a replay waits for an ingest API that pushes back or is being restarted.
const replayPatience = time.Minute

// ingestToken is the environment variable with the token of an ingest API that is not open.
const ingestToken = "FLYBALL_INGEST_TOKEN"

func replayCommand() *cobra.Command {
	var (
		o           replay.Options
		format, url string
	)
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Send a trace file through the ingest API",
		Long: `Replay reads a trace file and sends each row as a span to the ingest API.

Formats: azure-csv (TIMESTAMP,ContextTokens,GeneratedTokens), mooncake-jsonl (prefix-cache hits are
worked out from hash_ids against an unbounded cache) and spans (one object per line, as POST /v1/spans
takes them). Rows that name no tenant or model get "` + replay.DefaultTenant + `" and "` + replay.DefaultModel + `".

A row's ids depend on its tenant, the file's name, the row and --run only, so a replay that was
stopped is completed by the same command with the same --run, and nothing is stored twice.

Where the ingest API wants a token, it is taken from the environment variable ` + ingestToken + `.

On stdout: {"sent","accepted","refused","duplicates","unreadable"}; accepted are new, duplicates were
acknowledged before, unreadable rows were not sent. Exit 1 when a row was refused or unreadable, 3
when the ingest API is away.`,
		Example: `  flyball replay AzureLLMInferenceTrace_code.csv --now --run first
  flyball replay synthetic_trace.jsonl --tenant org_7 --model claude-3-haiku --speed 10`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Speed != 0 && !(o.Speed >= 0.001 && o.Speed <= math.MaxInt32) {
				return &exitError{exitUsage, fmt.Errorf("--speed %g: give 0 (as fast as it goes) or a number from 0.001", o.Speed)}
			}
			file, err := replay.Open(args[0], replay.Format(format))
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if url, err = serviceURL(url, "ingest", ingestDefault); err != nil {
				return err
			}
			o.Shift = o.Shift || !file.Dated()
			if o.Run == "" {
				o.Run = uuid.NewString()
			}
			return runReplay(cmd.Context(), file, o, url, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&format, "format", "", "azure-csv, mooncake-jsonl or spans (guessed when left out)")
	flags.Float64Var(&o.Speed, "speed", 0, "of the trace's own pace; 0 is as fast as it goes")
	flags.StringVar(&o.Tenant, "tenant", "", "tenant of every row (default: the row's own, else "+replay.DefaultTenant+")")
	flags.StringVar(&o.Model, "model", "", "model of every row (default: the row's own, else "+replay.DefaultModel+")")
	flags.BoolVar(&o.Shift, "now", false, "shift times so that the last row lands at now (implied where the file has no dates)")
	flags.StringVar(&o.Run, "run", "", "name of the run; the same run twice stores once (default random)")
	flags.StringVar(&url, "url", "", "ingest address (default from "+addressesFile+", else "+ingestDefault+")")
	return cmd
}

// maxBadRows is how many bad rows are shown one by one.
const maxBadRows = 20

func runReplay(ctx context.Context, file *replay.File, o replay.Options, url string, out, errs io.Writer) error {
	info, err := os.Stat(file.Path)
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("reading the trace file: %w", err)}
	}
	terminal, _ := errs.(*os.File)
	bar := progressbar.NewOptions64(info.Size(),
		progressbar.OptionSetWriter(errs),
		progressbar.OptionSetDescription(filepath.Base(file.Path)),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetVisibility(terminal != nil && term.IsTerminal(int(terminal.Fd()))))
	bad := 0
	o.OnSent = func(bytes int64) { _ = bar.Set64(bytes) }
	o.OnBad = func(err *replay.RowError) {
		if bad++; bad <= maxBadRows {
			_ = bar.Clear()
			fmt.Fprintf(errs, "%s: %v\n", file.Path, err)
		}
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &replay.Client{URL: url, Token: os.Getenv(ingestToken), Patience: replayPatience, HTTP: &http.Client{Timeout: time.Minute, Transport: transport}}

	began := time.Now()
	result, err := replay.Replay(ctx, file, o, func(ctx context.Context, spans []json.RawMessage) (replay.Receipt, error) {
		return client.Send(ctx, "/v1/spans", spans)
	})
	_ = bar.Finish()
	if bad > maxBadRows {
		fmt.Fprintf(errs, "%s: and %d more bad rows\n", file.Path, bad-maxBadRows)
	}
	if jsonErr := json.NewEncoder(out).Encode(result); jsonErr != nil {
		return &exitError{exitFailed, fmt.Errorf("writing the result: %w", jsonErr)}
	}
	switch {
	case errors.Is(err, replay.ErrAway):
		return &exitError{exitAway, fmt.Errorf("%w\nIs Flyball running? Start it with `flyball up`, or pass --url; then complete this replay with --run %s", err, o.Run)}
	case err != nil:
		return &exitError{exitFailed, fmt.Errorf("%w\nComplete this replay with --run %s", err, o.Run)}
	case result.Refused > 0 || result.Unreadable > 0:
		return &exitError{exitFailed, fmt.Errorf("%d of %d rows did not go in", result.Refused+result.Unreadable, result.Sent+result.Unreadable)}
	}
	fmt.Fprintf(errs, "%s: %d rows in %s, run %s\n", file.Path, result.Sent, time.Since(began).Round(10*time.Millisecond), o.Run)
	return nil
}
