package devstack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// TemporalOptions says how to start the embedded Temporal server.
type TemporalOptions struct {
	// Source is the module's folder of temporald, and Bin where its program is built and kept.
	Source, Bin string
	// Port and UIPort are the loopback ports of gRPC and of the web UI.
	Port, UIPort int
	// SearchAttributes are the keyword attributes to register.
	SearchAttributes []string
}

var (
	temporaldReady = regexp.MustCompile(`^temporald ready grpc=`)
	// temporalReady matches what versions of the command line print: "Temporal server is running at: HOST:PORT",
	// "Server:  HOST:PORT", "Temporal Server:  HOST:PORT".
	temporalReady = regexp.MustCompile(`(?i)\bserver\b[^:]*:\s*\S+:\d+`)
	// temporalVersion finds the server's version in "temporal version 1.5.1 (Server 1.29.1, UI 2.42.1)".
	temporalVersion = regexp.MustCompile(`Server (\d+\.\d+\.\d+)`)
)

// StartTemporal starts the development server of the temporal command when that is on the PATH, and else
// temporald, which it builds first when its sources have changed: minutes, the first time, reported as
// Building. Either keeps its state in the folder across restarts.
func StartTemporal(ctx context.Context, folder *Folder, o TemporalOptions, report func(Event)) (*Child, error) {
	data := folder.Path("temporal")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of Temporal's database: %w", err)
	}
	spec := ChildSpec{
		Name:    Temporal,
		ReadyIn: 90 * time.Second,
		Grace:   15 * time.Second,
		Lock:    folder.children,
		LogFile: folder.Path("temporal.log"),
	}
	if path, version, ok := temporalCommand(ctx); ok {
		spec.Path, spec.Ready, spec.DeafToStdin = path, temporalReady, true
		spec.Args = temporalCommandArgs(o, filepath.Join(data, "temporal-cli-"+version+".db"))
		return StartChild(ctx, spec, report)
	}
	program, err := BuildTemporald(ctx, o.Source, o.Bin, func(progress float64, detail string) {
		report(Event{Component: Temporal, Condition: Building, Progress: progress, Detail: detail})
	})
	if err != nil {
		return nil, err
	}
	spec.Path, spec.Ready = program, temporaldReady
	spec.Args = []string{"--data", data, "--listen", address(o.Port), "--ui-listen", address(o.UIPort), "--exit-with-stdin"}
	for _, name := range o.SearchAttributes {
		spec.Args = append(spec.Args, "--search-attribute", name+"=Keyword")
	}
	return StartChild(ctx, spec, report)
}

// temporalCommand finds a working temporal command and the version of the server inside it, which goes into
// the name of the database file: no server migrates another's.
func temporalCommand(ctx context.Context) (path, version string, ok bool) {
	path, err := exec.LookPath("temporal")
	if err != nil {
		return "", "", false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", "", false
	}
	match := temporalVersion.FindSubmatch(out)
	if match == nil {
		return "", "", false
	}
	return path, string(match[1]), true
}

// temporalCommandArgs are temporald's settings in the words of the temporal command.
func temporalCommandArgs(o TemporalOptions, db string) []string {
	args := []string{
		"server", "start-dev",
		"--ip", loopback, "--port", strconv.Itoa(o.Port), "--ui-port", strconv.Itoa(o.UIPort),
		"--db-filename", db,
		"--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL",
		"--dynamic-config-value", "matching.enableFairness=true",
		"--dynamic-config-value", "matching.autoEnableV2=true",
		"--dynamic-config-value", "frontend.namespaceRPS.visibility=1000",
		"--log-level", "error",
	}
	for _, name := range o.SearchAttributes {
		args = append(args, "--search-attribute", name+"=Keyword")
	}
	return args
}
