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
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/complexity"
	"github.com/flyball-dev/flyball/internal/replay"
)

// complexityPatience is how long an import waits for an API that pushes back or is being restarted.
const complexityPatience = 30 * time.Second

// complexityCommand sets and shows what calls of a task count for.
func complexityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "complexity",
		Short: "What calls of each task count for in the normalised task cost (NTC)",
		Long: "NTC is cost over complexity. A call that does not say its complexity counts as its task does, and as 1\n" +
			"where that is not known. A task's score is how long people take for it, over how long the usual task\n" +
			"takes; or its calls' distance from canonical examples, or what somebody says: POST /v1/complexity.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(complexityImportCommand(), complexityShowCommand())
	return cmd
}

func complexityImportCommand() *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use:   "import FILE.csv",
		Short: "Set tasks' complexity from the times that people took to complete them",
		Long: `Read rows of task,minutes[,tenant], one for each time that somebody completed a task, and set the complexity
of the tasks from them: the task's median over the median of all tasks' medians. A first row of those names is a
header, and may have the columns in another order. Without a tenant a row is for all tenants; a tenant's own
go before. A task's times replace those of an earlier import; tasks that are not in the file stay, and are measured by
the new usual time.

Where the API wants a token, it is taken from the environment variable ` + ingestToken + `.
Bad rows are named by line and left out. Exit 1 when there was one, 3 when the API is away.`,
		Example: "  flyball complexity import times.csv\n  flyball complexity import times.csv --url https://flyball.example.com",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := serviceURL(url, "ingest", ingestDefault)
			if err != nil {
				return err
			}
			file, err := os.Open(filepath.Clean(args[0]))
			if err != nil {
				return &exitError{exitUsage, err}
			}
			defer file.Close()
			return importComplexity(cmd.Context(), args[0], file, at, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "ingest address (default from "+addressesFile+", else "+ingestDefault+")")
	return cmd
}

// maxComplexityBatch bounds the times of one request, and so its size.
const maxComplexityBatch = 200_000

func importComplexity(ctx context.Context, name string, file io.Reader, url string, out, errs io.Writer) error {
	bad := 0
	complain := func(line int, format string, args ...any) {
		if bad++; bad <= maxBadRows {
			fmt.Fprintf(errs, "%s:%d: %s\n", name, line, fmt.Sprintf(format, args...))
		}
	}
	tasks, err := complexity.ReadTimes(file, complain)
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("%s: %w", name, err)}
	}
	if len(tasks)+bad == 0 {
		return &exitError{exitUsage, fmt.Errorf("%s has no rows: want task,minutes[,tenant]", name)}
	}
	if bad > maxBadRows {
		fmt.Fprintf(errs, "%s: and %d more bad rows\n", name, bad-maxBadRows)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &replay.Client{URL: url, Token: os.Getenv(ingestToken), Patience: complexityPatience, HTTP: &http.Client{Timeout: time.Minute, Transport: transport}}
	by, refused, samples := whoami(), 0, 0
	for from := 0; from < len(tasks); {
		to, times := from, 0
		var batch []json.RawMessage
		for to < len(tasks) && (to == from || times+len(tasks[to].Minutes) <= maxComplexityBatch) && len(batch) < 1000 {
			tasks[to].By = by
			text, err := json.Marshal(tasks[to])
			if err != nil {
				return err
			}
			batch = append(batch, text)
			times += len(tasks[to].Minutes)
			to++
		}
		receipt, err := client.Send(ctx, "/v1/complexity", batch)
		switch {
		case errors.Is(err, replay.ErrAway):
			return &exitError{exitAway, fmt.Errorf("%w\nIs Flyball running? Start it with `flyball up`, or pass --url", err)}
		case err != nil:
			return &exitError{exitFailed, err}
		}
		for _, r := range receipt.Refused {
			fmt.Fprintf(errs, "%s: task %q: %s: %s\n", name, tasks[from+r.Index].Task, r.Field, r.Reason)
		}
		refused += len(receipt.Refused)
		samples += times
		from = to
	}
	fmt.Fprintf(out, "%s set from %s\n", plural(len(tasks)-refused, "task"), plural(samples, "time"))
	if bad+refused > 0 {
		return &exitError{exitFailed, fmt.Errorf("%s: %s and %s did not go in", name, plural(bad, "row"), plural(refused, "task"))}
	}
	return nil
}

func complexityShowCommand() *cobra.Command {
	var url string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "List the scores in force",
		Example: "  flyball complexity show\n  flyball complexity show --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := serviceURL(url, "ingest", ingestDefault)
			if err != nil {
				return err
			}
			scores, err := askComplexity(cmd.Context(), at)
			if err != nil {
				return err
			}
			if asJSON {
				return writeLines(cmd.OutOrStdout(), scores)
			}
			return printComplexity(cmd.OutOrStdout(), scores)
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "ingest address (default from "+addressesFile+", else "+ingestDefault+")")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per task")
	return cmd
}

func askComplexity(ctx context.Context, url string) ([]complexity.InForce, error) {
	ctx, cancel := context.WithTimeout(ctx, complexityPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/v1/complexity", nil)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	if token := os.Getenv(ingestToken); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, &exitError{exitAway, fmt.Errorf("%w\nIs Flyball running? Start it with `flyball up`, or pass --url", err)}
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 256<<20))
	if err != nil {
		return nil, &exitError{exitAway, err}
	}
	if answer.StatusCode != http.StatusOK {
		code := exitFailed
		if answer.StatusCode >= 500 {
			code = exitAway
		}
		return nil, &exitError{code, fmt.Errorf("%s answered %s: %.300s", url, answer.Status, strings.TrimSpace(string(body)))}
	}
	var list complexity.List
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, &exitError{exitFailed, fmt.Errorf("%s did not answer as Flyball does: %w", url, err)}
	}
	return list.Scores, nil
}

func printComplexity(out io.Writer, scores []complexity.InForce) error {
	if len(scores) == 0 {
		_, err := fmt.Fprintln(out, "No task has a score: every call that does not say its complexity counts as 1.")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TENANT\tTASK\tSCORE\tSOURCE\tSAMPLES\tMINUTES\tSET AT\tBY")
	for _, s := range scores {
		tenant, minutes := s.TenantID, "-"
		if tenant == "" {
			tenant = "(all)"
		}
		if s.Minutes > 0 {
			minutes = strconv.FormatFloat(s.Minutes, 'g', 6, 64)
		}
		fmt.Fprintf(table, "%s\t%s\t%.3f\t%s\t%d\t%s\t%s\t%s\n", tenant, s.Task, s.Score, s.Source, s.Samples, minutes, s.SetAt.Format(time.DateTime), s.By)
	}
	return table.Flush()
}
