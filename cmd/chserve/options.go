package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/cmd/chserve/engine"
)

// options is the validated command line.
type options struct {
	library       string
	data          string
	listen        string
	config        string
	users         []user
	tenantTables  []tableName
	embargo       embargo
	concurrency   int
	exitWithStdin bool
}

// tableName names a table that holds rows of several tenants.
type tableName struct{ database, table string }

// embargo says which rows of which tables only some readers may see.
type embargo struct {
	// models is a regular expression of the names of embargoed models; empty embargoes none.
	models string
	// columns name the columns that hold a model, by table.
	columns map[tableName][]string
}

// parseOptions reads the command line and the users file, and reports everything that is wrong with them
// at once.
func parseOptions(args []string, output io.Writer) (options, error) {
	var opts options
	var usersFile, tenantTables, embargoColumns string
	flags := flag.NewFlagSet("chserve", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&opts.library, "library", "", "path of the engine library (default: the one that make engine installed in this checkout)")
	flags.StringVar(&opts.data, "data", "", "data directory; created when missing (required)")
	flags.StringVar(&opts.listen, "listen", "127.0.0.1:0", "loopback address to serve on; port 0 takes a free one")
	flags.StringVar(&opts.config, "config", "", "configuration file of the engine, as a ClickHouse server's config.xml")
	flags.StringVar(&usersFile, "users", "", `JSON file of [{"user","password","tenants":[],"all_tenants","embargoed","admin"}], readable by its owner only (required)`)
	flags.StringVar(&tenantTables, "tenant-tables", "", "every table with a tenant_id column, as db.table,db.table; users who are not admin see their tenants' rows of these and no other table")
	flags.StringVar(&opts.embargo.models, "embargoed-models", "", "regular expression (RE2) of models whose rows in --embargo only users with embargoed see; empty: none")
	flags.StringVar(&embargoColumns, "embargo", "", "every column with a model's name in the tables under embargo, as db.table.column,db.table.column")
	flags.IntVar(&opts.concurrency, "concurrency", 16, "statements run at once; more wait")
	flags.BoolVar(&opts.exitWithStdin, "exit-with-stdin", false, "stop at the end of standard input, so that the server never outlives its parent")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}

	var errs []error
	if flags.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if opts.library == "" {
		library, err := engine.Find(".")
		if err != nil {
			errs = append(errs, err)
		}
		opts.library = library
	}
	if opts.data == "" {
		errs = append(errs, errors.New("--data is required: the directory for the database's files"))
	}
	if err := checkLoopback(opts.listen); err != nil {
		errs = append(errs, err)
	}
	if opts.concurrency < 1 {
		errs = append(errs, fmt.Errorf("--concurrency is %d: it must be at least 1", opts.concurrency))
	}
	var err error
	if opts.tenantTables, err = parseTableNames(tenantTables); err != nil {
		errs = append(errs, err)
	}
	if _, err := regexp.Compile(opts.embargo.models); err != nil {
		errs = append(errs, fmt.Errorf("--embargoed-models: %w", err))
	}
	if opts.embargo.columns, err = parseColumnNames(embargoColumns, opts.tenantTables); err != nil {
		errs = append(errs, err)
	}
	if opts.users, err = loadUsers(usersFile); err != nil {
		errs = append(errs, err)
	}
	for _, u := range opts.users {
		if !u.Admin && len(opts.tenantTables) == 0 {
			errs = append(errs, fmt.Errorf("user %q is not admin but --tenant-tables is empty: list the tables whose rows belong to tenants", u.Name))
			break
		}
	}
	return opts, errors.Join(errs...)
}

// checkLoopback refuses addresses that other machines can reach: passwords travel unencrypted.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--listen %q is not host:port: %w", address, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--listen %q is not a loopback address: chserve speaks plain HTTP, so use 127.0.0.1", address)
	}
	return nil
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func parseTableNames(list string) ([]tableName, error) {
	var names []tableName
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		database, table, _ := strings.Cut(item, ".")
		if !identifier.MatchString(database) || !identifier.MatchString(table) {
			return nil, fmt.Errorf("--tenant-tables: %q is not db.table", item)
		}
		names = append(names, tableName{database, table})
	}
	return names, nil
}

// parseColumnNames reads db.table.column of tenant tables.
func parseColumnNames(list string, tables []tableName) (map[tableName][]string, error) {
	columns := map[tableName][]string{}
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		parts := strings.Split(item, ".")
		if len(parts) != 3 || !identifier.MatchString(parts[2]) {
			return nil, fmt.Errorf("--embargo: %q is not db.table.column", item)
		}
		table := tableName{parts[0], parts[1]}
		if !slices.Contains(tables, table) {
			return nil, fmt.Errorf("--embargo: %s.%s is not among --tenant-tables", parts[0], parts[1])
		}
		columns[table] = append(columns[table], parts[2])
	}
	return columns, nil
}
