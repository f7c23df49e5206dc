// Package engine knows where npm puts the ClickHouse engine library. The folder's package.json pins the
// library, one package per platform; `npm ci --ignore-scripts` in the folder (make engine) installs the
// one that fits. Only linux/amd64 is tested.
package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
)

// ErrNotInstalled says that no library was found and how to get one.
var ErrNotInstalled = errors.New("the ClickHouse engine library is not installed: run `make engine` (or `npm ci --ignore-scripts` in cmd/chserve/engine)")

// packageNames are the npm packages by GOOS/GOARCH.
var packageNames = map[string]string{
	"linux/amd64":  "lib-linux-x64-gnu",
	"linux/arm64":  "lib-linux-arm64-gnu",
	"darwin/amd64": "lib-darwin-x64",
	"darwin/arm64": "lib-darwin-arm64",
}

// Find returns the path of the installed library for this platform. It looks for the checkout's
// cmd/chserve/engine in dir and then in each of its parents, so a program finds it from anywhere inside
// the checkout. The error is ErrNotInstalled, or says that the platform has no library.
func Find(dir string) (string, error) {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	name, ok := packageNames[platform]
	if !ok {
		return "", fmt.Errorf("there is no ClickHouse engine library for %s: use a ClickHouse server instead", platform)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("looking for the engine library: %w", err)
	}
	for {
		found, err := filepath.Glob(filepath.Join(globQuote(dir), "cmd", "chserve", "engine", "node_modules", "@chdb", name, "libchdb.*"))
		if err != nil {
			return "", fmt.Errorf("looking for the engine library: %w", err)
		}
		if len(found) > 0 {
			return found[0], nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", ErrNotInstalled
		}
		dir = parent
	}
}

// globQuote makes filepath.Glob take the characters of path as they are.
func globQuote(path string) string {
	var quoted []byte
	for i := range len(path) {
		switch path[i] {
		case '*', '?', '[', '\\':
			quoted = append(quoted, '\\')
		}
		quoted = append(quoted, path[i])
	}
	return string(quoted)
}
