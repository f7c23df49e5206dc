package devstack

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// errLocked says that another process, or another holder in this one, has a lock.
var errLocked = errors.New("locked")

// tryLock takes the lock on a file, made when absent. The kernel drops it when the last process that holds
// the file open ends. It returns errLocked when somebody has it.
func tryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, err
	}
	return file, nil
}

// waitLock takes the lock on a file. It calls waiting when somebody else has it, and waits until ctx ends.
func waitLock(ctx context.Context, path string, waiting func()) (*os.File, error) {
	for attempt := 0; ; attempt++ {
		file, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return file, err
		}
		if attempt == 0 {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// unlock drops a lock at once. Closing the file alone would not: a process that is just being forked holds a
// copy of it for a moment.
func unlock(file *os.File) {
	_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
	_ = file.Close()
}
