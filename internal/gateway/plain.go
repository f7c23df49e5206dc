package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/flyball-dev/flyball/internal/wire"
)

// plain handles what costs nothing: lists of models, and counting tokens. Nothing is decided and nothing recorded.
func (p *Proxy) plain(api wire.API) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		family := api.Family()
		if _, own := r.Header["Anthropic-Version"]; api == wire.Models && own { // every client of Anthropic's sends it
			family = wire.Anthropic
		}
		no := p.enter()
		if no == nil {
			defer p.leave()
			no = p.servePlain(w, r, api, family)
		}
		if no != nil {
			no.write(w, family, "")
		}
	})
}

func (p *Proxy) servePlain(w http.ResponseWriter, r *http.Request, api wire.API, family wire.Family) *refusal {
	if _, _, no := p.admit(r); no != nil {
		return no
	}
	set, suffix := p.o.Upstreams.inForce.Load(), suffixes[api]
	var model string
	var body []byte
	if api == wire.CountTokens {
		var no *refusal
		if body, no = p.body(w, http.NewResponseController(w), r); no != nil {
			return no
		}
		ask, err := wire.Read(api, body)
		if err != nil {
			return refused(badRequest, err.Error())
		}
		model = ask.Model
	} else {
		suffix = "/models"
		if model = r.PathValue("id"); model != "" {
			_, rest, _ := strings.Cut(r.URL.EscapedPath(), suffix)
			suffix += rest
		} else {
			return p.models(w, r, set, family)
		}
		if strings.Contains(model, "..") || strings.ContainsAny(model, "?#\\") {
			return refused(noModel, "that is no model")
		}
	}
	chain := set.chain(family, model)
	if chain == nil {
		return refused(noModel, "no upstream of the gateway serves this model by the API of "+string(family))
	}
	got, no := p.fetch(r, chain, suffix, body)
	if no != nil {
		return no
	}
	return p.passPlain(w, got)
}

// whole is an upstream's answer that was read to its end.
type whole struct {
	from   *upstream
	status int
	header http.Header
	body   []byte
}

// fetch asks upstreams in turn for something that costs nothing, and so may be asked for again.
func (p *Proxy) fetch(r *http.Request, chain []*upstream, suffix string, body []byte) (whole, *refusal) {
	for i, u := range chain {
		got, err := p.ask(r, u, suffix, body)
		if err == nil && (!busy(got.status) || i == len(chain)-1) {
			return got, nil
		}
		if err != nil && r.Context().Err() == nil {
			p.gate.o.Logger.Warn("An upstream cannot be asked", "upstream", u.Name, "error", err)
		}
	}
	return whole{}, refused(badUpstream, "the provider cannot be reached: try again")
}

// ask asks one upstream, which must have answered in the time that it has for a first byte.
func (p *Proxy) ask(r *http.Request, u *upstream, suffix string, body []byte) (whole, error) {
	ctx, cancel := context.WithTimeout(r.Context(), min(u.Timeouts.Whole, u.Timeouts.FirstByte))
	defer cancel()
	answer, err := u.transport.RoundTrip(outgoing(ctx, r, u, suffix, body))
	if err != nil {
		return whole{}, err
	}
	defer answer.Body.Close()
	said, more, err := hold(answer.Body, answer.ContentLength, maxHeld)
	if more {
		err = errors.New("its answer is too long")
	}
	return whole{u, answer.StatusCode, answer.Header, said}, err
}

func (p *Proxy) passPlain(w http.ResponseWriter, got whole) *refusal {
	if got.status < 200 || got.status >= 300 && got.status < 400 {
		return refused(badUpstream, "the provider answered with a redirect, which is not followed")
	}
	if got.status >= 400 {
		return p.passError(w, got, func() {}, func() {})
	}
	h := w.Header()
	copyHeaders(h, got.header)
	setLength(h, len(got.body))
	w.WriteHeader(got.status)
	_, _ = w.Write(got.body) // an error means that the caller has gone
	return nil
}

// models lists the models of all upstreams of a family. One alone answers for itself, page by page.
func (p *Proxy) models(w http.ResponseWriter, r *http.Request, set *upstreams, family wire.Family) *refusal {
	var all []*upstream
	for _, u := range set.list {
		if wire.Family(u.Family) == family {
			all = append(all, u)
		}
	}
	switch len(all) {
	case 0:
		return refused(notFound, "the gateway has no upstream with the API of "+string(family))
	case 1:
		got, no := p.fetch(r, all, "/models", nil)
		if no != nil {
			return no
		}
		return p.passPlain(w, got)
	}
	var lists [][]byte
	for i := range all { // one that is away must not hide the others' models
		if got, no := p.fetch(r, all[i:i+1], "/models", nil); no == nil && got.status == http.StatusOK {
			lists = append(lists, got.body)
		}
	}
	merged, err := wire.MergeModels(family, lists...)
	if err != nil || len(lists) == 0 {
		return refused(badUpstream, "no provider lists its models")
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(merged) // an error means that the caller has gone
	return nil
}
