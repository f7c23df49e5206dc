package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/runbook"
)

// Provider reads the status pages of model providers.
type Provider struct {
	Client *http.Client
	Pages  map[string]string         // provider → address of its statuspage.io summary.json
	Of     func(model string) string // the provider of a model; empty when unknown
}

// The bounds on a status page: it must answer quickly, and none is a megabyte long.
const (
	statusTimeout = 5 * time.Second
	statusLimit   = 1 << 20
)

// CheckProvider reads the status page of the provider of the key's model. A page that cannot be read
// is no error: its health is unknown, and the description says why.
func (p *Provider) CheckProvider(ctx context.Context, r contract.EvidenceRequest) (runbook.ProviderHealth, error) {
	h := runbook.ProviderHealth{Provider: p.Of(r.Key.Model)}
	page, ok := p.Pages[h.Provider]
	switch {
	case h.Provider == "":
		h.Description = fmt.Sprintf("tradeoff.yaml does not say whose model %s is", r.Key.Model)
		return h, nil
	case !ok:
		h.Description = "no status page is configured for it"
		return h, nil
	}
	if err := p.read(ctx, page, &h); err != nil {
		h.Indicator, h.Description = "", err.Error()
	}
	return h, nil
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
	Incidents []struct {
		Name      string `json:"name"`
		Shortlink string `json:"shortlink"`
	} `json:"incidents"` // unresolved, newest first
}

func (p *Provider) read(ctx context.Context, page string, h *runbook.ProviderHealth) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return fmt.Errorf("its status page's address is wrong: %w", err)
	}
	response, err := p.Client.Do(request)
	if err != nil {
		return fmt.Errorf("reading its status page: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("its status page answers %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, statusLimit))
	if err != nil {
		return fmt.Errorf("reading its status page: %w", err)
	}
	var s summary
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("its status page is not a statuspage.io summary: %w", err)
	}
	if s.Status.Indicator == "" {
		return fmt.Errorf("its status page has no status.indicator; is %s a summary.json?", page)
	}
	h.Indicator, h.Description, h.Link = s.Status.Indicator, s.Status.Description, s.Page.URL
	if len(s.Incidents) > 0 {
		h.Incident = s.Incidents[0].Name
		if s.Incidents[0].Shortlink != "" {
			h.Link = s.Incidents[0].Shortlink
		}
	}
	return nil
}
