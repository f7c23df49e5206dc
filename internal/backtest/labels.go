package backtest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Labels are a log of incidents as people know of them.
type Labels struct {
	Incidents []Label `yaml:"incidents"`
	Quiet     []Label `yaml:"quiet"` // times in which nothing was wrong; none: whenever there was no incident
}

// Label is one entry of the log.
type Label struct {
	Tenant string       `yaml:"tenant" json:"tenant"`
	Model  string       `yaml:"model" json:"model,omitempty"` // the requested one; empty or *: any of the tenant's
	From   time.Time    `yaml:"from" json:"from"`
	To     time.Time    `yaml:"to" json:"to"`
	Level  detect.Level `yaml:"level" json:"level,omitempty"` // that must be reached; empty: any
	Note   string       `yaml:"note" json:"note,omitempty"`
}

// of reports whether the label is about the key.
func (l *Label) of(k usage.Key) bool {
	if base, _, experiment := k.Experiment(); experiment {
		k = base
	}
	return k.Tenant == l.Tenant && (l.Model == "" || l.Model == usage.AnyModel || k.Pseudo() || k.Model == l.Model)
}

// The bounds on a log.
const (
	maxLabelBytes = 16 << 20
	maxLabels     = 100_000
)

// ReadLabels reads a log of incidents. What is wrong is said with its line, all of it at once; unknown and doubled keys
// are wrong.
func ReadLabels(r io.Reader) (Labels, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxLabelBytes+1))
	if err != nil {
		return Labels{}, fmt.Errorf("reading the log of incidents: %w", err)
	}
	if len(text) > maxLabelBytes {
		return Labels{}, fmt.Errorf("the log of incidents is larger than %d MiB", maxLabelBytes>>20)
	}
	var labels Labels
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&labels); err != nil && !errors.Is(err, io.EOF) {
		return Labels{}, err
	}
	var lines struct {
		Incidents []yaml.Node `yaml:"incidents"`
		Quiet     []yaml.Node `yaml:"quiet"`
	}
	if err := yaml.Unmarshal(text, &lines); err != nil {
		return Labels{}, err
	}
	if len(labels.Incidents) == 0 && len(labels.Quiet) == 0 {
		return Labels{}, errors.New("the log lists no incidents: write incidents: with tenant, model, from and to of each, or quiet: with times when nothing was wrong")
	}
	if n := len(labels.Incidents) + len(labels.Quiet); n > maxLabels {
		return Labels{}, fmt.Errorf("the log has %d entries, more than %d", n, maxLabels)
	}
	var wrong []error
	check := func(list string, entries []Label, nodes []yaml.Node) {
		for i := range entries {
			if problem := entries[i].problem(list == "quiet"); problem != "" {
				wrong = append(wrong, fmt.Errorf("line %d: %s[%d]: %s", nodes[i].Line, list, i, problem))
			}
			entries[i].From, entries[i].To = entries[i].From.UTC(), entries[i].To.UTC()
		}
	}
	check("incidents", labels.Incidents, lines.Incidents)
	check("quiet", labels.Quiet, lines.Quiet)
	return labels, errors.Join(wrong...)
}

func (l *Label) problem(quiet bool) string {
	switch {
	case l.Tenant == "":
		return "name the tenant"
	case l.From.IsZero() || l.To.IsZero():
		return "give from and to, as 2026-01-15T09:00:00Z"
	case !l.From.Before(l.To):
		return "from must be before to"
	case quiet && l.Level != "":
		return "a quiet time has no level"
	case l.Level != "" && l.Level != detect.Page && l.Level != detect.Investigate:
		return fmt.Sprintf("the level %q is neither PAGE nor INVESTIGATE", l.Level)
	}
	return ""
}

// Within are the labels that touch [from, to): the others say nothing of what was looked at.
func (l Labels) Within(from, to time.Time, tenant, model string) Labels {
	keep := func(all []Label) (kept []Label) {
		for _, x := range all {
			if x.From.Before(to) && x.To.After(from) && (tenant == "" || x.Tenant == tenant) &&
				(model == "" || x.Model == "" || x.Model == usage.AnyModel || x.Model == model) {
				kept = append(kept, x)
			}
		}
		return kept
	}
	return Labels{Incidents: keep(l.Incidents), Quiet: keep(l.Quiet)}
}
