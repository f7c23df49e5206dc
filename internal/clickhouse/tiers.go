package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// The volumes that a storage policy must have, in this order. New rows go to the first. Tables that were made
// before are in the engine's own policy, whose one volume is called default and then stands in hot's place.
const (
	hotVolume     = "hot"
	defaultVolume = "default"
	warmVolume    = "warm"
	coldVolume    = "cold"
)

// tierTTL moves raw rows down the volumes and ends them. It is in the engine's own spelling, so that it can be
// found in what the engine says of a table.
const tierTTL = "TTL toDateTime(timestamp) + toIntervalDay(30) TO VOLUME 'warm', " +
	"toDateTime(timestamp) + toIntervalDay(90) TO VOLUME 'cold', toDateTime(timestamp) + toIntervalYear(2)"

// volume is one of a storage policy.
type volume struct {
	name  string
	disks []string
}

// volumes are those of a policy, in its order; none when there is no such policy.
func (s *Store) volumes(ctx context.Context, policy string) ([]volume, error) {
	all, err := collect(ctx, s.outside(), "SELECT volume_name, disks FROM system.storage_policies WHERE policy_name = {policy:String} ORDER BY volume_priority",
		[]any{ch.Named("policy", policy)}, func(rows driver.Rows, v *volume) error { return rows.Scan(&v.name, &v.disks) })
	if err != nil {
		return nil, fmt.Errorf("reading the storage policy %s: %w", policy, err)
	}
	return all, nil
}

// tiering are the statements that put the raw tables under the storage policy; none where they are already, or
// where no policy is wanted. checkLayout has seen the policy. Tables that are not there yet will be created under it. Rows that are stored already
// get their place in the background.
func (s *Store) tiering(ctx context.Context) ([]string, error) {
	if s.layout.policy == "" {
		return nil, nil
	}
	volumes, err := s.volumes(ctx, s.layout.policy)
	if err != nil {
		return nil, err
	}
	var statements []string
	for _, table := range rawTables {
		policy, definition, err := s.storedUnder(ctx, table)
		if err != nil {
			return nil, err
		}
		if policy != "" && policy != s.layout.policy {
			old, err := s.volumes(ctx, policy)
			if err != nil {
				return nil, err
			}
			if err := checkSuccessor(table, s.layout.policy, volumes, policy, old); err != nil {
				return nil, err
			}
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s MODIFY SETTING storage_policy = '%s'", table, s.layout.policy))
		}
		if !strings.Contains(definition, tierTTL) {
			statements = append(statements,
				// Stored rows learn their new ages without being rewritten.
				fmt.Sprintf("ALTER TABLE %s MODIFY SETTING materialize_ttl_recalculate_only = 1", table),
				fmt.Sprintf("ALTER TABLE %s MODIFY %s", table, tierTTL))
		}
	}
	return s.layout.statements(statements)
}

// storedUnder is a table's storage policy and its definition, both empty when it is not there.
func (s *Store) storedUnder(ctx context.Context, table string) (policy, definition string, err error) {
	type row struct{ policy, definition string }
	rows, err := collect(ctx, s.outside(), "SELECT storage_policy, create_table_query FROM system.tables WHERE database = {database:String} AND name = {table:String}",
		[]any{ch.Named("database", s.database), ch.Named("table", table)},
		func(rows driver.Rows, r *row) error { return rows.Scan(&r.policy, &r.definition) })
	if err != nil || len(rows) == 0 {
		return "", "", err
	}
	return rows[0].policy, rows[0].definition, nil
}

const seeTiers = `see "Hot, warm and cold" in docs/operations.md`

// checkVolumes says what a policy lacks, and how to declare it.
func checkVolumes(policy string, volumes []volume) error {
	if len(volumes) == 0 {
		return fmt.Errorf("%w: clickhouse.storage_policy: the server declares no storage policy %s: declare it under <storage_configuration> with the volumes hot, warm and cold; %s", ErrLayout, policy, seeTiers)
	}
	at := func(name string) int { return slices.IndexFunc(volumes, func(v volume) bool { return v.name == name }) }
	var missing []string
	if at(hotVolume) < 0 && at(defaultVolume) < 0 {
		missing = append(missing, hotVolume)
	}
	for _, name := range []string{warmVolume, coldVolume} {
		if at(name) < 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: clickhouse.storage_policy: the storage policy %s lacks the volumes %s: declare them under <storage_configuration>; %s", ErrLayout, policy, strings.Join(missing, ", "), seeTiers)
	}
	if first := volumes[0].name; first != hotVolume && first != defaultVolume {
		return fmt.Errorf("%w: clickhouse.storage_policy: the storage policy %s begins with the volume %s, where new rows would go: put hot first; %s", ErrLayout, policy, first, seeTiers)
	}
	return nil
}

// checkSuccessor says what a policy lacks to take over a table from another. The engine itself demands the volumes
// and disks where parts of the table may be. It also keeps the tokens of batches on the policy's first disk: with
// another first disk it would look there after its next start, find none, and store again what is sent again.
func checkSuccessor(table, policy string, volumes []volume, old string, oldVolumes []volume) error {
	for i, o := range oldVolumes {
		at := slices.IndexFunc(volumes, func(v volume) bool { return v.name == o.name })
		for j, disk := range o.disks {
			if at < 0 || !slices.Contains(volumes[at].disks, disk) || i == 0 && j == 0 && (at != 0 || volumes[0].disks[0] != disk) {
				place := "to"
				if i == 0 {
					place = "as the first volume of"
				}
				return fmt.Errorf("%w: clickhouse.storage_policy: the table %s is stored under the policy %s already, and can only change to one that has its volumes too: put <%s><disk>%s</disk></%s> %s the policy %s; %s", ErrLayout,
					table, old, o.name, disk, o.name, place, policy, seeTiers)
			}
		}
	}
	return nil
}
