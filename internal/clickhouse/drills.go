package clickhouse

import (
	"fmt"

	"github.com/flyball-dev/flyball/internal/usage"
)

// notDrills is the condition that a row is of no drill. Whatever sums all tenants leaves drills out: their calls were
// made up, cost nobody anything and say nothing of how anybody fares.
var notDrills = fmt.Sprintf("NOT (tenant_id = '%[1]s' OR startsWith(tenant_id, '%[1]s-'))", usage.DrillPrefix)
