package devstack

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// The admin user of the embedded ClickHouse and the product's database in it.
const (
	clickHouseUser     = "flyball"
	clickHouseDatabase = "flyball"
)

// ClickHouseOptions says how to start the embedded ClickHouse.
type ClickHouseOptions struct {
	// Program is the chserve binary, and Library the engine that it loads; when that is empty, chserve looks for
	// the one in the checkout it is started in.
	Program, Library string
	// Port is the loopback port of the HTTP interface.
	Port int
	// Readers are the users beside the admin, by name, with the one tenant whose rows each sees.
	Readers map[string]string
	// TenantTables are the tables with a tenant_id, as database.table, which readers see their rows of.
	TenantTables []string
}

// clickHouseUserEntry is an entry of the users file that chserve reads.
type clickHouseUserEntry struct {
	User     string `json:"user"`
	Password string `json:"password"`
	Tenant   string `json:"tenant"`
	Admin    bool   `json:"admin"`
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
	for name, tenant := range o.Readers {
		password, err := folder.Password("clickhouse/" + name)
		if err != nil {
			return nil, err
		}
		users = append(users, clickHouseUserEntry{User: name, Password: password, Tenant: tenant})
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
			"--tenant-tables", strings.Join(o.TenantTables, ","),
			"--exit-with-stdin",
		},
		Ready:   chserveReady,
		ReadyIn: time.Minute,
		Grace:   20 * time.Second,
		Lock:    folder.children,
		LogFile: folder.Path("clickhouse.log"),
	}, report)
}
