package inbox

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// nouns are what people call the types that they name. A group is an incident to them.
var nouns = map[string]string{contract.Incident: "incident", contract.Group: "incident", contract.Decision: "decision"}

// called says which of the types a name was looked for among: "incident or decision".
func called(types []string) string {
	var words []string
	for _, t := range types {
		if !slices.Contains(words, nouns[t]) {
			words = append(words, nouns[t])
		}
	}
	return strings.Join(words, " or ")
}

// find is the id of the open workflow of one of the types that name means: its id, its handle, or the
// start of its id.
func (b *Inbox) find(ctx context.Context, name string, types ...string) (string, error) {
	return b.lookUp(ctx, name, true, types)
}

// findAny is find among those that have ended, too. What is open comes first: a handle or the start of an
// id means an ended one only when it means none that is open.
func (b *Inbox) findAny(ctx context.Context, name string, types ...string) (string, error) {
	id, err := b.lookUp(ctx, name, true, types)
	if err == nil || !errors.Is(err, ErrNotFound) {
		return id, err
	}
	return b.lookUp(ctx, name, false, types)
}

func (b *Inbox) lookUp(ctx context.Context, name string, running bool, types []string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("%w: say which %s", ErrNotFound, called(types))
	}
	var byPrefix, byHandle []string
	for _, workflowType := range types {
		listed, err := b.listed(ctx, workflowType, running)
		if err != nil {
			return "", err
		}
		for _, e := range listed {
			id := e.GetExecution().GetWorkflowId()
			switch {
			case id == name:
				return id, nil
			case contract.Handle(id) == name:
				byHandle = append(byHandle, id)
			case strings.HasPrefix(id, name):
				byPrefix = append(byPrefix, id)
			}
		}
	}
	for _, matches := range [][]string{byHandle, byPrefix} {
		slices.Sort(matches)
		matches = slices.Compact(matches) // a workflow that continued as new is listed once a run
		switch len(matches) {
		case 0:
		case 1:
			return matches[0], nil
		default:
			return "", fmt.Errorf("%w: %q means %d of them: %s", ErrNotFound, name, len(matches), strings.Join(matches, ", "))
		}
	}
	// What has only just started may not be listed yet.
	if t := typeOf(name); t != "" && slices.Contains(types, t) {
		return name, nil
	}
	open := "open "
	if !running {
		open = ""
	}
	return "", fmt.Errorf("%w: no %s%s is called %q", ErrNotFound, open, called(types), name)
}

// typeOf is the type of the incident, group or decision whose id this is; empty when it is none.
func typeOf(id string) string {
	if _, err := contract.OpenedAt(id); err != nil {
		return ""
	}
	switch {
	case strings.HasPrefix(id, "decision/"):
		return contract.Decision
	case contract.IsGroup(id):
		return contract.Group
	}
	return contract.Incident
}

// maxID is how long an id may be for Temporal.
const maxID = 1000

var handle = regexp.MustCompile(`^[0-9a-f]{6}$`)

// Target is the workflow that owns what name means: the alert loop of a key, or the workflow of a group.
// Name is what people call an incident, a group or a decision, whose key is meant; or a key, tenant/model;
// or a whole tenant, tenant/* or just tenant. A tenant whose name has a slash is written as in ids:
// alert/org%2F42/gpt-4o.
func (b *Inbox) Target(ctx context.Context, name string) (string, error) {
	kind, _, _ := strings.Cut(name, "/")
	switch {
	case name == "":
		return "", fmt.Errorf("%w: say what: an incident, tenant/model, or a tenant", ErrNotFound)
	case kind == "incident", kind == "decision", handle.MatchString(name):
		id, err := b.find(ctx, name, contract.Incident, contract.Group, contract.Decision)
		if err != nil && handle.MatchString(name) && errors.Is(err, ErrNotFound) {
			return "", fmt.Errorf("%w; a tenant of that name is written %s/*", err, name)
		}
		if err != nil || contract.IsGroup(id) {
			return id, err
		}
		return loopOf(id)
	}
	key, err := Key(name)
	if err != nil {
		return "", err
	}
	return contract.AlertLoopID(key), nil
}

// Key is the key that people write as tenant/model, or tenant/* or just tenant for all of a tenant's, or by
// the id of its alert loop.
func Key(name string) (usage.Key, error) {
	if strings.HasPrefix(name, "alert/") {
		key, err := contract.KeyOf(name)
		if err != nil {
			return usage.Key{}, fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return key, nil
	}
	key := usage.Key{Tenant: name, Model: usage.AnyModel}
	if tenant, model, ok := strings.Cut(name, "/"); ok {
		key = usage.Key{Tenant: tenant, Model: model}
	}
	if key.Tenant == "" || key.Model == "" || len(contract.AlertLoopID(key)) > maxID {
		return usage.Key{}, fmt.Errorf("%w: %q is no key: want tenant/model, or tenant/* for all of a tenant's", ErrNotFound, name)
	}
	return key, nil
}

// loopOf is the alert loop of the key that an id holds.
func loopOf(id string) (string, error) {
	key, err := contract.KeyOf(id)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return contract.AlertLoopID(key), nil
}
