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
	Incidents []Label
	Quiet     []Label // times in which nothing was wrong; none: whenever there was no incident
}

// Label is one entry of the log.
type Label struct {
	Tenant string       `json:"tenant"`
	Model  string       `json:"model,omitempty"` // the requested one; empty or *: any of the tenant's
	From   time.Time    `json:"from"`
	To     time.Time    `json:"to"`
	Level  detect.Level `json:"level,omitempty"` // that must be reached; empty: any
	Note   string       `json:"note,omitempty"`
}

// labelEntry is a label as it is written.
type labelEntry struct {
	Tenant string       `yaml:"tenant"`
	Model  string       `yaml:"model"`
	From   when         `yaml:"from"`
	To     when         `yaml:"to"`
	Level  detect.Level `yaml:"level"`
	Note   string       `yaml:"note"`
}

// when is a time with an error that says where it stands.
type when struct{ time.Time }

// UnmarshalYAML implements yaml.Unmarshaler.
func (w *when) UnmarshalYAML(n *yaml.Node) error {
	t, err := time.Parse(time.RFC3339, n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is no time; write it as 2026-01-15T09:00:00Z", n.Line, n.Value)
	}
	w.Time = t.UTC()
	return nil
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
	var written struct {
		Incidents []labelEntry `yaml:"incidents"`
		Quiet     []labelEntry `yaml:"quiet"`
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&written); err != nil && !errors.Is(err, io.EOF) {
		return Labels{}, err
	}
	var lines struct {
		Incidents []yaml.Node `yaml:"incidents"`
		Quiet     []yaml.Node `yaml:"quiet"`
	}
	if err := yaml.Unmarshal(text, &lines); err != nil {
		return Labels{}, err
	}
	if len(written.Incidents) == 0 && len(written.Quiet) == 0 {
		return Labels{}, errors.New("the log lists no incidents: write incidents: with tenant, model, from and to of each, or quiet: with times when nothing was wrong")
	}
	if n := len(written.Incidents) + len(written.Quiet); n > maxLabels {
		return Labels{}, fmt.Errorf("the log has %d entries, more than %d", n, maxLabels)
	}
	var wrong []error
	check := func(list string, entries []labelEntry, nodes []yaml.Node) (checked []Label) {
		for i, e := range entries {
			l := Label{Tenant: e.Tenant, Model: e.Model, From: e.From.Time, To: e.To.Time, Level: e.Level, Note: e.Note}
			if problem := l.problem(list == "quiet"); problem != "" {
				wrong = append(wrong, fmt.Errorf("line %d: %s[%d]: %s", nodes[i].Line, list, i, problem))
			}
			checked = append(checked, l)
		}
		return checked
	}
	labels := Labels{check("incidents", written.Incidents, lines.Incidents), check("quiet", written.Quiet, lines.Quiet)}
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
