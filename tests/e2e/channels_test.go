//go:build e2e

package e2e

import (
	"sync"

	"github.com/flyball-dev/flyball/internal/contract"
)

// channels are where a worker's notices go, and what has arrived there.
type channels struct {
	// sections is the worker's configuration of them.
	sections []string
	// exact says that a notice arrives once even when a worker is killed over it: a log cannot know what it
	// has been told already.
	exact bool
	// fail makes them answer with errors, or well again.
	fail func(on bool)
	// pages and messages count what has opened, by incident.
	pages, messages func() map[string]int
}

// workers are the processes that one worker has been, each until it was killed.
type workers struct {
	mu  sync.Mutex
	all []*process
}

func (w *workers) add(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, p)
}

func (w *workers) last() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[len(w.all)-1]
}

// logChannels are the workers' own logs, which every notice goes to.
func (s *stack) logChannels(of *workers) channels {
	opened := func() map[string]int {
		of.mu.Lock()
		defer of.mu.Unlock()
		n := map[string]int{}
		for _, p := range of.all {
			for _, post := range readPosts(s.t, p.output()) {
				if post.kind == contract.NoticeOpened {
					n[post.id]++
				}
			}
		}
		return n
	}
	return channels{fail: func(bool) {}, pages: opened, messages: opened}
}
