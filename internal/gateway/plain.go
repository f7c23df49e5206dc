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
	answer, said, u, no := p.fetch(r, chain, suffix, body)
	if no != nil {
		return no
	}
	return p.passPlain(w, u, answer, said)
}

// fetch asks upstreams in turn for something that costs nothing, and so may be asked for again.
func (p *Proxy) fetch(r *http.Request, chain []*upstream, suffix string, body []byte) (*http.Response, []byte, *upstream, *refusal) {
	for i, u := range chain {
		ctx, cancel := context.WithTimeout(r.Context(), min(u.Timeouts.Whole, u.Timeouts.FirstByte))
		answer, err := u.transport.RoundTrip(outgoing(ctx, r, u, suffix, body))
		if err == nil {
			var said []byte
			var more bool
			said, more, err = hold(answer.Body, answer.ContentLength, maxHeld)
			_ = answer.Body.Close()
			if more {
				err = errors.New("its answer is too long")
			}
			if err == nil && (!busy(answer.StatusCode) || i == len(chain)-1) {
				cancel()
				return answer, said, u, nil
			}
		}
		cancel()
		if err != nil && r.Context().Err() == nil {
			p.gate.o.Logger.Warn("An upstream cannot be asked", "upstream", u.Name, "error", err)
		}
	}
	return nil, nil, nil, refused(badUpstream, "the provider cannot be reached: try again")
}

func (p *Proxy) passPlain(w http.ResponseWriter, u *upstream, answer *http.Response, said []byte) *refusal {
	if answer.StatusCode >= 300 && answer.StatusCode < 400 {
		return refused(badUpstream, "the provider answered with a redirect, which is not followed")
	}
	if answer.StatusCode >= 400 {
		return p.passError(w, u, answer, said, func() {}, func() {})
	}
	h := w.Header()
	copyHeaders(h, answer.Header)
	setLength(h, len(said))
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(said) // an error means that the caller has gone
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
		answer, said, u, no := p.fetch(r, all, "/models", nil)
		if no != nil {
			return no
		}
		return p.passPlain(w, u, answer, said)
	}
	var lists [][]byte
	for i := range all { // one that is away must not hide the others' models
		if answer, said, _, no := p.fetch(r, all[i:i+1], "/models", nil); no == nil && answer.StatusCode == http.StatusOK {
			lists = append(lists, said)
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
