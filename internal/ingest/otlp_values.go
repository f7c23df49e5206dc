package ingest

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// word reads a name. Numbers and booleans are written out: some senders have numeric tenants.
func (o *otlp) word(f *facts, m meaning, into *string) error {
	v := f.by[m].value
	if v == nil {
		return nil
	}
	text, err := textOf(v)
	if err != nil {
		return f.refused(m, err)
	}
	if f.by[m].unique {
		*into = text
	} else {
		*into = o.shareText(text)
	}
	return nil
}

func textOf(v *commonpb.AnyValue) (string, error) {
	var text string
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		text = v.StringValue
	case *commonpb.AnyValue_IntValue:
		text = strconv.FormatInt(v.IntValue, 10)
	case *commonpb.AnyValue_BoolValue:
		text = strconv.FormatBool(v.BoolValue)
	default:
		return "", wrong("must be a string")
	}
	switch {
	case len(text) > maxName:
		return "", wrong("is longer than %d bytes", maxName)
	case !utf8.ValidString(text):
		return "", wrong("is not valid UTF-8")
	}
	return text, nil
}

// shareText is share for what is a string already.
func (o *otlp) shareText(text string) string {
	if shared, ok := o.names[text]; ok {
		return shared
	}
	if text != "" && len(o.names) < maxNames {
		o.names[text] = text
	}
	return text
}

// count reads a number of tokens, which senders in JavaScript may give as a double.
func (o *otlp) count(f *facts, m meaning, into *int64) error {
	v := f.by[m].value
	if v == nil {
		return nil
	}
	var n int64
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_IntValue:
		n = v.IntValue
	case *commonpb.AnyValue_DoubleValue:
		d := v.DoubleValue
		if d != math.Trunc(d) || math.Abs(d) > 1<<53 {
			return f.refused(m, wrong("must be a whole number (%g)", d))
		}
		n = int64(d)
	default:
		return f.refused(m, wrong("must be a whole number"))
	}
	switch {
	case n < 0:
		return f.refused(m, wrong("must not be negative (%d)", n))
	case n > usage.MaxTokens:
		return f.refused(m, wrong("must be at most %d (%d)", usage.MaxTokens, n))
	}
	*into = n
	return nil
}

// measure reads a number in [0, high].
func (o *otlp) measure(f *facts, m meaning, high float64, into *float64) error {
	v := f.by[m].value
	if v == nil {
		return nil
	}
	var d float64
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_DoubleValue:
		d = v.DoubleValue
	case *commonpb.AnyValue_IntValue:
		d = float64(v.IntValue)
	default:
		return f.refused(m, wrong("must be a number"))
	}
	if !(d >= 0 && d <= high) { // NaN is neither
		return f.refused(m, wrong("must be between 0 and %g (%g)", high, d))
	}
	*into = d
	return nil
}

// reported reads an amount of dollars, by its shortest decimal where it is a double.
func (o *otlp) reported(f *facts, into **usage.PicoUSD) error {
	v := f.by[meansCost].value
	if v == nil {
		return nil
	}
	text := ""
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_DoubleValue:
		text = strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *commonpb.AnyValue_IntValue:
		text = strconv.FormatInt(v.IntValue, 10)
	case *commonpb.AnyValue_StringValue:
		text = v.StringValue
	}
	amount, err := dollars(text)
	if err != nil {
		return f.refused(meansCost, err)
	}
	*into = amount
	return nil
}

// dollars reads a decimal amount that a sender reports.
func dollars(text string) (*usage.PicoUSD, error) {
	amount, _, err := pricing.Parse(text)
	switch {
	case err != nil:
		return nil, wrong("must be an amount in dollars (%.32s)", text)
	case amount < 0:
		return nil, wrong("must not be negative (%.32s)", text)
	case amount > maxReportedUSD*1e12:
		return nil, wrong("must be at most %d dollars (%.32s)", maxReportedUSD, text)
	}
	return &amount, nil
}

// armOf reads an experiment's or a flag's arm.
func (o *otlp) armOf(f *facts, into *usage.Arm) error {
	var text string
	if err := o.word(f, meansArm, &text); err != nil {
		return err
	}
	if err := setArm(into, text); err != nil {
		return f.refused(meansArm, err)
	}
	return nil
}

// moment reads nanoseconds since 1970.
func (o *otlp) moment(nanos uint64, field string, into *time.Time) error {
	if nanos == 0 {
		return wrongField(field, "is missing")
	}
	if err := bounded(into, time.Unix(int64(nanos/1e9), int64(nanos%1e9)), o.now); err != nil {
		return inField([]byte(`"`+field+`"`), err)
	}
	return nil
}
