package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.temporal.io/sdk/converter"
	"golang.org/x/term"

	"github.com/flyball-dev/flyball/internal/contract"
)

// drillData reads what workflows and their heartbeats carry.
var drillData = converter.GetDefaultDataConverter()

// drillScreen shows people where a drill stands: on a terminal one line that is drawn again, elsewhere a line whenever
// something else is waited for.
type drillScreen struct {
	out      io.Writer
	terminal bool
	last     string
	drawn    bool
	shown    map[string]bool // measures that were told
}

func newDrillScreen(out io.Writer) *drillScreen {
	file, ok := out.(*os.File)
	return &drillScreen{out: out, terminal: ok && term.IsTerminal(int(file.Fd())), shown: map[string]bool{}}
}

// barWidth is that of the bar of what is waited for.
const barWidth = 24

// show tells what is new.
func (s *drillScreen) show(p contract.DrillProgress) {
	if p.Phase == "" {
		return // between two phases
	}
	for _, m := range p.Result.Measures {
		if line := fmt.Sprintf("%s %s: %s %s %s", m.Fault, m.Step, m.TookText(), m.SLOText(), m.Verdict); !s.shown[line] {
			s.shown[line] = true
			s.say("%s", line)
		}
	}
	line := p.Phase
	if p.Waiting != "" {
		line += ": waiting for " + p.Waiting
	}
	if !s.terminal {
		if line != s.last {
			s.say("%s", line)
		}
		s.last = line
		return
	}
	elapsed := time.Duration(0)
	if !p.Since.IsZero() {
		elapsed = max(time.Since(p.Since), 0)
	}
	fmt.Fprintf(s.out, "\r\033[K%s %s  %s", line, bar(elapsed, p.Bound), elapsed.Round(time.Second))
	if p.Bound > 0 {
		fmt.Fprintf(s.out, " of at most %s", p.Bound.Round(time.Second))
	}
	s.drawn = true
}

// bar is the share of its bound that something has taken.
func bar(elapsed, bound time.Duration) string {
	if bound <= 0 {
		return ""
	}
	full := min(barWidth, int(barWidth*float64(elapsed)/float64(bound)))
	return "[" + strings.Repeat("#", full) + strings.Repeat("·", barWidth-full) + "]"
}

func (s *drillScreen) say(format string, args ...any) {
	s.clear()
	fmt.Fprintf(s.out, time.Now().Format("15:04:05")+"  "+format+"\n", args...)
}

// clear takes the drawn line away.
func (s *drillScreen) clear() {
	if s.drawn {
		fmt.Fprint(s.out, "\r\033[K")
	}
	s.drawn = false
}
