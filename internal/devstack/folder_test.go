package devstack

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func readFile(path string) string {
	raw, _ := os.ReadFile(path)
	return string(raw)
}

func TestFolderIsMadePrivateAndKeepsItsPasswords(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "deep", ".flyball")
	f, err := OpenFolder(dir)
	require.NoError(t, err)
	a, err := f.Password("a")
	require.NoError(t, err)
	b, err := f.Password("b")
	require.NoError(t, err)
	require.Len(t, a, 32)
	require.NotEqual(t, a, b)
	for path, mode := range map[string]os.FileMode{dir: 0o700, f.Path("credentials.json"): 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	require.NoError(t, f.Close())

	f, err = OpenFolder(dir)
	require.NoError(t, err)
	again, err := f.Password("a")
	require.NoError(t, err)
	require.Equal(t, a, again)
	require.NoError(t, f.Close())
}

func TestFolderThatOnlyHoldsBuildsIsMadePrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), ".flyball")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	f, err := OpenFolder(dir)
	require.NoError(t, err)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	require.NoError(t, f.Close())
}

func TestFolderTakesOneFlyballAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := OpenFolder(dir)
	require.NoError(t, err)
	_, err = OpenFolder(dir)
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, "another flyball is running in "+dir+" (pid "+strconv.Itoa(os.Getpid())+")")
	require.NoError(t, f.Close())
	f, err = OpenFolder(dir)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestFolderWaitsForTheChildrenOfAKilledFlyball(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := OpenFolder(dir)
	require.NoError(t, err)
	spec := serveSpec(t, freeAddress(t))
	spec.Lock = f.children
	child, err := StartChild(t.Context(), spec, func(Event) {})
	require.NoError(t, err)
	// As when this process is killed: its files close, and the child's do not.
	require.NoError(t, f.lock.Close())
	require.NoError(t, f.children.Close())

	_, err = tryLock(filepath.Join(dir, childrenFile))
	require.ErrorIs(t, err, errLocked)
	opened := make(chan error, 1)
	go func() {
		f, err := OpenFolder(dir)
		if err == nil {
			err = f.Close()
		}
		opened <- err
	}()
	child.Stop()
	require.NoError(t, <-opened)
}

func TestBrokenFolderNamesTheMend(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		damage func(t *testing.T, dir string)
		words  []string
	}{
		"a file": {
			func(t *testing.T, dir string) {
				require.NoError(t, os.RemoveAll(dir))
				require.NoError(t, os.WriteFile(dir, nil, 0o600))
			},
			[]string{"is not a folder", "move it away"},
		},
		"others may read the folder": {
			func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o755)) },
			[]string{"others may read it (mode 0755)", "chmod 700"},
		},
		"others may read the passwords": {
			func(t *testing.T, dir string) {
				require.NoError(t, os.Chmod(filepath.Join(dir, credentialsFile), 0o644))
			},
			[]string{"others may read it (mode 0644)", "chmod 600"},
		},
		"damaged passwords": {
			func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, credentialsFile), []byte(`{"format":1,`), 0o600))
			},
			[]string{"are damaged", "restore the file"},
		},
		"emptied passwords": {
			func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, credentialsFile), []byte(`{}`), 0o600))
			},
			[]string{"are damaged", "restore the file"},
		},
		"passwords that cannot be read": {
			func(t *testing.T, dir string) {
				require.NoError(t, os.Remove(filepath.Join(dir, credentialsFile)))
				require.NoError(t, os.Mkdir(filepath.Join(dir, credentialsFile), 0o700))
			},
			[]string{"cannot be read", "mend its permissions"},
		},
		"a lock that cannot be opened": {
			func(t *testing.T, dir string) {
				require.NoError(t, os.Remove(filepath.Join(dir, lockFile)))
				require.NoError(t, os.Mkdir(filepath.Join(dir, lockFile), 0o700))
			},
			[]string{"cannot be locked", "mend its permissions"},
		},
		"another format": {
			func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, credentialsFile), []byte(`{"format":7,"passwords":{}}`), 0o600))
			},
			[]string{"has format 7 and this Flyball knows 1", "move the folder away"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), ".flyball")
			f, err := OpenFolder(dir)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			test.damage(t, dir)

			_, err = OpenFolder(dir)
			var setup *SetupError
			require.ErrorAs(t, err, &setup)
			for _, words := range test.words {
				require.ErrorContains(t, err, words)
			}
		})
	}
}

func TestAddressesAreThereOnlyWhileItRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var setup *SetupError
	_, err := ReadAddresses(dir)
	require.ErrorAs(t, err, &setup)
	require.ErrorContains(t, err, "flyball up")

	f, err := OpenFolder(dir)
	require.NoError(t, err)
	want := Addresses{Ingest: "http://127.0.0.1:1", ClickHouse: ClickHouseAddress{URL: "http://127.0.0.1:2", User: "u"}}
	require.NoError(t, f.WriteAddresses(want))
	got, err := ReadAddresses(dir)
	require.NoError(t, err)
	require.Equal(t, want, got)
	info, err := os.Stat(f.Path(addressesFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds a password")

	require.NoError(t, f.Close())
	_, err = ReadAddresses(dir)
	require.ErrorAs(t, err, &setup)
}
