package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/simulate"
)

// Plant makes the calls up: the simulator, for the drill's tenant alone, against a deployment's own addresses.
type Plant struct {
	in     contract.DrillInput
	ingest string
	token  string
	sim    *simulate.Simulator
}

// NewPlant makes calls against the ingest and the gateway at the address. The token, where they want one, must be
// trusted for all tenants.
func NewPlant(in contract.DrillInput, ingest, token string, log *slog.Logger) *Plant {
	return &Plant{in: in, ingest: strings.TrimRight(ingest, "/"), token: token, sim: simulate.New(simulate.Options{
		Ingest: ingest, Decide: ingest, Token: token, Seed: 1, Scored: in.Scored, Logger: log,
		Workloads: []simulate.Workload{simulate.Drill(in.Tenant, in.Model, in.Rate)},
	})}
}

// Check asks for a decision, which needs everything that the drill does.
func (p *Plant) Check(ctx context.Context) error {
	if !slices.Contains(simulate.Models(), p.in.Model) {
		return fmt.Errorf("a drill cannot make up calls of the model %q; it can of: %s", p.in.Model, strings.Join(simulate.Models(), ", "))
	}
	body, err := json.Marshal(struct {
		routing.Request
		Hold bool `json:"hold"` // false: only ask
	}{Request: routing.Request{TenantID: p.in.Tenant, TraceID: "drill-check", RequestedModel: p.in.Model, InputTokens: 1}})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.ingest+"/v1/decide", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("the ingest address %q: %w", p.ingest, err)
	}
	request.Header.Set("Content-Type", "application/json")
	if p.token != "" {
		request.Header.Set("Authorization", "Bearer "+p.token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%w: the gateway at %s (%w): set drills.ingest in the worker's configuration", ErrAway, p.ingest, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	switch {
	case err != nil:
		return fmt.Errorf("%w: reading the gateway's answer: %w", ErrAway, err)
	case response.StatusCode == http.StatusUnauthorized, response.StatusCode == http.StatusForbidden:
		return fmt.Errorf("the gateway at %s does not let the drill in (%s): set drills.token in the worker's configuration to one that is trusted for all tenants", p.ingest, response.Status)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: the gateway at %s answers %s: %s", ErrAway, p.ingest, response.Status, bytes.TrimSpace(answer))
	}
	return nil
}

// Lay sends the quarters of an hour before now.
func (p *Plant) Lay(ctx context.Context, now time.Time, buckets int) error {
	return p.sim.SeedRecent(ctx, now, buckets)
}

// Run makes calls until ctx ends.
func (p *Plant) Run(ctx context.Context) error { return p.sim.Run(ctx) }

// Strike begins a fault. It strikes the calls that the model serves, so that those which go elsewhere escape it.
func (p *Plant) Strike(fault string, lifetime time.Duration) error {
	f := simulate.Fault{Tenant: p.in.Tenant, Model: p.in.Model}
	switch fault {
	case contract.DrillCost:
		f.Kind, f.Factor, f.Quality = simulate.Cost, p.in.Factor, p.in.CostScores
	case contract.DrillQuality:
		f.Kind, f.Factor = simulate.Quality, p.in.QualityFactor
	}
	_, err := p.sim.Inject(f, lifetime)
	return err
}

// Heal ends every fault.
func (p *Plant) Heal() { p.sim.Heal() }

// Calls are how many calls were made, and how many of them went elsewhere.
func (p *Plant) Calls() (made, rerouted int64) {
	s := p.sim.Stats()
	return s.Calls, s.Treated
}
