package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Audit is where what was decided, and what it saved, is read: ClickHouse.
type Audit interface {
	// Decided are decisions, open and ended, newest first.
	Decided(ctx context.Context, q DecidedQuery) ([]Decided, error)
	// Savings are what decisions saved, ordered by what they are told apart by.
	Savings(ctx context.Context, q SavingsQuery) ([]Savings, error)
	// Fallback is what fallback rules were worth, by tenant and rule.
	Fallback(ctx context.Context, q FallbackQuery) ([]FallbackWorth, error)
}

// DecidedQuery chooses decisions; what is empty chooses all.
type DecidedQuery struct {
	Tenant, Model, Status, Action string
	Since, Until                  time.Time // opened in [Since, Until)
	Limit                         int
}

// Decided is a decision as its row tells it. What is not known is null.
type Decided struct {
	ID        string     `json:"id"`
	Handle    string     `json:"handle"`
	Incident  string     `json:"incident"`
	Key       usage.Key  `json:"key"`
	Opened    time.Time  `json:"opened"`
	Ended     *time.Time `json:"ended"`
	Action    string     `json:"action"`
	Mode      string     `json:"mode"`
	Value     string     `json:"value"`
	Status    string     `json:"status"`
	Reason    string     `json:"reason"`
	Share     float64    `json:"share"`
	AlertRule string     `json:"alert_rule"`
	Rule      string     `json:"rule"`
	Revision  string     `json:"revision"`
	Approvers []string   `json:"approvers"`
	By        string     `json:"by"`
	Effect    string     `json:"effect"`
	Worth     *Worth     `json:"worth"` // null: not measured
	Story     string     `json:"story"` // all about it, as plain text
}

// Worth is what a decision was worth, against its holdback. Amounts are exact decimals of dollars.
type Worth struct {
	MeasuredAt  time.Time    `json:"measured_at"`
	Estimated   bool         `json:"estimated"` // of refused calls
	Treated     int64        `json:"treated_calls"`
	Compared    int64        `json:"compared_calls"`
	Saved       *json.Number `json:"saved_usd"`
	SavedLow    *json.Number `json:"saved_low_usd"`
	SavedHigh   *json.Number `json:"saved_high_usd"`
	Quality     *float64     `json:"quality_change"`
	QualityLow  *float64     `json:"quality_change_low"`
	QualityHigh *float64     `json:"quality_change_high"`
}

// FallbackQuery asks what fallback rules were worth on the UTC days in [From, To).
type FallbackQuery struct {
	From, To time.Time
	Tenant   string // empty: all
}

// FallbackWorth is what a rule was worth to a tenant, by the calls that fell back against its holdback.
type FallbackWorth struct {
	Tenant   string `json:"tenant_id"`
	Rule     string `json:"rule"`
	Holdback int64  `json:"holdback_calls"`
	Worth
}

// SavingsQuery asks what decisions saved on the UTC days in [From, To).
type SavingsQuery struct {
	From, To time.Time
	Tenant   string   // empty: all
	By       []string // of SavingsBy
}

// SavingsBy is what savings can be told apart by.
var SavingsBy = []string{"tenant_id", "model", "action", "day", "decision_id"}

// Savings are what decisions saved. Amounts are exact decimals of dollars. It has those of the first fields that were
// asked for.
type Savings struct {
	Tenant   string `json:"tenant_id,omitempty"`
	Model    string `json:"model,omitempty"`
	Action   string `json:"action,omitempty"`
	Day      string `json:"day,omitempty"`
	Decision string `json:"decision_id,omitempty"`

	Decisions int64       `json:"decisions"`
	Unknown   int64       `json:"unknown"` // of them, that are in no amount
	Treated   int64       `json:"treated_calls"`
	Compared  int64       `json:"compared_calls"`
	Cost      json.Number `json:"cost_usd"`
	Saved     json.Number `json:"saved_usd"`
	Spent     json.Number `json:"spent_usd"`
	Net       json.Number `json:"net_usd"`
	Estimated json.Number `json:"estimated_usd"`
}

// The bounds on what is asked of the audit.
const (
	decidedUnasked = 100
	decidedMost    = 1000
	savingsDays    = 366
)

func (c *Console) audit(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	q := DecidedQuery{Tenant: v.Get("tenant"), Model: v.Get("model"), Status: v.Get("status"), Action: v.Get("action"), Limit: decidedUnasked}
	for name, at := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if text := v.Get(name); text != "" {
			asked, err := time.Parse(time.RFC3339, text)
			if err != nil {
				refuse(w, http.StatusBadRequest, "bad_request", name+" is not a time like 2026-01-02T15:04:05Z")
				return
			}
			*at = asked.UTC()
		}
	}
	if text := v.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > decidedMost {
			refuse(w, http.StatusBadRequest, "bad_request", fmt.Sprintf("limit is not a number from 1 to %d", decidedMost))
			return
		}
		q.Limit = n
	}
	answerList(c, w, r, "reading what was decided", func(ctx context.Context) ([]Decided, error) { return c.o.Audit.Decided(ctx, q) })
}

func (c *Console) savings(w http.ResponseWriter, r *http.Request) {
	q, err := savingsQuery(r, c.o.Now())
	if err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	answerList(c, w, r, "reading what was saved", func(ctx context.Context) ([]Savings, error) { return c.o.Audit.Savings(ctx, q) })
}

func (c *Console) fallback(w http.ResponseWriter, r *http.Request) {
	q, err := savingsQuery(r, c.o.Now())
	if err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	answerList(c, w, r, "reading what falling back was worth", func(ctx context.Context) ([]FallbackWorth, error) {
		return c.o.Audit.Fallback(ctx, FallbackQuery{From: q.From, To: q.To, Tenant: q.Tenant})
	})
}

// savingsQuery reads the question; the last 30 days when it names none.
func savingsQuery(r *http.Request, now time.Time) (SavingsQuery, error) {
	v := r.URL.Query()
	today := now.UTC().Truncate(24 * time.Hour)
	q := SavingsQuery{Tenant: v.Get("tenant"), By: []string{"tenant_id"}, From: today.AddDate(0, 0, -29), To: today.AddDate(0, 0, 1)}
	for name, at := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		if text := v.Get(name); text != "" {
			day, err := time.Parse(time.DateOnly, text)
			if err != nil {
				return q, fmt.Errorf("%s is not a day like 2026-01-02", name)
			}
			*at = day
		}
	}
	if !q.From.Before(q.To) || q.To.Sub(q.From) > savingsDays*24*time.Hour {
		return q, fmt.Errorf("from must be before to, by %d days at most", savingsDays)
	}
	if by := v.Get("by"); by != "" {
		q.By = strings.Split(by, ",")
	}
	for i, d := range q.By {
		if !slices.Contains(SavingsBy, d) || slices.Contains(q.By[:i], d) {
			return q, fmt.Errorf("by has %q, which is none of %s, or is there twice", d, strings.Join(SavingsBy, ", "))
		}
	}
	return q, nil
}
