package clickhouse

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// TenantTable is a table or view whose rows belong to tenants: it has a column tenant_id. Readers see their
// rows of these, and nothing of any other table.
type TenantTable struct {
	Name string
	// Models are the columns with the requested model and with that which served, as far as it has them.
	Models []string
	// Quality says that a row tells how good a model is, so that an embargo of the model covers it.
	Quality bool
	// Contents says that a row holds what was asked and answered, which needs a right of its own.
	Contents bool
}

// TenantTables are all tenant tables that the migrations make, by name. They are read from the migrations
// themselves, so that a new table needs no second list to be remembered; a test holds them to the engine's
// own catalogue.
func TenantTables() ([]TenantTable, error) {
	migrations, err := loadMigrations(migrationFiles)
	if err != nil {
		return nil, err
	}
	columns := map[string][]string{}
	for _, m := range migrations {
		for _, statement := range m.statements {
			readColumns(statement, columns)
		}
	}
	var tables []TenantTable
	for name, names := range columns {
		if t, ok := tenantTable(name, names); ok {
			tables = append(tables, t)
		}
	}
	slices.SortFunc(tables, func(a, b TenantTable) int { return cmp.Compare(a.Name, b.Name) })
	return tables, nil
}

// tellsQuality are the columns that tell how good a model is: scores, what calls led to, and the words of
// incidents and decisions, which quote both.
var tellsQuality = regexp.MustCompile(`quality|^(score|code_sum|value|value_micro|good|effect|reason|report|detail)$`)

// tenantTable says what the columns make of a table; ok is false when its rows belong to no tenant.
func tenantTable(name string, columns []string) (t TenantTable, ok bool) {
	if !slices.Contains(columns, "tenant_id") {
		return TenantTable{}, false
	}
	t.Name = name
	for _, model := range []string{"requested_model", "model"} {
		if slices.Contains(columns, model) {
			t.Models = append(t.Models, model)
		}
	}
	t.Contents = slices.Contains(columns, "input") && slices.Contains(columns, "output")
	t.Quality = t.Contents || len(t.Models) > 0 && slices.ContainsFunc(columns, tellsQuality.MatchString)
	return t, true
}

var (
	createTable = regexp.MustCompile("(?is)^CREATE TABLE (?:IF NOT EXISTS )?`?(\\w+)`?(?:\\s+AS `?(\\w+)`?)?(?:\\s*\\((.*?)\\n\\))?")
	createView  = regexp.MustCompile("(?is)^CREATE (?:OR REPLACE )?VIEW (?:IF NOT EXISTS )?`?(\\w+)`?(.*)$")
	addColumn   = regexp.MustCompile("(?is)\\bADD COLUMN (?:IF NOT EXISTS )?`?(\\w+)`?")
	alterTable  = regexp.MustCompile("(?is)^ALTER TABLE `?(\\w+)`?")
	dropTable   = regexp.MustCompile("(?is)^DROP (?:TABLE|VIEW) (?:IF EXISTS )?`?(\\w+)`?")
	columnName  = regexp.MustCompile("(?m)^\\s*`?(\\w+)`? ")
	anyWord     = regexp.MustCompile(`\w+`)
)

// readColumns notes what a migration's statement does to the columns of tables and plain views. Materialized
// views are not among them: they write into tables, which are read in their place.
func readColumns(statement string, columns map[string][]string) {
	if m := createTable.FindStringSubmatch(statement); m != nil {
		columns[m[1]] = slices.Clone(columns[m[2]]) // of the table that it is made like, or none
		for _, column := range columnName.FindAllStringSubmatch(m[3], -1) {
			columns[m[1]] = append(columns[m[1]], column[1])
		}
	} else if m := createView.FindStringSubmatch(statement); m != nil {
		body, _, _ := strings.Cut(m[2], "\nFROM") // what it selects: any word of it may be a column
		columns[m[1]] = anyWord.FindAllString(body, -1)
	} else if m := alterTable.FindStringSubmatch(statement); m != nil {
		for _, column := range addColumn.FindAllStringSubmatch(statement, -1) {
			columns[m[1]] = append(columns[m[1]], column[1])
		}
	} else if m := dropTable.FindStringSubmatch(statement); m != nil {
		delete(columns, m[1])
	}
}
