package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/cmd/chserve/chdb"
)

// guard decides what the users who are not admin may send. Row filters decide which rows they see; the
// guard closes the ways around the filters and out of the database, which readonly mode leaves open:
// SELECT ... INTO OUTFILE writes files, the function file() reads them, mergeTreeIndex() shows the keys of
// every tenant. It asks the engine's own parser, and everything that it does not know is refused.
type guard struct {
	// conn is an admin's connection, for questions to the engine.
	conn *chdb.Conn
	// settings holds the names that the engine knows; it ignores others silently.
	settings map[string]bool
	// refused holds the lower-case names of the functions that a tenant may not call.
	refused map[string]bool
	// tables are those that tenants may read.
	tables []tableName
	// databases are those whose tables all have row filters.
	databases []string
}

// newGuard reads from the engine what it offers.
func newGuard(conn *chdb.Conn, tables []tableName) (*guard, error) {
	g := &guard{conn: conn, settings: map[string]bool{}, refused: map[string]bool{}, tables: tables, databases: filteredDatabases(tables)}
	names, err := conn.Query("SELECT name FROM system.settings", "TSVRaw", nil)
	if err != nil {
		return nil, fmt.Errorf("reading the engine's settings: %w", err)
	}
	for name := range strings.FieldsSeq(string(names.Data)) {
		g.settings[name] = true
	}
	functions, err := conn.Query(`SELECT lower(f.name), if(f.alias_to = '', f.name, f.alias_to) AS original, o.categories
		FROM system.functions AS f LEFT JOIN system.functions AS o ON o.name = original WHERE NOT f.is_aggregate`, "TSVRaw", nil)
	if err != nil {
		return nil, fmt.Errorf("reading the engine's functions: %w", err)
	}
	for line := range strings.Lines(string(functions.Data)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != 3 {
			return nil, fmt.Errorf("reading the engine's functions: cannot read %q", line)
		}
		if !slices.Contains(tenantFunctionCategories, fields[2]) && !slices.Contains(tenantFunctions, fields[1]) {
			g.refused[fields[0]] = true
		}
	}
	if len(g.settings) == 0 || len(g.refused) == 0 {
		return nil, errors.New("the engine lists no settings or no functions")
	}
	return g, nil
}

// tenantFunctionCategories are the categories of system.functions whose members compute from their
// arguments alone.
var tenantFunctionCategories = []string{
	"Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional", "Dates and Times", "Distance",
	"Encoding", "Financial", "Hash", "IP Address", "JSON", "Logical", "Map", "Mathematical", "Null",
	"Random Number", "Rounding", "String", "String Replacement", "String Search", "String Splitting",
	"Time Window", "Tuple", "Type Conversion", "URL", "UUID",
}

// tenantFunctions are harmless members of categories that have others; _CAST is how a parameter appears.
var tenantFunctions = []string{
	"_CAST", "bar", "byteSize", "caseWithExpression", "currentDatabase", "finalizeAggregation",
	"formatReadableDecimalSize", "formatReadableQuantity", "formatReadableSize", "formatReadableTimeDelta",
	"identity", "ignore", "initializeAggregation", "materialize", "rowNumberInAllBlocks",
	"runningAccumulate", "runningDifference", "toTypeName", "transform", "version",
}

// tenantTableFunctions make rows out of nothing; every other table function reads something.
var tenantTableFunctions = []string{
	"generateSeries", "generate_series", "numbers", "numbers_mt", "SQLStandardValues", "values", "zeros",
}

// tenantNodes are the kinds of syntax tree node that a tenant's SELECT may consist of. EXPLAIN AST prints
// the children of each; it hides those of ColumnsApplyTransformer, a function applied to columns. Set, a
// SETTINGS clause, is not among them because even at readonly=1 it can reset settings to their defaults.
var tenantNodes = []string{
	"ArrayJoin", "Asterisk", "ColumnsExceptTransformer", "ColumnsListMatcher", "ColumnsRegexpMatcher",
	"ColumnsReplaceTransformer", "ColumnsReplaceTransformer::Replacement", "ColumnsTransformerList",
	"ExpressionList", "Function", "Identifier", "InterpolateElement", "Literal", "OrderByElement",
	"QualifiedAsterisk", "QueryParameter", "SampleRatio", "SelectIntersectExceptQuery", "SelectQuery",
	"SelectWithUnionQuery", "Subquery", "TableExpression", "TableIdentifier", "TableJoin",
	"TablesInSelectQuery", "TablesInSelectQueryElement", "WindowDefinition", "WindowListElement",
	"WithElement",
}

// checkRequest refuses settings that the engine does not know, that are chserve's own or that u may not
// set, and databases that u may not use.
func (g *guard) checkRequest(u user, req *request) error {
	for _, s := range req.settings {
		switch {
		case s.name == "log_comment":
			return exception(codeReadonly, "Cannot modify 'log_comment' setting: it carries the identity of the connection")
		case !g.settings[s.name]:
			return exception(codeUnknownSetting, "Setting %s is neither a builtin setting nor started with the prefix 'SQL_' registered for user-defined settings", s.name)
		}
	}
	if u.Admin {
		return nil
	}
	if req.database != "" && !slices.Contains(g.databases, req.database) {
		return exception(codeAccessDenied, "%s: Not enough privileges: no table of database %s is shared with tenants", u.Name, req.database)
	}
	return limitSettings(req)
}

// checkStatement decides whether u may run the request's statement on conn. Nobody may send several
// statements at once, as on a server's HTTP interface. Tenants may send one SELECT.
func (g *guard) checkStatement(conn *chdb.Conn, u user, req *request, analysis chdb.Analysis) error {
	if analysis.Statements > 1 {
		return exception(codeSyntaxError, "Multi-statements are not allowed")
	}
	if u.Admin {
		return nil
	}
	switch analysis.Class {
	case chdb.ReadOnly:
	case chdb.Mutating, chdb.MutatingGlobal:
		return exception(codeReadonly, "%s: Cannot execute query in readonly mode", u.Name)
	case chdb.Control:
		return exception(codeAccessDenied, "%s: Not enough privileges: the statement changes the session or acts outside the database", u.Name)
	default:
		return exception(codeSyntaxError, "Syntax error: the text is not a SELECT")
	}
	tree, err := conn.Query("EXPLAIN AST "+req.sql, "TabSeparated", req.params)
	if err != nil {
		return err
	}
	databases, err := g.conn.Query("SELECT name FROM system.databases", "TSVRaw", nil)
	if err != nil {
		return fmt.Errorf("listing the databases: %w", err)
	}
	var others []string
	for name := range strings.Lines(string(databases.Data)) {
		if name = strings.TrimSuffix(name, "\n"); !slices.Contains(g.databases, name) {
			others = append(others, name)
		}
	}
	reason := g.refuseTree(tree.Data, others)
	if reason == "" {
		if reason, err = g.refuseTables(tree.Data, cmp.Or(req.database, "default")); err != nil {
			return err
		}
	}
	if reason != "" {
		return exception(codeAccessDenied, "%s: Not enough privileges: %s", u.Name, reason)
	}
	return nil
}

// refuseTree reads the output of EXPLAIN AST, one node a line, children indented under their parent as in
//
//	TableExpression (children 1)
//	 TableIdentifier flyball.spans (alias s)
//
// and says why a tenant may not run the statement; an empty string allows it. A line break in a name adds
// lines but hides none, so it can only lead to a refusal. Others are the databases without row filters.
func (g *guard) refuseTree(tree []byte, others []string) string {
	if !bytes.HasPrefix(tree, []byte("SelectWithUnionQuery ")) {
		return "only SELECT is allowed"
	}
	parent := "" // the kind of the line before, which is the parent of a first child
	for line := range strings.Lines(string(tree)) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ := strings.Cut(rest, " (")
		database, _, _ := strings.Cut(name, ".")
		switch {
		case !slices.Contains(tenantNodes, kind):
			return fmt.Sprintf("%s is not allowed in a tenant's query", kind)
		case kind == "Function" && parent == "TableExpression":
			if !slices.Contains(tenantTableFunctions, name) {
				return fmt.Sprintf("the table function %s is not allowed in a tenant's query", name)
			}
		case kind == "Function" && g.refused[strings.ToLower(name)]:
			return fmt.Sprintf("the function %s is not allowed in a tenant's query", name)
		case (kind == "TableIdentifier" || kind == "Identifier") && database != name && slices.Contains(others, database):
			return fmt.Sprintf("no table of database %s is shared with tenants", database)
		case kind == "Identifier" && strings.HasPrefix(name[strings.LastIndex(name, ".")+1:], "_"):
			return fmt.Sprintf("%s may be a virtual column, and those tell how much other tenants have stored: name columns of the table", name)
		}
		parent = kind
	}
	return ""
}

// refuseTables says which table in the output of EXPLAIN AST exists and is not shared with tenants. The row
// filters show no row of it in any case; who asks for it should hear why. Current is the database of tables
// that are named without one.
func (g *guard) refuseTables(tree []byte, current string) (string, error) {
	for line := range strings.Lines(string(tree)) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "TableIdentifier ")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, " (")
		t := tableName{current, name}
		if database, table, qualified := strings.Cut(name, "."); qualified {
			t = tableName{database, table}
		}
		if slices.Contains(g.tables, t) {
			continue
		}
		// It may be a WITH element's name, or not exist, which the engine says better.
		exists, err := g.conn.Query("SELECT count() FROM system.tables WHERE database = {database:String} AND name = {name:String}",
			"TSVRaw", []chdb.Param{{Name: "database", Value: t.database}, {Name: "name", Value: t.table}})
		if err != nil {
			return "", fmt.Errorf("looking for table %s: %w", name, err)
		}
		if strings.TrimSpace(string(exists.Data)) != "0" {
			return fmt.Sprintf("table %s.%s is not shared with tenants, these are: %s", t.database, t.table, joinNames(g.tables)), nil
		}
	}
	return "", nil
}

func joinNames(tables []tableName) string {
	var names []string
	for _, t := range tables {
		names = append(names, t.database+"."+t.table)
	}
	return strings.Join(names, ", ")
}
