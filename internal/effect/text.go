package effect

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Dollars is an amount of pico-dollars as people read it: whole cents from a dollar on, four significant digits below.
func Dollars(pico *big.Int) string {
	if pico == nil {
		return "unknown"
	}
	sign, amount := "", new(big.Rat).SetFrac(new(big.Int).Abs(pico), big.NewInt(1e12))
	if pico.Sign() < 0 {
		sign = "−"
	}
	f, _ := amount.Float64()
	if f == 0 || f >= 1 {
		return sign + "$" + grouped(amount.FloatString(2))
	}
	return sign + "$" + amount.FloatString(min(12, 3-int(math.Floor(math.Log10(f)))))
}

// Count is a number as people read it: 1,234,567.
func Count(n int64) string { return grouped(strconv.FormatInt(n, 10)) }

// grouped sets commas between thousands of a decimal number that is not negative.
func grouped(decimal string) string {
	whole, rest, point := strings.Cut(decimal, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		return whole + "." + rest
	}
	return whole
}

// Text says in a few sentences what was measured, and what was not.
func (e *Effect) Text() string {
	switch {
	case e == nil:
		return "It has not been measured."
	case e.Treated+e.Holdback == 0:
		return "Nothing is known: no call of it is stored."
	case e.Saved == nil || e.Cost == nil:
		return fmt.Sprintf("What it saved is not known: %s treated and %s holdback calls are stored, and the holdback is of too few sessions to compare with.",
			Count(e.Treated), Count(e.Holdback))
	}
	said := []string{e.moneyText()}
	if rest := e.Treated - e.Compared; rest > 0 && !e.Estimated {
		said = append(said, fmt.Sprintf("%s more treated calls could not be compared and are not in it.", Count(rest)))
	}
	if e.Unpriced > 0 {
		said = append(said, fmt.Sprintf("%s calls had no known price.", Count(e.Unpriced)))
	}
	if q := e.Quality; q != nil {
		said = append(said, q.text())
	} else if !e.Estimated {
		said = append(said, "What it did to quality is not known: too few scores.")
	}
	return strings.Join(said, " ")
}

// Short is the money in a sentence; empty while nothing is known of it.
func (e *Effect) Short() string {
	switch {
	case e == nil || e.Saved == nil:
		return ""
	case e.Saved.Low != nil && e.Saved.Low.Sign() < 0 && e.Saved.High.Sign() > 0:
		return "What it saved cannot be told from nothing."
	case e.Saved.Pico.Sign() < 0:
		return fmt.Sprintf("It cost %s more than the holdback.", Dollars(new(big.Int).Neg(e.Saved.Pico)))
	case e.Estimated:
		return fmt.Sprintf("It saved about %s.", Dollars(e.Saved.Pico))
	}
	return fmt.Sprintf("It saved %s.", Dollars(e.Saved.Pico))
}

func (e *Effect) moneyText() string {
	saved := e.Saved.Pico
	did, amount, low, high := "It saved", saved, e.Saved.Low, e.Saved.High
	if saved.Sign() < 0 {
		did, amount = "It cost", new(big.Int).Neg(saved)
		if low != nil {
			low, high = new(big.Int).Neg(high), new(big.Int).Neg(low)
		}
	}
	interval := "too few sessions to say how surely"
	if low != nil {
		interval = fmt.Sprintf("95 %% interval %s to %s", Dollars(low), Dollars(high))
	}
	if e.Estimated {
		return fmt.Sprintf("%s about %s (%s). This is an estimate: by the holdback, the %s refused calls would have cost that.",
			did, Dollars(amount), interval, Count(e.Compared))
	}
	more := ""
	if saved.Sign() < 0 {
		more = " more"
	}
	text := fmt.Sprintf("%s %s%s (%s): %s treated calls cost %s and would have cost %s by the holdback.",
		did, Dollars(amount), more, interval, Count(e.Compared), Dollars(e.Cost), Dollars(new(big.Int).Add(e.Cost, saved)))
	if low != nil && low.Sign() < 0 && high.Sign() > 0 {
		text += " That cannot be told from no difference."
	}
	return text
}

func (c *Change) text() string {
	verb := "rose"
	if c.By < 0 {
		verb = "fell"
	}
	interval := "too few sessions to say how surely"
	if c.Low != nil {
		interval = fmt.Sprintf("95 %% interval %s to %s", signed(*c.Low), signed(*c.High))
	}
	text := fmt.Sprintf("Quality %s by %.3f, to %.3f from the holdback's %.3f (%s; %s scores).",
		verb, math.Abs(c.By), c.Treated, c.Holdback, interval, Count(c.Scores))
	if c.Low != nil && *c.Low < 0 && *c.High > 0 {
		text += " That cannot be told from no difference."
	}
	return text
}

func signed(f float64) string { return strings.Replace(fmt.Sprintf("%+.3f", f), "-", "−", 1) }
