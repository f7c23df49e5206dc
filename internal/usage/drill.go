package usage

import "strings"

// DrillPrefix begins the name of every tenant that drills inject faults into. No customer may be called so.
const DrillPrefix = "flyball-drill"

// IsDrill reports whether the tenant is a drill's.
func IsDrill(tenant string) bool {
	return tenant == DrillPrefix || strings.HasPrefix(tenant, DrillPrefix+"-")
}
