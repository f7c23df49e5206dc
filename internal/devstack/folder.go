package devstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrInUse is the cause of the SetupError of a second start in the same folder.
var ErrInUse = errors.New("in use by another flyball")

// folderFormat is the version of the folder's layout. A change that an older Flyball would misread raises it.
const folderFormat = 1

const (
	lockFile        = "lock"
	childrenFile    = "children.lock"
	credentialsFile = "credentials.json"
	addressesFile   = "addresses.json"
)

// orphansEndIn is how long a start waits for children that a killed process left and that are ending.
const orphansEndIn = 20 * time.Second

// Folder is the state folder, `.flyball/`: everything that outlives one run, passwords included. One process
// has it at a time; the kernel lets go of it when that process ends in any way.
type Folder struct {
	dir         string
	lock        *os.File   // held by this process alone
	children    *os.File   // held by the children too, so that it is free when the last of them is gone
	mu          sync.Mutex // guards credentials
	credentials credentials
}

// credentials is the content of credentials.json.
type credentials struct {
	Format    int               `json:"format"`
	Passwords map[string]string `json:"passwords"`
}

// Addresses is the content of addresses.json: where a running stack serves. It holds a password.
type Addresses struct {
	Ingest     string            `json:"ingest"`
	OTLP       string            `json:"otlp"` // OTLP/gRPC, in the form of OTEL_EXPORTER_OTLP_ENDPOINT
	Console    string            `json:"console"`
	Temporal   string            `json:"temporal"`
	TemporalUI string            `json:"temporal_ui"`
	Redis      string            `json:"redis"`
	ClickHouse ClickHouseAddress `json:"clickhouse"`

	Profile  string `json:"profile"`            // the pace of what runs
	Policies string `json:"policies,omitempty"` // the folder of the policies in force; empty: the shipped ones
}

// ClickHouseAddress is where and as whom to use ClickHouse over plain HTTP; the user sees every tenant.
type ClickHouseAddress struct {
	URL      string `json:"url"`
	User     string `json:"user"`
	Password string `json:"password"`
	Database string `json:"database"`
}

// OpenFolder takes the state folder for this process, and makes it when it is absent. Every way in which it
// can be unusable comes back as a SetupError; ErrInUse is the cause of one of them.
func OpenFolder(dir string) (*Folder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding the state folder %s: %w", dir, err)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, broken(err, "the state folder %s cannot be made", dir)
		}
	case err != nil:
		return nil, broken(err, "the state folder %s cannot be read", dir)
	case !info.IsDir():
		return nil, &SetupError{Problem: "the state folder " + dir + " is not a folder", Mend: "move it away"}
	}
	f := &Folder{dir: dir}
	if err := f.acquire(); err != nil {
		return nil, err
	}
	if err := f.loadCredentials(); err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

// broken is the SetupError of a folder that the system refuses.
func broken(err error, format string, args ...any) error {
	return &SetupError{
		Problem: fmt.Sprintf(format, args...) + fmt.Sprintf(" (%v)", err),
		Mend:    "mend its permissions, or move it away to start afresh",
		Err:     err,
	}
}

// acquire takes both locks and writes our pid into the first, for the message that the next one gets.
func (f *Folder) acquire() (err error) {
	if f.lock, err = tryLock(f.Path(lockFile)); errors.Is(err, errLocked) {
		pid, _ := os.ReadFile(f.Path(lockFile))
		return &SetupError{
			Problem: fmt.Sprintf("another flyball is running in %s (pid %s)", f.dir, strings.TrimSpace(string(pid))),
			Mend:    "use that one, or stop it first",
			Err:     ErrInUse,
		}
	}
	if err == nil {
		err = os.WriteFile(f.Path(lockFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
	}
	if err != nil {
		f.release()
		return broken(err, "the state folder %s cannot be locked", f.dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), orphansEndIn)
	defer cancel()
	f.children, err = waitLock(ctx, f.Path(childrenFile), func() {})
	if err == nil {
		return nil
	}
	f.release()
	if errors.Is(err, context.DeadlineExceeded) {
		return &SetupError{
			Problem: "engines of a flyball that was killed still run in " + f.dir,
			Mend:    "end the chserve and temporald processes",
			Err:     ErrInUse,
		}
	}
	return broken(err, "the state folder %s cannot be locked", f.dir)
}

// release drops the locks that are held.
func (f *Folder) release() {
	for _, lock := range []*os.File{f.children, f.lock} {
		if lock != nil {
			unlock(lock)
		}
	}
}

// loadCredentials reads credentials.json, or makes the folder private and the file new. A folder with
// passwords that others can read is refused and not repaired: they may have been read.
func (f *Folder) loadCredentials() error {
	path := f.Path(credentialsFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Chmod(f.dir, 0o700); err != nil {
			return broken(err, "the state folder %s cannot be made private", f.dir)
		}
		f.credentials = credentials{Format: folderFormat, Passwords: map[string]string{}}
		return f.writeCredentials()
	}
	if err != nil {
		return broken(err, "the passwords in %s cannot be read", path)
	}
	for private, want := range map[string]fs.FileMode{f.dir: 0o700, path: 0o600} {
		info, err := os.Stat(private)
		if err != nil {
			return broken(err, "%s cannot be read", private)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			return &SetupError{
				Problem: fmt.Sprintf("%s holds passwords and others may read it (mode %04o)", private, mode),
				Mend:    fmt.Sprintf("run: chmod %o %q", want, private),
			}
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if err := decoder.Decode(&f.credentials); err != nil || f.credentials.Passwords == nil {
		return &SetupError{
			Problem: fmt.Sprintf("the passwords in %s are damaged", path),
			Mend:    "restore the file, or move the whole folder away to start afresh",
			Err:     err,
		}
	}
	if f.credentials.Format != folderFormat {
		return &SetupError{
			Problem: fmt.Sprintf("the state folder %s has format %d and this Flyball knows %d", f.dir, f.credentials.Format, folderFormat),
			Mend:    "use the Flyball that made it, or move the folder away to start afresh",
		}
	}
	return nil
}

func (f *Folder) writeCredentials() error {
	if err := writeJSON(f.Path(credentialsFile), f.credentials); err != nil {
		return broken(err, "the passwords in %s cannot be written", f.Path(credentialsFile))
	}
	return nil
}

// Path is the path of something in the folder.
func (f *Folder) Path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

// Password returns the password of that name: random at the first asking, the same ever after.
func (f *Folder) Password(name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if password, ok := f.credentials.Passwords[name]; ok {
		return password, nil
	}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails
	f.credentials.Passwords[name] = hex.EncodeToString(secret)
	return f.credentials.Passwords[name], f.writeCredentials()
}

// WriteAddresses publishes the addresses to the other commands, which find them with ReadAddresses.
func (f *Folder) WriteAddresses(a Addresses) error {
	if err := writeJSON(f.Path(addressesFile), a); err != nil {
		return fmt.Errorf("writing %s: %w", f.Path(addressesFile), err)
	}
	return nil
}

// ReadAddresses returns where the stack of a state folder serves. There are none when nothing runs there; a
// killed stack may leave addresses at which nothing answers.
func ReadAddresses(dir string) (Addresses, error) {
	var a Addresses
	raw, err := os.ReadFile(filepath.Join(dir, addressesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return a, &SetupError{Problem: "no flyball is running in " + dir, Mend: "start one with flyball up", Err: err}
	}
	if err == nil {
		err = json.Unmarshal(raw, &a)
	}
	if err != nil {
		return a, fmt.Errorf("reading the addresses of %s: %w", dir, err)
	}
	return a, nil
}

// Close takes the addresses back and lets the folder go. The children must have ended.
func (f *Folder) Close() error {
	err := os.Remove(f.Path(addressesFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	f.release()
	return err
}

// writeJSON replaces a private file in one step, so that a reader or a crash never meets half of it.
func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone already when all went well
	_, err = file.Write(append(raw, '\n'))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
