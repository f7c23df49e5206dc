package policy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// watchEvery is how often Watch looks at the directory.
const watchEvery = 2 * time.Second

// Holder holds the set in force. Readers take the Set once and decide by it to the end; a reload puts
// a new one in its place, and only one that compiles and passes its tests.
type Holder struct {
	set atomic.Pointer[Set]
	log *slog.Logger

	mu  sync.Mutex // one reload at a time
	err error      // of the last reload
}

// NewHolder holds a loaded set; nil: none is in force until a reload succeeds.
func NewHolder(set *Set, log *slog.Logger) *Holder {
	h := &Holder{log: log}
	h.set.Store(set)
	return h
}

// Set is the set in force; nil when there is none yet.
func (h *Holder) Set() *Set { return h.set.Load() }

// Err is why the last reload failed, so that a status page can show it; nil when the set in force is
// what the directory holds.
func (h *Holder) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Reload loads the directory and puts the new set in force. When that fails the old set stays.
func (h *Holder) Reload(fsys fs.FS) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	set, err := Load(fsys)
	if h.err = err; err != nil {
		h.log.Error("policies refused; the last good set stays in force", "revision", h.Set().Revision(), "error", err)
		return fmt.Errorf("reload policies: %w", err)
	}
	old := h.set.Swap(set)
	if old.Revision() != set.Revision() {
		h.log.Info("policies reloaded", "revision", set.Revision(), "before", old.Revision())
	}
	return nil
}

// Watch reloads the directory whenever its files change, until the context ends. It compares contents,
// so it sees what a mounted volume or a git checkout changes behind any notification.
func (h *Holder) Watch(ctx context.Context, dir string) { h.watch(ctx, os.DirFS(dir), watchEvery) }

func (h *Holder) watch(ctx context.Context, fsys fs.FS, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var seen [sha256.Size]byte // a set that was refused is not tried again until it changes
	for {
		if now := fingerprint(fsys); now != seen {
			seen = now
			_ = h.Reload(fsys) // logged, and kept for Err
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// fingerprint is a hash over the YAML files of the directory; what cannot be read counts by its error.
func fingerprint(fsys fs.FS) [sha256.Size]byte {
	hash := sha256.New()
	names, err := fs.Glob(fsys, "*.y*ml")
	fmt.Fprintln(hash, err)
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		fmt.Fprintln(hash, name, len(text), err)
		hash.Write(text)
	}
	return [sha256.Size]byte(hash.Sum(nil))
}
