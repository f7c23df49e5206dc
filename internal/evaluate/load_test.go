package evaluate

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/usage"
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
