//go:build !linux

package devstack

import "syscall"

// childAttributes put a child into its own process group. Its closing stdin is what ends it with its parent.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
