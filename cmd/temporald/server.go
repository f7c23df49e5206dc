package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/headers"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	clusterName = "active"
	storeName   = "sqlite"

	// readyWithin bounds the wait for the front end, which answers half a second after its start on an idle machine.
	readyWithin = 60 * time.Second

	// retention is how long the history of a closed workflow stays to be read. A day, Temporal's own default for SQLite,
	// would lose Friday's incident by Monday.
	retention = 7 * 24 * time.Hour
)

// dynamic lifts limits that suit a shared cluster and not one user's own server: fairness between tenants is on, and the
// visibility rate suits a console and a UI that list workflows at once.
var dynamic = dynamicconfig.StaticClient{
	dynamicconfig.MatchingEnableFairness.Key():                       true,
	dynamicconfig.MatchingAutoEnableV2.Key():                         true,
	dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 1000,
	dynamicconfig.HistoryCacheHostLevelMaxSize.Key():                 8192,
}

// server is a running Temporal server and its UI.
type server struct {
	temporal temporal.Server
	ui       *uiserver.Server
}

// start prepares the database and starts both servers; it returns once the front end and the UI answer.
func start(o options) (*server, error) {
	store, err := openStore(o)
	if err != nil {
		return nil, err
	}
	conf, hosts, err := serverConfig(o, store)
	if err != nil {
		return nil, err
	}
	srv, err := temporal.NewServer(
		temporal.WithConfig(conf),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithDynamicConfigClient(dynamic),
		temporal.WithLogger(log.NewZapLogger(log.BuildZapLogger(log.Config{Level: "error"}))),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing the Temporal server: %w", err)
	}
	if err := srv.Start(); err != nil {
		return nil, fmt.Errorf("starting the Temporal server: %w", err)
	}
	ui := uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		Host:                o.ui.Addr().String(),
		Port:                int(o.ui.Port()),
		TemporalGRPCAddress: o.listen.String(),
		DefaultNamespace:    o.namespace,
		EnableUI:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true}, // loopback is plain HTTP
		HideLogs:            true,
		DisableNewsFetch:    true,
	}))
	go func() { _ = ui.Start() }() // ends the process by itself when it cannot listen

	s := &server{temporal: srv, ui: ui}
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	if err := errors.Join(awaitFrontend(ctx, o.listen.String()), awaitListener(ctx, o.ui.String())); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// stop ends both servers cleanly.
func (s *server) stop() error {
	s.ui.Stop()
	if err := s.temporal.Stop(); err != nil {
		return fmt.Errorf("stopping the Temporal server: %w", err)
	}
	return nil
}

// openStore returns the configuration of the database, whose schema and namespace exist when it returns. The server
// cannot migrate a file of another version, so its version is in the file's name: after an upgrade a new file starts,
// and the old one stays for whoever goes back.
func openStore(o options) (*config.SQL, error) {
	file := filepath.Join(o.data, "temporal-"+headers.ServerVersion+".db")
	if err := createStore(file); err != nil {
		return nil, fmt.Errorf("creating the database %s: %w", file, err)
	}
	store := &config.SQL{
		PluginName:   sqliteplugin.PluginName,
		DatabaseName: file,
		ConnectAttributes: map[string]string{
			"mode": "rwc",
			// Four times the signals per second of the defaults. A killed process loses nothing by it; a power cut may lose
			// the last transactions, never the file.
			"journal_mode": "WAL",
			"synchronous":  "NORMAL",
		},
	}
	ns, err := sqlite.NewNamespaceConfig(clusterName, o.namespace, false, o.searchAttributes)
	if err != nil {
		return nil, fmt.Errorf("configuring namespace %s: %w", o.namespace, err)
	}
	ns.Detail.Config.Retention = durationpb.New(retention)
	if err := sqlite.CreateNamespaces(store, ns); err != nil {
		return nil, fmt.Errorf("registering namespace %s in %s: %w", o.namespace, file, err)
	}
	return store, nil
}

// createStore makes the file with its schema unless it is there. The schema is set up beside it and renamed into place,
// since a kill in the middle would leave a file that no later start could use.
func createStore(file string) error {
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	half := file + ".new"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if err := sqlite.SetupSchema(&config.SQL{
		PluginName:        sqliteplugin.PluginName,
		DatabaseName:      half,
		ConnectAttributes: map[string]string{"mode": "rwc"},
	}); err != nil {
		return err
	}
	return os.Rename(half, file)
}

// serverConfig describes one host with all four services and one history shard.
func serverConfig(o options, store *config.SQL) (*config.Config, map[primitives.ServiceName]static.Hosts, error) {
	const disabled = "disabled"
	ip := o.listen.Addr().String()
	conf := &config.Config{
		Persistence: config.Persistence{
			DefaultStore:     storeName,
			VisibilityStore:  storeName,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{storeName: {SQL: store}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{clusterName: {
				Enabled:                true,
				InitialFailoverVersion: 1,
				RPCAddress:             o.listen.String(),
			}},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		PublicClient:        config.PublicClient{HostPort: o.listen.String()},
		Services:            map[string]config.Service{},
	}
	conf.Global.Membership.MaxJoinDuration = 30 * time.Second
	conf.Global.Membership.BroadcastAddress = ip
	conf.Archival.History.State, conf.Archival.Visibility.State = disabled, disabled
	conf.NamespaceDefaults.Archival.History.State = disabled
	conf.NamespaceDefaults.Archival.Visibility.State = disabled

	hosts := map[primitives.ServiceName]static.Hosts{}
	for _, name := range temporal.DefaultServices {
		port := int(o.listen.Port())
		if service := primitives.ServiceName(name); service != primitives.FrontendService {
			var err error
			if port, err = freePort(ip); err != nil {
				return nil, nil, fmt.Errorf("finding a port for the %s service: %w", name, err)
			}
		}
		conf.Services[name] = config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: ip}}
		hosts[primitives.ServiceName(name)] = static.SingleLocalHost(net.JoinHostPort(ip, fmt.Sprint(port)))
	}
	return conf, hosts, nil
}

// freePort returns a port that nothing listens on. The services between which it is used are one process, so nobody
// needs to know it.
func freePort(ip string) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// awaitFrontend waits until the front end calls itself healthy: it listens before it serves.
func awaitFrontend(ctx context.Context, addr string) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting to the front end at %s: %w", addr, err)
	}
	defer func() { _ = conn.Close() }()
	health := grpc_health_v1.NewHealthClient(conn)
	request := &grpc_health_v1.HealthCheckRequest{Service: "temporal.api.workflowservice.v1.WorkflowService"}
	return poll(ctx, "the front end at "+addr, func() error {
		answer, err := health.Check(ctx, request)
		if err == nil && answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			err = fmt.Errorf("it says %s", answer.GetStatus())
		}
		return err
	})
}

// awaitListener waits until addr accepts connections.
func awaitListener(ctx context.Context, addr string) error {
	return poll(ctx, "the UI at "+addr, func() error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// poll calls check until it succeeds or the context ends.
func poll(ctx context.Context, what string, check func() error) error {
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
