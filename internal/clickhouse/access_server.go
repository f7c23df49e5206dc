package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// ErrNoAccessManagement is that the server does not let this user see and change roles and row policies. The
// embedded engine lets nobody.
var ErrNoAccessManagement = errors.New("this user may not manage access on this server")

// PlanAccess are the statements that would make the server read the database as a says; none when it does.
func (s *Store) PlanAccess(ctx context.Context, a Access) ([]string, error) {
	tables, err := TenantTables()
	if err != nil {
		return nil, err
	}
	has, err := s.readAccess(ctx, "system", a)
	var refused *ch.Exception
	if errors.As(err, &refused) && refused.Code == codeAccessDenied {
		return nil, fmt.Errorf("%w: %s", ErrNoAccessManagement, refused.Message)
	}
	if err != nil {
		return nil, fmt.Errorf("reading roles and row policies: %w", err)
	}
	return a.wanted(s.database, tables).since(has, s.database), nil
}

// ApplyAccess carries a plan out. Each statement may be repeated, so one that was cut short is planned and
// applied again.
func (s *Store) ApplyAccess(ctx context.Context, plan []string) error {
	for _, statement := range plan {
		err := s.server.Exec(ctx, statement)
		var refused *ch.Exception
		if errors.As(err, &refused) && refused.Code == codeAccessDenied {
			return fmt.Errorf("%w: %s: %s", ErrNoAccessManagement, statement, refused.Message)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// codeAccessDenied is ClickHouse's ACCESS_DENIED.
const codeAccessDenied = 497

// readAccess reads what the server has of the objects that Access makes: all roles that begin with the
// database's name or are a group's, and what they have; all policies of the database that begin with its name.
// The catalogue is the database system.
func (s *Store) readAccess(ctx context.Context, catalogue string, a Access) (accessState, error) {
	has := accessState{
		roles: map[string]bool{}, members: map[membership]bool{}, grants: map[grant]bool{},
		policies: map[policyName]rowPolicy{}, profile: map[string]limit{}, applied: map[string]bool{},
	}
	groups := append(slices.Sorted(maps.Keys(a.Groups)), "") // an empty array has no type
	own := s.database + "_"
	args := []any{ch.Named("own", own), ch.Named("groups", groups), ch.Named("database", s.database), ch.Named("profile", own+"reader")}
	read := func(sql string, note func(fields []string)) error {
		rows, err := collect(ctx, s, strings.ReplaceAll(sql, "system.", catalogue+"."), args, func(rows driver.Rows, fields *[]string) error { return rows.Scan(fields) })
		for _, fields := range rows {
			note(fields)
		}
		return err
	}
	return has, errors.Join(
		read("SELECT [name] FROM system.roles WHERE startsWith(name, {own:String}) OR name IN {groups:Array(String)}",
			func(f []string) { has.roles[f[0]] = true }),
		read(`SELECT [assumeNotNull(role_name), granted_role_name] FROM system.role_grants
WHERE role_name IS NOT NULL AND startsWith(granted_role_name, {own:String})`,
			func(f []string) { has.members[membership{f[0], f[1]}] = true }),
		read(`SELECT [assumeNotNull(role_name), toString(access_type), if(database = {database:String}, '', concat(ifNull(database, '*'), '.')), ifNull(table, '*')]
FROM system.grants WHERE startsWith(ifNull(role_name, ''), {own:String}) AND NOT is_partial_revoke`,
			func(f []string) {
				on := f[2] + f[3]
				if on == "*" { // all tables of the database
					on = s.database + ".*"
				}
				has.grants[grant{f[0], f[1], on}] = true
			}),
		read(`SELECT [short_name, table, ifNull(select_filter, ''), toString(is_restrictive), toString(apply_to_all),
  arrayStringConcat(arraySort(if(apply_to_all, apply_to_except, apply_to_list)), '\x1f')]
FROM system.row_policies WHERE database = {database:String} AND startsWith(short_name, {own:String})`,
			func(f []string) {
				has.policies[policyName{f[0], f[1]}] = rowPolicy{filter: strings.TrimSpace(f[2]), restrictive: f[3] == "1", toAll: f[4] == "1", to: f[5]}
			}),
		read(`SELECT [assumeNotNull(setting_name), ifNull(value, ''), ifNull(min, ''), ifNull(max, ''), ifNull(toString(writability), '')]
FROM system.settings_profile_elements WHERE profile_name = {profile:String} AND setting_name IS NOT NULL`,
			func(f []string) { has.profile[f[0]] = limit{f[1], f[2], f[3], f[4]} }),
		read("SELECT apply_to_list FROM system.settings_profiles WHERE name = {profile:String}",
			func(f []string) {
				for _, name := range f {
					has.applied[name] = true
				}
			}),
	)
}
