// Tally sums up test runs that gotestsum or `go test -json` wrote to files: what was skipped, by reason,
// and one closing line over all of them.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	sum := newTally()
	for _, path := range os.Args[1:] {
		file, err := os.Open(path)
		if err == nil {
			err = sum.read(file)
			_ = file.Close() // it was only read
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "tally: reading %s: %v\n", path, err)
			os.Exit(1)
		}
	}
	sum.print(os.Stdout)
}

// event is a line of `go test -json`.
type event struct {
	Action, Package, Test, Output string
}

// tally counts tests and subtests alike, as gotestsum does.
type tally struct {
	passed, failed, skipped int
	// reasons counts the skipped tests by what they said.
	reasons map[string]int
}

func newTally() *tally { return &tally{reasons: map[string]int{}} }

// said finds what a test wrote to its log: "    file_test.go:12: text".
var said = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

func (t *tally) read(r io.Reader) error {
	last := map[string]string{} // by test: the last line of its log
	failed := map[string]bool{} // packages of which a test failed
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // gotestsum writes through what the tests' build says
		}
		id := e.Package + " " + e.Test
		switch {
		case e.Action == "output":
			if match := said.FindStringSubmatch(e.Output); match != nil {
				last[id] = match[1]
			}
		case e.Test == "" && e.Action == "fail" && !failed[e.Package]:
			t.failed++ // a package that did not build, or ended outside its tests
		case e.Test == "":
		case e.Action == "pass":
			t.passed++
		case e.Action == "fail":
			t.failed++
			failed[e.Package] = true
		case e.Action == "skip":
			t.skipped++
			t.reasons[cmp.Or(strings.TrimSpace(last[id]), "no reason given")]++
		}
	}
	return lines.Err()
}

func (t *tally) print(w io.Writer) {
	if t.skipped > 0 {
		fmt.Fprintf(w, "skipped %d tests:\n", t.skipped)
		reasons := slices.SortedFunc(maps.Keys(t.reasons), func(a, b string) int {
			return cmp.Or(cmp.Compare(t.reasons[b], t.reasons[a]), cmp.Compare(a, b))
		})
		for _, reason := range reasons {
			fmt.Fprintf(w, "  %d × %s\n", t.reasons[reason], reason)
		}
	}
	fmt.Fprintf(w, "tests: %d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}
