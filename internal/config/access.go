package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Access says who may read what of the telemetry: which roles the identity provider's groups have, and which
// models are under embargo.
type Access struct {
	Groups          map[string]AccessGroup `yaml:"groups"`
	EmbargoedModels []string               `yaml:"embargoed_models"` // names of requested models; * and ? are wildcards
	Unrestricted    []string               `yaml:"unrestricted"`     // users and roles of ClickHouse that see every row, beside Flyball's own
}

// AccessGroup is what the members of one group have.
type AccessGroup struct {
	Roles   []AccessRole `yaml:"roles"`
	Tenants []string     `yaml:"tenants"` // of the role tenant
}

// AccessRole is a way to look at the telemetry.
type AccessRole string

// The roles of access. Those of every tenant see the same today and have names of their own, so that a grant
// says whom it was meant for.
const (
	FinOps        AccessRole = "finops"         // every tenant
	AIEngineering AccessRole = "ai_engineering" // every tenant
	OnCall        AccessRole = "oncall"         // every tenant
	Tenant        AccessRole = "tenant"         // the group's tenants
	Embargo       AccessRole = "embargo"        // beside another role: what tells the quality of embargoed models too
	Contents      AccessRole = "contents"       // beside another role: what was asked and answered too, where it is kept
)

// AccessRoles are all of them; EveryTenant those that see every tenant.
func AccessRoles() []AccessRole { return append(EveryTenant(), Tenant, Embargo, Contents) }

// EveryTenant are the roles that see every tenant.
func EveryTenant() []AccessRole { return []AccessRole{FinOps, AIEngineering, OnCall} }

// Has reports whether the group has the role.
func (g AccessGroup) Has(role AccessRole) bool { return slices.Contains(g.Roles, role) }

// problems is everything that is wrong, in the order of the groups' names.
func (a Access) problems() []error {
	var errs []error
	say := func(format string, args ...any) { errs = append(errs, fmt.Errorf("access."+format, args...)) }
	for _, name := range slices.Sorted(maps.Keys(a.Groups)) {
		g := a.Groups[name]
		at := fmt.Sprintf("groups.%s", name)
		if !plainName(name) {
			say("%s: the name of a group must not be empty or hold control characters", at)
		}
		if name == "flyball" || strings.HasPrefix(name, "flyball_") {
			say("%s: names that begin with flyball are Flyball's own", at)
		}
		for _, role := range g.Roles {
			if !slices.Contains(AccessRoles(), role) {
				say("%s.roles: %q is none of %s", at, role, words(AccessRoles()))
			}
		}
		if !g.Has(Tenant) && !slices.ContainsFunc(EveryTenant(), g.Has) {
			say("%s.roles: name one of %s; embargo and contents add to one of them", at, words(append(EveryTenant(), Tenant)))
		}
		if g.Has(Tenant) != (len(g.Tenants) > 0) {
			say("%s: the role tenant needs tenants, and tenants need the role tenant", at)
		}
		if g.Has(Tenant) && slices.ContainsFunc(EveryTenant(), g.Has) {
			say("%s.roles: a role that sees every tenant leaves nothing for the role tenant: choose", at)
		}
		for i, tenant := range g.Tenants {
			if !plainName(tenant) {
				say("%s.tenants[%d]: a tenant must not be empty or hold control characters", at, i)
			}
		}
	}
	for i, glob := range a.EmbargoedModels {
		if !plainName(glob) || strings.ContainsAny(glob, `[]{}\`) {
			say("embargoed_models[%d]: %q is not a name with * and ? as wildcards", i, glob)
		}
	}
	for i, name := range a.Unrestricted {
		if !plainName(name) {
			say("unrestricted[%d]: name a user or role of ClickHouse", i)
		}
	}
	return errs
}

// plainName reports whether a name can be shown on one line.
func plainName(name string) bool { return name != "" && !strings.ContainsFunc(name, unicode.IsControl) }

// words lists roles for a sentence.
func words(roles []AccessRole) string {
	var list []string
	for _, r := range roles {
		list = append(list, string(r))
	}
	return strings.Join(list, ", ")
}
