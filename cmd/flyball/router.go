package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/router"
)

// routerCommand trains and measures the predictor of quality, and says which version is used.
func routerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "router",
		Short: "Train, measure and switch the predictor of answers' quality",
		Long: "The predictor says how good a model's answer to a prompt will be before the call is made: logistic regression on\n" +
			"hashed n-grams and the shape of the prompt. It is trained from scored calls; prompts are not stored, features are.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(routerTrainCommand(), routerEvalCommand(), routerListCommand(), routerShowCommand(), routerUseCommand(), routerRollbackCommand())
	return cmd
}

// outcomesFile are the flags of a command that reads a file of outcomes.
type outcomesFile struct{ columns router.Columns }

func (o *outcomesFile) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.columns.Prompt, "prompt", "", "column with the prompts (default prompt)")
	cmd.Flags().StringVar(&o.columns.Weak, "weak", "", "column, or model, that is the weak one (default the first besides the prompt's)")
	cmd.Flags().StringVar(&o.columns.Strong, "strong", "", "the strong one (default the second)")
}

// read reads the file, - being standard input, and complains of bad rows. An object in the first line makes it NDJSON.
func (o *outcomesFile) read(cmd *cobra.Command, name string) (rows []router.Row, columns router.Columns, bad int, err error) {
	in := cmd.InOrStdin()
	if name != "-" {
		file, err := os.Open(filepath.Clean(name))
		if err != nil {
			return nil, columns, 0, &exitError{exitUsage, err}
		}
		defer file.Close()
		in = file
	}
	errs := cmd.ErrOrStderr()
	complain := func(line int, reason string) {
		if bad++; bad <= maxBadRows {
			fmt.Fprintf(errs, "%s:%d: %s\n", name, line, reason)
		}
	}
	buffered := bufio.NewReaderSize(in, 64<<10)
	read := router.ReadCSV
	if begin, _ := buffered.Peek(512); len(bytes.TrimLeft(begin, "\ufeff \t\r\n")) > 0 && bytes.TrimLeft(begin, "\ufeff \t\r\n")[0] == '{' {
		read = router.ReadNDJSON
	}
	rows, columns, err = read(buffered, o.columns, complain)
	if err != nil {
		return nil, columns, bad, &exitError{exitUsage, fmt.Errorf("%s: %w", name, err)}
	}
	if bad > maxBadRows {
		fmt.Fprintf(errs, "%s: and %d more bad rows\n", name, bad-maxBadRows)
	}
	return rows, columns, bad, nil
}

func routerEvalCommand() *cobra.Command {
	var file outcomesFile
	var asJSON bool
	var where string
	o, seeds := router.Options{}, 1
	cmd := &cobra.Command{
		Use:   "eval FILE",
		Short: "What a router between a weak and a strong model would be worth, out of fold",
		Long: `Read prompts with the outcomes of two models, CSV with the header prompt,<weak>,<strong> or NDJSON with such fields (or with
one answer a line: {"prompt","model","score"}), and predict each prompt's outcomes by models trained on the other
folds. Outcomes are scores from 0 to 1, or true and false. Other columns are passed over, but for <weak>_cost_usd and
<strong>_cost_usd, what the calls did cost. - is standard input.

  auc    how well the weak model's outcomes are foreseen: the share of pairs of prompts put in the right order
  apgr   the share of the gap between the models that is recovered, averaged over all shares of strong calls;
         drawing lots makes 0.5 (Ong et al., RouteLLM, 2024)
  cpt50  the least share of strong calls that recovers 50 % of the gap; cpt80, 80 %

--seeds draws the folds anew so many times and prints each figure's mean, its standard deviation, and its bounds.
--shuffle permutes the outcomes over the prompts: the control, which must come out like lots.

With --config the router.embeddings of a deployment read the prompts, in place of hashed n-grams: compare the two.

What cannot be said is null: a strong model that is not better has no gap to recover. Bad rows are named and left out.
Exit 1 when there was one.`,
		Example: "  flyball router eval outcomes.csv --folds 5 --seed 1 --json\n  flyball router eval outcomes.csv --seeds 10\n  flyball router eval outcomes.csv --seeds 10 --shuffle\n  flyball router eval calls.ndjson --weak gpt-4o-mini --strong gpt-4o",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if seeds < 1 || seeds > 1000 || o.Folds < 2 || o.Folds > 100 {
				return &exitError{exitUsage, errors.New("want 1 to 1000 --seeds and 2 to 100 --folds")}
			}
			rows, columns, bad, err := file.read(cmd, args[0])
			if err != nil {
				return err
			}
			features, err := evaluated(cmd.Context(), where, rows)
			if err != nil {
				return err
			}
			pairs, columns, err := router.Pairs(rows, columns, features)
			if err != nil {
				return &exitError{exitUsage, fmt.Errorf("%s: %w", args[0], err)}
			}
			var all []router.Evaluation
			for seed := o.Seed; seed < o.Seed+uint64(seeds); seed++ {
				e, err := router.Evaluate(pairs, router.Options{Folds: o.Folds, Seed: seed, Shuffle: o.Shuffle})
				if err != nil {
					return &exitError{exitUsage, fmt.Errorf("%s: %w", args[0], err)}
				}
				all = append(all, e)
				if err := cmd.Context().Err(); err != nil {
					return err
				}
			}
			if err := printEvaluations(cmd.OutOrStdout(), columns, all, asJSON); err != nil {
				return err
			}
			if bad > 0 {
				return &exitError{exitFailed, fmt.Errorf("%s: %s left out", args[0], plural(bad, "bad row"))}
			}
			return nil
		},
	}
	file.flags(cmd)
	cmd.Flags().StringVar(&where, "config", "", "configuration of a deployment, whose router.embeddings read the prompts")
	cmd.Flags().IntVar(&o.Folds, "folds", 5, "that the prompts are divided into")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 1, "of the division into folds")
	cmd.Flags().IntVar(&seeds, "seeds", 1, "divide so often, from --seed on")
	cmd.Flags().BoolVar(&o.Shuffle, "shuffle", false, "permute the outcomes over the prompts: a control")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// evaluations is what --json prints: of one seed its evaluation, of several the means, and their spread.
type evaluations struct {
	router.Evaluation
	Seeds  int                       `json:"seeds,omitempty"`
	Spread map[string]*router.Spread `json:"spread,omitempty"`
}

// figures are those that depend on the folds.
var figures = []struct {
	name string
	of   func(*router.Evaluation) **float64
}{
	{"auc", func(e *router.Evaluation) **float64 { return &e.AUC }},
	{"apgr", func(e *router.Evaluation) **float64 { return &e.APGR }},
	{"cpt50", func(e *router.Evaluation) **float64 { return &e.CPT50 }},
	{"cpt80", func(e *router.Evaluation) **float64 { return &e.CPT80 }},
}

// summarize is the mean over the seeds, with its spread. A figure that some seed has not is none.
func summarize(all []router.Evaluation) evaluations {
	sum := evaluations{Evaluation: all[0]}
	if len(all) == 1 {
		return sum
	}
	sum.Seeds, sum.Spread = len(all), map[string]*router.Spread{}
	if usd := sum.USD; usd != nil { // the shares' dollars are one seed's
		sum.USD = &router.Dollars{Weak: usd.Weak, Strong: usd.Strong}
	}
	for _, f := range figures {
		var values []float64
		for i := range all {
			if v := *f.of(&all[i]); v != nil {
				values = append(values, *v)
			}
		}
		*f.of(&sum.Evaluation) = nil
		if spread := router.SpreadOf(values); spread != nil && len(values) == len(all) {
			sum.Spread[f.name] = spread
			*f.of(&sum.Evaluation) = &spread.Mean
		}
	}
	return sum
}

func printEvaluations(out io.Writer, columns router.Columns, all []router.Evaluation, asJSON bool) error {
	e := summarize(all)
	if asJSON {
		return json.NewEncoder(out).Encode(e)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "Prompts\t%d\n", e.N)
	fmt.Fprintf(table, "Weak\t%.4f\t%s\n", e.Weak, columns.Weak)
	fmt.Fprintf(table, "Strong\t%.4f\t%s\n", e.Strong, columns.Strong)
	for _, f := range figures {
		value := *f.of(&e.Evaluation)
		switch spread := e.Spread[f.name]; {
		case value == nil:
			fmt.Fprintf(table, "%s\tcannot be said\n", f.name)
		case spread != nil:
			fmt.Fprintf(table, "%s\t%.4f\t± %.4f over %d seeds, %.4f to %.4f\n", f.name, spread.Mean, spread.SD, spread.N, spread.Min, spread.Max)
		default:
			fmt.Fprintf(table, "%s\t%.4f\n", f.name, *value)
		}
	}
	if usd := e.USD; usd != nil {
		lines := [][2]string{{"weak", usd.Weak}, {"strong", usd.Strong}, {"cpt50", usd.CPT50}, {"cpt80", usd.CPT80}}
		for _, l := range slices.DeleteFunc(lines, func(l [2]string) bool { return l[1] == "" }) {
			fmt.Fprintf(table, "Dollars, %s\t%s\n", l[0], l[1])
		}
	}
	return table.Flush()
}
