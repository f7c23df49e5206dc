package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/cmd/chserve/engine"
)

// writeUsers writes a users file and returns its path.
func writeUsers(t *testing.T, mode os.FileMode, users ...chservetest.User) string {
	t.Helper()
	text, err := json.Marshal(users)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "users.json")
	require.NoError(t, os.WriteFile(path, text, mode))
	return path
}

// library is the installed engine library; without one the test is skipped.
func library(t *testing.T) string {
	t.Helper()
	path, err := engine.Find(".")
	if err != nil {
		t.Skip("needs the embedded ClickHouse: ", err)
	}
	return path
}

// A start that cannot work says why and how to mend it, on standard error, and exits with 2.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	admin := chservetest.User{Name: "a", Password: "p", Admin: true}
	users := writeUsers(t, 0o600, admin)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = busy.Close() })
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("not what it should be"), 0o600))

	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"nothing given":       {nil, []string{"--data is required", "--users is required"}},
		"unknown flag":        {[]string{"--nope"}, []string{"flag provided but not defined", "-data"}},
		"stray argument":      {[]string{"--users", users, "--data", "x", "stray"}, []string{`unexpected argument "stray"`}},
		"no users file":       {[]string{"--users", file + "x"}, []string{"reading the users", "no such file"}},
		"users not JSON":      {[]string{"--users", file}, []string{"reading the users in " + file}},
		"public users":        {[]string{"--users", writeUsers(t, 0o644, admin)}, []string{"mode 0644", "chmod 600"}},
		"no users":            {[]string{"--users", writeUsers(t, 0o600)}, []string{"names no user"}},
		"no password":         {[]string{"--users", writeUsers(t, 0o600, chservetest.User{Name: "a"})}, []string{"no password"}},
		"same user twice":     {[]string{"--users", writeUsers(t, 0o600, admin, admin)}, []string{`user "a" is there twice`}},
		"admin with a tenant": {[]string{"--users", writeUsers(t, 0o600, chservetest.User{Name: "a", Password: "p", Tenants: []string{"t"}, Admin: true})}, []string{"admin, who sees everything"}},
		"tenant, no tables":   {[]string{"--users", writeUsers(t, 0o600, chservetest.User{Name: "a", Password: "p", Tenants: []string{"t"}})}, []string{"--tenant-tables is empty"}},
		"bad tenant table":    {[]string{"--tenant-tables", "flyball.spans,<x>.y"}, []string{`"<x>.y" is not db.table`}},
		"not an expression":   {[]string{"--embargoed-models", "("}, []string{"--embargoed-models", "missing closing"}},
		"not a column":        {[]string{"--tenant-tables", "flyball.q", "--embargo", "flyball.q"}, []string{`"flyball.q" is not db.table.column`}},
		"embargo elsewhere":   {[]string{"--tenant-tables", "flyball.q", "--embargo", "flyball.r.model"}, []string{"flyball.r is not among --tenant-tables"}},
		"all and some":        {[]string{"--users", writeUsers(t, 0o600, chservetest.User{Name: "a", Password: "p", Tenants: []string{"t"}, AllTenants: true})}, []string{"all_tenants and tenants"}},
		"an empty tenant":     {[]string{"--users", writeUsers(t, 0o600, chservetest.User{Name: "a", Password: "p", Tenants: []string{""}})}, []string{"a tenant of user \"a\" is empty"}},
		"two tenants in one":  {[]string{"--users", writeUsers(t, 0o600, chservetest.User{Name: "a", Password: "p", Tenants: []string{"t\x1fu"}})}, []string{"a control character"}},
		"public address":      {[]string{"--listen", "0.0.0.0:0"}, []string{"not a loopback address", "127.0.0.1"}},
		"bad address":         {[]string{"--listen", "127.0.0.1"}, []string{"not host:port"}},
		"no slots":            {[]string{"--concurrency", "0"}, []string{"--concurrency is 0"}},
		"taken port":          {[]string{"--users", users, "--data", t.TempDir(), "--library", file, "--listen", busy.Addr().String()}, []string{"cannot serve on " + busy.Addr().String(), "--listen"}},
		"data is a file":      {[]string{"--users", users, "--data", file, "--library", file}, []string{"making the data directory"}},
		"no library":          {[]string{"--users", users, "--data", t.TempDir(), "--library", file + "x"}, []string{file + "x", "make engine"}},
		"not a library":       {[]string{"--users", users, "--data", t.TempDir(), "--library", file}, []string{file, "make engine"}},
		"nothing installed":   {[]string{"--users", users, "--data", t.TempDir()}, []string{"not installed", "make engine", "npm ci"}},
		"no engine config":    {[]string{"--users", users, "--data", t.TempDir(), "--library", file, "--config", file + "x"}, []string{"reading the engine's configuration"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command := exec.CommandContext(t.Context(), chservetest.Binary(t), test.args...)
			command.Dir = t.TempDir() // outside the checkout no library is found by itself
			var stdout, stderr bytes.Buffer
			command.Stdout, command.Stderr = &stdout, &stderr
			var exit *exec.ExitError
			require.ErrorAs(t, command.Run(), &exit)
			require.Equal(t, 2, exit.ExitCode(), stderr.String())
			require.Empty(t, stdout.String())
			for _, want := range test.want {
				require.Contains(t, stderr.String(), want)
			}
		})
	}
}

func TestRefusesABrokenEngineConfiguration(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "config.xml")
	require.NoError(t, os.WriteFile(config, []byte("<clickhouse><unclosed></clickhouse>"), 0o600))
	stderr := failToStart(t, "--data", t.TempDir(), "--config", config)
	require.Contains(t, stderr, "starting the engine")
}

func TestRefusesABrokenStore(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(data, "store"), []byte("not a directory"), 0o600))
	require.Contains(t, failToStart(t, "--data", data), "starting the engine on "+filepath.Join(data, "store"))
}

func TestRefusesADirectoryInUse(t *testing.T) {
	t.Parallel()
	embeddedOnly(t)
	server := chservetest.Launch(t, chservetest.Options{})
	require.Contains(t, failToStart(t, "--data", server.Data), "in use by another chserve")
	require.Equal(t, uint8(1), one[uint8](t, open(t, embedded(server).options("default")), "SELECT 1"), "the first one still serves")
}

// failToStart requires that chserve exits with 2 and returns its standard error.
func failToStart(t *testing.T, args ...string) string {
	t.Helper()
	users := writeUsers(t, 0o600, chservetest.User{Name: "a", Password: "p", Admin: true})
	command := exec.CommandContext(t.Context(), chservetest.Binary(t), append([]string{"--library", library(t), "--users", users}, args...)...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	var exit *exec.ExitError
	require.ErrorAs(t, command.Run(), &exit)
	require.Equal(t, 2, exit.ExitCode(), stderr.String())
	return stderr.String()
}

// The parent reads one line from standard output and holds standard input open; when that closes, however
// the parent ended, the server goes.
func TestEndsWithItsParent(t *testing.T) {
	t.Parallel()
	users := writeUsers(t, 0o600, chservetest.User{Name: "a", Password: "p", Admin: true})
	command := exec.CommandContext(t.Context(), chservetest.Binary(t), "--library", library(t), "--users", users, "--data", t.TempDir(), "--exit-with-stdin")
	stdin, err := command.StdinPipe()
	require.NoError(t, err)
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	first := make([]byte, 1)
	_, err = io.ReadFull(stdout, first)
	require.NoError(t, err)
	require.NoError(t, stdin.Close())
	rest, err := io.ReadAll(stdout)
	require.NoError(t, err)
	require.NoError(t, command.Wait())
	require.Regexp(t, `^chserve ready http://127\.0\.0\.1:\d+\n$`, string(first)+string(rest))
}

// SIGTERM stops it too, and does not wait for a statement that would run for hours.
func TestTerminatesWhileBusy(t *testing.T) {
	t.Parallel()
	embeddedOnly(t)
	server := chservetest.Launch(t, chservetest.Options{})
	conn := open(t, embedded(server).options("default"))
	failed := make(chan error, 1)
	go func() {
		failed <- conn.Exec(context.Background(), "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)")
	}()
	require.Eventually(t, func() bool { return running(t, conn, "numbers(1000000000000)") == 1 }, 30*time.Second, 20*time.Millisecond)
	require.NoError(t, syscall.Kill(server.PID(), syscall.SIGTERM))
	require.Error(t, <-failed)
	server.Stop(t)
}

// The engine's own configuration is honoured beside chserve's.
func TestEngineConfiguration(t *testing.T) {
	t.Parallel()
	embeddedOnly(t)
	config := filepath.Join(t.TempDir(), "engine.xml")
	require.NoError(t, os.WriteFile(config, []byte(strings.ReplaceAll(`<clickhouse><storage_configuration>
		<disks><cold><path>DIR/</path></cold></disks>
		<policies><tiered><volumes><hot><disk>default</disk></hot><cold><disk>cold</disk></cold></volumes></tiered></policies>
	</storage_configuration></clickhouse>`, "DIR", t.TempDir())), 0o600))
	server := chservetest.Launch(t, chservetest.Options{Args: []string{"--config", config, "--tenant-tables", "default.t"}})
	conn := open(t, embedded(server).options("default"))
	execute(t, conn, "CREATE TABLE t (tenant_id String, day Date) ENGINE = MergeTree ORDER BY day TTL day + INTERVAL 1 DAY TO VOLUME 'cold' SETTINGS storage_policy = 'tiered'")
	execute(t, conn, "INSERT INTO t VALUES ('a', '2020-01-01')")
	require.Equal(t, "cold", one[string](t, conn, "SELECT disk_name FROM system.parts WHERE table = 't' AND active"))
}
