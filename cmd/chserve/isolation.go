package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Tenant isolation. The engine knows one user, so who may see which rows travels in the one text setting
// that a query cannot change at readonly=1: log_comment. Each request's connection gets a marker of its
// own there, and the row filters of users.xml compare its end with tenant_id:
//
//	<32 hex digits, random>*                 an admin: every row
//	<32 hex digits, random>+<e>              a reader of every tenant's rows
//	<32 hex digits, random>=<e><tenants>     a reader of these tenants' rows; without tenants, of none
//	anything else, empty included            no row
//
// <e> is ! for whoever may see the rows of embargoed models, and - for the others. Tenants are joined by
// the unit separator, which no tenant's name holds.
//
// The random part names the request for KILL QUERY. What the engine runs on its own behalf, a refreshable
// view for example, has no marker and sees no row; views that follow inserts have their inserter's.

const (
	markerID        = 32
	markerAdmin     = "*"
	markerAll       = "+"
	markerTenants   = "="
	markerEmbargoed = "!"
	markerEmbargo   = "-"
	tenantSeparator = "\x1f"
)

// newMarker makes the marker of one request of u.
func newMarker(u user) string {
	var id [markerID / 2]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand stops the program instead
	marker, embargo := hex.EncodeToString(id[:]), markerEmbargo
	if u.Embargoed {
		embargo = markerEmbargoed
	}
	switch {
	case u.Admin:
		return marker + markerAdmin
	case u.AllTenants:
		return marker + markerAll + embargo
	}
	return marker + markerTenants + embargo + strings.Join(u.Tenants, tenantSeparator)
}

// adminFilter is the condition under which a connection is an admin's.
var adminFilter = fmt.Sprintf("substring(getSetting('log_comment'), %d, 1) = '%s'", markerID+1, markerAdmin)

// tenantFilter is the condition under which a reader's connection sees a row of its tenants. Only its last
// comparison looks at the row, so that the primary key can serve it.
var tenantFilter = fmt.Sprintf(
	"(substring(getSetting('log_comment'), %[1]d, 1) = '%[2]s' OR substring(getSetting('log_comment'), %[1]d, 1) = '%[3]s' AND "+
		"length(getSetting('log_comment')) > %[4]d AND tenant_id IN splitByChar('\\x1f', substring(getSetting('log_comment'), %[5]d)))",
	markerID+1, markerAll, markerTenants, markerID+2, markerID+3)

// filter is the condition under which a reader's connection sees a row of t.
func (e embargo) filter(t tableName) string {
	columns := e.columns[t]
	if len(columns) == 0 || e.models == "" {
		return tenantFilter
	}
	var matches []string
	for _, column := range columns {
		matches = append(matches, fmt.Sprintf("match(%s, %s)", column, quoteString(e.models)))
	}
	return fmt.Sprintf("%s AND (substring(getSetting('log_comment'), %d, 1) = '%s' OR NOT (%s))",
		tenantFilter, markerID+2, markerEmbargoed, strings.Join(matches, " OR "))
}

// filteredDatabases are the databases whose every table has a row filter: those of the tenant tables, and
// the engine's own, whose tables tell about other tenants' queries and data.
func filteredDatabases(tables []tableName) []string {
	databases := []string{"default", "system", "information_schema", "INFORMATION_SCHEMA"}
	for _, t := range tables {
		if !slices.Contains(databases, t.database) {
			databases = append(databases, t.database)
		}
	}
	return databases
}

// writeEngineConfig writes the configuration that the engine starts with into dir and returns its path:
// the given file, if any, merged with a users.xml that holds the row filters of the tenant tables.
func writeEngineConfig(dir, given string, tables []tableName, embargo embargo) (string, error) {
	merged := filepath.Join(dir, "config.d")
	if err := os.MkdirAll(merged, 0o700); err != nil {
		return "", fmt.Errorf("writing the engine's configuration: %w", err)
	}
	config, name := []byte("<clickhouse/>\n"), "config.xml"
	if given != "" {
		var err error
		if config, err = os.ReadFile(given); err != nil {
			return "", fmt.Errorf("reading the engine's configuration: %w", err)
		}
		name = "config" + filepath.Ext(given)
	}
	users := filepath.Join(dir, "users.xml")
	for path, content := range map[string][]byte{
		filepath.Join(dir, name):           config,
		users:                              []byte(usersXML(tables, embargo)),
		filepath.Join(merged, "users.xml"): []byte("<clickhouse><users_config>" + escapeXML(users) + "</users_config></clickhouse>\n"),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return "", fmt.Errorf("writing the engine's configuration: %w", err)
		}
	}
	return filepath.Join(dir, name), nil
}

// usersXML is the engine's users file: its one user, with the row filters. Filters of one table are joined
// by OR, so the filter that a database has for all of its tables admits admins everywhere, and a tenant
// table's own filter admits its tenants besides.
func usersXML(tables []tableName, embargo embargo) string {
	var b strings.Builder
	b.WriteString(`<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password>
      <networks><ip>::/0</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <databases>
`)
	for _, database := range filteredDatabases(tables) {
		fmt.Fprintf(&b, "        <%s>\n", database)
		for _, t := range tables {
			if t.database == database {
				fmt.Fprintf(&b, "          <%s><filter>%s</filter></%s>\n", t.table, escapeXML(embargo.filter(t)), t.table)
			}
		}
		if database == "system" {
			b.WriteString("          <one><filter>1</filter></one>\n") // what a SELECT without FROM reads
		}
		// The engine reads the name attribute, here empty for "every table", only from the second element
		// called table.
		fmt.Fprintf(&b, "          <table name=\"-\"><filter>0</filter></table><table name=\"\"><filter>%s</filter></table>\n", escapeXML(adminFilter))
		fmt.Fprintf(&b, "        </%s>\n", database)
	}
	b.WriteString("      </databases>\n    </default>\n  </users>\n</clickhouse>\n")
	return b.String()
}

func escapeXML(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a strings.Builder takes every write
	return b.String()
}
