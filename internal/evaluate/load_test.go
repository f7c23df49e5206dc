package evaluate

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestShipped: what is shipped compiles, is tested and passes.
func TestShipped(t *testing.T) {
	t.Parallel()
	set, err := Load(nil)
	require.NoError(t, err)
	require.Len(t, set.Evaluators, 4)
	for _, r := range set.Test().Results {
		require.NotZero(t, r.Tests, r.Evaluator.Name)
	}
}
