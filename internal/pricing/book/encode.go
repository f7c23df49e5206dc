package book

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/pricing"
)

// Encode writes entries as a book that Parse reads back to the same. The comment goes before them, line by line.
func Encode(entries []pricing.Entry, comment string) []byte {
	var to strings.Builder
	for line := range strings.Lines(comment) {
		fmt.Fprintf(&to, "# %s\n", strings.TrimSpace(line))
	}
	if len(entries) == 0 {
		to.WriteString("models: []\n")
		return []byte(to.String())
	}
	to.WriteString("models:\n")
	for _, e := range entries {
		fmt.Fprintf(&to, "  - provider: %s\n    model: %s\n", strconv.Quote(e.Provider), strconv.Quote(e.Model))
		writeNames(&to, "aliases", e.Aliases)
		writeNames(&to, "globs", e.Globs)
		to.WriteString("    prices:\n")
		for _, p := range e.Periods {
			writePeriod(&to, p)
		}
	}
	return []byte(to.String())
}

func writeNames(to *strings.Builder, key string, names []string) {
	if len(names) == 0 {
		return
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(name)
	}
	fmt.Fprintf(to, "    %s: [%s]\n", key, strings.Join(quoted, ", "))
}

func writePeriod(to *strings.Builder, p pricing.Period) {
	var lines []string
	if !p.From.IsZero() {
		lines = append(lines, "effective_from: "+formatDate(p.From))
	}
	lines = append(lines, serviceFields(p.Services)...)
	if len(p.Hours) > 0 {
		lines = append(lines, "hours:")
		for _, h := range p.Hours {
			from, until, _ := strings.Cut(h.String(), "-")
			fields := append([]string{fmt.Sprintf(`from: "%s", until: "%s"`, from, until)}, serviceFields(h.Services)...)
			lines = append(lines, "  - {"+strings.Join(fields, ", ")+"}")
		}
	}
	fmt.Fprintf(to, "      - %s\n", strings.Join(lines, "\n        "))
}

func formatDate(t time.Time) string {
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.UTC().Format(time.DateOnly)
	}
	return t.UTC().Format(time.RFC3339)
}

func serviceFields(services map[string]pricing.Service) []string {
	var list []string
	for _, tier := range serviceTiers {
		s, ok := services[tier]
		if !ok {
			continue
		}
		fields := rateFields(s.Rates)
		var tiers []string
		for _, t := range s.Tiers {
			tiers = append(tiers, "{"+strings.Join(append([]string{fmt.Sprintf("above: %d", t.Above)}, rateFields(t.Rates)...), ", ")+"}")
		}
		if len(tiers) > 0 {
			fields = append(fields, "tiers: ["+strings.Join(tiers, ", ")+"]")
		}
		list = append(list, tier+": {"+strings.Join(fields, ", ")+"}")
	}
	return list
}

func rateFields(r pricing.Rates) []string {
	var list []string
	for _, b := range []struct {
		name string
		rate pricing.Rate
	}{
		{"input", r.Input},
		{"cache_read", r.CacheRead},
		{"cache_write_5m", r.CacheWrite5m},
		{"cache_write_1h", r.CacheWrite1h},
		{"output", r.Output},
	} {
		if text := b.rate.String(); text != "" {
			list = append(list, b.name+": "+text)
		}
	}
	return slices.Clip(list)
}
