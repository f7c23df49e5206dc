package clickhouse

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// layout is where the tables live: on which servers and on which disks. The migrations are written for a single
// server with one disk; a layout rewrites their text and nothing else does.
type layout struct {
	cluster string // replicated on each of its servers; empty: this server alone
	policy  string // storage policy of the raw tables; empty: the server's default
}

// ErrLayout is the cause of an error when the configured cluster or storage policy is not what the server has.
var ErrLayout = errors.New("the server cannot take the schema")

// layoutName is what clusters and storage policies may be called, so that quotes need no escaping.
var layoutName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// rawTables hold one row per call, score or outcome: nearly all bytes, which are rarely read once they are old.
var rawTables = []string{"spans", "quality", "outcomes"}

var (
	// ddlTarget ends where ON CLUSTER belongs: after the name of what is created, altered or dropped.
	ddlTarget = regexp.MustCompile("^(?:CREATE (?:DATABASE|TABLE|VIEW|MATERIALIZED VIEW)|CREATE OR REPLACE VIEW|ALTER TABLE|DROP (?:TABLE|VIEW))(?: IF (?:NOT )?EXISTS)? (`?\\w+`?)")
	mergeTree = regexp.MustCompile(`\bENGINE = (\w*MergeTree)\b(?:\(([^)]*)\))?`)
)

// statement is a migration's statement as this layout has it. It fails on a statement that it does not know how to
// spread over a cluster, so that none is run on one server alone.
func (l layout) statement(sql string) (string, error) {
	target := ddlTarget.FindStringSubmatchIndex(sql)
	if l.policy != "" && target != nil && strings.HasPrefix(sql, "CREATE TABLE ") && slices.Contains(rawTables, sql[target[2]:target[3]]) {
		sql += fmt.Sprintf(", storage_policy = '%s'", l.policy) // the statement ends with its settings
	}
	if l.cluster == "" {
		return sql, nil
	}
	if target == nil {
		first, _, _ := strings.Cut(sql, "\n")
		return "", fmt.Errorf("%q cannot be run on a cluster", first)
	}
	sql = sql[:target[1]] + fmt.Sprintf(" ON CLUSTER '%s'", l.cluster) + sql[target[1]:]
	sql = mergeTree.ReplaceAllStringFunc(sql, func(engine string) string {
		m := mergeTree.FindStringSubmatch(engine)
		more := ""
		if m[2] != "" {
			more = ", " + m[2]
		}
		return fmt.Sprintf("ENGINE = Replicated%s('/clickhouse/tables/{uuid}/{shard}', '{replica}'%s)", m[1], more)
	})
	return strings.ReplaceAll(sql, "non_replicated_deduplication_window", "replicated_deduplication_window"), nil
}

// statements is statement over many.
func (l layout) statements(all []string) ([]string, error) {
	rewritten := make([]string, len(all))
	for i, sql := range all {
		var err error
		if rewritten[i], err = l.statement(sql); err != nil {
			return nil, fmt.Errorf("statement %d: %w", i+1, err)
		}
	}
	return rewritten, nil
}
