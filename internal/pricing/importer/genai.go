package importer

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/pricing"
)

// genAIProvider is a provider of pydantic's genai-prices.
type genAIProvider struct {
	ID     string `json:"id"`
	Models []struct {
		ID     string          `json:"id"`
		Match  json.RawMessage `json:"match"`
		Prices json.RawMessage `json:"prices"`
	} `json:"models"`
}

// GenAIPrices reads genai-prices' data.json: prices in dollars per million tokens, by provider and model, dated or by
// the time of day. A price without tiers holds in every tier of the model's others.
func GenAIPrices(text []byte) (*Import, error) {
	var file []genAIProvider
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("not a price file of genai-prices (a list of providers): %w", err)
	}
	out := &Import{}
	taken := map[string]*pricing.Entry{}
	for _, p := range file {
		for _, m := range p.Models {
			out.Models++
			label := p.ID + "/" + m.ID
			if p.ID == "" || m.ID == "" {
				out.leave(label, "", "has no id")
				continue
			}
			periods, prices := out.genAIPeriods(label, m.Prices)
			if periods == nil {
				continue
			}
			names := genAINames{model: m.ID}
			out.match(label, m.Match, &names)
			out.add(taken, label, pricing.Entry{Provider: p.ID, Model: m.ID, Aliases: names.aliases, Globs: names.globs, Periods: periods}, prices)
		}
	}
	return out.finish(), nil
}

// genAINames are the names by which a model is found.
type genAINames struct {
	model          string
	aliases, globs []string
}

// match reads the rule by which a name is the model's.
func (i *Import) match(label string, rule json.RawMessage, names *genAINames) {
	var m map[string]json.RawMessage
	if json.Unmarshal(rule, &m) != nil {
		i.leave(label, "match", "is not an object")
		return
	}
	for _, kind := range slices.Sorted(maps.Keys(m)) {
		var list []json.RawMessage
		if kind == "or" && json.Unmarshal(m[kind], &list) == nil {
			for _, each := range list {
				i.match(label, each, names)
			}
			continue
		}
		var text string
		if json.Unmarshal(m[kind], &text) != nil || text == "" {
			i.leave(label, "match."+kind, "names that more than one rule must fit are not in our book")
			continue
		}
		switch kind {
		case "equals":
			if text != names.model {
				names.aliases = append(names.aliases, text)
			}
		case "starts_with":
			i.glob(label, kind, literal(text)+"*", names)
		case "ends_with":
			i.glob(label, kind, "*"+literal(text), names)
		case "contains":
			i.glob(label, kind, "*"+literal(text)+"*", names)
		default:
			i.leave(label, "match."+kind, "%q is no glob", text)
		}
	}
}

func (i *Import) glob(label, kind, glob string, names *genAINames) {
	if !validGlob(glob) {
		i.leave(label, "match."+kind, "%q is no glob", glob)
		return
	}
	names.globs = append(names.globs, glob)
}

// genAIPeriods reads a model's prices: one set, or several of which the last that holds counts.
func (i *Import) genAIPeriods(label string, text json.RawMessage) ([]pricing.Period, int) {
	var list []struct {
		Constraint map[string]string          `json:"constraint"`
		Prices     map[string]json.RawMessage `json:"prices"`
	}
	var one map[string]json.RawMessage
	if json.Unmarshal(text, &one) == nil {
		list = slices.Grow(list, 1)[:1]
		list[0].Prices = one
	} else if err := json.Unmarshal(text, &list); err != nil {
		i.leave(label, "prices", "are not prices: %v", err)
		return nil, 0
	}
	var periods []pricing.Period
	prices := 0
	for _, each := range list {
		service, n := i.genAIService(label, each.Prices)
		services := map[string]pricing.Service{pricing.Standard: service}
		if reason := unusable(services); reason != "" {
			i.leave(label, "", "%s", reason)
			return nil, 0
		}
		prices += n
		var err error
		if periods, err = constrain(periods, each.Constraint, services); err != nil {
			i.leave(label, "constraint", "%v", err)
			return nil, 0
		}
	}
	if len(periods) == 0 {
		i.leave(label, "prices", "there are none")
		return nil, 0
	}
	return periods, prices
}

// constrain adds prices that hold under a constraint: none, from a day on, or at hours of the day.
func constrain(periods []pricing.Period, constraint map[string]string, services map[string]pricing.Service) ([]pricing.Period, error) {
	date, from, until := constraint["start_date"], constraint["start_time"], constraint["end_time"]
	switch {
	case len(constraint) == 0 && len(periods) == 0:
		return append(periods, pricing.Period{Services: services}), nil
	case len(constraint) == 1 && date != "":
		start, err := time.Parse(time.DateOnly, date)
		if err != nil || len(periods) > 0 && !start.After(periods[len(periods)-1].From) {
			return nil, fmt.Errorf("start_date %q is not a later date", date)
		}
		return append(periods, pricing.Period{From: start, Services: services}), nil
	case len(constraint) == 2 && from != "" && until != "" && len(periods) > 0:
		start, err1 := time.Parse("15:04:05Z07:00", from)
		end, err2 := time.Parse("15:04:05Z07:00", until)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		midnight := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
		h := pricing.Hours{From: start.UTC().Sub(midnight), Until: end.UTC().Sub(midnight), Services: services}
		if h.From%time.Minute != 0 || h.Until%time.Minute != 0 || h.From < 0 || h.Until < 0 || h.From >= 24*time.Hour || h.Until >= 24*time.Hour || h.From == h.Until {
			return nil, fmt.Errorf("%s to %s are not two minutes of a day", from, until)
		}
		last := &periods[len(periods)-1]
		last.Hours = append(last.Hours, h)
		return periods, nil
	}
	return nil, fmt.Errorf("%v is not a start_date, nor a start_time and an end_time", constraint)
}

// genAIBuckets are the fields that price buckets.
var genAIBuckets = map[string]string{
	"input_mtok": "input", "output_mtok": "output", "cache_read_mtok": "cache_read",
	"cache_write_mtok": "cache_write_5m", "cache_write_1h_mtok": "cache_write_1h",
}

// tiered is a price, or a base price with others above some number of input tokens.
type tiered struct {
	Base  json.RawMessage `json:"base"`
	Tiers []genAITier     `json:"tiers"`
}

type genAITier struct {
	Start int64           `json:"start"`
	Price json.RawMessage `json:"price"`
}

// genAIService reads one set of prices, and how many it has.
func (i *Import) genAIService(label string, fields map[string]json.RawMessage) (pricing.Service, int) {
	var s pricing.Service
	said := map[string]tiered{}
	n := 0
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		bucket := genAIBuckets[field]
		if bucket == "" {
			if field != "output_reasoning_mtok" {
				i.leave(label, field, "no bucket of tokens is priced so")
			}
			continue
		}
		t := tiered{Base: fields[field]}
		if _, err := number(fields[field]); err != nil {
			t = tiered{}
			if err := json.Unmarshal(fields[field], &t); err != nil {
				i.leave(label, field, "is not a price: %v", err)
				continue
			}
		}
		if slices.ContainsFunc(t.Tiers, func(x genAITier) bool { return x.Start <= 0 }) {
			i.leave(label, field, "a tier must start above 0 tokens")
			continue
		}
		said[bucket] = t
		for _, tier := range t.Tiers {
			if !slices.ContainsFunc(s.Tiers, func(x pricing.Tier) bool { return x.Above == tier.Start }) {
				s.Tiers = append(s.Tiers, pricing.Tier{Above: tier.Start})
			}
		}
		n += 1 + len(t.Tiers)
	}
	slices.SortFunc(s.Tiers, func(a, b pricing.Tier) int { return int(max(-1, min(1, a.Above-b.Above))) })
	for _, bucket := range slices.Sorted(maps.Keys(said)) {
		n -= i.fill(label, bucket, said[bucket], &s)
	}
	if other := fields["output_reasoning_mtok"]; other != nil {
		if rate, err := rateOf(other, pricing.ParseFloatPerMillion); err != nil || rate != s.Rates.Output {
			i.leave(label, "output_reasoning_mtok", "reasoning has a price of its own, so that output has no single one")
			s.Rates.Output = pricing.Rate{}
			for j := range s.Tiers {
				s.Tiers[j].Rates.Output = pricing.Rate{}
			}
		}
	}
	return s, n
}

// fill sets a bucket's price in the base and in every tier, and says how many prices it had to leave.
func (i *Import) fill(label, bucket string, t tiered, s *pricing.Service) (left int) {
	set := func(into *pricing.Rates, price json.RawMessage) {
		rate, err := rateOf(price, pricing.ParseFloatPerMillion)
		if err != nil {
			i.leave(label, bucket, "%v", err)
			left++
		}
		*bucketOf(into, bucket) = rate
	}
	set(&s.Rates, t.Base)
	for j := range s.Tiers {
		*bucketOf(&s.Tiers[j].Rates, bucket) = *bucketOf(&s.Rates, bucket)
		if j > 0 {
			*bucketOf(&s.Tiers[j].Rates, bucket) = *bucketOf(&s.Tiers[j-1].Rates, bucket)
		}
		for _, tier := range t.Tiers {
			if tier.Start == s.Tiers[j].Above {
				set(&s.Tiers[j].Rates, tier.Price)
			}
		}
	}
	return left
}
