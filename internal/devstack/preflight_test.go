package devstack

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// machine is a faked PATH and a faked /proc and /sys for scripts/preflight.sh.
type machine struct{ bin, root, checkout string }

func newMachine(t *testing.T) machine {
	m := machine{t.TempDir(), t.TempDir(), t.TempDir()}
	m.has(t, "go", `echo go1.26.3`)
	m.has(t, "node", `echo v22.1.0`)
	for _, name := range []string{"npm", "make", "git"} {
		m.has(t, name, "")
	}
	m.has(t, "uname", `echo Linux`)
	m.freeDisk(t, "9000000")
	m.file(t, "proc/meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB\n")
	return m
}

func (m machine) has(t *testing.T, name, body string) { script(t, m.bin, name, body) }

func (m machine) freeDisk(t *testing.T, kb string) {
	m.has(t, "df", `echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
echo "/dev/disk 99999999 1 `+kb+` 1% /"`)
}

func (m machine) lacks(t *testing.T, name string) {
	require.NoError(t, os.Remove(filepath.Join(m.bin, name)))
}

func (m machine) file(t *testing.T, name, content string) {
	path := filepath.Join(m.root, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// preflight runs the script on the machine and returns its exit code and all it says.
func (m machine) preflight(t *testing.T) (int, string) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "scripts", "preflight.sh"))
	require.NoError(t, err)
	cmd := exec.Command("/bin/sh", path)
	cmd.Dir = m.checkout
	cmd.Env = []string{"PATH=" + m.bin, "HOME=" + m.root, "PREFLIGHT_ROOT=" + m.root}
	out, err := cmd.CombinedOutput()
	if err != nil {
		require.IsType(t, &exec.ExitError{}, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestPreflightPassesWhereAllIsThere(t *testing.T) {
	t.Parallel()
	code, said := newMachine(t).preflight(t)
	require.Zero(t, code, said)
	require.Equal(t, "preflight: go 1.26.3, node 22.1.0, npm, make, git, 7812 MB of memory, 8789 MB of disk\n", said)
}

func TestPreflightPassesOnWhatSuffices(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, m machine){
		"newer Go":          func(t *testing.T, m machine) { m.has(t, "go", "echo go1.30") },
		"Go 2":              func(t *testing.T, m machine) { m.has(t, "go", "echo go2.0.1") },
		"release candidate": func(t *testing.T, m machine) { m.has(t, "go", "echo go1.26rc1") },
		"oldest Node":       func(t *testing.T, m machine) { m.has(t, "node", "echo v20.0.0") },
		"no memory limit": func(t *testing.T, m machine) {
			m.file(t, "proc/self/cgroup", "0::/job\n")
			m.file(t, "sys/fs/cgroup/job/memory.max", "max\n")
		},
		"no old memory limit": func(t *testing.T, m machine) {
			m.file(t, "proc/self/cgroup", "4:memory:/\n")
			m.file(t, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
		},
		"little disk once it is built": func(t *testing.T, m machine) {
			m.freeDisk(t, "2000000")
			bin := filepath.Join(m.checkout, ".flyball", "bin")
			require.NoError(t, os.MkdirAll(bin, 0o700))
			script(t, bin, "temporald-0123", "")
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			change(t, m)
			code, said := m.preflight(t)
			require.Zero(t, code, said)
		})
	}
}

func TestPreflightNamesWhatIsMissingAndTheMend(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(t *testing.T, m machine)
		row    string
	}{
		"no Go":    {func(t *testing.T, m machine) { m.lacks(t, "go") }, `go 1\.26 or newer +missing +https://go\.dev/dl/`},
		"old Go":   {func(t *testing.T, m machine) { m.has(t, "go", "echo go1.25.9") }, `go 1\.26 or newer +1\.25\.9 +https://go\.dev/dl/`},
		"odd Go":   {func(t *testing.T, m machine) { m.has(t, "go", "echo devel") }, `go 1\.26 or newer +devel`},
		"no Node":  {func(t *testing.T, m machine) { m.lacks(t, "node") }, `node 20 or newer +missing +https://nodejs\.org`},
		"old Node": {func(t *testing.T, m machine) { m.has(t, "node", "echo v18.19.1") }, `node 20 or newer +18\.19\.1`},
		"no npm":   {func(t *testing.T, m machine) { m.lacks(t, "npm") }, `npm +missing +.*apt-get install npm`},
		"no make":  {func(t *testing.T, m machine) { m.lacks(t, "make") }, `make +missing +apt-get install make`},
		"no git":   {func(t *testing.T, m machine) { m.lacks(t, "git") }, `git +missing +apt-get install git`},
		"no git on a Mac": {
			func(t *testing.T, m machine) { m.lacks(t, "git"); m.has(t, "uname", "echo Darwin") },
			`git +missing +xcode-select --install`,
		},
		"small machine": {
			func(t *testing.T, m machine) { m.file(t, "proc/meminfo", "MemTotal: 2000000 kB\n") },
			`4 GB of memory +1953 MB`,
		},
		"small container": {func(t *testing.T, m machine) {
			m.file(t, "proc/self/cgroup", "0::/a/b\n")
			m.file(t, "sys/fs/cgroup/a/b/memory.max", "max\n")
			m.file(t, "sys/fs/cgroup/a/memory.max", "1073741824\n")
		}, `4 GB of memory +1024 MB +.*limit of the container`},
		"small old container": {func(t *testing.T, m machine) {
			m.file(t, "proc/self/cgroup", "7:cpu:/x\n4:memory:/x\n")
			m.file(t, "sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n")
		}, `4 GB of memory +1024 MB`},
		"full disk":    {func(t *testing.T, m machine) { m.freeDisk(t, "2000000") }, `6000 MB of disk +1953 MB`},
		"unknown disk": {func(t *testing.T, m machine) { m.lacks(t, "df") }, `6000 MB of disk +unknown`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			test.change(t, m)
			code, said := m.preflight(t)
			require.Equal(t, 2, code, said)
			require.Regexp(t, `NEEDED +FOUND +HOW TO GET IT`, said)
			require.Regexp(t, test.row, said)
		})
	}
}
