package main

import (
	"bytes"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestPrintFallbacks(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, printFallbacks(&out, []inbox.FallbackTrust{
		{Tenant: "a", Answered: true, Trusted: true, Trust: contract.Trust{Rule: "fallback/x", Approved: 10}},
		{Tenant: "b", Answered: true, Trust: contract.Trust{Rule: "fallback/x", Approved: 3, Open: map[string]time.Time{"d": {}}}},
		{Tenant: "c", Answered: true, Trust: contract.Trust{Held: &contract.TrustHold{Who: "ana", Reason: "complaints", At: began}}},
	}))
	require.Equal(t, `TENANT  RULE        STANDING                                           APPROVED  WITH PEOPLE
a       fallback/x  trusted: it acts                                   10 of 10  0
b       fallback/x  shadowed                                           3 of 10   1
c                   held by ana since 2026-01-15 09:30:00: complaints  0 of 10   0
`, out.String())
	out.Reset()
	require.NoError(t, printCases(&out, []contract.FallbackCase{{Tenant: "a", Trace: "t1", At: began, Arm: usage.None, Case: routing.Case{
		Model: "big", Instead: "small", Estimate: 300_000_000_000, Cheaper: 25_000_000_000, Quality: 0.55, Task: "rag",
	}}}))
	require.Contains(t, out.String(), "none  $0.3")
	require.Contains(t, out.String(), "$0.275  0.55")

	out.Reset()
	low, high := -0.03, -0.01
	require.NoError(t, printWorth(&out, []contract.FallbackWorth{
		{Tenant: "a", Rule: "fallback/x", Effect: effect.Effect{
			Treated: 90, Holdback: 10, Saved: &effect.Amount{Pico: big.NewInt(2e12), Low: big.NewInt(1e12), High: big.NewInt(3e12)},
			Quality: &effect.Change{By: -0.02, Low: &low, High: &high},
		}},
		{Tenant: "b", Rule: "fallback/x", Effect: effect.Effect{Treated: 2}},
	}))
	require.Equal(t, `TENANT  RULE        TREATED  HOLDBACK  SAVED         QUALITY
a       fallback/x  90       10        $2 ($1 to $3)  -0.020 (-0.030 to -0.010)
b       fallback/x  2        0         not known     not known
`, out.String())
}
