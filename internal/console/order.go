package console

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Order is what a person wants done about an incident or a group, or about what it is of.
type Order struct {
	Do string `json:"do"` // one of the orders below
	// ID is that of the incident or the group. Mute, unmute and accept_level also take a key, tenant/model,
	// and a tenant, tenant/*.
	ID      string `json:"id"`
	Step    string `json:"step,omitempty"`    // of skip_step and rerun_step
	Minutes int    `json:"minutes,omitempty"` // of mute
	Key     string `json:"key,omitempty"`     // of split: tenant/model
	Who     string `json:"who"`
	Reason  string `json:"reason"` // why; of annotate, the note itself
}

// Unmute is the order that ends a mute. The other orders are called as the messages of contract.
const Unmute = "unmute"

// orders are what can be ordered, and what each needs to be told.
var orders = map[string]struct{ step, minutes, key, reason bool }{
	contract.Acknowledge: {},
	contract.Resolve:     {},
	contract.SkipStep:    {step: true},
	contract.RerunStep:   {step: true},
	contract.Annotate:    {reason: true},
	contract.SetMute:     {minutes: true, reason: true},
	Unmute:               {},
	contract.AcceptLevel: {reason: true},
	contract.Split:       {key: true, reason: true},
}

// Outcome is what became of an order. Answered is false when no worker was there: the order is then kept, and
// takes effect when one is back.
type Outcome struct {
	ID       string `json:"id"`
	Answered bool   `json:"answered"`
}

func (o Order) check() error {
	needs, known := orders[o.Do]
	switch {
	case !known:
		return fmt.Errorf("do is %q; it is acknowledge, resolve, skip_step, rerun_step, annotate, mute, unmute, accept_level or split", o.Do)
	case o.ID == "":
		return fmt.Errorf("id is missing: say what to %s", o.Do)
	case len(o.ID) > maxText || len(o.Step) > maxName || len(o.Key) > maxText:
		return errors.New("id, step or key is longer than any")
	case needs.step != (o.Step != ""):
		return errors.New("step is for skip_step and rerun_step, which need it")
	case needs.key != (o.Key != ""):
		return errors.New("key is for split, which needs it: which one leaves the group")
	case needs.minutes != (o.Minutes != 0) || o.Minutes < 0 || o.Minutes > int(contract.MaxMute/time.Minute):
		return fmt.Errorf("minutes is for mute, which needs 1 to %d of them", int(contract.MaxMute/time.Minute))
	case needs.reason && o.Reason == "":
		return errors.New("reason is missing: others will read it")
	}
	return checkWords(o.Who, o.Reason)
}

func (c *Console) order(w http.ResponseWriter, r *http.Request) {
	var o Order
	if !take(w, r, &o) {
		return
	}
	o.Who, o.Reason = strings.TrimSpace(o.Who), strings.TrimSpace(o.Reason)
	if err := o.check(); err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	outcome, err := c.o.Work.Order(r.Context(), o)
	if err != nil {
		c.fail(w, r, o.Do+" "+o.ID, err)
		return
	}
	c.o.Logger.InfoContext(r.Context(), "a person gave an order", "do", o.Do, "id", o.ID, "who", o.Who)
	reply(w, http.StatusOK, outcome)
}

func (c *Console) mutes(w http.ResponseWriter, r *http.Request) {
	mutes, err := c.o.Work.Mutes(r.Context())
	if err != nil {
		c.fail(w, r, "listing the mutes", err)
		return
	}
	if mutes.Muted == nil {
		mutes.Muted = []Mute{}
	}
	reply(w, http.StatusOK, mutes)
}

// report answers with Markdown, as text that no browser runs.
func (c *Console) report(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if id == "" || len(id) > maxText {
		refuse(w, http.StatusBadRequest, "bad_request", "id is missing: say whose report")
		return
	}
	text, err := c.o.Work.Report(r.Context(), id)
	if err != nil {
		c.fail(w, r, "reading the report of "+id, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	_, _ = fmt.Fprint(w, text) // an error means that the browser has gone
}
