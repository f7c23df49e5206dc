// Package console serves the page on which people watch spend and quality, follow incidents and
// approve or deny decisions, and the JSON API beneath it. It keeps nothing: what it shows comes from
// the Telemetry and the Work behind it, and either may be away without taking the other along.
package console

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Telemetry is where spend and quality are read: ClickHouse.
type Telemetry interface {
	// Live returns the minutes in [from, to) of the keys that spent most in that range, dearest
	// first and at most limit of them, production traffic only.
	Live(ctx context.Context, from, to time.Time, limit int) ([]Series, error)
}

// Work is where incidents and decisions live: Temporal.
type Work interface {
	// Incidents are the open ones of one key each, newest first.
	Incidents(ctx context.Context) ([]Incident, error)
	// Groups are the open incidents of many keys, newest first.
	Groups(ctx context.Context) ([]Group, error)
	// Decisions are those that wait for a person or are under way, newest first.
	Decisions(ctx context.Context) ([]Decision, error)
	// Decide carries a person's verdict to a decision and returns the decision as it then stands.
	Decide(ctx context.Context, v Verdict) (Decision, error)
	// Mutes are what people are not told about now, the first to end first.
	Mutes(ctx context.Context) (Mutes, error)
	// Order carries a person's order to what it is about.
	Order(ctx context.Context, o Order) (Outcome, error)
	// Report is an incident's or a group's report in Markdown, ended or not.
	Report(ctx context.Context, id string) (string, error)
}

// What Telemetry and Work say, by wrapping one of these, about a failure that the person at the page
// can understand; the text of the whole error is then shown. Any other error is only logged.
var (
	ErrAway     = errors.New("not available at the moment") // try again later
	ErrNotFound = errors.New("not found")
	ErrRefused  = errors.New("refused") // decided already, expired, or not this person's to decide
)

// Options is what a console stands on; all but Hosts and Hooks are required.
type Options struct {
	Telemetry Telemetry
	Work      Work
	Audit     Audit
	Status    func() Status
	Logger    *slog.Logger
	Now       func() time.Time
	// Hosts are the names, without port, by which browsers may address the console beside localhost
	// and plain IP addresses. Any other name is refused: a hostile page could have pointed it here.
	Hosts []string
	// Hooks is served under /hooks/, which programs elsewhere call: it checks by itself who calls. Nil: nothing is.
	Hooks http.Handler
}

// Status is the state of the system itself.
type Status struct {
	Banner     string      `json:"banner,omitempty"` // a line above everything, such as the demo profile's
	Components []Component `json:"components"`
	TemporalUI string      `json:"temporal_ui,omitempty"` // its address, once there is one
}

// Component is one engine that the system runs on.
type Component struct {
	Name     string  `json:"name"`
	State    string  `json:"state"`              // building, starting, ready, died, restarted or failed
	Progress float64 `json:"progress,omitempty"` // of building, 0..1
	Detail   string  `json:"detail,omitempty"`
}

// USD is an amount that JSON shows as an exact decimal number of dollars.
type USD usage.PicoUSD

// MarshalJSON writes the amount in dollars.
func (u USD) MarshalJSON() ([]byte, error) { return []byte(pricing.Format(usage.PicoUSD(u))), nil }

// Series is one key's recent minutes.
type Series struct {
	Key     usage.Key `json:"key"`
	Usual   *Usual    `json:"usual,omitempty"` // nil while there is no baseline
	Minutes []Minute  `json:"minutes"`         // ascending; one per minute and arm
}

// Usual is the key's baseline.
type Usual struct {
	Cost           USD     `json:"cost_usd"` // median of a call
	Quality        float64 `json:"quality"`  // median score; 0 when unknown
	SpendPerMinute USD     `json:"spend_per_minute_usd"`
}

// Minute is one minute of a key's calls in one arm.
type Minute struct {
	Start    time.Time `json:"start"`
	Arm      usage.Arm `json:"arm"`
	Requests int64     `json:"requests"`
	Spend    USD       `json:"spend_usd"`
	Cost     USD       `json:"cost_usd"` // median of a call
	Scores   int64     `json:"scores"`
	Quality  float64   `json:"quality"` // median score; means nothing without scores
}

// Incident is an open incident.
type Incident struct {
	ID       string     `json:"id"`
	Handle   string     `json:"handle"` // a short name for people
	Key      usage.Key  `json:"key"`
	Level    string     `json:"level"` // PAGE or INVESTIGATE
	State    string     `json:"state"` // open, recovering, acknowledged …
	Opened   time.Time  `json:"opened"`
	Rule     string     `json:"rule"`
	Reason   string     `json:"reason"`
	Evidence []Evidence `json:"evidence"`
	Steps    []Step     `json:"steps"`            // the whole runbook, in order
	Advice   string     `json:"advice,omitempty"` // why the policy proposes nothing now, when it does not
	Link     string     `json:"link,omitempty"`
	Carried  string     `json:"carried,omitempty"` // which template, feature … carries the change, with its share

	Acknowledged *Remark   `json:"acknowledged,omitempty"` // by whoever has taken it on
	Notes        []Remark  `json:"notes,omitempty"`        // oldest first
	Mute         *Mute     `json:"mute,omitempty"`         // of its key; its tenant may be muted beside
	Previous     *Previous `json:"previous,omitempty"`     // the key's last one
}

// Group is an open incident of many keys that fail by one cause.
type Group struct {
	ID           string    `json:"id"`
	Handle       string    `json:"handle"`
	Cause        string    `json:"cause"` // provider:openai …
	Level        string    `json:"level"`
	State        string    `json:"state"`
	Opened       time.Time `json:"opened"`
	Reason       string    `json:"reason"`
	Keys         []Member  `json:"keys"` // in the order in which they joined
	Steps        []Step    `json:"steps"`
	Link         string    `json:"link,omitempty"`
	Acknowledged *Remark   `json:"acknowledged,omitempty"`
	Notes        []Remark  `json:"notes,omitempty"`
	Mute         *Mute     `json:"mute,omitempty"`
}

// Member is one key of a group.
type Member struct {
	Key    usage.Key `json:"key"`
	Level  string    `json:"level"`
	Reason string    `json:"reason"`
	Left   string    `json:"left,omitempty"` // resolved or parted; empty while it is in
}

// Remark is what a person said, and when.
type Remark struct {
	Who  string    `json:"who"`
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// Mute is something that people are not told about for a time.
type Mute struct {
	Target string    `json:"target"` // as an order takes it
	Until  time.Time `json:"until"`
	Who    string    `json:"who"`
	Reason string    `json:"reason"`
}

// Mutes are what is muted. Unanswered counts the keys and groups that no worker was there to tell of.
type Mutes struct {
	Muted      []Mute `json:"muted"`
	Unanswered int    `json:"unanswered"`
}

// Previous is the last incident of the same key.
type Previous struct {
	ID     string    `json:"id"`
	Handle string    `json:"handle"`
	Opened time.Time `json:"opened"`
	Cause  string    `json:"cause"`           // empty: it stayed unclear
	Reason string    `json:"reason"`          // of its end
	Query  string    `json:"query,omitempty"` // that showed the cause, runnable as printed
}

// Evidence is one quantity behind a finding, written for people: "median cost of a call", "$0.0132",
// "$0.0044 usually".
type Evidence struct {
	What  string `json:"what"`
	Now   string `json:"now"`
	Usual string `json:"usual,omitempty"`
}

// Step is one step of an incident's runbook.
type Step struct {
	Name   string    `json:"name"` // T0, T+2 …
	Title  string    `json:"title"`
	Status string    `json:"status"` // pending, found, clear, unknown or skipped
	Text   string    `json:"text,omitempty"`
	At     time.Time `json:"at"` // when it was walked, or is due
}

// Decision is a proposed act and where it stands.
type Decision struct {
	ID       string    `json:"id"`
	Handle   string    `json:"handle"`
	Incident string    `json:"incident"` // the id of the incident that it answers
	Key      usage.Key `json:"key"`
	Action   string    `json:"action"` // downgrade, upgrade, pin …
	Value    string    `json:"value"`  // the model to route to
	// Waiting says that a person is asked; the page then offers approve and deny until ExpiresAt.
	Waiting   bool      `json:"waiting"`
	Status    string    `json:"status"`
	Reason    string    `json:"reason"`
	Rule      string    `json:"rule"`
	Opened    time.Time `json:"opened"`
	ExpiresAt time.Time `json:"expires_at"`
	Shares    []float64 `json:"shares"`           // the steps of the rollout, ascending
	Share     float64   `json:"share"`            // applied now
	Caution   string    `json:"caution"`          // why the act cannot be proved; empty when it can
	Effect    string    `json:"effect,omitempty"` // what the last test of treated against holdback said
	Trust     string    `json:"trust,omitempty"`  // how far the class of action is from acting by itself
	Link      string    `json:"link,omitempty"`
}

// Verdict is a person's word on a decision.
type Verdict struct {
	ID      string `json:"id"`
	Verdict string `json:"verdict"` // approve or deny
	Who     string `json:"who"`
	Reason  string `json:"reason"` // required to deny
}

// Console serves the page and its API.
type Console struct {
	o      Options
	assets map[string]asset
}

// New prepares the pages.
func New(o Options) (*Console, error) {
	assets, err := loadAssets()
	if err != nil {
		return nil, err
	}
	return &Console{o: o, assets: assets}, nil
}
