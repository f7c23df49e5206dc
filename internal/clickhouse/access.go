package clickhouse

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Access says who may read which rows.
type Access struct {
	// Roles see every tenant's rows.
	Roles []string
	// Groups are the identity provider's, by name.
	Groups map[string]Group
	// EmbargoedModels are names of models, requested or served, * and ? standing for any characters and any one.
	EmbargoedModels []string
	// Unrestricted are users and roles of the server that go on seeing every row: Flyball's own user, at least.
	Unrestricted []string
}

// Group is what the members of one group may read.
type Group struct {
	Roles     []string // of Access.Roles
	Tenants   []string // whose rows, for a group without a role
	Embargoed bool     // embargoed models' quality too
	Contents  bool     // what was asked and answered too, where it is kept
}

// Reader is a group as the embedded engine knows it: one user.
type Reader struct {
	Name       string
	Tenants    []string
	AllTenants bool
	Embargoed  bool
}

// Readers are the groups as users of the embedded engine, by name.
func (a Access) Readers() []Reader {
	var readers []Reader
	for _, name := range slices.Sorted(maps.Keys(a.Groups)) {
		g := a.Groups[name]
		r := Reader{Name: name, AllTenants: len(g.Roles) > 0, Embargoed: g.Embargoed}
		if !r.AllTenants {
			r.Tenants = g.Tenants
		}
		readers = append(readers, r)
	}
	return readers
}

// EmbargoPattern is the regular expression (RE2) of the embargoed models' names, empty when there are none.
func (a Access) EmbargoPattern() string {
	var alternatives []string
	for _, glob := range a.EmbargoedModels {
		alternatives = append(alternatives, strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(glob)))
	}
	if len(alternatives) == 0 {
		return ""
	}
	return "^(?s:" + strings.Join(alternatives, "|") + ")$"
}

// accessState is what a server knows about access, as far as it concerns one database: what is wanted of it,
// or what it has.
type accessState struct {
	roles    map[string]bool
	members  map[membership]bool
	grants   map[grant]bool
	policies map[policyName]rowPolicy
	profile  map[string]limit
	applied  map[string]bool // the roles that the profile is applied to
}

// membership: everyone in the role has the granted one too.
type membership struct{ role, granted string }

// grant is a right of a role, on a table of the database or, with on, elsewhere.
type grant struct{ role, right, on string }

type policyName struct{ name, table string }

// rowPolicy has its filter in the words in which the server repeats it, and sorted names.
type rowPolicy struct {
	filter      string
	restrictive bool
	to          string // names joined by nameSeparator; for a policy of all, those excepted
	toAll       bool
}

// limit is a setting of the profile.
type limit struct{ value, min, max, writability string }

// readerProfile is what keeps one reader's query from standing in the way of others. Limits may be lowered by
// a query, which clients do to pass on a deadline.
var readerProfile = map[string]limit{
	"readonly":           {value: "1", writability: "CONST"},
	"max_execution_time": {"60", "1", "60", "CHANGEABLE_IN_READONLY"},
	"max_memory_usage":   {"2147483648", "1", "2147483648", "CHANGEABLE_IN_READONLY"},
	"max_result_rows":    {"1000000", "1", "1000000", "CHANGEABLE_IN_READONLY"},
	"max_rows_to_read":   {value: "2000000000", writability: "CONST"},
	// The engine leaves parts out by evaluating a reader's condition on every tenant's partition keys, and its
	// failures would tell which days others have rows in.
	"use_partition_pruning": {value: "0", writability: "CONST"},
}

// wanted is the state of a server on which the database's rows are read as a says.
//
// Each table has these policies. Permissive ones add up, restrictive ones take away:
//
//	others    no row, for everyone, so that a user who is in no other policy sees nothing, whatever
//	          users_without_row_policies_can_read_rows says
//	all       every row, for the roles of every tenant and those unrestricted
//	tenant_x  the rows of tenant x, for the role of that tenant
//	embargo   restrictive, on what tells quality: no row that an embargoed model was asked for or served,
//	          for everyone but the embargo's role and those unrestricted
func (a Access) wanted(database string, tables []TenantTable) accessState {
	// Names begin with the database's, so that two databases of one server stay apart.
	name := func(part string) string { return database + "_" + part }
	s := accessState{
		roles: map[string]bool{}, members: map[membership]bool{}, grants: map[grant]bool{},
		policies: map[policyName]rowPolicy{}, profile: readerProfile, applied: map[string]bool{name("reader"): true},
	}
	s.roles[name("reader")], s.roles[name("embargo")] = true, true
	all := slices.Clone(a.Unrestricted)
	for _, role := range a.Roles {
		s.roles[name(role)] = true
		s.members[membership{name(role), name("reader")}] = true
		all = append(all, name(role))
	}
	tenants := map[string]bool{}
	for group, g := range a.Groups {
		s.roles[group] = true
		for _, role := range g.Roles {
			s.members[membership{group, name(role)}] = true
		}
		if g.Embargoed {
			s.members[membership{group, name("embargo")}] = true
		}
		if g.Contents {
			s.members[membership{group, name("contents")}] = true
		}
		for _, tenant := range g.Tenants {
			tenants[tenant] = true
			s.members[membership{group, name("tenant_" + tenant)}] = true
		}
	}
	for tenant := range tenants {
		s.roles[name("tenant_"+tenant)] = true
		s.members[membership{name("tenant_" + tenant), name("reader")}] = true
	}
	pattern := a.EmbargoPattern()
	for _, t := range tables {
		right := name("reader")
		if t.Contents {
			right = name("contents")
			s.roles[right] = true
		}
		s.grants[grant{right, "SELECT", t.Name}] = true
		policy := func(part string, p rowPolicy) { s.policies[policyName{name(part), t.Name}] = p }
		policy("others", rowPolicy{filter: "0", toAll: true})
		policy("all", rowPolicy{filter: "1", to: joined(all...)})
		for tenant := range tenants {
			policy("tenant_"+tenant, rowPolicy{filter: "tenant_id = " + quote(tenant), to: joined(name("tenant_" + tenant))})
		}
		if pattern != "" && t.Quality {
			policy("embargo", rowPolicy{
				filter: embargoFilter(t.Models, pattern), restrictive: true,
				to: joined(append(slices.Clone(a.Unrestricted), name("embargo"))...), toAll: true,
			})
		}
	}
	return s
}

// embargoFilter is that none of the columns names an embargoed model.
func embargoFilter(columns []string, pattern string) string {
	matches := make([]string, len(columns))
	for i, column := range columns {
		matches[i] = "match(" + column + ", " + quote(pattern) + ")"
	}
	if len(matches) == 1 {
		return "NOT " + matches[0]
	}
	return "NOT (" + strings.Join(matches, " OR ") + ")"
}

// AccessSQL are the statements that make a server without any of it read the database as a says.
func (a Access) AccessSQL(database string, tables []TenantTable) []string {
	return a.wanted(database, tables).since(accessState{}, database)
}

// since are the statements that turn the state that a server has into s. Policies come before the rights that
// they limit, and what widens a policy before what narrows it, so that nobody sees more in between.
func (s accessState) since(has accessState, database string) []string {
	var sql []string
	say := func(format string, args ...any) { sql = append(sql, fmt.Sprintf(format, args...)) }
	for _, role := range missing(s.roles, has.roles, strings.Compare) {
		say("CREATE ROLE IF NOT EXISTS %s", identifier(role))
	}
	for _, n := range slices.SortedFunc(maps.Keys(s.policies), policyName.compare) {
		if p := s.policies[n]; has.policies[n] != p {
			say("CREATE ROW POLICY OR REPLACE %s ON %s.%s AS %s FOR SELECT USING %s TO %s",
				identifier(n.name), database, n.table, map[bool]string{true: "RESTRICTIVE", false: "PERMISSIVE"}[p.restrictive], p.filter, p.audience())
		}
	}
	profile := identifier(database + "_reader")
	if !maps.Equal(s.profile, has.profile) || !maps.Equal(s.applied, has.applied) {
		say("CREATE SETTINGS PROFILE OR REPLACE %s SETTINGS %s TO %s", profile, limitsSQL(s.profile), profile)
	}
	for _, g := range missing(has.grants, s.grants, grant.compare) {
		say("REVOKE %s ON %s FROM %s", g.right, g.target(database), identifier(g.role))
	}
	for _, m := range missing(has.members, s.members, membership.compare) {
		say("REVOKE %s FROM %s", identifier(m.granted), identifier(m.role))
	}
	for _, n := range missing(has.policies, s.policies, policyName.compare) {
		say("DROP ROW POLICY IF EXISTS %s ON %s.%s", identifier(n.name), database, n.table)
	}
	for _, g := range missing(s.grants, has.grants, grant.compare) {
		say("GRANT %s ON %s TO %s", g.right, g.target(database), identifier(g.role))
	}
	for _, m := range missing(s.members, has.members, membership.compare) {
		say("GRANT %s TO %s", identifier(m.granted), identifier(m.role))
	}
	for _, role := range missing(has.roles, s.roles, strings.Compare) {
		if strings.HasPrefix(role, database+"_tenant_") { // a group's role is its owner's, and may be used elsewhere
			say("DROP ROLE IF EXISTS %s", identifier(role))
		}
	}
	return sql
}

// missing are the keys of a that b has not, in order.
func missing[K comparable, V any](a, b map[K]V, compare func(K, K) int) []K {
	var keys []K
	for key := range a {
		if _, ok := b[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compare)
	return keys
}

func (m membership) compare(n membership) int {
	return cmp.Or(strings.Compare(m.role, n.role), strings.Compare(m.granted, n.granted))
}

func (g grant) compare(h grant) int {
	return cmp.Or(strings.Compare(g.role, h.role), strings.Compare(g.on, h.on), strings.Compare(g.right, h.right))
}

// compare puts what lets rows through before what holds them back, table by table.
func (n policyName) compare(m policyName) int {
	late := func(n policyName) int {
		if strings.HasSuffix(n.name, "_others") {
			return 1
		}
		return 0
	}
	return cmp.Or(strings.Compare(n.table, m.table), cmp.Compare(late(n), late(m)), strings.Compare(n.name, m.name))
}

// target is what the right is on: a table of the database, or as the server names it.
func (g grant) target(database string) string {
	if strings.Contains(g.on, ".") {
		return g.on
	}
	return database + "." + g.on
}

func (p rowPolicy) audience() string {
	var names []string
	for name := range strings.SplitSeq(p.to, nameSeparator) {
		if name != "" {
			names = append(names, identifier(name))
		}
	}
	switch list := strings.Join(names, ", "); {
	case p.toAll && list != "":
		return "ALL EXCEPT " + list
	case p.toAll:
		return "ALL"
	default:
		return list
	}
}

// limitsSQL are the settings of a profile, in order.
func limitsSQL(limits map[string]limit) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		l := limits[name]
		text := name + " = " + l.value
		if l.min != "" {
			text += " MIN " + l.min
		}
		if l.max != "" {
			text += " MAX " + l.max
		}
		list = append(list, text+" "+l.writability)
	}
	return strings.Join(list, ", ")
}

// nameSeparator is in no name.
const nameSeparator = "\x1f"

// joined sorts names and joins them.
func joined(names ...string) string {
	slices.Sort(names)
	return strings.Join(slices.Compact(names), nameSeparator)
}

// identifier and quote write a name and a text in SQL as the server repeats them.
func identifier(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name) + "`"
}

func quote(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}
