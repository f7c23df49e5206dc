package devstack

import (
	"bytes"
	"io"
)

// leashScript runs a program that pays no heed to its stdin and kills the whole process group as soon as
// the shell's own stdin closes, which is when the parent ends in any way. SIGTERM is the program's to handle.
const leashScript = `
exec 9<&0
trap : TERM
"$@" </dev/null 9<&- &
program=$!
{ cat <&9; kill -KILL 0; } >/dev/null 2>&1 &
wait "$program"; code=$?
while kill -0 "$program" 2>/dev/null; do wait "$program"; code=$?; done
exit "$code"
`

// leash returns the command that runs path with args under leashScript. It must lead a process group.
func leash(path string, args []string) (string, []string) {
	return "/bin/sh", append([]string{"-c", leashScript, "sh", path}, args...)
}

// maxLine bounds what is remembered of a line that does not end.
const maxLine = 16 << 10

// lineScanner is a writer that calls each with every whole line written to it, and copies what it gets.
// One goroutine writes to it.
type lineScanner struct {
	each func(line string)
	copy io.Writer
	part []byte
}

func (s *lineScanner) Write(p []byte) (int, error) {
	rest := p
	for {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		s.part = append(s.part, line[:min(len(line), maxLine-len(s.part))]...)
		if !whole {
			break
		}
		s.each(string(bytes.TrimSuffix(s.part, []byte("\r"))))
		s.part, rest = s.part[:0], after
	}
	if s.copy == nil {
		return len(p), nil
	}
	return s.copy.Write(p)
}
