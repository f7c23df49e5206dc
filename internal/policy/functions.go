package policy

import (
	"math"
	"strconv"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
)

// functions are what policies can call beside the standard ones, to say numbers to people.
func functions() []cel.EnvOption {
	return []cel.EnvOption{
		format("percent", percent),
		format("times", times),
		format("usd", usd),
		format("number", number),
	}
}

func format(name string, f func(float64) string) cel.EnvOption {
	return cel.Function(name, cel.Overload(name+"_double", []*cel.Type{cel.DoubleType}, cel.StringType,
		cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(f(float64(v.(types.Double)))) })))
}

// percent says 0.8432 as "84 %".
func percent(x float64) string { return strconv.FormatFloat(x*100, 'f', 0, 64) + " %" }

// times says 1.532 as "1.53×".
func times(x float64) string { return strconv.FormatFloat(x, 'f', 2, 64) + "×" }

// number says 0.8432 as "0.84".
func number(x float64) string { return strconv.FormatFloat(x, 'f', 2, 64) }

// usd says 0.0047123 as "$0.00471": cents from a dollar up, three significant digits below.
func usd(x float64) string {
	digits := 2
	if a := math.Abs(x); a > 0 && a < 1 {
		digits = min(2-int(math.Floor(math.Log10(a))), 12)
	}
	s := strconv.FormatFloat(math.Abs(x), 'f', digits, 64)
	if x < 0 {
		return "-$" + s
	}
	return "$" + s
}
