package devstack

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// stackOptions are those of a stack of stand-ins, whose events come on the channel.
func stackOptions(t *testing.T) (Options, chan Event) {
	source, events := t.TempDir(), make(chan Event, 10_000)
	fakeTemporald(t, filepath.Join(source, "cmd", "temporald"))
	return Options{
		Dir:              filepath.Join(t.TempDir(), ".flyball"),
		Source:           source,
		PortBase:         freeBase(t),
		Chserve:          stand(t, "serve"),
		Library:          "engine.so",
		Sharing:          Sharing{Readers: []Reader{{Name: "reader", Tenants: []string{"acme"}}}, TenantTables: []string{"flyball.spans"}},
		SearchAttributes: []string{"FlyballTenant"},
		Report:           func(e Event) { events <- e },
	}, events
}

func TestStackStartsSurvivesKillsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	options, events := stackOptions(t)
	stack, err := Start(t.Context(), options)
	require.NoError(t, err)
	defer func() { require.NoError(t, stack.Stop()) }()

	addresses := stack.Addresses()
	require.Equal(t, "PONG", strings.TrimPrefix(redisSays(t, stack.Ports().Redis, "AUTH "+stack.redisPassword, "PING"), "+"))
	clickHouse, err := url.Parse(addresses.ClickHouse.URL)
	require.NoError(t, err)
	requireServes(t, clickHouse.Host)

	hostPort, err := stack.Temporal(t.Context())
	require.NoError(t, err)
	require.Equal(t, "http://"+hostPort, addresses.Temporal)
	requireServes(t, hostPort)
	for _, e := range stack.Status() {
		require.Equal(t, Ready, e.Condition, e)
	}

	require.NoError(t, stack.Publish("demo", "/etc/policies"))
	published, err := ReadAddresses(options.Dir)
	require.NoError(t, err)
	require.Equal(t, []string{"demo", "/etc/policies"}, []string{published.Profile, published.Policies})
	published.Profile, published.Policies = "", ""
	require.Equal(t, addresses, published)

	_, err = Start(t.Context(), options)
	require.ErrorIs(t, err, ErrInUse)

	pids := []int{}
	for component, addr := range map[string]string{ClickHouse: clickHouse.Host, Temporal: hostPort} {
		var pid int
		for _, e := range stack.Status() {
			if e.Component == component {
				pid = e.PID
			}
		}
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		await(t, events, component, Died)
		pids = append(pids, pid, await(t, events, component, Restarted).PID)
		requireServes(t, addr)
	}

	require.NoError(t, stack.Stop())
	for _, pid := range pids {
		requireGone(t, pid)
	}
	for range 2 {
		again, err := Start(t.Context(), options)
		require.NoError(t, err, "the ports and the folder are free again")
		require.Equal(t, addresses, again.Addresses(), "the passwords stay")
		require.NoError(t, again.Stop())
	}
}

func TestStackRunsWithoutTemporalWhenItCannotBeBuilt(t *testing.T) {
	t.Parallel()
	options, events := stackOptions(t)
	main := filepath.Join(options.Source, "cmd", "temporald", "main.go")
	require.NoError(t, os.WriteFile(main, []byte("package main\n\nfunc main() { nonsense() }\n"), 0o600))
	stack, err := Start(t.Context(), options)
	require.NoError(t, err)
	defer func() { require.NoError(t, stack.Stop()) }()
	require.Contains(t, await(t, events, Temporal, Failed).Detail, "undefined: nonsense")
	_, err = stack.Temporal(t.Context())
	require.ErrorContains(t, err, "undefined: nonsense")
	requireServes(t, address(stack.Ports().ClickHouse))
}

func TestStackThatCannotStartLeavesNothing(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, o *Options) string{
		"taken port": func(t *testing.T, o *Options) string {
			l, err := net.Listen("tcp", address(o.PortBase+2))
			require.NoError(t, err)
			t.Cleanup(func() { _ = l.Close() })
			return "for ClickHouse, cannot be had"
		},
		"broken engine": func(t *testing.T, o *Options) string {
			o.Chserve = script(t, t.TempDir(), "chserve", "echo no engine library >&2; exit 2")
			return "no engine library"
		},
		"broken folder": func(t *testing.T, o *Options) string {
			require.NoError(t, os.WriteFile(o.Dir, nil, 0o600))
			return "is not a folder"
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options, _ := stackOptions(t)
			words := spoil(t, &options)
			_, err := Start(t.Context(), options)
			require.ErrorContains(t, err, words)
			var setup *SetupError
			require.ErrorAs(t, err, &setup)
			if name != "broken folder" {
				folder, err := OpenFolder(options.Dir)
				require.NoError(t, err, "the folder is let go")
				require.NoError(t, folder.Close())
			}
		})
	}
}

func TestStackWaitsForTemporalOnlyAsLongAsAsked(t *testing.T) {
	t.Parallel()
	options, _ := stackOptions(t)
	held := filepath.Join(options.Source, ".flyball", "bin")
	require.NoError(t, os.MkdirAll(held, 0o700))
	lock, err := tryLock(filepath.Join(held, "temporald.lock"))
	require.NoError(t, err)
	defer unlock(lock)
	stack, err := Start(t.Context(), options)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = stack.Temporal(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, stack.Stop(), "a build that waits is given up")
	_, err = stack.Temporal(t.Context())
	require.ErrorIs(t, err, context.Canceled)
}

// The temporal command is taken from the PATH, which is the whole process's, so this test runs alone.
func TestTemporalCommandOnThePathIsUsed(t *testing.T) {
	bin, args := t.TempDir(), filepath.Join(t.TempDir(), "args")
	script(t, bin, "temporal", `if [ "$1" = --version ]; then echo "temporal version 1.5.1 (Server 1.29.1, UI 2.42.1)"; exit; fi
echo "$@" >`+args+`
trap 'exit 0' TERM
echo "Temporal CLI 1.5.1 (Server 1.29.1, UI 2.42.1)"
echo
echo "Temporal Server:  localhost:7233"
while :; do sleep 0.05; done`)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	folder, err := OpenFolder(filepath.Join(t.TempDir(), ".flyball"))
	require.NoError(t, err)
	defer folder.Close()
	events := make(chan Event, 100)
	child, err := StartTemporal(t.Context(), folder, TemporalOptions{Port: 7233, UIPort: 8233, SearchAttributes: []string{"FlyballTenant"}},
		func(e Event) { events <- e })
	require.NoError(t, err)
	require.Equal(t, "Temporal Server:  localhost:7233", await(t, events, Temporal, Ready).Detail)
	child.Stop()
	got := readFile(args)
	for _, want := range []string{
		"server start-dev", "--ip 127.0.0.1 --port 7233 --ui-port 8233", "--search-attribute FlyballTenant=Keyword",
		"--db-filename " + folder.Path("temporal", "temporal-cli-1.29.1.db"),
	} {
		require.Contains(t, got, want)
	}
}
