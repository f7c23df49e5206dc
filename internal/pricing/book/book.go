// Package book reads price books from YAML, strictly: what is unknown, doubled or not exact is
// refused with its file, line and column. The built-in book is embedded.
package book

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/pricing"
)

//go:embed book.yaml
var builtIn []byte

// maxSize bounds a book's file.
const maxSize = 16 << 20

// Default is the built-in book.
func Default() (*pricing.Book, error) { return Parse("built-in book", builtIn) }

// Load reads a book from a file.
func Load(path string) (*pricing.Book, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the price book: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the price book: %w", err)
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("price book %s is larger than %d bytes", path, maxSize)
	}
	return Parse(path, text)
}

// Parse reads a book from YAML; file names it in errors. The book's version is a short hash of the
// text.
func Parse(file string, text []byte) (*pricing.Book, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	sum := sha256.Sum256(text)
	b := pricing.NewBook(hex.EncodeToString(sum[:6]))
	if len(document.Content) == 0 {
		return nil, fmt.Errorf("%s: the book is empty", file)
	}
	if err := parseBook(b, document.Content[0]); err != nil {
		var at *positionError
		if errors.As(err, &at) {
			return nil, fmt.Errorf("%s:%d:%d: %w", file, at.line, at.column, at.err)
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

// positionError carries where in the file something is wrong.
type positionError struct {
	line, column int
	err          error
}

func (e *positionError) Error() string { return fmt.Sprintf("%d:%d: %v", e.line, e.column, e.err) }
func (e *positionError) Unwrap() error { return e.err }

func at(n *yaml.Node, err error) error {
	var placed *positionError
	if err == nil || errors.As(err, &placed) {
		return err
	}
	return &positionError{n.Line, n.Column, err}
}

func refuse(n *yaml.Node, format string, args ...any) error {
	return at(n, fmt.Errorf(format, args...))
}

// fields are the keys that a mapping may have, and how each is read.
type fields map[string]func(value *yaml.Node) error

func mapping(n *yaml.Node, known fields) error {
	if n.Kind != yaml.MappingNode {
		return refuse(n, "expected a mapping of %s", names(known))
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case !ok:
			return refuse(key, "unknown key %q; known: %s", key.Value, names(known))
		case seen[key.Value]:
			return refuse(key, "key %q is there twice", key.Value)
		}
		seen[key.Value] = true
		if err := read(value); err != nil {
			return at(value, err)
		}
	}
	return nil
}

func names(known fields) string {
	list := make([]string, 0, len(known))
	for name := range known {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func sequence(n *yaml.Node, each func(item *yaml.Node) error) error {
	if n.Kind != yaml.SequenceNode {
		return refuse(n, "expected a list")
	}
	for _, item := range n.Content {
		if err := each(item); err != nil {
			return at(item, err)
		}
	}
	return nil
}

func scalar(into *string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.Value == "" {
			return refuse(n, "expected a value")
		}
		*into = n.Value
		return nil
	}
}

func scalars(into *[]string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		return sequence(n, func(item *yaml.Node) error {
			var s string
			if err := scalar(&s)(item); err != nil {
				return err
			}
			*into = append(*into, s)
			return nil
		})
	}
}

func parseBook(b *pricing.Book, root *yaml.Node) error {
	return mapping(root, fields{"models": func(list *yaml.Node) error {
		return sequence(list, func(item *yaml.Node) error {
			entry, err := parseEntry(item)
			if err != nil {
				return err
			}
			return at(item, b.Add(entry))
		})
	}})
}

func parseEntry(n *yaml.Node) (e pricing.Entry, err error) {
	err = mapping(n, fields{
		"provider": scalar(&e.Provider),
		"model":    scalar(&e.Model),
		"aliases":  scalars(&e.Aliases),
		"globs":    scalars(&e.Globs),
		"prices": func(list *yaml.Node) error {
			return sequence(list, func(item *yaml.Node) error {
				p, err := parsePeriod(item)
				e.Periods = append(e.Periods, p)
				return err
			})
		},
	})
	return e, err
}

// serviceTiers are the providers' service tiers that a book may price. "fast" and "us" (inference in the United
// States alone) are Anthropic's.
var serviceTiers = []string{pricing.Standard, "batch", "flex", "priority", "fast", "us"}

func parsePeriod(n *yaml.Node) (pricing.Period, error) {
	p := pricing.Period{Services: map[string]pricing.Service{}}
	known := services(p.Services)
	known["effective_from"] = func(value *yaml.Node) error {
		from, err := parseDate(value.Value)
		p.From = from
		return err
	}
	known["hours"] = func(list *yaml.Node) error {
		return sequence(list, func(item *yaml.Node) error {
			h := pricing.Hours{Services: map[string]pricing.Service{}}
			known := services(h.Services)
			known["from"] = timeOfDay(&h.From)
			known["until"] = timeOfDay(&h.Until)
			err := mapping(item, known)
			p.Hours = append(p.Hours, h)
			return err
		})
	}
	return p, mapping(n, known)
}

func services(into map[string]pricing.Service) fields {
	known := fields{}
	for _, tier := range serviceTiers {
		known[tier] = func(value *yaml.Node) error {
			s, err := parseService(value)
			into[tier] = s
			return err
		}
	}
	return known
}

func timeOfDay(into *time.Duration) func(*yaml.Node) error {
	return func(value *yaml.Node) error {
		t, err := time.Parse("15:04", value.Value)
		if err != nil {
			return fmt.Errorf("%q is not a time of day: write 16:30", value.Value)
		}
		*into = time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
		return nil
	}
}

func parseDate(text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a date: write 2026-03-13 or 2026-03-13T00:00:00Z", text)
}

func parseService(n *yaml.Node) (s pricing.Service, err error) {
	known := rates(&s.Rates)
	known["tiers"] = func(list *yaml.Node) error {
		return sequence(list, func(item *yaml.Node) error {
			var t pricing.Tier
			known := rates(&t.Rates)
			known["above"] = func(value *yaml.Node) (err error) {
				if t.Above, err = strconv.ParseInt(value.Value, 10, 64); err != nil {
					return fmt.Errorf("%q is not a whole number of tokens", value.Value)
				}
				return nil
			}
			err := mapping(item, known)
			s.Tiers = append(s.Tiers, t)
			return err
		})
	}
	return s, mapping(n, known)
}

func rates(r *pricing.Rates) fields {
	known := fields{}
	for name, into := range map[string]*pricing.Rate{
		"input": &r.Input, "cache_read": &r.CacheRead, "cache_write_5m": &r.CacheWrite5m,
		"cache_write_1h": &r.CacheWrite1h, "output": &r.Output,
	} {
		known[name] = func(value *yaml.Node) (err error) {
			if value.Kind != yaml.ScalarNode {
				return errors.New("expected a price")
			}
			*into, err = pricing.ParseRate(value.Value)
			return err
		}
	}
	return known
}
