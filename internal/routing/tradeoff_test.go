package routing

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var table = Tradeoff{
	Tiers: []Tier{
		{"claude-3-opus", "anthropic", 3, 0.95},
		{"claude-3-sonnet", "anthropic", 1, 0.90},
		{"claude-3-haiku", "anthropic", 0.25, 0.80},
		{"gpt-4o-mini", "openai", 0.05, 0.80},
	},
	Default:     Tenant{Class: Standard, Risk: Ordinary, QualityFloor: 0.80},
	Tenants:     []Tenant{{"strict", HighValue, Regulated, 0.90}},
	OnExhausted: KeepFloor,
}

func TestSelectModel(t *testing.T) {
	tests := map[string]struct {
		floor, budget float64
		on            OnExhausted
		want          string
		stop          bool
		reason        string
	}{
		"cheapest that meets the floor": {0.90, 1, KeepFloor, "claude-3-sonnet", false, "claude-3-sonnet is the cheapest model that meets the quality floor of 0.90"},
		"floor met exactly":             {0.95, 1, KeepFloor, "claude-3-opus", false, "claude-3-opus is the cheapest model that meets the quality floor of 0.95"},
		"no tier meets the floor":       {0.99, 1, KeepFloor, "", false, "no tier meets the quality floor of 0.99"},
		"exhausted keeps the floor":     {0.90, 0.04, KeepFloor, "claude-3-sonnet", false, "claude-3-sonnet is the cheapest model that meets the quality floor of 0.90; the budget is all but spent"},
		"exhausted stops":               {0.90, 0.04, StopCalls, "", true, "4.0 % of the budget is left, and the policy stops calls then"},
		"not yet exhausted":             {0.90, 0.05, StopCalls, "claude-3-sonnet", false, "claude-3-sonnet is the cheapest model that meets the quality floor of 0.90"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := SelectModel(table.Tiers, test.floor, test.budget, test.on)
			require.Equal(t, test.want, s.Model)
			require.Equal(t, test.stop, s.Stop)
			require.Equal(t, test.reason, s.Reason)
		})
	}
	require.Empty(t, SelectModel(nil, 0, 1, KeepFloor).Model)
}

// The choice does not depend on the order of the tiers, meets the floor, and nothing that meets it
// is cheaper.
func TestSelectModelIsTheCheapest(t *testing.T) {
	tier := rapid.Custom(func(t *rapid.T) Tier {
		return Tier{
			Model:    rapid.StringMatching(`[a-e]`).Draw(t, "model"),
			CostMult: float64(rapid.IntRange(1, 4).Draw(t, "cost")), QualityFloor: float64(rapid.IntRange(0, 4).Draw(t, "quality")) / 4,
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		tiers := rapid.SliceOf(tier).Draw(t, "tiers")
		floor := float64(rapid.IntRange(0, 5).Draw(t, "floor")) / 4
		got := SelectModel(tiers, floor, rapid.Float64Range(0, 1).Draw(t, "budget"), KeepFloor)
		shuffled := rapid.Permutation(tiers).Draw(t, "shuffled")
		if again := SelectModel(shuffled, floor, 1, KeepFloor); again.Tier != got.Tier {
			t.Fatalf("%v and %v", got.Tier, again.Tier)
		}
		meets := func(x Tier) bool { return x.QualityFloor >= floor }
		if (got.Model != "") != slices.ContainsFunc(tiers, meets) {
			t.Fatalf("chose %q", got.Model)
		}
		if got.Model != "" && !meets(got.Tier) {
			t.Fatalf("below the floor: %v", got.Tier)
		}
		for _, x := range tiers {
			if meets(x) && x.CostMult < got.Tier.CostMult {
				t.Fatalf("%v is cheaper than %v", x, got.Tier)
			}
		}
	})
}

func TestDowngradeAndUpgrade(t *testing.T) {
	tests := []struct{ tenant, model, down, why, up string }{
		{"any", "claude-3-opus", "claude-3-haiku", "claude-3-haiku is the cheapest model that meets the quality floor of 0.80", ""},
		{"strict", "claude-3-opus-20240229", "claude-3-sonnet", "claude-3-sonnet is the cheapest model that meets the quality floor of 0.90", ""},
		{"strict", "claude-3-sonnet", "", "no tier meets the quality floor of 0.90", "claude-3-opus"},
		{"any", "claude-3-haiku", "", "claude-3-haiku is the cheapest model of anthropic", "claude-3-sonnet"},
		{"any", "gpt-4o-mini-2024-07-18", "", "gpt-4o-mini is the cheapest model of openai", ""},
		{"any", "claude-3-opus-turbo", "", "tradeoff.yaml has no tier for claude-3-opus-turbo", ""},
		{"any", "*", "", "tradeoff.yaml has no tier for *", ""},
	}
	for _, test := range tests {
		t.Run(test.tenant+" "+test.model, func(t *testing.T) {
			down := table.Downgrade(test.tenant, test.model)
			require.Equal(t, test.down, down.Model)
			require.Equal(t, test.why, down.Reason)
			require.Equal(t, test.up, table.Upgrade(test.model).Model)
		})
	}
}

func TestTenant(t *testing.T) {
	require.Equal(t, Regulated, table.Tenant("strict").Risk)
	require.Equal(t, Tenant{"other", Standard, Ordinary, 0.80}, table.Tenant("other"))
}
