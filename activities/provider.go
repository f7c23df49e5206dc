package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/runbook"
)

// Provider reads the status pages of model providers.
type Provider struct {
	Client *http.Client
	Pages  map[string]string         // provider → address of its statuspage.io summary.json
	Of     func(model string) string // the provider of a model; empty when unknown

	mu   sync.Mutex
	read map[string]*statusPage // by address
}

// The bounds on a status page: it must answer quickly, none is a megabyte long, and so many components are
// kept as evidence.
const (
	statusTimeout  = 5 * time.Second
	statusLimit    = 1 << 20
	componentsKept = 20
)

// How long what a page said is as good as asking again: many incidents of one provider ask at once, and a page
// is no better for it. One that could not be read is tried again sooner.
const (
	statusFresh  = time.Minute
	statusFailed = 15 * time.Second
)

// CheckProvider reads the status page of the provider of the key's model. A page that cannot be read
// is no error: its health is unknown, and the description says why.
func (p *Provider) CheckProvider(ctx context.Context, r contract.EvidenceRequest) (runbook.ProviderHealth, error) {
	key := r.Key
	if of, _, ok := key.Experiment(); ok {
		key = of
	}
	h := runbook.ProviderHealth{Provider: p.Of(key.Model)}
	address, ok := p.Pages[h.Provider]
	switch {
	case h.Provider == "":
		h.Description = fmt.Sprintf("tradeoff.yaml does not say whose model %s is", key.Model)
		return h, nil
	case !ok:
		h.Description = "no status page is configured for it"
		return h, nil
	}
	seen, err := p.page(address).see(ctx, p.Client, address)
	if err != nil {
		h.Description = err.Error()
		return h, nil
	}
	seen.Provider = h.Provider
	return seen, nil
}

func (p *Provider) page(address string) *statusPage {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.read == nil {
		p.read = map[string]*statusPage{}
	}
	page, ok := p.read[address]
	if !ok {
		page = &statusPage{turn: make(chan struct{}, 1)}
		p.read[address] = page
	}
	return page
}

// statusPage is what one page said last. One reader at a time has its turn; those who wait then find what it
// has read.
type statusPage struct {
	turn   chan struct{}
	until  time.Time // when it has to be read again
	health runbook.ProviderHealth
	err    error
}

func (s *statusPage) see(ctx context.Context, client *http.Client, address string) (runbook.ProviderHealth, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return runbook.ProviderHealth{}, fmt.Errorf("waiting for its status page: %w", ctx.Err())
	}
	if time.Now().Before(s.until) {
		return s.health, s.err
	}
	s.health, s.err = readStatus(ctx, client, address)
	switch {
	case s.err == nil:
		s.until = time.Now().Add(statusFresh)
	case ctx.Err() == nil: // else it is the caller who has gone, and the page is not to blame
		s.until = time.Now().Add(statusFailed)
	}
	return s.health, s.err
}

// summary is the part of statuspage.io's summary.json that is read here.
type summary struct {
	Page struct {
		URL string `json:"url"`
	} `json:"page"`
	Status struct {
		Indicator   string `json:"indicator"`
		Description string `json:"description"`
	} `json:"status"`
	Components []component      `json:"components"`
	Incidents  []statusIncident `json:"incidents"` // unresolved, newest first
}

// component is a part of the provider's service, or, with Group set, a heading over some.
type component struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Status  string `json:"status"`
	GroupID string `json:"group_id"`
	Group   bool   `json:"group"`
}

type statusIncident struct {
	Name       string      `json:"name"`
	Shortlink  string      `json:"shortlink"`
	Components []component `json:"components"`
}

func readStatus(ctx context.Context, client *http.Client, address string) (runbook.ProviderHealth, error) {
	var h runbook.ProviderHealth
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return h, fmt.Errorf("its status page's address is wrong: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return h, fmt.Errorf("reading its status page: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return h, fmt.Errorf("its status page answers %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, statusLimit))
	if err != nil {
		return h, fmt.Errorf("reading its status page: %w", err)
	}
	var s summary
	if err := json.Unmarshal(body, &s); err != nil {
		return h, fmt.Errorf("its status page is not a statuspage.io summary: %w", err)
	}
	if s.Status.Indicator == "" {
		return h, fmt.Errorf("its status page has no status.indicator; is %s a summary.json?", address)
	}
	return s.health(), nil
}

// health is what the summary says, as far as an incident looks at it: what answers calls, what is affected, and
// the newest unresolved incident, of what answers calls if there is one.
func (s summary) health() runbook.ProviderHealth {
	h := runbook.ProviderHealth{Indicator: s.Status.Indicator, Description: s.Status.Description, Link: s.Page.URL}
	groups, named := map[string]string{}, map[string]string{} // by id
	for _, c := range s.Components {
		if c.Group {
			groups[c.ID] = c.Name
		}
	}
	for _, i := range s.Incidents {
		h.Unplaced = h.Unplaced || len(i.Components) == 0
		for _, c := range i.Components {
			if named[c.ID] == "" {
				named[c.ID] = i.Name
			}
		}
	}
	for _, c := range s.Components {
		seen := runbook.Component{Name: c.Name, Group: groups[c.GroupID], Status: c.Status, Incident: named[c.ID]}
		if !c.Group && (seen.Affected() || seen.Serves()) && len(h.Components) < componentsKept {
			h.Components = append(h.Components, seen)
		}
	}
	if i := s.newest(groups); i != nil {
		h.Incident = i.Name
		if i.Shortlink != "" {
			h.Link = i.Shortlink
		}
	}
	return h
}

// newest is the newest unresolved incident of what answers calls, else of anything; nil: there is none.
func (s summary) newest(groups map[string]string) *statusIncident {
	for n, i := range s.Incidents {
		for _, c := range i.Components {
			if (runbook.Component{Name: c.Name, Group: groups[c.GroupID]}).Serves() {
				return &s.Incidents[n]
			}
		}
	}
	if len(s.Incidents) == 0 {
		return nil
	}
	return &s.Incidents[0]
}
