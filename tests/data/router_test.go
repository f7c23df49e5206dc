package data

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/router"
)

// A router between the two models that RouteLLM recorded on GSM8K is worth more than lots, and nothing with the outcomes
// permuted.
func TestRouterOnGSM8K(t *testing.T) {
	t.Parallel()
	file, err := os.Open(filepath.Join(folder(t, "routing"), "gsm8k_responses.csv"))
	require.NoError(t, err)
	defer file.Close()
	rows, columns, err := router.ReadCSV(file, router.Columns{}, func(line int, reason string) { t.Errorf("line %d: %s", line, reason) })
	require.NoError(t, err)
	pairs, _, err := router.Pairs(rows, columns, router.NewExtractor("").Features)
	require.NoError(t, err)
	e, err := router.Evaluate(pairs, router.Options{Folds: 5, Seed: 1})
	require.NoError(t, err)
	t.Logf("AUC %.4f, APGR %.4f over %d prompts", *e.AUC, *e.APGR, e.N)
	require.Greater(t, *e.APGR, 0.58)
	control, err := router.Evaluate(pairs, router.Options{Folds: 5, Seed: 1, Shuffle: true})
	require.NoError(t, err)
	require.InDelta(t, 0.5, *control.APGR, 0.1)
}
