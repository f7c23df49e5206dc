package ingest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

func TestTuplesThatAreRefused(t *testing.T) {
	t.Parallel()
	good := usage.Tuple{TraceID: "t", SpanID: "s", TenantID: "org", RequestedModel: "m", Model: "m", Reading: "r", Features: []byte{0}}
	require.NoError(t, settleTuple(&good))
	for says, spoil := range map[string]func(*usage.Tuple){
		"trace_id":        func(x *usage.Tuple) { x.TraceID = "" },
		"reading":         func(x *usage.Tuple) { x.Reading = "" },
		"features":        func(x *usage.Tuple) { x.Features = make([]byte, maxFeatures+1) },
		"predicted":       func(x *usage.Tuple) { x.Predicted = 1.1 },
		"task":            func(x *usage.Tuple) { x.Task = string(make([]byte, maxName+1)) },
		"requested_model": func(x *usage.Tuple) { x.RequestedModel = "" },
	} {
		bad := good
		spoil(&bad)
		require.ErrorContains(t, settleTuple(&bad), says)
	}
}
