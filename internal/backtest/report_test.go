package backtest_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
)

func minute(n int) time.Time { return begin.Add(time.Duration(n) * time.Minute) }

func episode(model string, from, to int, level detect.Level) backtest.Episode {
	return backtest.Episode{Key: usage.Key{Tenant: "t", Model: model}, Level: level, Rule: "r", From: minute(from), To: minute(to), Peak: &detect.Facts{}}
}

func label(model string, from, to int) backtest.Label {
	return backtest.Label{Tenant: "t", Model: model, From: minute(from), To: minute(to)}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	const grace = 5 * time.Minute
	judge := func(labels backtest.Labels, episodes ...backtest.Episode) *backtest.Score {
		return backtest.Judge(episodes, labels, grace)
	}

	s := judge(backtest.Labels{Incidents: []backtest.Label{label("m", 10, 20), label("n", 10, 20)}},
		episode("m", 12, 15, detect.Page), episode("m", 18, 30, detect.Page), episode("x", 11, 12, detect.Page))
	require.Equal(t, 1, s.Hits, "two episodes of one incident are one hit")
	require.Equal(t, 2, s.Delays[0].Grouped)
	require.Equal(t, 120., s.Delays[0].Seconds)
	require.Equal(t, []int{2}, s.False)
	require.Equal(t, "n", s.Missed[0].Model)
	require.Equal(t, 0.5, *s.Precision.Rate)
	require.Equal(t, 0.5, *s.Recall.Rate)

	paged := label("m", 10, 20)
	paged.Level = detect.Page
	s = judge(backtest.Labels{Incidents: []backtest.Label{paged}}, episode("m", 12, 15, detect.Investigate))
	require.Zero(t, s.Hits, "it did not reach the level")
	require.Empty(t, s.False, "but was of the incident")
	require.Nil(t, s.Precision.Rate, "of nothing nothing is known")
	require.Equal(t, 0., *s.Recall.Rate)

	quiet := backtest.Labels{Incidents: []backtest.Label{label("", 10, 20)}, Quiet: []backtest.Label{label("m", 100, 200)}}
	s = judge(quiet, episode("any", 24, 26, detect.Page), episode("m", 60, 61, detect.Page), episode("m", 150, 151, detect.Page))
	require.Equal(t, 1, s.Hits, "an incident of the tenant, within the grace")
	require.Equal(t, 1, s.Unlabeled)
	require.Equal(t, []int{2}, s.False)
	s = judge(backtest.Labels{Incidents: []backtest.Label{label("m", 10, 20)}}, episode("*", 11, 12, detect.Page))
	require.Equal(t, 1, s.Hits, "the tenant's whole mix stands for any of its models")
}

// The intervals are Wilson's, as R's prop.test(…, correct = FALSE) has them.
func TestShares(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n, of     int
		low, high float64
	}{{3, 4, 0.30064, 0.95441}, {3, 3, 0.43850, 1}, {0, 10, 0, 0.27753}, {50, 100, 0.40383, 0.59617}} {
		s := backtest.NewShare(c.n, c.of)
		require.InDelta(t, c.low, s.Low, 1e-4)
		require.InDelta(t, c.high, s.High, 1e-4)
	}
	require.Equal(t, "unknown", backtest.NewShare(0, 0).String())
	require.Equal(t, "3 of 4, 75 % (30–95)", backtest.NewShare(3, 4).String())
}

func TestCompare(t *testing.T) {
	t.Parallel()
	act := episode("acts", 10, 20, detect.Page)
	act.Acts = []backtest.Act{{Step: "T0", Action: policy.Downgrade, Target: "haiku", Mode: policy.Auto}}
	a := []backtest.Episode{episode("same", 10, 20, detect.Page), episode("later", 10, 20, detect.Page), episode("a", 10, 20, detect.Page), act, episode("split", 10, 40, detect.Page)}
	b := []backtest.Episode{
		episode("same", 10, 30, detect.Page), episode("later", 12, 20, detect.Investigate), episode("b", 10, 20, detect.Page), episode("acts", 10, 20, detect.Page),
		episode("split", 10, 15, detect.Page), episode("split", 30, 40, detect.Page), episode("same", 60, 70, detect.Page),
	}
	d := backtest.Compare(a, b, 5*time.Minute, 15*time.Second)
	require.Equal(t, 2, d.Same, "the split one is one thing")
	require.Len(t, d.OnlyA, 1)
	require.Len(t, d.OnlyB, 2)
	require.Len(t, d.Changed, 2)
	require.Equal(t, 120., d.Changed[0].Later)
	require.True(t, d.Changed[0].Level)
	require.True(t, d.Changed[1].Acts)

	report := backtest.Report{From: minute(0), To: minute(100), Every: 15 * time.Second, Sets: []backtest.SetReport{
		{Name: "new", Revision: []string{"r1"}, Episodes: a}, {Name: "shipped", Revision: []string{"r2"}, Episodes: b},
	}, Difference: d}
	for range 300 {
		report.Sets[0].Episodes = append(report.Sets[0].Episodes, episode("many", 50, 51, detect.Page))
	}
	var page bytes.Buffer
	require.NoError(t, report.WritePage(&page))
	require.LessOrEqual(t, strings.Count(page.String(), "\n"), 60, "one page")
	require.Contains(t, page.String(), "and 297 more (--json has all)")
	require.Contains(t, page.String(), "precision and recall unknown")
	require.Contains(t, page.String(), "INVESTIGATE, not PAGE")
	require.Contains(t, page.String(), "proposes nothing, not downgrade to haiku (auto)")
}

func TestLabels(t *testing.T) {
	t.Parallel()
	labels, err := backtest.ReadLabels(strings.NewReader("incidents:\n  - {tenant: t, model: m, from: 2026-01-15T09:00:00+01:00, to: 2026-01-15T10:00:00Z, level: PAGE, note: x}\nquiet:\n  - {tenant: t, from: 2026-01-16T00:00:00Z, to: 2026-01-17T00:00:00Z}\n"))
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 1, 15, 8, 0, 0, 0, time.UTC), labels.Incidents[0].From)
	require.Empty(t, labels.Within(minute(0), minute(1), "", "").Incidents)
	for text, want := range map[string]string{
		"":                                       "lists no incidents",
		"incident: []":                           "line 1: field incident not found",
		"incidents:\n  - {tenant: t, tenant: u}": "line 2",
		"incidents:\n  - {model: m}\n  - {tenant: t, from: 2026-01-15T09:00:00Z, to: 2026-01-15T08:00:00Z}": "line 2: incidents[0]: name the tenant\nline 3: incidents[1]: from must be before to",
		"incidents:\n  - {tenant: t, from: 2026-01-15T09:00:00Z, to: 2026-01-15T10:00:00Z, level: HIGH}":    `line 2: incidents[0]: the level "HIGH" is neither PAGE nor INVESTIGATE`,
		"quiet:\n  - {tenant: t, from: 2026-01-15T09:00:00Z, to: 2026-01-15T10:00:00Z, level: PAGE}":        "line 2: quiet[0]: a quiet time has no level",
		"incidents:\n  - {tenant: t, from: yesterday, to: 2026-01-15T10:00:00Z}":                            "line 2",
	} {
		_, err := backtest.ReadLabels(strings.NewReader(text))
		require.ErrorContains(t, err, want, text)
	}
}
