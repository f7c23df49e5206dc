// Package importer reads other projects' price files into entries of our price book. It carries over what it can
// say exactly, and lists the rest by model, field and reason: a price that is left out makes calls unpriced, a
// price that is guessed at makes them wrong.
package importer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// MaxSize bounds a price file. LiteLLM's whole one is about 2 MB.
const MaxSize = 64 << 20

// Import is what a file gave.
type Import struct {
	Entries []pricing.Entry
	Models  int // that the file has
	Prices  int // that were carried over
	Left    []Left
}

// Left is something that could not be carried over. Without a Field the whole model is left out.
type Left struct {
	Model  string `json:"model"`
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason"`
}

func (l Left) String() string {
	if l.Field == "" {
		return fmt.Sprintf("%s: %s", l.Model, l.Reason)
	}
	return fmt.Sprintf("%s: %s: %s", l.Model, l.Field, l.Reason)
}

// Formats are the formats that Read knows.
func Formats() []string { return []string{"litellm", "genai-prices"} }

// Read reads a price file of a format.
func Read(format string, text []byte) (*Import, error) {
	switch {
	case len(text) > MaxSize:
		return nil, fmt.Errorf("the file is larger than %d bytes", MaxSize)
	case format == "litellm":
		return LiteLLM(text)
	case format == "genai-prices":
		return GenAIPrices(text)
	}
	return nil, fmt.Errorf("format %q is none of %s", format, strings.Join(Formats(), ", "))
}

func (i *Import) leave(model, field, format string, args ...any) {
	i.Left = append(i.Left, Left{model, field, fmt.Sprintf(format, args...)})
}

// free says why a model that costs nothing is not carried over.
const free = "input and output cost nothing, which also stands for a price that is not known: add it by hand if it is meant"

var zero, _ = pricing.ParseRate("0")

// add puts an entry in, with those of its names that no earlier one has. prices counts its prices.
func (i *Import) add(taken map[string]*pricing.Entry, label string, e pricing.Entry, prices int) {
	e.Provider = usage.Provider(e.Provider)
	other, ok := taken[e.Provider+"/"+e.Model]
	switch {
	case ok && samePrices(*other, e):
		i.leave(label, "", "is the same model as %s of %s, at the same prices", other.Model, other.Provider)
		return
	case ok:
		i.leave(label, "", "%s of %s is there already, at other prices", other.Model, other.Provider)
		return
	}
	entry := &e
	gone := func(kind string) func(string) bool {
		return func(name string) bool {
			if other, ok := taken[e.Provider+"/"+name]; ok {
				if other != entry {
					i.leave(label, kind+" "+name, "is a name of %s already", other.Model)
				}
				return true
			}
			taken[e.Provider+"/"+name] = entry
			return false
		}
	}
	taken[e.Provider+"/"+e.Model] = entry
	e.Aliases = slices.DeleteFunc(e.Aliases, gone("alias"))
	e.Globs = slices.DeleteFunc(e.Globs, gone("glob"))
	i.Entries = append(i.Entries, e)
	i.Prices += prices
}

func samePrices(a, b pricing.Entry) bool { return fmt.Sprint(a.Periods) == fmt.Sprint(b.Periods) }

// finish sorts the entries as a book has them.
func (i *Import) finish() *Import {
	slices.SortStableFunc(i.Entries, func(x, y pricing.Entry) int {
		return cmp.Or(cmp.Compare(x.Provider, y.Provider), cmp.Compare(x.Model, y.Model))
	})
	return i
}

// number is the text of a JSON number. Prices are read from it and never become floats.
func number(value json.RawMessage) (string, error) {
	text := strings.TrimSpace(string(value))
	if text == "" || text[0] != '-' && (text[0] < '0' || text[0] > '9') {
		return "", errors.New("is not a number")
	}
	return text, nil
}

// literal makes a glob of text that stands for itself.
func literal(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(text)
}

func validGlob(glob string) bool {
	_, err := path.Match(glob, "")
	return err == nil
}

// bucketOf finds a rate by the name that a book gives its bucket.
func bucketOf(r *pricing.Rates, bucket string) *pricing.Rate {
	switch bucket {
	case "input":
		return &r.Input
	case "cache_read":
		return &r.CacheRead
	case "cache_write_5m":
		return &r.CacheWrite5m
	case "cache_write_1h":
		return &r.CacheWrite1h
	}
	return &r.Output
}
