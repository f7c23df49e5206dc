package router

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Row is one line of a file of outcomes: a prompt, and what models' answers to it were worth.
type Row struct {
	Line    int
	Prompt  string
	Task    string
	At      time.Time
	Answers []Answer
}

// Answer is one model's.
type Answer struct {
	Model  string
	Score  float64 // 0..1
	Cost   usage.PicoUSD
	Priced bool // the cost is known
}

// Columns say which columns, or fields, of a file are meant; empty ones are guessed.
type Columns struct{ Prompt, Weak, Strong string }

// costSuffix names the column with what a model's answers did cost.
const costSuffix = "_cost_usd"

// The bounds of a file.
const (
	maxRows = 2_000_000
	maxLine = 4 << 20
)

// Bad is told of a row that is left out.
type Bad func(line int, reason string)

// ReadCSV reads a header and a row for each prompt, with a score for each of two models: of the columns besides the
// prompt's the first is the weak one and the second the strong one, unless they are named. It says which it took.
func ReadCSV(in io.Reader, c Columns, bad Bad) ([]Row, Columns, error) {
	r := csv.NewReader(in)
	r.ReuseRecord, r.LazyQuotes = true, true
	r.FieldsPerRecord = -1
	header, err := r.Read()
	if err != nil {
		return nil, c, fmt.Errorf("reading the header: %w", err)
	}
	header = slices.Clone(header)
	header[0] = strings.TrimPrefix(header[0], "\ufeff")
	if c, err = c.in(header); err != nil {
		return nil, c, err
	}
	place := func(name string) int { return slices.Index(header, name) }
	var rows []Row
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, c, nil
		}
		if err != nil {
			return nil, c, err
		}
		line, _ := r.FieldPos(0)
		field := func(name string) string {
			if i := place(name); i >= 0 && i < len(record) {
				return record[i]
			}
			return ""
		}
		row, err := c.row(field)
		switch {
		case err != nil:
			bad(line, err.Error())
		case len(rows) == maxRows:
			return nil, c, fmt.Errorf("has more than %d rows: take a sample", maxRows)
		default:
			row.Line, row.Prompt = line, strings.Clone(row.Prompt)
			rows = append(rows, row)
		}
	}
}

// in finds the columns in a header.
func (c Columns) in(header []string) (Columns, error) {
	if c.Prompt == "" {
		c.Prompt = "prompt"
	}
	if !slices.Contains(header, c.Prompt) {
		return c, fmt.Errorf("the header has no column %q: name the one with the prompts (--prompt)", c.Prompt)
	}
	for _, name := range header {
		switch {
		case name == c.Prompt || name == c.Weak || name == c.Strong || name == "task" || strings.HasSuffix(name, costSuffix):
		case c.Weak == "":
			c.Weak = name
		case c.Strong == "":
			c.Strong = name
		}
	}
	for _, name := range []string{c.Weak, c.Strong} {
		if name == "" || !slices.Contains(header, name) {
			return c, fmt.Errorf("the header has no column %q: name those with the scores (--weak, --strong)", name)
		}
	}
	return c, nil
}

// row reads a prompt and two scores.
func (c Columns) row(field func(name string) string) (Row, error) {
	row := Row{Prompt: field(c.Prompt), Task: field("task")}
	if strings.TrimSpace(row.Prompt) == "" {
		return row, fmt.Errorf("%s is empty", c.Prompt)
	}
	for _, model := range []string{c.Weak, c.Strong} {
		score, err := readScore(field(model))
		if err != nil {
			return row, fmt.Errorf("%s: %w", model, err)
		}
		a := Answer{Model: model, Score: score}
		if text := field(model + costSuffix); text != "" {
			if a.Cost, _, err = pricing.Parse(text); err != nil || a.Cost < 0 {
				return row, fmt.Errorf("%s%s: %q is not an amount in dollars", model, costSuffix, text)
			}
			a.Priced = true
		}
		row.Answers = append(row.Answers, a)
	}
	return row, nil
}

// readScore reads a score, or whether an answer was right.
func readScore(text string) (float64, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "yes":
		return 1, nil
	case "false", "no":
		return 0, nil
	}
	score, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || !(score >= 0 && score <= 1) {
		return 0, fmt.Errorf("%.40q is neither a score from 0 to 1 nor true or false", text)
	}
	return score, nil
}

// ReadNDJSON reads a JSON object a line: {"prompt","model","score","task"?,"cost_usd"?,"timestamp"?} with one answer, or
// the fields of ReadCSV with those of two models.
func ReadNDJSON(in io.Reader, c Columns, bad Bad) ([]Row, Columns, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	var rows []Row
	found := false
	for n := 1; lines.Scan(); n++ {
		text := bytes.TrimSpace(bytes.TrimPrefix(lines.Bytes(), []byte("\ufeff")))
		if len(text) == 0 {
			continue
		}
		names, fields, err := readObject(text)
		if err != nil {
			bad(n, "is not an object of JSON")
			continue
		}
		_, single := fields["model"]
		if !single && !found {
			if c, err = c.in(names); err != nil {
				return nil, c, fmt.Errorf("line %d: %w", n, err)
			}
			found = true
		}
		var row Row
		if single {
			row, err = readTuple(c, fields)
		} else {
			row, err = c.row(func(name string) string { return fields[name] })
		}
		switch {
		case err != nil:
			bad(n, err.Error())
		case len(rows) == maxRows:
			return nil, c, fmt.Errorf("has more than %d rows: take a sample", maxRows)
		default:
			row.Line = n
			rows = append(rows, row)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, c, fmt.Errorf("a line is longer than %d bytes: %w", maxLine, err)
	}
	return rows, c, nil
}

// readObject reads an object's plain fields as text, and their names in their order.
func readObject(text []byte) (names []string, fields map[string]string, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, nil, errors.New("is not an object")
	}
	fields = map[string]string{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var value any
		if err := d.Decode(&value); err != nil {
			return nil, nil, err
		}
		switch value := value.(type) {
		case nil, map[string]any, []any:
			continue
		default:
			names = append(names, name.(string))
			fields[name.(string)] = fmt.Sprint(value)
		}
	}
	_, err = d.Token()
	return names, fields, err
}

func readTuple(c Columns, fields map[string]string) (Row, error) {
	prompt := "prompt"
	if c.Prompt != "" {
		prompt = c.Prompt
	}
	row := Row{Prompt: fields[prompt], Task: fields["task"]}
	a := Answer{Model: fields["model"]}
	var err error
	if row.Prompt == "" || a.Model == "" {
		return row, fmt.Errorf("%s or model is missing", prompt)
	}
	if a.Score, err = readScore(fields["score"]); err != nil {
		return row, fmt.Errorf("score: %w", err)
	}
	if text := fields["cost_usd"]; text != "" {
		if a.Cost, _, err = pricing.Parse(text); err != nil || a.Cost < 0 {
			return row, fmt.Errorf("cost_usd: %q is not an amount in dollars", text)
		}
		a.Priced = true
	}
	if text := fields["timestamp"]; text != "" {
		if row.At, err = time.Parse(time.RFC3339, text); err != nil {
			return row, fmt.Errorf("timestamp: %q is not RFC 3339", text)
		}
	}
	row.Answers = []Answer{a}
	return row, nil
}

// Tuples are all answers of the rows. Features makes a prompt's.
func Tuples(rows []Row, features func(prompt string) Features) []Tuple {
	var tuples []Tuple
	for _, r := range rows {
		f := features(r.Prompt)
		for _, a := range r.Answers {
			tuples = append(tuples, Tuple{Prompt: r.Prompt, Features: f, Task: r.Task, Model: a.Model, Score: a.Score, At: r.At})
		}
	}
	return tuples
}

// Pairs are the prompts that both models have answered. Rows of one answer are joined by their prompts, a model that
// answered one several times by its first answer. Models that are not named are the two with the most answers, the one
// with the lower mean as the weak one.
func Pairs(rows []Row, c Columns, features func(prompt string) Features) ([]Pair, Columns, error) {
	if c.Weak == "" || c.Strong == "" {
		c.Weak, c.Strong = twoModels(rows)
	}
	joined := joinRows(rows)
	var pairs []Pair
	for _, r := range joined {
		p := Pair{Prompt: r.Prompt, Priced: true}
		have := [2]bool{}
		for _, a := range r.Answers {
			switch {
			case a.Model == c.Weak && !have[0]:
				p.Weak, p.WeakCost, have[0] = a.Score, a.Cost, true
			case a.Model == c.Strong && !have[1]:
				p.Strong, p.StrongCost, have[1] = a.Score, a.Cost, true
			default:
				continue
			}
			p.Priced = p.Priced && a.Priced
		}
		if have == [2]bool{true, true} {
			p.Features = features(r.Prompt)
			pairs = append(pairs, p)
		}
	}
	if len(pairs) == 0 {
		return nil, c, fmt.Errorf("no prompt has an answer of both %q and %q", c.Weak, c.Strong)
	}
	return pairs, c, nil
}

// joinRows puts single answers to the same prompt together.
func joinRows(rows []Row) []Row {
	var joined []Row
	at := map[string]int{}
	for _, r := range rows {
		if len(r.Answers) != 1 {
			joined = append(joined, r)
			continue
		}
		i, ok := at[r.Prompt]
		if !ok {
			at[r.Prompt] = len(joined)
			joined = append(joined, r)
			continue
		}
		joined[i].Answers = append(slices.Clone(joined[i].Answers), r.Answers...)
	}
	return joined
}

func twoModels(rows []Row) (weak, strong string) {
	count, sum := map[string]int{}, map[string]float64{}
	for _, r := range rows {
		for _, a := range r.Answers {
			count[a.Model]++
			sum[a.Model] += a.Score
		}
	}
	names := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		if count[a] != count[b] {
			return count[b] - count[a]
		}
		return strings.Compare(a, b)
	})
	if len(names) < 2 {
		return "", ""
	}
	weak, strong = names[0], names[1]
	if sum[weak]/float64(count[weak]) > sum[strong]/float64(count[strong]) {
		weak, strong = strong, weak
	}
	return weak, strong
}
