package devstack

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience bounds the waits of the tests; nothing is expected to take nearly as long.
const patience = 30 * time.Second

// The test binary stands in for children and parents when this variable names a role.
const roleVariable = "DEVSTACK_TEST_ROLE"

var roles = map[string]func(args []string){
	"serve":   serve,
	"exit":    exit,
	"mute":    mute,
	"parent":  parent,
	"builder": builder,
}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleVariable)]; ok {
		role(os.Args[1:])
		return
	}
	goleak.VerifyTestMain(m)
}

// serve listens where it is told, says so, and stops at SIGTERM or at the end of stdin.
func serve(args []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := flags.String("listen", "", "")
	stubborn := flags.Bool("stubborn", false, "")
	for _, ignored := range []string{"library", "data", "users", "tenant-tables", "embargo", "embargoed-models", "ui-listen", "search-attribute"} {
		flags.String(ignored, "", "")
	}
	flags.Bool("exit-with-stdin", true, "")
	_ = flags.Parse(args)
	if *stubborn {
		signal.Ignore(syscall.SIGTERM)
		grandchild := exec.Command("sleep", "1000")
		_ = grandchild.Start()
		fmt.Println("grandchild", grandchild.Process.Pid)
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	go func() {
		for {
			if conn, err := l.Accept(); err == nil {
				_ = conn.Close()
			}
		}
	}()
	fmt.Printf("chserve ready http://%s\n", *listen)
	if *stubborn {
		select {}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// exit says a few words and ends with the code it is told.
func exit(args []string) {
	fmt.Fprintln(os.Stderr, "words of", args[0])
	code, _ := strconv.Atoi(args[0])
	os.Exit(code)
}

// mute says nothing until its stdin closes.
func mute([]string) { _, _ = io.Copy(io.Discard, os.Stdin) }

// parent starts a child, says its pid, and waits to be killed.
func parent(args []string) {
	var spec ChildSpec
	spec.Name, spec.Path, spec.Args, spec.LogFile = "child", args[0], []string{"--listen", args[1]}, args[2]
	spec.Ready, spec.ReadyIn, spec.Grace = chserveReady, patience, patience
	child, err := StartChild(context.Background(), spec, func(Event) {})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("pid", child.PID())
	select {}
}

// builder runs the go command that is first on the PATH, and waits to be killed.
func builder(args []string) {
	_ = goTool(context.Background(), args[0], os.Stdout, func(string) bool { return false }, "build")
	select {}
}

// stand returns a program that plays a role with the arguments it is given.
func stand(t *testing.T, role string) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return script(t, t.TempDir(), role, fmt.Sprintf("%s=%s exec '%s' \"$@\"", roleVariable, role, self))
}

// script writes an executable shell script.
func script(t *testing.T, dir, name, body string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700))
	return path
}

// freeAddress returns a loopback address that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	return address(freeBase(t))
}

// freeBase returns a random port from which on all ports of a stack are free.
func freeBase(t *testing.T) int {
	t.Helper()
	for {
		base := freeFrom + rand.IntN(freeTo-freeFrom)
		if _, err := PickPorts(base); err == nil {
			return base
		}
	}
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !os.IsNotExist(err)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// requireGone waits until a process has ended.
func requireGone(t *testing.T, pid int) {
	t.Helper()
	require.NotZero(t, pid)
	require.Eventually(t, func() bool { return !alive(pid) }, patience, 10*time.Millisecond, "process %d is left", pid)
}

// requireServes waits until an address accepts connections.
func requireServes(t *testing.T, addr string) {
	t.Helper()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, patience, 10*time.Millisecond, "nothing serves at %s", addr)
}

// await returns the next event of a condition for a component, passing over others.
func await(t *testing.T, events <-chan Event, component string, condition Condition) Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e := <-events:
			if e.Component == component && e.Condition == condition {
				return e
			}
		case <-deadline:
			t.Fatalf("%s never was %s", component, condition)
		}
	}
}

// firstInt returns the number after a word in a text.
func firstInt(t *testing.T, text, word string) int {
	t.Helper()
	match := regexp.MustCompile(word + ` (\d+)`).FindStringSubmatch(text)
	require.NotNil(t, match, "no %q in %q", word, text)
	n, err := strconv.Atoi(match[1])
	require.NoError(t, err)
	return n
}
