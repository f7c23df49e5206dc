package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
)

// explainOptions say what flyball policy explain is about.
type explainOptions struct {
	stored
	tenant, model, experiment, task string
	at                              string
	late                            bool
	incident                        string
	facts                           string
	policy                          string
	set                             []string
	json                            bool
}

// explained is the answer of flyball policy explain.
type explained struct {
	Key    *usage.Key   `json:"key,omitempty"`
	At     *time.Time   `json:"at,omitempty"`    // the moment that the facts are of
	Source string       `json:"source"`          // where the facts come from
	Asked  *bool        `json:"asked,omitempty"` // whether the sweep puts such a key to the policy at all
	Notes  []string     `json:"notes,omitempty"` // what differs from how it was judged then
	Trace  policy.Trace `json:"trace"`

	facts any
}

// explainCommand shows what a policy makes of a key at a moment, of an incident, or of facts in a file.
func explainCommand() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain [DIR]",
		Short: "Show the facts of a key at a moment, every rule, and which fired",
		Long: `Evaluate a policy and show how it came to its answer: the facts, the variables, each rule in order with the
parts of its condition, which rule fired, and how far the others were.

The facts are those of a key at a moment (--tenant and --model), as the sweep sees them; those of an incident as it is
recorded (--incident, for act.yaml); or those of a file (--facts FILE, or - for standard input), a mapping in YAML or
JSON, for which nothing has to run. --set changes one fact, to see what would have to be different.

The policies are those of DIR; without it those in force: of --config, else of the running flyball up. With --facts they
are the shipped ones, unless DIR or --config says otherwise.`,
		Example: `  flyball policy explain --tenant org_42 --model claude-3-opus
  flyball policy explain --tenant org_42 --model claude-3-opus --at -15m
  flyball policy explain policies --facts facts.yaml --set cost_ratio=1.6
  flyball policy explain --incident 3be1c0 --config deploy/flyball.yaml --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return &exitError{exitUsage, err}
			}
			e, err := o.explain(cmd.Context(), args, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if o.json {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(e)
			} else {
				err = printExplained(cmd.OutOrStdout(), e)
			}
			if err == nil && e.Trace.Error != "" {
				err = &exitError{exitFailed, fmt.Errorf("%s failed on these facts", e.Trace.Policy)}
			}
			return err
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.tenant, "tenant", "", "tenant of the key")
	f.StringVar(&o.model, "model", "", "requested model of the key; * is the tenant's whole mix")
	f.StringVar(&o.experiment, "experiment", "", "id of the experiment whose calls of the model are meant")
	f.StringVar(&o.task, "task", "", "task of the calls, for sampling")
	f.StringVar(&o.at, "at", "now", "moment, as 2026-01-15T09:23:47Z, or -15m from now")
	f.BoolVar(&o.late, "late", false, "count in what was stored later than the moment, baselines too, which the sweep could not know")
	f.StringVar(&o.incident, "incident", "", "incident whose facts act.yaml sees: its id or handle")
	f.StringVar(&o.facts, "facts", "", "file of facts in YAML or JSON, - for standard input")
	f.StringVar(&o.policy, "policy", "", "alert, act or sampling (default alert; act with --incident)")
	f.StringArrayVar(&o.set, "set", nil, "change one fact, as cost_ratio=1.6; may be repeated")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// check refuses questions that have no answer, and fills in what is left out.
func (o *explainOptions) check() error {
	given := 0
	for _, is := range []bool{o.tenant != "" || o.model != "", o.incident != "", o.facts != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return errors.New("name what is to be explained: --tenant and --model, or --incident, or --facts")
	}
	if o.policy == "" {
		o.policy = "alert"
		if o.incident != "" {
			o.policy = "act"
		}
	}
	switch {
	case !slices.Contains(policy.Names, o.policy):
		return fmt.Errorf("--policy cannot be %q: write one of %s", o.policy, strings.Join(policy.Names, ", "))
	case o.facts != "":
		return nil
	case o.incident != "" && o.policy != "act":
		return errors.New("--incident is for act.yaml: name its key and --at for " + o.policy + ".yaml")
	case o.incident != "":
		return nil
	case o.tenant == "" || o.model == "":
		return errors.New("a key is a tenant and a requested model: give --tenant and --model")
	case o.policy == "act":
		return errors.New("act.yaml decides about an incident: name one with --incident, or give --facts")
	case o.experiment != "" && o.model == usage.AnyModel:
		return errors.New("an experiment is of one model, not of *")
	}
	return nil
}

func (o *explainOptions) explain(ctx context.Context, args []string, in io.Reader, errs io.Writer) (explained, error) {
	c, err := o.around()
	if err != nil {
		return explained{}, err
	}
	if len(args) == 0 && c.Policies != "" {
		args = []string{c.Policies}
	}
	set, err := compilePolicies(args, errs)
	if err != nil {
		return explained{}, err
	}
	e, err := o.gather(ctx, c, set, in, errs)
	if err != nil {
		return e, err
	}
	for _, assignment := range o.set {
		name, value, ok := strings.Cut(assignment, "=")
		if !ok {
			return e, &exitError{exitUsage, fmt.Errorf("--set %q is not NAME=VALUE", assignment)}
		}
		if e.facts, err = policy.WithFact(e.facts, strings.TrimSpace(name), value); err != nil {
			return e, &exitError{exitUsage, fmt.Errorf("--set: %w", err)}
		}
		e.Notes = append(e.Notes, "changed by --set: "+assignment)
	}
	e.judged()
	e.Trace = set.Explain(e.facts)
	return e, nil
}

// around is the configuration of what runs. Facts from a file and questions about sampling need nothing to run.
func (o *explainOptions) around() (config.Config, error) {
	if o.config == "" && o.facts != "" {
		return config.Default(), nil
	}
	c, err := o.configuration()
	if o.config == "" && o.policy == "sampling" {
		err = nil
	}
	return c, err
}

// gather finds the facts.
func (o *explainOptions) gather(ctx context.Context, c config.Config, set *policy.Set, in io.Reader, errs io.Writer) (explained, error) {
	switch {
	case o.facts != "":
		return o.fromFile(in, errs)
	case o.policy == "sampling":
		key := usage.Key{Tenant: o.tenant, Model: o.model}
		return explained{Key: &key, Source: "the command line and tradeoff.yaml", facts: policy.SamplingFacts{
			Tenant: o.tenant, TenantClass: string(set.Tradeoff().Tenant(o.tenant).Class), Model: o.model, Task: o.task,
		}}, nil
	}
	store, err := openStore(ctx, c.ClickHouse, slog.New(slog.NewTextHandler(errs, nil)))
	if err != nil {
		return explained{}, err
	}
	defer store.Close()
	if o.incident != "" {
		return o.fromIncident(ctx, c, set, store)
	}
	return o.fromTelemetry(ctx, c, store)
}

func (o *explainOptions) fromFile(in io.Reader, errs io.Writer) (e explained, err error) {
	name, from := o.facts, in
	if o.facts == "-" {
		name = "standard input"
	} else {
		file, err := os.Open(o.facts)
		if err != nil {
			return e, &exitError{exitUsage, err}
		}
		defer file.Close()
		from = file
	}
	text, err := io.ReadAll(io.LimitReader(from, policy.MaxFile+1))
	if err != nil {
		return e, &exitError{exitUsage, fmt.Errorf("reading the facts: %w", err)}
	}
	facts, err := policy.ReadFacts(o.policy, name, text)
	if err != nil {
		fmt.Fprintln(errs, err)
		return e, &exitError{exitUsage, errors.New("the facts cannot be used")}
	}
	return explained{Source: name, facts: facts}, nil
}

// moment is the time asked about; live is whether that is now, which the caller reads from the watermark.
func (o *explainOptions) moment(now time.Time) (at time.Time, live bool, err error) {
	if o.at == "now" || o.at == "" {
		return now, true, nil
	}
	if d, err := time.ParseDuration(o.at); err == nil {
		at = now.Add(d)
	} else if at, err = time.Parse(time.RFC3339, o.at); err != nil {
		return at, false, fmt.Errorf("--at %q is not a moment: write 2026-01-15T09:23:47Z, -15m or now", o.at)
	}
	if at.After(now) {
		return at, false, fmt.Errorf("--at %s is yet to come", at.UTC().Format(time.RFC3339))
	}
	return at.UTC(), false, nil
}
