package devstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// The shares of a build's progress: finding and fetching the packages, compiling them, linking.
const (
	progressListed   = 0.05
	progressCompiled = 0.95
)

// lowestPriority leaves the processors to everything else on the machine.
const lowestPriority = 19

// BuildTemporald compiles the server in source, the module's folder, into dir and returns the program's path.
// The name carries a hash of the sources, so it compiles only what has changed since; programs of older
// sources go. A cold build takes 750 CPU seconds, hence the low priority and the progress, a fraction with
// what is being compiled. Builds of several processes into one folder wait for each other.
func BuildTemporald(ctx context.Context, source, dir string, report func(progress float64, detail string)) (string, error) {
	version, err := hashSources(source)
	if err != nil {
		return "", err
	}
	// The compiler runs in source, where a relative path would be another place.
	if dir, err = filepath.Abs(dir); err != nil {
		return "", fmt.Errorf("resolving the folder for temporald: %w", err)
	}
	program := filepath.Join(dir, "temporald-"+version)
	if executable(program) {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the folder for temporald: %w", err)
	}
	lock, err := waitLock(ctx, filepath.Join(dir, "temporald.lock"), func() { report(0, "waiting for another build") })
	if err != nil {
		return "", fmt.Errorf("waiting for another build of temporald: %w", err)
	}
	defer unlock(lock)
	if executable(program) {
		return program, nil
	}
	if err := compile(ctx, source, program, report); err != nil {
		return "", err
	}
	older, _ := filepath.Glob(filepath.Join(dir, "temporald-*"))
	for _, path := range older {
		if path != program {
			_ = os.Remove(path)
		}
	}
	return program, nil
}

// hashSources is a short hash of what decides whether the program must be built again.
func hashSources(source string) (string, error) {
	files, _ := filepath.Glob(filepath.Join(source, "*.go"))
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
	files = append(files, filepath.Join(source, "go.mod"), filepath.Join(source, "go.sum"))
	hash := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return "", &SetupError{
				Problem: "there is no temporal command on the PATH and no source of temporald in " + source,
				Mend:    "start in a checkout of Flyball, or install the temporal command (https://docs.temporal.io/cli)",
				Err:     err,
			}
		}
		if err != nil {
			return "", fmt.Errorf("reading the source of temporald: %w", err)
		}
		fmt.Fprintf(hash, "%s %d\n%s", filepath.Base(file), len(content), content)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:6]), nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o100 != 0
}

// compile builds the program beside its place and renames it there, so that no half of one is ever run.
func compile(ctx context.Context, source, program string, report func(float64, string)) error {
	if _, err := exec.LookPath("go"); err != nil {
		return &SetupError{Problem: "temporald cannot be built without Go", Mend: "install Go from https://go.dev/dl/", Err: err}
	}
	half := program + ".half"
	defer func() { _ = os.Remove(half) }()

	report(0, "listing packages")
	var stale bytes.Buffer
	if err := goTool(ctx, source, &stale, func(line string) bool {
		download, ok := strings.CutPrefix(line, "go: downloading ")
		if ok {
			report(0, "downloading "+download)
		}
		return ok
	}, "list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", "."); err != nil {
		return fmt.Errorf("listing the packages of temporald: %w", err)
	}
	left := map[string]bool{}
	for name := range strings.FieldsSeq(stale.String()) {
		left[name] = true
	}
	total := max(len(left), 1)
	if err := goTool(ctx, source, io.Discard, func(line string) bool {
		if !left[line] {
			return false
		}
		delete(left, line)
		done := float64(total-len(left)) / float64(total)
		report(progressListed+(progressCompiled-progressListed)*done, line)
		return true
	}, "build", "-v", "-buildvcs=false", "-ldflags=-s -w", "-o", half, "."); err != nil {
		return fmt.Errorf("building temporald: %w", err)
	}
	if err := os.Rename(half, program); err != nil {
		return fmt.Errorf("putting temporald into place: %w", err)
	}
	report(1, "built "+filepath.Base(program))
	return nil
}

// goTool runs the go command at the lowest priority. Known takes each line of its stderr and says whether it
// was one of progress; the last of the others are in the error. Nothing of it outlives ctx or this process.
func goTool(ctx context.Context, dir string, stdout io.Writer, known func(line string) bool, args ...string) error {
	path, leashed := leash("go", args)
	cmd := exec.Command(path, leashed...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = pipeGrace
	var words tail
	cmd.Stdout = stdout
	cmd.Stderr = &lineScanner{each: func(line string) {
		if !known(line) {
			words.add(line)
		}
	}}
	if _, err := cmd.StdinPipe(); err != nil {
		return fmt.Errorf("opening the stdin of go: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("launching go: %w", err)
	}
	group := cmd.Process.Pid
	_ = syscall.Setpriority(syscall.PRIO_PGRP, group, lowestPriority) // slower for others, not wrong, without
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = syscall.Kill(-group, syscall.SIGKILL)
		<-ended
		return ctx.Err()
	}
	_ = syscall.Kill(-group, syscall.SIGKILL) // the leash itself
	if err != nil {
		return fmt.Errorf("go %s failed (%w):\n%s", args[0], err, words.String())
	}
	return nil
}
