package workers

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/internal/contract"
)

// attributesWithin bounds the wait until new search attributes can be used: the server caches them.
const attributesWithin = 30 * time.Second

// EnsureSearchAttributes registers the search attributes that the namespace does not know yet.
func EnsureSearchAttributes(ctx context.Context, c client.Client, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, attributesWithin)
	defer cancel()
	missing, err := missingAttributes(ctx, c, namespace)
	if err != nil || len(missing) == 0 {
		return err
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace: namespace, SearchAttributes: missing,
	})
	if err != nil {
		return fmt.Errorf("registering search attributes: %w: have an operator run: temporal operator search-attribute create%s", err, names(missing))
	}
	for {
		if missing, err = missingAttributes(ctx, c, namespace); err != nil || len(missing) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the search attributes%s to become known: %w", names(missing), ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func missingAttributes(ctx context.Context, c client.Client, namespace string) (map[string]enums.IndexedValueType, error) {
	known, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return nil, fmt.Errorf("listing the search attributes that Temporal knows: %w", err)
	}
	missing := map[string]enums.IndexedValueType{}
	for _, name := range contract.SearchAttributes() {
		if _, ok := known.GetCustomAttributes()[name]; !ok {
			missing[name] = enums.INDEXED_VALUE_TYPE_KEYWORD
		}
	}
	return missing, nil
}

func names(attributes map[string]enums.IndexedValueType) string {
	var b strings.Builder
	for _, name := range contract.SearchAttributes() {
		if _, ok := attributes[name]; ok {
			b.WriteString(" --name " + name + " --type Keyword")
		}
	}
	return b.String()
}
