package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/flyball-dev/flyball/internal/replay"
	"github.com/flyball-dev/flyball/internal/standing"
)

func ratingsCommand() *cobra.Command {
	var url, scale string
	cmd := &cobra.Command{
		Use:   "ratings FILE.csv",
		Short: "Send people's ratings of calls, which evaluators are measured by",
		Long: `Read a CSV file with a header and send each row as a quality event of kind human. Columns, in any order:

  trace_id   the call's trace; needed
  score      from 0 to 1, or
  rating     on the scale that --scale names
  rater      who rated ("people" when left out); a rater counts once for a call
  span_id, tenant_id, model   where the trace alone does not name the call
  timestamp  when, as 2026-01-15T09:23:47Z; now when left out

An event's id follows from the row, so that a file that is sent again is stored once. Where the API wants a token, it
is taken from the environment variable ` + ingestToken + `.

On stdout: {"sent","accepted","refused","duplicates","unreadable"}. Bad rows are named by line and left out. Exit 1 when
a row was refused or unreadable, 3 when the API is away.`,
		Example: "  flyball judge ratings ratings.csv\n  flyball judge ratings survey.csv --scale 1..5",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := serviceURL(url, "ingest", ingestDefault)
			if err != nil {
				return err
			}
			var of *standing.Scale
			if scale != "" {
				s, err := standing.ParseScale(scale)
				if err != nil {
					return &exitError{exitUsage, fmt.Errorf("--scale: %w", err)}
				}
				of = &s
			}
			file, err := os.Open(filepath.Clean(args[0]))
			if err != nil {
				return &exitError{exitUsage, err}
			}
			defer file.Close()
			return sendRatings(cmd.Context(), args[0], file, of, at, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "ingest address (default from "+addressesFile+", else "+ingestDefault+")")
	cmd.Flags().StringVar(&scale, "scale", "", "least and greatest rating, as 1..5, of the column rating")
	return cmd
}

// ratingBatch is how many ratings are sent at once.
const ratingBatch = 1000

// ratingSender sends ratings in batches and counts what becomes of them.
type ratingSender struct {
	client *replay.Client
	bad    func(line int, reason string)
	batch  []json.RawMessage
	lines  []int
	result replay.Result
}

func sendRatings(ctx context.Context, name string, file *os.File, scale *standing.Scale, url string, out, errs io.Writer) error {
	info, err := file.Stat()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	terminal, _ := errs.(*os.File)
	bar := progressbar.NewOptions64(info.Size(),
		progressbar.OptionSetWriter(errs), progressbar.OptionSetDescription(filepath.Base(name)),
		progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetVisibility(terminal != nil && term.IsTerminal(int(terminal.Fd()))))
	rows, err := standing.ReadRatings(io.TeeReader(file, bar), scale, time.Now())
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("%s: %w", name, err)}
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	bad := 0
	s := &ratingSender{
		client: &replay.Client{
			URL: url, Token: os.Getenv(ingestToken), Patience: replayPatience, HTTP: &http.Client{Timeout: time.Minute, Transport: transport},
		},
		bad: func(line int, reason string) {
			if bad++; bad <= maxBadRows {
				_ = bar.Clear()
				fmt.Fprintf(errs, "%s:%d: %s\n", name, line, reason)
			}
		},
	}
	err = s.sendAll(ctx, rows)
	_ = bar.Finish()
	if bad > maxBadRows {
		fmt.Fprintf(errs, "%s: and %d more bad rows\n", name, bad-maxBadRows)
	}
	if err := json.NewEncoder(out).Encode(s.result); err != nil {
		return err
	}
	switch {
	case errors.Is(err, replay.ErrAway):
		return &exitError{exitAway, fmt.Errorf("%w\nIs Flyball running? Start it with `flyball up`, or pass --url; then send the file again", err)}
	case err != nil:
		return &exitError{exitFailed, fmt.Errorf("%s: %w", name, err)}
	case s.result.Refused+s.result.Unreadable > 0:
		return &exitError{exitFailed, fmt.Errorf("%s: %s did not go in", name, plural(s.result.Refused+s.result.Unreadable, "row"))}
	}
	return nil
}

func (s *ratingSender) sendAll(ctx context.Context, rows *standing.Ratings) error {
	for {
		rating, err := rows.Next()
		var row *standing.RowError
		switch {
		case errors.Is(err, io.EOF):
			return s.flush(ctx)
		case errors.As(err, &row):
			s.result.Unreadable++
			s.bad(row.Line, row.Reason)
			continue
		case err != nil:
			return errors.Join(err, s.flush(ctx))
		}
		text, err := json.Marshal(rating)
		if err != nil {
			return err
		}
		s.batch, s.lines = append(s.batch, text), append(s.lines, rating.Line)
		if len(s.batch) == ratingBatch {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
}

func (s *ratingSender) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	receipt, err := s.client.Send(ctx, "/v1/quality", s.batch)
	if err != nil {
		return err
	}
	s.result.Sent += len(s.batch)
	s.result.Accepted += receipt.Accepted
	s.result.Duplicates += receipt.Duplicates
	s.result.Refused += len(receipt.Refused)
	for _, r := range receipt.Refused {
		if r.Index >= 0 && r.Index < len(s.lines) {
			s.bad(s.lines[r.Index], fmt.Sprintf("refused: %s: %s", r.Field, r.Reason))
		}
	}
	s.batch, s.lines = s.batch[:0], s.lines[:0]
	return nil
}
