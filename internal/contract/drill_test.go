package contract

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWindow(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		at, err := time.Parse("2006-01-02 15:04", text)
		require.NoError(t, err)
		return at
	}
	for _, c := range []struct{ window, now, from, to string }{
		{"02:00-04:00", "2026-03-02 01:00", "2026-03-02 02:00", "2026-03-02 04:00"},
		{"02:00-04:00", "2026-03-02 02:00", "2026-03-02 02:00", "2026-03-02 04:00"},
		{"02:00-04:00", "2026-03-02 03:59", "2026-03-02 02:00", "2026-03-02 04:00"},
		{"02:00-04:00", "2026-03-02 04:00", "2026-03-03 02:00", "2026-03-03 04:00"},
		{"23:30-00:30", "2026-03-02 00:10", "2026-03-01 23:30", "2026-03-02 00:30"}, // over midnight
		{"23:30-00:30", "2026-03-02 00:30", "2026-03-02 23:30", "2026-03-03 00:30"},
	} {
		w, err := ParseWindow(c.window)
		require.NoError(t, err)
		from, to := w.Next(at(c.now))
		require.Equal(t, []time.Time{at(c.from), at(c.to)}, []time.Time{from, to}, "%s at %s", c.window, c.now)
	}
	for _, bad := range []string{"", "02:00", "2-4", "02:00-02:00", "24:00-25:00", "02:00-04:00-05:00"} {
		_, err := ParseWindow(bad)
		require.ErrorContains(t, err, "window", "%q", bad)
	}
}

func TestDrillObjectives(t *testing.T) {
	t.Parallel()
	require.Equal(t, DrillSLO{
		Detect: 2 * time.Minute, Tell: 30 * time.Second, Propose: 30 * time.Second, Obey: 30 * time.Second, Full: 18 * time.Minute, Release: 20 * time.Minute,
	}, DrillSLOs(NewTuning(1)))
	own := DrillSLO{Tell: time.Second}.Or(DrillSLOs(NewTuning(0.1)))
	require.Equal(t, time.Second, own.Tell)
	require.Equal(t, 6*time.Minute, own.Release, "the holdback must refill its window at any pace")
}

func TestDrillTenants(t *testing.T) {
	t.Parallel()
	require.NoError(t, DrillInput{}.WithDefaults().Validate())
	for _, tenant := range []string{"org_42", "flyball-drills", "flyball", "FLYBALL-DRILL"} {
		require.ErrorContains(t, DrillInput{Tenant: tenant}.WithDefaults().Validate(), "is no drill's")
	}
	all := DrillInput{Tenant: "flyball-drill-a/b", Faults: []string{"cost", "cost", "volume"}, Factor: 1, QualityFactor: 0.8, Rate: 0.1, Scored: 2, For: -1, SLO: DrillSLO{Tell: -1}, Window: "x"}.WithDefaults().Validate()
	for _, want := range []string{"cost is there twice", `"volume"`, "factor: 1", "quality_factor: 0.8", "rate: 0.1", "scored: 2", "for: ", "slo: ", "window: "} {
		require.ErrorContains(t, all, want)
	}
	require.Equal(t, "drill/flyball-drill-a%2Fb", DrillID("flyball-drill-a/b"))
}
