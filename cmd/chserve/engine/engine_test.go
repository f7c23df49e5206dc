package engine

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFindLooksInTheCheckoutAround(t *testing.T) {
	name, ok := packageNames[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		t.Skip("no engine library is named for this platform")
	}
	root := filepath.Join(t.TempDir(), "odd [name]")
	inside := filepath.Join(root, "internal", "clickhouse")
	require.NoError(t, os.MkdirAll(inside, 0o700))
	_, err := Find(inside)
	require.ErrorIs(t, err, ErrNotInstalled)

	installed := filepath.Join(root, "cmd", "chserve", "engine", "node_modules", "@chdb", name, "libchdb.so")
	require.NoError(t, os.MkdirAll(filepath.Dir(installed), 0o700))
	require.NoError(t, os.WriteFile(installed, nil, 0o600))
	for _, dir := range []string{inside, root} {
		found, err := Find(dir)
		require.NoError(t, err)
		require.Equal(t, installed, found)
	}
}
