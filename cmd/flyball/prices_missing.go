package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/devstack"
	"github.com/flyball-dev/flyball/internal/pricing"
)

// missingOptions are the flags of `flyball prices missing`.
type missingOptions struct {
	state, config, book, since string
	json                       bool
}

// missingPrice is a model that was called without a price, and whether the book has one by now.
type missingPrice struct {
	clickhouse.Unpriced
	InBook bool `json:"in_book"`
}

func pricesMissingCommand() *cobra.Command {
	var o missingOptions
	c := &cobra.Command{
		Use:   "missing",
		Short: "List the models that were called and have no price",
		Long: `List the models of stored calls that no price was found for: the model is not in the book, or not the
service tier or the bucket that was used. in_book says that the book prices the model's ordinary service by now: the
calls are then to be priced again (flyball rerate), or need the price of a tier or a bucket.
Exit 0 when every call has a price, 1 when one has not, 3 when ClickHouse is away.`,
		Example: "  flyball prices missing\n  flyball prices missing --config deploy/flyball.yaml --since 2026-01-01 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return pricesMissing(cmd, o, time.Now().UTC())
		},
	}
	c.Flags().StringVar(&o.state, "state", ".flyball", "state folder of the running flyball up")
	c.Flags().StringVar(&o.config, "config", "", "configuration of a real deployment, in place of --state")
	c.Flags().StringVar(&o.book, "book", "", "price book to look in, in place of the configured one")
	c.Flags().StringVar(&o.since, "since", "", "calls from this day or moment on (default: the last 30 days)")
	c.Flags().BoolVar(&o.json, "json", false, "print one JSON object per model")
	return c
}

// storeConfig is the configuration that says where ClickHouse is: that of a deployment, or of a running flyball up.
func storeConfig(file, state string) (config.Config, error) {
	if file != "" {
		return loadConfig(file)
	}
	a, err := devstack.ReadAddresses(state)
	if err != nil {
		return config.Config{}, &exitError{exitUsage, err}
	}
	c := config.Default()
	c.ClickHouse = embeddedClickHouse(a.ClickHouse)
	return c, nil
}

func pricesMissing(cmd *cobra.Command, o missingOptions, now time.Time) error {
	from := now.AddDate(0, 0, -30)
	if o.since != "" {
		var err error
		if from, err = parseMoment("--since", o.since); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	c, err := storeConfig(o.config, o.state)
	if err != nil {
		return err
	}
	if o.book == "" {
		o.book = c.PriceBook
	}
	prices, err := loadBook(o.book)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	store, err := openStore(cmd.Context(), c.ClickHouse, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer store.Close()
	models, err := store.Unpriced(cmd.Context(), clickhouse.UnpricedQuery{From: from, To: now.Add(time.Hour)})
	if err != nil {
		return &exitError{exitAway, err}
	}
	return answerMissing(cmd.OutOrStdout(), markMissing(models, prices), o.json)
}

func markMissing(models []clickhouse.Unpriced, prices *pricing.Book) []missingPrice {
	list := make([]missingPrice, len(models))
	for i, m := range models {
		_, err := prices.Quote(m.Provider, m.Model, "", m.Last)
		list[i] = missingPrice{m, err == nil}
	}
	return list
}

// answerMissing prints the models and fails where there is one.
func answerMissing(out io.Writer, list []missingPrice, asJSON bool) error {
	if asJSON {
		if err := writeLines(out, list); err != nil {
			return err
		}
	} else if len(list) > 0 {
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "PROVIDER\tMODEL\tTENANTS\tCALLS\tINPUT\tOUTPUT\tFIRST\tLAST\tIN BOOK")
		for _, m := range list {
			book := "no"
			if m.InBook {
				book = "yes"
			}
			fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", m.Provider, m.Model, m.Tenants, m.Calls, m.InputTokens, m.OutputTokens,
				m.First.Format(time.DateTime), m.Last.Format(time.DateTime), book)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	if len(list) > 0 {
		return &exitError{exitFailed, errors.New("calls without a price are stored: add the model to a book (flyball prices import) and set price_book")}
	}
	return nil
}
