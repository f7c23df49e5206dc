package devstack

import (
	"os"
	"strings"
	"sync"
)

const (
	// maxLog is the size at which a child's log is moved to NAME.1, so a child takes twice this at most.
	maxLog = 8 << 20
	// tailLines is how many last lines are kept for error messages.
	tailLines = 8
)

// boundedLog is a child's log file. Its stdout and stderr write to it at once.
type boundedLog struct {
	mu   sync.Mutex
	path string
	file *os.File
	size int64
	tail tail
}

func openLog(path string) (*boundedLog, error) {
	l := &boundedLog{path: path}
	return l, l.open()
}

func (l *boundedLog) open() error {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return err
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write never fails: a full disk must not look like a child that closed its output and stop the child.
func (l *boundedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.tail.Write(p)
	if l.size > maxLog {
		_ = l.file.Close()
		_ = os.Rename(l.path, l.path+".1")
		if err := l.open(); err != nil {
			l.size = 0 // output is lost until the next bound is met and the file opens again
			return len(p), nil
		}
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

// Tail returns the last lines.
func (l *boundedLog) Tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail.String()
}

func (l *boundedLog) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.file.Close()
}

// tail keeps the last lines written to it.
type tail struct {
	lines []string
	scan  lineScanner
}

func (t *tail) Write(p []byte) (int, error) {
	t.scan.each = t.add
	return t.scan.Write(p)
}

func (t *tail) add(line string) {
	if strings.TrimSpace(line) == "" {
		return
	}
	t.lines = append(t.lines, line)
	t.lines = t.lines[max(0, len(t.lines)-tailLines):]
}

func (t *tail) String() string {
	if len(t.lines) == 0 {
		return "it said nothing"
	}
	return strings.Join(t.lines, "\n")
}
