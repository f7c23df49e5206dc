package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/calibrate"
)

// judgeCommand measures evaluators and replaces them.
func judgeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "judge",
		Short: "Measure evaluators against people and each other, and replace one by another",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(correlateCommand(), ratingsCommand(), judgeEvaluatorsCommand(), trialCommand(), compareCommand(), switchCommand())
	return cmd
}

// The bounds of a file of pairs.
const (
	maxPairLine = 1 << 20
	maxPairs    = 10_000_000
)

func correlateCommand() *cobra.Command {
	var asJSON, gate bool
	cmd := &cobra.Command{
		Use:   "correlate FILE",
		Short: "How far an evaluator's scores agree with people's",
		Long: fmt.Sprintf(`Read pairs of scores, one JSON object {"human","judge"} a line (- is standard input), on any two scales, and print
how far they agree: Pearson's correlation, Spearman's of the ranks, equal scores sharing the mean of theirs, and
Kendall's tau-b, corrected for ties. Other fields are passed over.

The gate is a Spearman correlation of %.1f. With --gate the command exits with 1 below it, and when there is nothing
to correlate. The interval is the 95 %% one (Bonett and Wright, 2000): fewer than %d pairs rarely settle it.

Bad lines are named and left out. Exit 1 when there was one.`, calibrate.Gate, calibrate.LeastPairs),
		Example: "  flyball judge correlate pairs.ndjson\n  flyball judge correlate --json --gate - < pairs.ndjson",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := cmd.InOrStdin()
			if args[0] != "-" {
				file, err := os.Open(filepath.Clean(args[0]))
				if err != nil {
					return &exitError{exitUsage, err}
				}
				defer file.Close()
				in = file
			}
			pairs, bad, err := readPairs(in, args[0], cmd.ErrOrStderr())
			if err != nil {
				return &exitError{exitUsage, fmt.Errorf("%s: %w", args[0], err)}
			}
			c := calibrate.Correlate(pairs)
			if err := printCorrelation(cmd.OutOrStdout(), c, asJSON); err != nil {
				return err
			}
			switch {
			case bad > 0:
				return &exitError{exitFailed, fmt.Errorf("%s: %s left out", args[0], plural(bad, "bad line"))}
			case gate && !c.Known:
				return &exitError{exitFailed, fmt.Errorf("%s: %s", args[0], noCorrelation(c))}
			case gate && !c.Passes():
				return &exitError{exitFailed, fmt.Errorf("%s: Spearman %.3f is below the gate of %.1f", args[0], c.Spearman, calibrate.Gate)}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&gate, "gate", false, fmt.Sprintf("exit with 1 below a Spearman correlation of %.1f", calibrate.Gate))
	return cmd
}

// readPairs reads pairs a line, and complains of bad lines.
func readPairs(in io.Reader, name string, errs io.Writer) (pairs []calibrate.Pair, bad int, err error) {
	lines := bufio.NewReaderSize(in, 64<<10)
	for n := 1; ; n++ {
		line, long, err := readLine(lines)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, bad, fmt.Errorf("reading line %d: %w", n, err)
		}
		pair, reason := calibrate.Pair{}, fmt.Sprintf("is longer than %d bytes", maxPairLine)
		text := bytes.TrimSpace(bytes.TrimPrefix(line, []byte("\ufeff")))
		if !long {
			pair, reason = readPair(text)
		}
		switch {
		case !long && len(text) == 0:
		case reason != "":
			if bad++; bad <= maxBadRows {
				fmt.Fprintf(errs, "%s:%d: %s\n", name, n, reason)
			}
		case len(pairs) == maxPairs:
			return nil, bad, fmt.Errorf("has more than %d pairs: take a sample", maxPairs)
		default:
			pairs = append(pairs, pair)
		}
		if err != nil {
			if bad > maxBadRows {
				fmt.Fprintf(errs, "%s: and %d more bad lines\n", name, bad-maxBadRows)
			}
			return pairs, bad, nil
		}
	}
}

// readLine reads a line without keeping more than is allowed of it.
func readLine(r *bufio.Reader) (line []byte, long bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if !long {
			line = append(line, part...)
			long = len(line) > maxPairLine
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, long, err
		}
	}
}

// readPair reads one object; reason says what is wrong with it.
func readPair(text []byte) (p calibrate.Pair, reason string) {
	var fields struct {
		Human *float64 `json:"human"`
		Judge *float64 `json:"judge"`
	}
	var kind *json.UnmarshalTypeError
	switch err := json.Unmarshal(text, &fields); {
	case errors.As(err, &kind) && kind.Field != "":
		return p, fmt.Sprintf("%s must be a number, not a %s", kind.Field, kind.Value)
	case err != nil:
		return p, "is not an object of JSON"
	case fields.Human == nil:
		return p, "human is missing"
	case fields.Judge == nil:
		return p, "judge is missing"
	case math.Abs(*fields.Human) > 1e9 || math.Abs(*fields.Judge) > 1e9:
		return p, "human and judge must be between -1e9 and 1e9"
	}
	return calibrate.Pair{Human: *fields.Human, Judge: *fields.Judge}, ""
}

// noCorrelation is why there is none.
func noCorrelation(c calibrate.Correlation) string {
	if c.N < 2 {
		return fmt.Sprintf("there is nothing to correlate: %s, and it takes two", plural(c.N, "pair"))
	}
	return fmt.Sprintf("there is nothing to correlate: of %d pairs, one of the scores is always the same", c.N)
}

// correlationJSON is what --json prints: measures that mean nothing are null.
type correlationJSON struct {
	N        int      `json:"n"`
	Pearson  *float64 `json:"pearson"`
	Spearman *float64 `json:"spearman"`
	Kendall  *float64 `json:"kendall_tau_b"`
	Low      *float64 `json:"spearman_low"` // of the interval of 95 %
	High     *float64 `json:"spearman_high"`
	Gate     bool     `json:"gate"`
}

func toCorrelationJSON(c calibrate.Correlation) correlationJSON {
	if !c.Known {
		return correlationJSON{N: c.N}
	}
	low, high := c.SpearmanInterval()
	return correlationJSON{c.N, &c.Pearson, &c.Spearman, &c.Kendall, &low, &high, c.Passes()}
}

func printCorrelation(out io.Writer, c calibrate.Correlation, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(toCorrelationJSON(c))
	}
	if !c.Known {
		_, err := fmt.Fprintln(out, "No correlation: "+noCorrelation(c)+".")
		return err
	}
	low, high := c.SpearmanInterval()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "Pairs\t%d\n", c.N)
	fmt.Fprintf(table, "Pearson\t%.3f\n", c.Pearson)
	fmt.Fprintf(table, "Spearman\t%.3f\t(95 %%: %.3f to %.3f)\n", c.Spearman, low, high)
	fmt.Fprintf(table, "Kendall tau-b\t%.3f\n", c.Kendall)
	word := "below"
	if c.Passes() {
		word = "passed"
	}
	if c.Verdict() == calibrate.Inconclusive {
		word += ", but so few pairs do not settle it"
	}
	fmt.Fprintf(table, "Gate of %.1f\t%s\n", calibrate.Gate, word)
	return table.Flush()
}
