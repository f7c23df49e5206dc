package notify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PagerDuty/go-pagerduty"

	"github.com/flyball-dev/flyball/internal/contract"
)

// PagerDutyOptions are what PagerDuty stands on.
type PagerDutyOptions struct {
	RoutingKey       string // of an Events API v2 integration
	ChangeRoutingKey string // of the service that shows changes; empty: RoutingKey
	DrillRoutingKey  string // of the service that drills go to; empty: they go nowhere
	API              string // https://events.pagerduty.com, or that of the EU
	Links            Links
	HTTP             *http.Client // nil: one that follows no redirect, since the body is secret
}

// PagerDuty wakes people up. An incident is one alert there, by its deduplication key: opening, escalation,
// questions and reminders trigger it, acknowledging acknowledges it, closing resolves it. Our own acts are
// change events beside it.
type PagerDuty struct {
	o PagerDutyOptions

	mu    sync.Mutex
	told  *recent[string] // incidents that it was told of by this process
	ended *recent[string] // incidents that were resolved: a trigger that comes late must not open them anew
}

// alertKey and changeKey are the services that the notice goes to.
func (o PagerDutyOptions) alertKey(n contract.Notice) string {
	if n.For() == contract.Drills {
		return o.DrillRoutingKey
	}
	return o.RoutingKey
}

func (o PagerDutyOptions) changeKey(n contract.Notice) string {
	if n.For() == contract.Drills {
		return o.DrillRoutingKey
	}
	return o.ChangeRoutingKey
}

// NewPagerDuty returns the channel.
func NewPagerDuty(o PagerDutyOptions) *PagerDuty {
	if o.ChangeRoutingKey == "" {
		o.ChangeRoutingKey = o.RoutingKey
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &PagerDuty{o: o, told: newRecent[string](memorized), ended: newRecent[string](memorized)}
}

// Post sends the event that the notice calls for, if any.
func (p *PagerDuty) Post(ctx context.Context, n contract.Notice) error {
	n.Incident = cmp.Or(n.Incident, n.ID)
	if n.For() == contract.Drills && (p.o.DrillRoutingKey == "" || n.State == nil && n.Kind == contract.NoticeReport) {
		return nil // whatever the order of channels says: a drill wakes nobody, and its report is no alert
	}
	if n.Kind == contract.NoticeActed {
		return p.sendChange(ctx, changeEvent(n, p.o))
	}
	p.mu.Lock()
	action := pagerAction(n, p.told.has(n.Incident))
	if action == pagerTrigger && p.ended.has(n.Incident) {
		action = ""
	}
	p.mu.Unlock()
	if action == "" {
		return nil
	}
	err := p.send(ctx, "sending an event", func(ctx context.Context, c *pagerduty.Client) error {
		_, err := c.ManageEventWithContext(ctx, alertEvent(n, action, p.o))
		return err
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told.add(n.Incident)
	if action == pagerResolve {
		p.ended.add(n.Incident)
	}
	return nil
}

// sendChange sends a change event. PagerDuty knows no key for these, so one that it may have is not sent
// again: an act that is missing there can be read here, and one that is there twice misleads.
func (p *PagerDuty) sendChange(ctx context.Context, e pagerduty.ChangeEvent) error {
	err := p.send(ctx, "sending a change event", func(ctx context.Context, c *pagerduty.Client) error {
		_, err := c.CreateChangeEventWithContext(ctx, e)
		return err
	})
	var failed *pagerDutyError
	if errors.As(err, &failed) && failed.unanswered {
		failed.final, failed.mend = true, "it may be there or not; it is not sent again, since PagerDuty could not tell the two apart"
	}
	return err
}

// send calls PagerDuty by its library.
func (p *PagerDuty) send(ctx context.Context, doing string, call func(context.Context, *pagerduty.Client) error) error {
	e := &pagerDutyExchange{client: p.o.HTTP, hide: strings.NewReplacer(p.o.RoutingKey, "…", p.o.ChangeRoutingKey, "…", cmp.Or(p.o.DrillRoutingKey, p.o.RoutingKey), "…")}
	client := pagerduty.NewClient("", pagerduty.WithV2EventsAPIEndpoint(strings.TrimRight(p.o.API, "/")))
	client.HTTPClient = e
	return e.explain(doing, call(ctx, client))
}

// maxAnswer bounds what is read of PagerDuty's answers.
const maxAnswer = 64 << 10

// pagerDutyExchange is one request and its answer. The library's errors lack what is needed to judge
// them: the words of a refusal, Retry-After, and whether the request went out at all.
type pagerDutyExchange struct {
	client *http.Client
	hide   *strings.Replacer // of what must not be shown
	sent   atomic.Bool       // wholly
	status int               // 0: no answer
	after  time.Duration
	body   []byte
	err    error // of the transport
}

// Do carries out the request.
func (e *pagerDutyExchange) Do(r *http.Request) (*http.Response, error) {
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		WroteRequest: func(w httptrace.WroteRequestInfo) { e.sent.Store(w.Err == nil) },
	}))
	response, err := e.client.Do(r)
	if err != nil {
		e.err = err
		return nil, err
	}
	defer response.Body.Close()
	if e.body, e.err = io.ReadAll(io.LimitReader(response.Body, maxAnswer)); e.err != nil {
		return nil, e.err
	}
	e.status = response.StatusCode
	e.after = askedPause(response.Header.Get("Retry-After"), time.Now())
	response.Body = io.NopCloser(bytes.NewReader(e.body))
	return response, nil
}

// askedPause reads a Retry-After header: seconds or a date; 0 where it says nothing.
func askedPause(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(strings.TrimSpace(header)); err == nil {
		seconds = min(max(seconds, 0), int(maxAsked/time.Second))
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(at.Sub(now), 0), maxAsked)
	}
	return 0
}

// pagerDutyError is why PagerDuty did not take an event.
type pagerDutyError struct {
	doing      string
	err        error
	mend       string        // empty: time mends it
	after      time.Duration // how long it asks to be left alone
	final      bool
	unanswered bool // it may have the event all the same
}

func (e *pagerDutyError) Error() string {
	text := fmt.Sprintf("PagerDuty: %s: %v", e.doing, e.err)
	if e.mend != "" {
		text += ": " + e.mend
	}
	return text
}

// Unwrap gives the cause.
func (e *pagerDutyError) Unwrap() error { return e.err }

// Retryable reports whether trying again can help with nothing mended by a person.
func (e *pagerDutyError) Retryable() bool { return !e.final }

// RetryAfter is how long PagerDuty asks to be left alone.
func (e *pagerDutyError) RetryAfter() time.Duration { return e.after }

// explain judges how the exchange went. By PagerDuty's documentation 429 and 5xx are to be sent again and
// other refusals never.
func (e *pagerDutyExchange) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	failed := &pagerDutyError{doing: doing, err: err, after: e.after}
	switch {
	case e.err != nil:
		failed.err, failed.unanswered = e.err, e.sent.Load()
	case e.status >= 200 && e.status < 300: // it has the event; only its answer makes no sense
		failed.unanswered = true
	case e.status == http.StatusTooManyRequests, e.status == http.StatusRequestTimeout, e.status >= 500:
		failed.err = e.said()
		failed.unanswered = e.status == http.StatusBadGateway || e.status == http.StatusGatewayTimeout // by what stands between
	case e.status != 0:
		failed.err, failed.final = e.said(), true
		failed.mend = "is notify.pagerduty.routing_key that of an Events API v2 integration, and notify.pagerduty.api of its region?"
	}
	return failed
}

// said is the start of its answer on one line.
func (e *pagerDutyExchange) said() error {
	return fmt.Errorf("it answers %d: %s", e.status, cut(inert(e.hide.Replace(string(e.body))), 300))
}
