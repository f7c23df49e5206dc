package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/pricing/importer"
	"github.com/flyball-dev/flyball/internal/usage"
)

// pricesCommand is about price books.
func pricesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "prices",
		Short: "Show price books, import others' prices, find what has no price",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(pricesImportCommand(), pricesShowCommand(), pricesMissingCommand())
	return c
}

func pricesImportCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "import --format litellm|genai-prices FILE",
		Short: "Print a price file of LiteLLM or genai-prices as a book of ours",
		Long: `Read LiteLLM's model_prices_and_context_window.json or genai-prices' data.json and print a price book
for --book, or for price_book in the configuration. What could not be carried over goes to stderr, a line for
each model or field with its reason. Prices are read from the digits of the file, never through a float.`,
		Example: "  flyball prices import --format litellm model_prices_and_context_window.json > book.yaml\n" +
			"  flyball cost --book book.yaml < calls.ndjson",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format == "" {
				return &exitError{exitUsage, fmt.Errorf("say --format %s", strings.Join(importer.Formats(), " or "))}
			}
			text, err := readBounded(args[0], importer.MaxSize)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			got, err := importer.Read(format, text)
			if err != nil {
				return &exitError{exitUsage, fmt.Errorf("%s: %w", args[0], err)}
			}
			return printImport(cmd.OutOrStdout(), cmd.ErrOrStderr(), got, format, filepath.Base(args[0]))
		},
	}
	c.Flags().StringVar(&format, "format", "", strings.Join(importer.Formats(), " or "))
	return c
}

// readBounded reads a file of at most so many bytes.
func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open the price file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("read the price file: %w", err)
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, most)
	}
	return text, nil
}

func printImport(out, errs io.Writer, got *importer.Import, format, name string) error {
	summary := fmt.Sprintf("%d of %d models, %d prices", len(got.Entries), got.Models, got.Prices)
	text := book.Encode(got.Entries, fmt.Sprintf("Imported from %q in the format of %s: %s.", name, format, summary))
	if _, err := book.Parse("the imported book", text); err != nil {
		return &exitError{exitFailed, fmt.Errorf("the prices make no book: %w", err)}
	}
	for _, left := range got.Left {
		fmt.Fprintln(errs, left)
	}
	fmt.Fprintf(errs, "%s carried over; %d models or fields left out\n", summary, len(got.Left))
	_, err := out.Write(text)
	return err
}

// priceRow is one price as `prices show` has it.
type priceRow struct {
	Provider      string `json:"provider"`
	Model         string `json:"model"`
	ServiceTier   string `json:"service_tier"`
	EffectiveFrom string `json:"effective_from,omitempty"`
	Hours         string `json:"hours,omitempty"`
	Above         int64  `json:"above,omitempty"`
	Input         string `json:"input,omitempty"`
	CacheRead     string `json:"cache_read,omitempty"`
	CacheWrite5m  string `json:"cache_write_5m,omitempty"`
	CacheWrite1h  string `json:"cache_write_1h,omitempty"`
	Output        string `json:"output,omitempty"`
}

func pricesShowCommand() *cobra.Command {
	var bookFile, provider, at string
	var asJSON bool
	c := &cobra.Command{
		Use:   "show [MODEL…]",
		Short: "Show the prices of a book, in dollars per million tokens",
		Long: `Show all prices of a book, or those of models by name, alias or glob (quote it: 'gpt-5*').
With --at only those that hold on that day or at that moment. An empty cell is a price that is not known.`,
		Example: "  flyball prices show claude-3-haiku-20240307\n  flyball prices show --provider google --at 2025-06-01 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			prices, err := loadBook(bookFile)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			var when time.Time
			if at != "" {
				if when, err = parseMoment("--at", at); err != nil {
					return &exitError{exitUsage, err}
				}
			}
			for _, pattern := range args {
				if _, err := path.Match(pattern, ""); err != nil {
					return &exitError{exitUsage, fmt.Errorf("%q is not a glob: %w", pattern, err)}
				}
			}
			rows := priceRows(prices, usage.Provider(provider), args, when)
			if len(rows) == 0 {
				return &exitError{exitFailed, errors.New("no such price: flyball prices import reads others' price files")}
			}
			if asJSON {
				return writeLines(cmd.OutOrStdout(), rows)
			}
			return printPrices(cmd.OutOrStdout(), rows)
		},
	}
	c.Flags().StringVar(&bookFile, "book", "", "price book to show in place of the built-in one")
	c.Flags().StringVar(&provider, "provider", "", "only this provider's")
	c.Flags().StringVar(&at, "at", "", "only those that hold then: 2025-06-10 or 2025-06-10T12:00:00Z")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per price")
	return c
}

// writeLines writes one JSON object a line.
func writeLines[T any](out io.Writer, rows []T) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for _, r := range rows {
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// priceRows are a book's prices of a provider, of the models that one of the patterns names, at a moment; all where
// those are not given.
func priceRows(prices *pricing.Book, provider string, patterns []string, at time.Time) []priceRow {
	var rows []priceRow
	for _, e := range prices.Entries() {
		if provider != "" && e.Provider != provider || !named(&e, patterns, prices) {
			continue
		}
		for i, p := range e.Periods {
			over := i+1 < len(e.Periods) && !at.Before(e.Periods[i+1].From)
			if !at.IsZero() && (at.Before(p.From) || over) {
				continue
			}
			row := priceRow{Provider: e.Provider, Model: e.Model}
			if !p.From.IsZero() {
				row.EffectiveFrom = p.From.Format(time.RFC3339)
			}
			rows = append(rows, serviceRows(row, p.Services)...)
			for _, h := range p.Hours {
				row.Hours = h.String()
				rows = append(rows, serviceRows(row, h.Services)...)
			}
		}
	}
	return rows
}

// named reports whether one of the patterns names the entry, directly or as the book would look it up.
func named(e *pricing.Entry, patterns []string, prices *pricing.Book) bool {
	if len(patterns) == 0 {
		return true
	}
	for _, pattern := range patterns {
		for _, name := range append([]string{e.Model}, e.Aliases...) {
			if ok, _ := path.Match(pattern, name); ok {
				return true
			}
		}
		if found, ok := prices.Find(e.Provider, pattern); ok && found.Model == e.Model {
			return true
		}
	}
	return false
}

// serviceRows are the rows of the service tiers, standard first, each with its tiers by length after it.
func serviceRows(like priceRow, services map[string]pricing.Service) []priceRow {
	var names []string
	for name := range services {
		names = append(names, name)
	}
	slices.Sort(names)
	if i := slices.Index(names, pricing.Standard); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, pricing.Standard)
	}
	var rows []priceRow
	for _, name := range names {
		s := services[name]
		row := like
		row.ServiceTier = name
		for _, t := range append([]pricing.Tier{{Rates: s.Rates}}, s.Tiers...) {
			row.Above = t.Above
			r := t.Rates
			row.Input, row.CacheRead, row.Output = r.Input.String(), r.CacheRead.String(), r.Output.String()
			row.CacheWrite5m, row.CacheWrite1h = r.CacheWrite5m.String(), r.CacheWrite1h.String()
			rows = append(rows, row)
		}
	}
	return rows
}

func printPrices(out io.Writer, rows []priceRow) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROVIDER\tMODEL\tTIER\tFROM\tABOVE\tINPUT\tCACHE READ\tWRITE 5M\tWRITE 1H\tOUTPUT")
	for _, r := range rows {
		from := strings.TrimSuffix(r.EffectiveFrom, "T00:00:00Z")
		if r.Hours != "" {
			from = strings.TrimSpace(from + " " + r.Hours)
		}
		above := ""
		if r.Above > 0 {
			above = fmt.Sprint(r.Above)
		}
		fmt.Fprintln(table, strings.Join([]string{
			r.Provider, r.Model, r.ServiceTier, from, above, r.Input, r.CacheRead, r.CacheWrite5m, r.CacheWrite1h, r.Output,
		}, "\t"))
	}
	return table.Flush()
}

// parseMoment reads a day or a moment, in UTC.
func parseMoment(what, text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q is not a time: write 2025-06-10 or 2025-06-10T12:00:00Z", what, text)
}
