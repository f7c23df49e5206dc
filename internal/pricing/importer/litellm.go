package importer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// textModes are the modes of LiteLLM's models that are priced by tokens of text.
var textModes = []string{"", "chat", "responses", "completion", "embedding"}

// LiteLLM reads LiteLLM's model_prices_and_context_window.json: prices in dollars per token, by model. It knows no
// dates. A bucket that a tier leaves out has no price there: LiteLLM would take the base price, which no provider
// has said.
func LiteLLM(text []byte) (*Import, error) {
	var file map[string]json.RawMessage
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("not a price file of LiteLLM (an object of models): %w", err)
	}
	out := &Import{}
	taken := map[string]*pricing.Entry{}
	names := slices.SortedFunc(maps.Keys(file), func(a, b string) int { // plain names before those with a provider
		return cmp.Or(cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/")), cmp.Compare(a, b))
	})
	for _, name := range names {
		if name == "sample_spec" { // the file's description of itself
			continue
		}
		out.Models++
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(file[name], &fields); err != nil {
			out.leave(name, "", "is not an object of prices")
			continue
		}
		out.liteLLM(taken, name, fields)
	}
	return out.finish(), nil
}

func (i *Import) liteLLM(taken map[string]*pricing.Entry, name string, fields map[string]json.RawMessage) {
	var provider, mode string
	_ = json.Unmarshal(fields["litellm_provider"], &provider)
	_ = json.Unmarshal(fields["mode"], &mode)
	if provider == "" {
		i.leave(name, "", "has no litellm_provider")
		return
	}
	if !slices.Contains(textModes, mode) {
		i.leave(name, "", "mode %s is not priced by tokens of text", mode)
		return
	}
	services := map[string]*pricing.Service{}
	prices := 0
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		p, kind := liteLLMPrice(field)
		switch kind {
		case notAPrice:
			continue
		case otherPrice:
			i.leave(name, field, "no bucket of tokens is priced so")
			continue
		}
		rate, err := rateOf(fields[field], pricing.ParseFloatPerToken)
		if err != nil {
			i.leave(name, field, "%v", err)
			continue
		}
		into := bucketOf(p.rates(services), p.bucket)
		if _, twice := into.Pico(); twice && *into != rate {
			i.leave(name, field, "another field prices the same bucket differently")
			continue
		}
		*into = rate
		prices++
	}
	i.reasoning(name, fields, services[pricing.Standard])
	model, aliases := name, []string(nil)
	if short, ok := strings.CutPrefix(name, provider+"/"); ok {
		model, aliases = short, []string{name}
	}
	period := pricing.Period{Services: map[string]pricing.Service{}}
	for tier, s := range services {
		slices.SortFunc(s.Tiers, func(a, b pricing.Tier) int { return cmp.Compare(a.Above, b.Above) })
		period.Services[tier] = *s
		i.gaps(name, tier, s)
	}
	if reason := unusable(period.Services); reason != "" {
		i.leave(name, "", "%s", reason)
		return
	}
	i.add(taken, name, pricing.Entry{Provider: liteLLMProvider(provider), Model: model, Aliases: aliases, Periods: []pricing.Period{period}}, prices)
}

// unusable says why services cannot price anything.
func unusable(services map[string]pricing.Service) string {
	standard := services[pricing.Standard].Rates
	if _, known := standard.Input.Pico(); !known {
		return "has no price of input tokens"
	}
	if _, output := standard.Output.Pico(); standard.Input == zero && (!output || standard.Output == zero) {
		return free
	}
	return ""
}

// gaps reports the buckets that have a price below a tier and none in it.
func (i *Import) gaps(model, service string, s *pricing.Service) {
	for _, t := range s.Tiers {
		for _, bucket := range []string{"input", "cache_read", "cache_write_5m", "cache_write_1h", "output"} {
			_, below := bucketOf(&s.Rates, bucket).Pico()
			if _, in := bucketOf(&t.Rates, bucket).Pico(); below && !in {
				i.leave(model, bucket, "has no price in service tier %s above %d tokens", service, t.Above)
			}
		}
	}
}

// reasoning leaves out a price of output where reasoning, which is a part of it, has a price of its own.
func (i *Import) reasoning(model string, fields map[string]json.RawMessage, s *pricing.Service) {
	const field = "output_cost_per_reasoning_token"
	if fields[field] == nil || s == nil {
		return
	}
	if rate, err := rateOf(fields[field], pricing.ParseFloatPerToken); err != nil || rate != s.Rates.Output {
		s.Rates.Output = pricing.Rate{}
		i.leave(model, field, "reasoning has a price of its own, so that output has no single one")
	}
}

func rateOf(value json.RawMessage, parse func(string) (pricing.Rate, error)) (pricing.Rate, error) {
	text, err := number(value)
	if err != nil {
		return pricing.Rate{}, err
	}
	return parse(text)
}

// liteLLMProvider is the provider by our name. Vertex AI has one of LiteLLM's for each family of models.
func liteLLMProvider(name string) string {
	if strings.HasPrefix(name, "vertex_ai-") {
		name = "vertex_ai"
	}
	return usage.Provider(name)
}

// place is where a price belongs.
type place struct {
	bucket, service string
	above           int64
}

func (p place) rates(services map[string]*pricing.Service) *pricing.Rates {
	s := services[p.service]
	if s == nil {
		s = &pricing.Service{}
		services[p.service] = s
	}
	if p.above == 0 {
		return &s.Rates
	}
	for j := range s.Tiers {
		if s.Tiers[j].Above == p.above {
			return &s.Tiers[j].Rates
		}
	}
	s.Tiers = append(s.Tiers, pricing.Tier{Above: p.above})
	return &s.Tiers[len(s.Tiers)-1].Rates
}

type priceKind int

const (
	notAPrice  priceKind = iota
	otherPrice           // of sounds, pictures, searches
	tokenPrice
)

// liteLLMBuckets are the fields that price buckets, before what names tiers.
var liteLLMBuckets = map[string]string{
	"input_cost_per_token":                      "input",
	"output_cost_per_token":                     "output",
	"cache_read_input_token_cost":               "cache_read",
	"input_cost_per_token_cache_hit":            "cache_read",
	"cache_creation_input_token_cost":           "cache_write_5m",
	"cache_creation_input_token_cost_above_1hr": "cache_write_1h",
	"output_cost_per_reasoning_token":           "", // looked at apart
	// Databricks' own units, beside the dollars.
	"input_dbu_cost_per_token":  "",
	"output_dbu_cost_per_token": "",
	"output_db_cost_per_token":  "",
}

var liteLLMTier = regexp.MustCompile(`_above_(\d+)k_tokens`)

// liteLLMPrice reads a field's name: a bucket, then perhaps a number of tokens, then perhaps a service tier.
func liteLLMPrice(field string) (place, priceKind) {
	p := place{service: pricing.Standard}
	base := field
	for suffix, service := range map[string]string{"_priority": "priority", "_flex": "flex", "_batches": "batch"} {
		if cut, ok := strings.CutSuffix(base, suffix); ok {
			base, p.service = cut, service
			break
		}
	}
	if m := liteLLMTier.FindStringSubmatchIndex(base); m != nil {
		thousands, err := strconv.ParseInt(base[m[2]:m[3]], 10, 32)
		if err != nil || thousands == 0 {
			return p, otherPrice
		}
		p.above = thousands * 1000
		base = base[:m[0]] + base[m[1]:]
	}
	bucket, known := liteLLMBuckets[base]
	switch {
	case known && bucket != "":
		p.bucket = bucket
		return p, tokenPrice
	case known:
		return p, notAPrice
	case strings.Contains(field, "cost"):
		return p, otherPrice
	}
	return p, notAPrice
}
