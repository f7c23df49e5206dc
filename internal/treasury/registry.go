package treasury

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
)

// Definitions is where budgets are kept: ClickHouse.
type Definitions interface {
	Budgets(ctx context.Context) ([]budget.Version, error)
}

// readEvery is how often the definitions are read: a changed ceiling takes so long to be heeded.
const (
	readEvery  = 2 * time.Second
	readWithin = 10 * time.Second
)

// Registry has the definitions of all budgets in memory, and a copy of the last in a file, so that a gateway that
// starts while the store is away knows them. Make one with NewRegistry, and keep Run running beside it.
type Registry struct {
	store Definitions
	file  string
	log   *slog.Logger
	known atomic.Pointer[map[string][]budget.Budget] // by tenant; nil: never read
	last  []byte                                     // as the file has them; of Run
}

// NewRegistry returns one that knows what the file has; none is no error. Without a file nothing is kept.
func NewRegistry(store Definitions, file string, log *slog.Logger) (*Registry, error) {
	r := &Registry{store: store, file: file, log: log}
	if file == "" {
		return r, nil
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	var list []budget.Version
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the last budgets that were known: %w: remove %s to start without", err, file)
	}
	r.set(list)
	r.last = raw
	return r, nil
}

func (r *Registry) set(list []budget.Version) {
	byTenant := map[string][]budget.Budget{}
	for _, v := range list {
		byTenant[v.Tenant] = append(byTenant[v.Tenant], v.Located())
	}
	r.known.Store(&byTenant)
}

// Budgets are a tenant's; not known: they have never been read.
func (r *Registry) Budgets(tenant string) (budgets []budget.Budget, known bool) {
	byTenant := r.known.Load()
	if byTenant == nil {
		return nil, false
	}
	return (*byTenant)[tenant], true
}

// all are those of all tenants.
func (r *Registry) all() map[string][]budget.Budget {
	byTenant := r.known.Load()
	if byTenant == nil {
		return nil
	}
	return *byTenant
}

// Refresh reads them.
func (r *Registry) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	list, err := r.store.Budgets(ctx)
	if err != nil {
		return fmt.Errorf("reading the budgets: %w", err)
	}
	r.set(list)
	return r.save(list)
}

// save writes the file, whole or not at all.
func (r *Registry) save(list []budget.Version) error {
	raw, err := json.Marshal(list)
	if err != nil || r.file == "" || string(raw) == string(r.last) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return fmt.Errorf("keeping the last budgets: %w", err)
	}
	if err := os.WriteFile(r.file+".new", raw, 0o600); err != nil {
		return fmt.Errorf("keeping the last budgets: %w", err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		return fmt.Errorf("keeping the last budgets: %w", err)
	}
	r.last = raw
	return nil
}

// Run keeps them fresh until ctx ends, which is not an error. While the store is away the last ones hold.
func (r *Registry) Run(ctx context.Context) error {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	away := false
	for {
		err := r.Refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !away:
			r.log.WarnContext(ctx, "Budgets stay as they were", "error", err)
		case err == nil && away:
			r.log.InfoContext(ctx, "Budgets can be read again")
		}
		away = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
