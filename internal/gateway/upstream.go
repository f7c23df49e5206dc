package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/internal/wire"
)

// upstream is an endpoint of a provider's API, ready to be asked. It does not change.
type upstream struct {
	config.Upstream
	base      *url.URL
	key       string
	shape     string // the provider by whose shape its usage is read
	transport *http.Transport
	fallback  []*upstream
}

// serves reports whether the upstream has the model.
func (u *upstream) serves(model string) bool {
	return len(u.Models) == 0 || slices.ContainsFunc(u.Models, func(pattern string) bool {
		ok, _ := path.Match(pattern, model) // patterns are checked when they are read
		return ok
	})
}

// authorize gives a request the upstream's own key.
func (u *upstream) authorize(h http.Header) {
	switch {
	case u.key == "":
	case wire.Family(u.Family) == wire.Anthropic:
		h["X-Api-Key"] = []string{u.key}
	default:
		h["Authorization"] = []string{"Bearer " + u.key}
	}
}

// upstreams are all of them at one time.
type upstreams struct{ list []*upstream }

// chain is whom to ask for a model of a family, in order: the first that serves it, and its fallbacks that do.
// Nobody of another family is ever among them.
func (s *upstreams) chain(family wire.Family, model string) []*upstream {
	for _, u := range s.list {
		if wire.Family(u.Family) != family || !u.serves(model) {
			continue
		}
		if len(u.fallback) == 0 {
			return []*upstream{u}
		}
		chain := append(make([]*upstream, 0, 1+len(u.fallback)), u)
		for _, other := range u.fallback {
			if other.serves(model) {
				chain = append(chain, other)
			}
		}
		return chain
	}
	return nil
}

// compileUpstreams makes upstreams of a list that has been checked. Those that have not changed keep their connections.
func compileUpstreams(list []config.Upstream, lookup func(string) (string, bool), before *upstreams) (*upstreams, error) {
	after, byName := &upstreams{}, map[string]*upstream{}
	var errs []error
	for _, c := range list {
		u := &upstream{Upstream: c, shape: c.Provider}
		var err error
		if u.key, err = c.Key(lookup); err != nil {
			errs = append(errs, err)
			continue
		}
		if u.base, err = url.Parse(c.URL); err != nil {
			errs = append(errs, fmt.Errorf("upstream %q: its url cannot be read", c.Name))
			continue
		}
		if _, err := usage.NewStream(c.Provider); err != nil {
			u.shape = c.Family // prices of its own, in the shape of the API that it speaks
		}
		if u.transport = before.transportOf(c); u.transport == nil {
			u.transport = newTransport(c)
		}
		after.list, byName[c.Name] = append(after.list, u), u
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, u := range after.list {
		for _, name := range u.Fallback {
			u.fallback = append(u.fallback, byName[name])
		}
	}
	return after, nil
}

// transportOf finds the connections of an upstream that is still where it was.
func (s *upstreams) transportOf(c config.Upstream) *http.Transport {
	if s == nil {
		return nil
	}
	for _, u := range s.list {
		if u.URL == c.URL && u.AllowPrivate == c.AllowPrivate && u.Timeouts.Connect == c.Timeouts.Connect {
			return u.transport
		}
	}
	return nil
}

// closeIdle ends the connections that nobody uses of upstreams that are not among the others.
func (s *upstreams) closeIdle(but *upstreams) {
	kept := map[*http.Transport]bool{}
	for _, u := range but.list {
		kept[u.transport] = true
	}
	for _, u := range s.list {
		if !kept[u.transport] {
			u.transport.CloseIdleConnections()
		}
	}
}

// Upstreams holds the upstreams in force.
type Upstreams struct {
	gate    config.Gate
	lookup  func(string) (string, bool)
	log     *slog.Logger
	inForce atomic.Pointer[upstreams]
	read    map[string][]byte // what the files said when they were last looked at
}

// OpenUpstreams reads the configured upstreams; lookup is os.LookupEnv.
func OpenUpstreams(gate config.Gate, lookup func(string) (string, bool), log *slog.Logger) (*Upstreams, error) {
	u := &Upstreams{gate: gate, lookup: lookup, log: log}
	u.inForce.Store(&upstreams{})
	return u, u.reload()
}

// reload puts what the files say in force, or on an error changes nothing.
func (u *Upstreams) reload() error {
	u.read = u.look() // before: what changes meanwhile is seen at the next look
	list, err := u.gate.LoadUpstreams(u.lookup)
	if err != nil {
		return err
	}
	before := u.inForce.Load()
	after, err := compileUpstreams(list, u.lookup, before)
	if err != nil {
		return err
	}
	u.inForce.Store(after)
	before.closeIdle(after)
	return nil
}

// look reads every file that the upstreams depend on, by its name. Files are compared by what they say: secrets are
// mounted by links that change behind the name.
func (u *Upstreams) look() map[string][]byte {
	names := []string{u.gate.UpstreamsFile}
	list, err := u.gate.LoadUpstreams(u.lookup)
	if err != nil { // a bad list's key files are read when it is good again
		list = nil
	}
	for _, x := range list {
		names = append(names, x.KeyFile)
	}
	said := map[string][]byte{}
	for _, name := range names {
		if name != "" {
			said[name], _ = os.ReadFile(name) // one that is not there says nothing
		}
	}
	return said
}

// lookEvery is how often the files are looked at.
const lookEvery = 2 * time.Second

// watch reads the upstreams again whenever a file of theirs changes, until ctx ends. Bad ones change nothing.
func (u *Upstreams) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if maps.EqualFunc(u.read, u.look(), bytes.Equal) {
			continue
		}
		if err := u.reload(); err != nil {
			u.log.Error("The gateway's upstreams stay as they were", "error", err)
			continue
		}
		u.log.Info("Read the gateway's upstreams again", "upstreams", u.Names())
	}
}

// Names are the names of the upstreams in force, for people.
func (u *Upstreams) Names() []string {
	var names []string
	for _, x := range u.inForce.Load().list {
		names = append(names, x.Name)
	}
	return names
}

// close ends the connections that nobody uses.
func (u *Upstreams) close() { u.inForce.Load().closeIdle(&upstreams{}) }
