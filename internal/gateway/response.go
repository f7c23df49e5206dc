package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"

	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/internal/wire"
)

// maxResponse bounds a provider's answer that another gateway passes on for settling.
const maxResponse = 32 << 20

// The headers by which a gateway that cannot read JSON settles a call.
const (
	headerHold     = "X-Flyball-Hold-Id"
	headerUpstream = "X-Flyball-Upstream-Status" // of the provider's answer
	headerComplete = "X-Flyball-Complete"        // false: the client did not get all of the answer
	headerLatency  = "X-Flyball-Latency-Ms"
	headerTTFT     = "X-Flyball-TTFT-Ms"
)

// settleResponse settles one call by the provider's answer itself, a body or a stream of events, for gateways that do
// not read it.
func (x *External) settleResponse(w http.ResponseWriter, r *http.Request, c caller) {
	rep, err := responseReport(r)
	if err != nil {
		refuse(w, err)
		return
	}
	now := x.gate.o.Now()
	h, before, busy := x.holds.take(rep.HoldID, c.tenant)
	if h == nil || busy {
		refuseWith(w, http.StatusConflict, "hold_unknown", fmt.Errorf("%s: no hold of this id is known here, or another report settles it just now", headerHold))
		return
	}
	x.holds.done(h, nil, now)
	if before == nil {
		if err := readResponse(w, r, h, rep); err != nil {
			refuse(w, err)
			return
		}
	}
	cl, err := x.claimFor(rep, c, now)
	answer := settlements{Settled: []settlement{}, Refused: []badReport{}}
	var claims []*claim
	if err != nil {
		answer.refuse(0, err)
	} else {
		claims = append(claims, cl)
	}
	x.finish(r.Context(), w, claims, answer)
}

// responseReport reads what the headers say.
func responseReport(r *http.Request) (*report, error) {
	rep := &report{HoldID: r.Header.Get(headerHold), Status: statusOK}
	for _, f := range [...]struct {
		name string
		into *int64
	}{{headerLatency, &rep.LatencyMS}, {headerTTFT, &rep.TTFTMS}} {
		text := r.Header.Get(f.name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %.32q is not a whole number", f.name, text)
		}
		*f.into = n
	}
	if text := r.Header.Get(headerUpstream); text != "" {
		status, err := strconv.Atoi(text)
		if err != nil || status < 100 || status > 599 {
			return nil, fmt.Errorf("%s: %.32q is not a status of HTTP", headerUpstream, text)
		}
		if status < 200 || status > 299 {
			rep.Status = statusFailed
		}
	}
	if r.Header.Get(headerComplete) == "false" && rep.Status == statusOK {
		rep.Status = statusAborted
	}
	return rep, rep.check()
}

// readResponse finds the usage in the provider's answer to a call.
func readResponse(w http.ResponseWriter, r *http.Request, of *held, rep *report) error {
	body := http.MaxBytesReader(w, r.Body, maxResponse)
	if rep.Status == statusFailed {
		_, err := io.Copy(io.Discard, body)
		return err
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	var said usage.Report
	var err error
	if kind == "text/event-stream" {
		said, rep.OutputBytes, err = readEvents(body, of)
	} else {
		said, err = readBody(body, of)
	}
	if err != nil {
		return err
	}
	t := said.Tokens
	rep.Tokens = &tokens{
		Prompt: t.Input(), Completion: t.Output, Cached: t.CacheRead, CacheWrite5m: t.CacheWrite5m, CacheWrite1h: t.CacheWrite1h, Reasoning: t.Reasoning,
	}
	rep.Model, rep.ServiceTier = clip(said.Model), clip(said.ServiceTier)
	if !said.Complete {
		rep.Status = statusAborted
	}
	return nil
}

func readBody(body io.Reader, of *held) (usage.Report, error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return usage.Report{}, err
	}
	said, err := usage.FromBody(of.provider(), text)
	if errors.Is(err, usage.ErrUnsupported) {
		return said, err
	}
	return said, nil // what is not JSON says nothing
}

// readEvents reads a stream of events. The bytes of text that were seen are nil where they say nothing of what may be
// billed.
func readEvents(body io.Reader, of *held) (usage.Report, *int64, error) {
	stream, err := usage.NewStream(of.provider())
	if err != nil {
		return usage.Report{}, nil, err
	}
	relay := wire.NewRelay(of.api, false, nil)
	var buffer, passed []byte
	buffer = make([]byte, 32<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			_, _ = stream.Write(buffer[:n]) // it fails never
			passed = relay.Pass(passed[:0], buffer[:n])
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return usage.Report{}, nil, err
		}
	}
	if text := relay.Text(); of.api != "" && !of.reasons && !relay.Hidden() && text < usage.MaxTokens-unseen {
		return stream.Report(), &text, nil
	}
	return stream.Report(), nil, nil
}

// provider is by whose shape the call's answer is read: that of its API, where it is known, for many providers speak it.
func (c *held) provider() string {
	if c.api != "" {
		return string(c.api.Family())
	}
	return cmp.Or(c.span.Provider, "openai")
}

func clip(name string) string { return name[:min(len(name), maxName)] }
