package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockDirectory takes an exclusive lock on a data directory for as long as the returned file is open:
// the kernel releases it when the process ends in any way. The engine's own lock only shows as a line on
// standard error.
func lockDirectory(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("the data directory %s is in use by another chserve: stop it, or choose another --data", dir)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return file, nil
}
