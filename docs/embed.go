// Package docs holds the pages of documentation that the program itself quotes.
package docs

import (
	_ "embed"
	"regexp"
	"strings"
)

//go:embed policies.md
var policies string

var (
	quoted = regexp.MustCompile("`([^`]+)`")
	link   = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
)

// Facts are the facts of a policy file, each with what its reference says of it: the tables of policies.md whose
// first column is the fact.
func Facts(file string) map[string]string {
	facts := map[string]string{}
	_, section, _ := strings.Cut(policies, "\n## "+file+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	inTable := false
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 5 {
			inTable = false
			continue
		}
		if strings.TrimSpace(cells[1]) == "fact" {
			inTable = true
		}
		if !inTable {
			continue
		}
		text := strings.ReplaceAll(link.ReplaceAllString(strings.TrimSpace(cells[3]), "$1"), "`", "")
		for _, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
			facts[name[1]] = text
		}
	}
	return facts
}
