package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/replay"
)

// feedback is the body of POST /v1/feedback.
type feedback struct {
	TraceID  string   `json:"trace_id"`
	SpanID   string   `json:"span_id,omitempty"`
	TenantID string   `json:"tenant_id,omitempty"`
	Thumb    string   `json:"thumb,omitempty"`
	Stars    int      `json:"stars,omitempty"`
	Score    *float64 `json:"score,omitempty"`
	By       string   `json:"by"`
}

// feedbackCommand sends what a person thinks of a call.
func feedbackCommand() *cobra.Command {
	var (
		f     feedback
		score float64
		url   string
	)
	cmd := &cobra.Command{
		Use:   "feedback TRACE",
		Short: "Say what you think of a call",
		Long: "Send a person's verdict on a call, named by its trace id, as a quality event of the kind human.\n" +
			"The first verdict of a person on a call stands.\n\n" +
			"Where the ingest API wants a token, it is taken from the environment variable " + ingestToken + ".",
		Example: "  flyball feedback 4bf92f3577b34da6a3ce929d0e0e4736 --thumb up\n" +
			"  flyball feedback abc123 --stars 4 --by ann\n  flyball feedback abc123 --score 0.7 --tenant org_42",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			given := 0
			for _, name := range []string{"thumb", "stars", "score"} {
				if cmd.Flags().Changed(name) {
					given++
				}
			}
			if given != 1 {
				return &exitError{exitUsage, errors.New("give one of --thumb, --stars and --score")}
			}
			f.TraceID = args[0]
			if cmd.Flags().Changed("score") {
				f.Score = &score
			}
			at, err := serviceURL(url, "ingest", ingestDefault)
			if err != nil {
				return err
			}
			return sendFeedback(cmd.Context(), f, at, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Thumb, "thumb", "", "up or down")
	flags.IntVar(&f.Stars, "stars", 0, "from 1 to 5")
	flags.Float64Var(&score, "score", 0, "from 0 to 1")
	flags.StringVar(&f.By, "by", whoami(), "who says so")
	flags.StringVar(&f.SpanID, "span", "", "the call, where the trace has several")
	flags.StringVar(&f.TenantID, "tenant", "", "whose call it is")
	flags.StringVar(&url, "url", "", "ingest address (default from "+addressesFile+", else "+ingestDefault+")")
	return cmd
}

func sendFeedback(ctx context.Context, f feedback, url string, out io.Writer) error {
	body, err := json.Marshal(f)
	if err != nil {
		return err
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &replay.Client{URL: url, Token: os.Getenv(ingestToken), Patience: 10 * time.Second, HTTP: &http.Client{Timeout: time.Minute, Transport: transport}}
	receipt, err := client.Send(ctx, "/v1/feedback", []json.RawMessage{body})
	switch {
	case errors.Is(err, replay.ErrAway):
		return &exitError{exitAway, fmt.Errorf("%w\nIs Flyball running? Start it with `flyball up`, or pass --url", err)}
	case err != nil:
		return &exitError{exitFailed, err}
	case len(receipt.Refused) > 0:
		r := receipt.Refused[0]
		return &exitError{exitFailed, fmt.Errorf("refused: %s %s", r.Field, r.Reason)}
	case receipt.Duplicates > 0:
		fmt.Fprintln(out, "already said: the first verdict stands")
	default:
		fmt.Fprintln(out, "taken")
	}
	return nil
}
