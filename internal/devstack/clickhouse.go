package devstack

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// clickHouseUser is the admin user of the embedded ClickHouse.
const clickHouseUser = "flyball"

// ClickHouseDatabase is the product's database in the embedded ClickHouse.
const ClickHouseDatabase = "flyball"

// ClickHouseOptions says how to start the embedded ClickHouse.
type ClickHouseOptions struct {
	// Program is the chserve binary, and Library the engine that it loads; when that is empty, chserve looks for
	// the one in the checkout it is started in.
	Program, Library string
	// Port is the loopback port of the HTTP interface.
	Port int
	// Sharing says what others than the admin may read.
	Sharing Sharing
}

// Sharing says who beside the admin may read what.
type Sharing struct {
	Readers []Reader
	// TenantTables are the tables with a tenant_id, as database.table, which readers see their rows of.
	TenantTables []string
	// EmbargoColumns hold the model in the tables under embargo, as database.table.column, and EmbargoedModels
	// is the regular expression of the models; empty: none.
	EmbargoColumns  []string
	EmbargoedModels string
}

// Reader is a user beside the admin, with the tenants whose rows it sees, or all of them, and whether it sees
// those of embargoed models too.
type Reader struct {
	Name       string
	Tenants    []string
	AllTenants bool
	Embargoed  bool
}

// clickHouseUserEntry is an entry of the users file that chserve reads.
type clickHouseUserEntry struct {
	User       string   `json:"user"`
	Password   string   `json:"password"`
	Tenants    []string `json:"tenants,omitempty"`
	AllTenants bool     `json:"all_tenants,omitempty"`
	Embargoed  bool     `json:"embargoed,omitempty"`
	Admin      bool     `json:"admin,omitempty"`
}

var chserveReady = regexp.MustCompile(`^chserve ready http://`)

// StartClickHouse starts chserve on the folder's data. The passwords are the folder's, under
// "clickhouse/" and the user's name.
func StartClickHouse(ctx context.Context, folder *Folder, o ClickHouseOptions, report func(Event)) (*Child, error) {
	admin, err := folder.Password("clickhouse/" + clickHouseUser)
	if err != nil {
		return nil, err
	}
	users := []clickHouseUserEntry{{User: clickHouseUser, Password: admin, Admin: true}}
	for _, r := range o.Sharing.Readers {
		password, err := folder.Password("clickhouse/" + r.Name)
		if err != nil {
			return nil, err
		}
		users = append(users, clickHouseUserEntry{
			User: r.Name, Password: password, Tenants: r.Tenants, AllTenants: r.AllTenants, Embargoed: r.Embargoed,
		})
	}
	usersFile := folder.Path("clickhouse-users.json")
	if err := writeJSON(usersFile, users); err != nil {
		return nil, fmt.Errorf("writing the users of ClickHouse: %w", err)
	}
	return StartChild(ctx, ChildSpec{
		Name: ClickHouse,
		Path: o.Program,
		Args: []string{
			"--library", o.Library,
			"--data", folder.Path("clickhouse"),
			"--listen", address(o.Port),
			"--users", usersFile,
			"--tenant-tables", strings.Join(o.Sharing.TenantTables, ","),
			"--embargo", strings.Join(o.Sharing.EmbargoColumns, ","),
			"--embargoed-models", o.Sharing.EmbargoedModels,
			"--exit-with-stdin",
		},
		Ready:   chserveReady,
		ReadyIn: time.Minute,
		Grace:   20 * time.Second,
		Lock:    folder.children,
		LogFile: folder.Path("clickhouse.log"),
	}, report)
}
