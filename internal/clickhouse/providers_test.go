package clickhouse

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

// testProviders has keys that change their provider, that a flag sends elsewhere, and that name none.
func testProviders(t *testing.T, s *Store) {
	base := time.Now().UTC().Truncate(time.Minute).Add(-2 * time.Hour)
	var spans []usage.Span
	for _, part := range [][]usage.Span{
		calls(20, base.Add(-time.Hour), usage.Span{RequestedModel: "gpt", Model: "gpt", Provider: "azure"}), // long ago
		calls(3, base, usage.Span{RequestedModel: "gpt", Model: "gpt", Provider: "azure"}),
		calls(4, base.Add(time.Minute), usage.Span{RequestedModel: "gpt", Model: "gpt", Provider: "openai"}),
		calls(9, base.Add(2*time.Minute), usage.Span{RequestedModel: "gpt", Model: "haiku", Provider: "anthropic", Arm: usage.Treated}),
		calls(9, base.Add(3*time.Minute), usage.Span{RequestedModel: "own", Model: "own"}),
	} {
		spans = append(spans, part...)
	}
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	providers, err := s.Providers(t.Context(), base, base.Add(15*time.Minute))
	require.NoError(t, err)
	require.Equal(t, map[usage.Key]string{{Tenant: "t", Model: "gpt"}: "openai"}, providers)
}
