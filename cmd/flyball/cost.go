package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/usage"
)

// maxCostLine bounds one line of input. A streamed response is the largest that is asked for.
const maxCostLine = 64 << 20

func costCommand() *cobra.Command {
	var bookFile string
	c := &cobra.Command{
		Use:   "cost",
		Short: "Price provider responses, usage objects or streams read from stdin",
		Long: `Read one JSON object a line:
  {"provider", "model"?, "at"?, "service_tier"?, and one of "body", "usage", "sse"}
and write one line for each: the model, its exact cost in dollars, the token buckets, whether the
usage was complete, and the price. cost_usd and price are null when the book has no price, or when no usage
was understood. A bad line gives {"error"}, and the exit code is then 1.
Providers, by OpenTelemetry's and LiteLLM's names too: ` + strings.Join(usage.Providers(), ", ") + ".",
		Example: `  echo '{"provider":"openai","body":{"model":"gpt-4o","usage":{"prompt_tokens":9,"completion_tokens":2}}}' | flyball cost` +
			"\n  flyball cost --book book.yaml < calls.ndjson",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			prices, err := loadBook(bookFile)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			bad, err := costLines(cmd.InOrStdin(), cmd.OutOrStdout(), prices, time.Now().UTC())
			if err != nil {
				return &exitError{exitFailed, err}
			}
			if bad > 0 {
				return &exitError{exitFailed, fmt.Errorf("%d lines could not be read", bad)}
			}
			return nil
		},
	}
	c.Flags().StringVar(&bookFile, "book", "", "price book to use in place of the built-in one")
	return c
}

func loadBook(file string) (*pricing.Book, error) {
	if file == "" {
		return book.Default()
	}
	return book.Load(file)
}

func costLines(in io.Reader, out io.Writer, prices *pricing.Book, now time.Time) (bad int, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxCostLine)
	to := bufio.NewWriter(out)
	encoder := json.NewEncoder(to)
	encoder.SetEscapeHTML(false)
	n := 0
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var answer any
		if answer, err = costLine(line, prices, now); err != nil {
			bad++
			answer = map[string]string{"error": fmt.Sprintf("line %d: %v", n, err)}
		}
		if err = encoder.Encode(answer); err != nil {
			return bad, fmt.Errorf("write the answer: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return bad, errors.Join(fmt.Errorf("read line %d: %w", n+1, err), to.Flush())
	}
	return bad, to.Flush()
}

type costQuestion struct {
	Provider    string          `json:"provider"`
	Model       string          `json:"model"`
	At          string          `json:"at"`
	ServiceTier string          `json:"service_tier"`
	Body        json.RawMessage `json:"body"`
	Usage       json.RawMessage `json:"usage"`
	SSE         *string         `json:"sse"`
}

type costAnswer struct {
	Model    string       `json:"model"`
	CostUSD  *string      `json:"cost_usd"`
	Buckets  usage.Tokens `json:"buckets"`
	Complete bool         `json:"complete"`
	Price    *costPrice   `json:"price"`
}

// costPrice is the price that was used, in dollars per million tokens.
type costPrice struct {
	Book          string `json:"book"`
	Model         string `json:"model"`
	EffectiveFrom string `json:"effective_from,omitempty"`
	Hours         string `json:"hours,omitempty"`
	ServiceTier   string `json:"service_tier"`
	Above         int64  `json:"above,omitempty"`
	Input         string `json:"input,omitempty"`
	CacheRead     string `json:"cache_read,omitempty"`
	CacheWrite5m  string `json:"cache_write_5m,omitempty"`
	CacheWrite1h  string `json:"cache_write_1h,omitempty"`
	Output        string `json:"output,omitempty"`
}

func costLine(line []byte, prices *pricing.Book, now time.Time) (*costAnswer, error) {
	var q costQuestion
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&q); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("one object a line")
	}
	at, err := q.at(now)
	if err != nil {
		return nil, err
	}
	report, err := q.report()
	if err != nil {
		return nil, err
	}
	answer := &costAnswer{
		Model:    cmp.Or(q.Model, report.Model),
		Buckets:  report.Tokens,
		Complete: report.Complete,
	}
	if !report.Complete && report.Tokens == (usage.Tokens{}) {
		return answer, nil // nothing is known, and nothing known is not a cost of zero
	}
	quote, err := prices.Quote(q.Provider, answer.Model, cmp.Or(usage.ServiceTier(q.ServiceTier), report.ServiceTier), at)
	if errors.Is(err, pricing.ErrUnknown) {
		return answer, nil
	} else if err != nil {
		return nil, err
	}
	cost, err := quote.Cost(report.Tokens)
	if errors.Is(err, pricing.ErrUnknown) {
		return answer, nil
	} else if err != nil {
		return nil, err
	}
	text := pricing.Format(cost)
	answer.CostUSD, answer.Price = &text, priceOf(&quote, report.Tokens)
	return answer, nil
}

func (q *costQuestion) at(now time.Time) (time.Time, error) {
	if q.At == "" {
		return now, nil
	}
	return parseMoment(`"at"`, q.At)
}

func (q *costQuestion) report() (usage.Report, error) {
	switch {
	case q.Provider == "":
		return usage.Report{}, errors.New(`no "provider"`)
	case q.Body != nil && q.Usage == nil && q.SSE == nil:
		return usage.FromBody(q.Provider, q.Body)
	case q.Usage != nil && q.Body == nil && q.SSE == nil:
		return usage.FromUsage(q.Provider, q.Usage)
	case q.SSE != nil && q.Body == nil && q.Usage == nil:
		return usage.FromSSE(q.Provider, []byte(*q.SSE))
	}
	return usage.Report{}, errors.New(`give one of "body", "usage" and "sse"`)
}

func priceOf(q *pricing.Quote, tokens usage.Tokens) *costPrice {
	rates, above := q.Rates(tokens)
	p := &costPrice{
		Book: q.Version, Model: q.Model, Hours: q.Hours, ServiceTier: q.ServiceTier, Above: above,
		Input: rates.Input.String(), CacheRead: rates.CacheRead.String(),
		CacheWrite5m: rates.CacheWrite5m.String(), CacheWrite1h: rates.CacheWrite1h.String(),
		Output: rates.Output.String(),
	}
	if !q.From.IsZero() {
		p.EffectiveFrom = q.From.Format(time.RFC3339)
	}
	return p
}
