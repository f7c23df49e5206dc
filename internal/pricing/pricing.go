package pricing

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Rate is the price of one token of one bucket. The zero Rate is an unknown price, which is not a
// price of zero: tokens of a bucket without a price make the whole call unpriced.
type Rate struct {
	pico  int64
	known bool
}

// perMillion is the decimals between a price per million tokens in dollars and pico-dollars per token.
const perMillion = 6

// maxRate is the dearest price taken, ten thousand dollars per million tokens. It keeps the cost of
// usage.MaxTokens below an overflow of any bucket.
const maxRate = 10_000_000_000

// ParseRate reads a price in dollars per million tokens. It refuses one that is not a whole number
// of pico-dollars per token, since that could not be multiplied exactly.
func ParseRate(text string) (Rate, error) { return parseRate(text, perMillion, false) }

// ParseFloatPerMillion reads a price in dollars per million tokens that a program wrote from a float: it refuses what
// ParseRate does, but for the digits that are the float's error.
func ParseFloatPerMillion(text string) (Rate, error) { return parseRate(text, perMillion, true) }

// ParseFloatPerToken reads a price in dollars per token, as ParseFloatPerMillion does.
func ParseFloatPerToken(text string) (Rate, error) { return parseRate(text, picoDigits, true) }

// parseRate reads a price in dollars per 10^(12-scale) tokens.
func parseRate(text string, scale int, float bool) (Rate, error) {
	pico, exact, err := parseScaled(text, scale)
	if err == nil && !exact && float {
		exact = isNoise(text, pico, scale)
	}
	switch {
	case err != nil:
		return Rate{}, err
	case !exact:
		return Rate{}, fmt.Errorf("price %s has more than %d decimals: it is not a whole number of pico-dollars per token", text, scale)
	case pico < 0:
		return Rate{}, fmt.Errorf("price %s is negative", text)
	case pico > maxRate:
		return Rate{}, fmt.Errorf("price %s is above %d dollars per million tokens", text, maxRate/1_000_000)
	}
	return Rate{pico, true}, nil
}

// floatNoise is how much of a price may be the error of a float, as in 3.0000000000000004e-07: a double holds
// almost 16 digits, and a few are lost by computing with it.
const floatNoise = 1e-12

// isNoise reports whether text differs from n times 10^-scale by no more than a float's error. No price is
// computed from the float: it only tells whether the digits that were rounded away meant something.
func isNoise(text string, n int64, scale int) bool {
	said, err := strconv.ParseFloat(text, 64)
	if err != nil || n == 0 {
		return false
	}
	near := float64(n) / math.Pow10(scale)
	return math.Abs(said-near) <= floatNoise*math.Abs(near)
}

// Pico is the price in pico-dollars per token, and whether it is known.
func (r Rate) Pico() (int64, bool) { return r.pico, r.known }

// String writes the price in dollars per million tokens, "" when it is unknown.
func (r Rate) String() string {
	if !r.known {
		return ""
	}
	return Format(usage.PicoUSD(r.pico * 1_000_000))
}

// Rates are the prices of the buckets. Reasoning is output and has no price of its own.
type Rates struct {
	Input, CacheRead, CacheWrite5m, CacheWrite1h, Output Rate
}

// Tier replaces every price when a call has more than Above input tokens of all kinds.
type Tier struct {
	Above int64
	Rates Rates
}

// Service is what one service tier (standard, batch, flex, priority) costs.
type Service struct {
	Rates Rates
	Tiers []Tier // ascending by Above
}

// rates are the prices for a call with so many input tokens, and the tier they come from.
func (s *Service) rates(input int64) (rates *Rates, above int64) {
	for i := len(s.Tiers) - 1; i >= 0; i-- {
		if t := &s.Tiers[i]; input > t.Above {
			return &t.Rates, t.Above
		}
	}
	return &s.Rates, 0
}

// Standard is the name that a book gives to the ordinary service tier; spans leave it empty.
const Standard = "standard"

// Period is what a model costs from a moment on, by service tier.
type Period struct {
	From     time.Time // zero: since the model exists
	Services map[string]Service
	Hours    []Hours // of the day at which other prices stand
}

// Hours are a part of every day, in UTC, with prices of its own for the service tiers that it names. It runs
// over midnight when it ends before it starts.
type Hours struct {
	From, Until time.Duration // since midnight; Until is the first moment after
	Services    map[string]Service
}

// day is a day without leap seconds, which UTC timestamps do not have.
const day = 24 * time.Hour

func (h *Hours) cover(at time.Time) bool {
	now := at.UTC().Sub(at.UTC().Truncate(day))
	if h.From < h.Until {
		return h.From <= now && now < h.Until
	}
	return h.From <= now || now < h.Until
}

// String writes the hours as 16:30-00:30.
func (h *Hours) String() string {
	clock := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60) }
	return clock(h.From) + "-" + clock(h.Until)
}

// service is the price of a service tier at a moment of the period, and the hours that it is from, if any.
func (p *Period) service(tier string, at time.Time) (s Service, hours string, ok bool) {
	for i := range p.Hours {
		if h := &p.Hours[i]; h.cover(at) {
			if s, ok = h.Services[tier]; ok {
				return s, h.String(), true
			}
		}
	}
	s, ok = p.Services[tier]
	return s, "", ok
}

// Entry is one model of a book.
type Entry struct {
	Provider string
	Model    string
	Aliases  []string
	Globs    []string // path.Match patterns, tried when no name fits, the longest first
	Periods  []Period // ascending by From
}

// Book is a price book. It is built once and safe for concurrent use after that.
type Book struct {
	version string
	entries []*Entry
	names   map[name]*Entry
	bare    map[string]*Entry // by model alone; nil where two providers share the name
	globs   []glob
}

type name struct{ provider, model string }

type glob struct {
	name
	entry *Entry
}

// NewBook starts a book. The version is kept with every cost that the book gives.
func NewBook(version string) *Book {
	return &Book{version: version, names: map[name]*Entry{}, bare: map[string]*Entry{}}
}

// Version names the book's content.
func (b *Book) Version() string { return b.version }

// Entries are the book's models, by provider and name.
func (b *Book) Entries() []Entry {
	list := make([]Entry, len(b.entries))
	for i, e := range b.entries {
		list[i] = *e
	}
	slices.SortFunc(list, func(x, y Entry) int {
		return cmp.Or(cmp.Compare(x.Provider, y.Provider), cmp.Compare(x.Model, y.Model))
	})
	return list
}

// Add puts a model into the book. It refuses names that are taken and prices that are out of order.
func (b *Book) Add(e Entry) error {
	e.Provider = usage.Provider(e.Provider)
	if e.Provider == "" || e.Model == "" {
		return errors.New("an entry needs a provider and a model")
	}
	if err := checkPeriods(e.Periods); err != nil {
		return err
	}
	for _, model := range append([]string{e.Model}, e.Aliases...) {
		key := name{e.Provider, model}
		if taken, ok := b.names[key]; ok {
			return fmt.Errorf("%s/%s is already a name of %s", e.Provider, model, taken.Model)
		}
	}
	b.entries = append(b.entries, &e)
	for _, model := range append([]string{e.Model}, e.Aliases...) {
		b.names[name{e.Provider, model}] = &e
		if _, shared := b.bare[model]; shared {
			b.bare[model] = nil
		} else {
			b.bare[model] = &e
		}
	}
	for _, pattern := range e.Globs {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("glob %q: %w", pattern, err)
		}
		if slices.ContainsFunc(b.globs, func(g glob) bool { return g.name == name{e.Provider, pattern} }) {
			return fmt.Errorf("glob %s/%s is there twice", e.Provider, pattern)
		}
		b.globs = append(b.globs, glob{name{e.Provider, pattern}, &e})
	}
	slices.SortStableFunc(b.globs, func(x, y glob) int {
		return cmp.Or(cmp.Compare(len(y.model), len(x.model)), strings.Compare(x.model, y.model))
	})
	return nil
}

func checkPeriods(periods []Period) error {
	if len(periods) == 0 {
		return errors.New("a model needs prices")
	}
	for i, p := range periods {
		if i > 0 && !p.From.After(periods[i-1].From) {
			return fmt.Errorf("prices must be in the order of effective_from (%s)", p.From.Format(time.RFC3339))
		}
		if err := checkServices(p.Services); err != nil {
			return err
		}
		for _, h := range p.Hours {
			if h.From < 0 || h.Until < 0 || h.From >= day || h.Until >= day || h.From == h.Until {
				return errors.New("hours must be two different times of the day")
			}
			if err := checkServices(h.Services); err != nil {
				return fmt.Errorf("hours %s: %w", h.String(), err)
			}
		}
	}
	return nil
}

func checkServices(services map[string]Service) error {
	if len(services) == 0 {
		return errors.New("prices need at least one service tier")
	}
	for tier, s := range services {
		for j, t := range s.Tiers {
			if t.Above <= 0 || j > 0 && t.Above <= s.Tiers[j-1].Above {
				return fmt.Errorf("%s: tiers must ascend by above (%d)", tier, t.Above)
			}
		}
	}
	return nil
}

// ErrUnknown says that the book has no price for a call. Such a call is never free: it is unpriced.
var ErrUnknown = errors.New("no price known")

// Quote is the price of one model in one service tier at one moment.
type Quote struct {
	Model       string // the book's name
	Provider    string
	ServiceTier string // Standard where the span has none
	From        time.Time
	Hours       string // of the day, where other prices stand at others
	Version     string
	service     Service
}

// Quote finds the price of a model as its provider names it. An empty provider is enough when the
// model's name is of one provider only. Its errors wrap ErrUnknown.
func (b *Book) Quote(provider, model, serviceTier string, at time.Time) (Quote, error) {
	entry := b.find(usage.Provider(provider), model)
	if entry == nil {
		return Quote{}, fmt.Errorf("model %q of provider %q: %w", model, provider, ErrUnknown)
	}
	serviceTier = cmp.Or(serviceTier, Standard)
	for _, p := range slices.Backward(entry.Periods) {
		if at.Before(p.From) {
			continue
		}
		service, hours, ok := p.service(serviceTier, at)
		if !ok {
			return Quote{}, fmt.Errorf("model %q in service tier %q: %w", model, serviceTier, ErrUnknown)
		}
		return Quote{entry.Model, entry.Provider, serviceTier, p.From, hours, b.version, service}, nil
	}
	return Quote{}, fmt.Errorf("model %q at %s: %w", model, at.UTC().Format(time.RFC3339), ErrUnknown)
}

// Find looks a model up as Quote does.
func (b *Book) Find(provider, model string) (Entry, bool) {
	if e := b.find(usage.Provider(provider), model); e != nil {
		return *e, true
	}
	return Entry{}, false
}

func (b *Book) find(provider, model string) *Entry {
	if provider == "" {
		if e, ok := b.bare[model]; ok {
			return e
		}
	} else if e := b.names[name{provider, model}]; e != nil {
		return e
	}
	var found *Entry
	for _, g := range b.globs {
		if provider != "" && g.provider != provider {
			continue
		}
		if ok, _ := path.Match(g.model, model); !ok {
			continue
		}
		if found != nil && found.Provider != g.provider {
			return nil
		}
		if found == nil {
			found = g.entry
		}
	}
	return found
}

// Rates are the prices that hold for a call with these tokens, and the tier they come from (0 is
// the base).
func (q *Quote) Rates(tokens usage.Tokens) (Rates, int64) {
	rates, above := q.service.rates(tokens.Input())
	return *rates, above
}

// Cost is what the tokens cost, exactly. It fails with ErrUnknown when they are in a bucket that has
// no price, and with ErrRange when the sum does not fit.
func (q *Quote) Cost(tokens usage.Tokens) (usage.PicoUSD, error) {
	if err := tokens.Validate(); err != nil {
		return 0, err
	}
	r, _ := q.service.rates(tokens.Input())
	var sum uint64
	for _, b := range [...]struct {
		bucket string
		tokens int64
		rate   Rate
	}{
		{"input", tokens.UncachedInput, r.Input},
		{"cache_read", tokens.CacheRead, r.CacheRead},
		{"cache_write_5m", tokens.CacheWrite5m, r.CacheWrite5m},
		{"cache_write_1h", tokens.CacheWrite1h, r.CacheWrite1h},
		{"output", tokens.Output, r.Output},
	} {
		if b.tokens == 0 {
			continue
		}
		if !b.rate.known {
			return 0, fmt.Errorf("%s of model %q: %w", b.bucket, q.Model, ErrUnknown)
		}
		over, part := bits.Mul64(uint64(b.tokens), uint64(b.rate.pico))
		next, carry := bits.Add64(sum, part, 0)
		if over != 0 || carry != 0 || next > 1<<63-1 {
			return 0, fmt.Errorf("cost of %d %s tokens: %w", b.tokens, b.bucket, ErrRange)
		}
		sum = next
	}
	return usage.PicoUSD(sum), nil
}

// Price fills a span's cost from the book, or leaves it unpriced.
func (b *Book) Price(s *usage.Span) error {
	s.Cost, s.Priced, s.PriceVersion = 0, false, b.version
	q, err := b.Quote(s.Provider, s.Model, s.ServiceTier, s.Timestamp)
	if err != nil {
		return err
	}
	cost, err := q.Cost(s.Tokens)
	if err != nil {
		return err
	}
	s.Cost, s.Priced = cost, true
	return nil
}
