// Package pricing says what tokens cost: a dated price book, and exact arithmetic in pico-dollars
// (1e-12 US dollar). No float enters a sum. Package book reads the book from YAML.
package pricing

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/flyball-dev/flyball/internal/usage"
)

// picoPerUSD is how many pico-dollars make a dollar; picoDigits is the decimals that takes.
const (
	picoPerUSD = 1_000_000_000_000
	picoDigits = 12
)

// ErrRange says that an amount of money does not fit.
var ErrRange = errors.New("amount out of range")

// Format writes an amount in dollars as a decimal, exactly and without trailing zeros.
func Format(amount usage.PicoUSD) string {
	sign, n := "", uint64(amount)
	if amount < 0 {
		sign, n = "-", -n
	}
	whole, part := n/picoPerUSD, n%picoPerUSD
	if part == 0 {
		return sign + strconv.FormatUint(whole, 10)
	}
	return sign + strconv.FormatUint(whole, 10) + "." +
		strings.TrimRight(fmt.Sprintf("%0*d", picoDigits, part), "0")
}

// Parse reads a decimal amount of dollars, exponent allowed, rounding half up to a whole
// pico-dollar. Exact reports whether nothing was rounded away: senders whose sums are floats report
// more digits than money has.
func Parse(text string) (amount usage.PicoUSD, exact bool, err error) {
	n, exact, err := parseScaled(text, picoDigits)
	return usage.PicoUSD(n), exact, err
}

// parseScaled reads a decimal as a whole number of 10^-scale.
func parseScaled(text string, scale int) (n int64, exact bool, err error) {
	rest, negative := strings.CutPrefix(text, "-")
	mantissa, exponent := rest, 0
	if i := strings.IndexAny(rest, "eE"); i >= 0 {
		mantissa = rest[:i]
		if exponent, err = strconv.Atoi(rest[i+1:]); err != nil || exponent < -1000 || exponent > 1000 {
			return 0, false, fmt.Errorf("%q is not a decimal number", text)
		}
	}
	whole, part, point := strings.Cut(mantissa, ".")
	digits := whole + part
	if whole == "" || point && part == "" || len(digits) > 400 || strings.Trim(digits, "0123456789") != "" {
		return 0, false, fmt.Errorf("%q is not a decimal number", text)
	}
	shift := len(whole) + exponent + scale // how many of the digits stand before the point
	exact = true
	for i := range max(shift, len(digits)) {
		d := int64(0)
		if i < len(digits) {
			d = int64(digits[i] - '0')
		}
		if i < shift {
			if n > (math.MaxInt64-d)/10 {
				return 0, false, fmt.Errorf("%s: %w", text, ErrRange)
			}
			n = n*10 + d
			continue
		}
		exact = exact && d == 0
		if i == shift && d >= 5 {
			if n == math.MaxInt64 {
				return 0, false, fmt.Errorf("%s: %w", text, ErrRange)
			}
			n++
		}
	}
	if negative {
		n = -n
	}
	return n, exact, nil
}
