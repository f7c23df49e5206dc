// Package docs keeps the commands of the documentation true. Every block of shell in README.md and docs/
// says how it is held to the code:
//
//	```sh                  run here, with the built binary, a simulator's control API and a gateway that others ask; make targets
//	                       exist and run in CI
//	```sh e2e              needs a running stack: tests/e2e or scripts of cmd/flyball run the commands, and their flags exist
//	```sh temporal         needs the temporal command: the names, queries and inputs are the contract's
//	```sh norun (reason)   not run, and says why
package docs

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/simulate"
)

// root is the checkout, from this package's folder.
const root = "../.."

// block is a fenced block of a page.
type block struct {
	page string
	line int
	// info is what follows the fence: the language, then how the block is checked.
	info string
	text string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// how is the second word of the info and what follows it.
func (b block) how() (word, reason string) {
	_, rest, _ := strings.Cut(b.info, " ")
	word, reason, _ = strings.Cut(strings.TrimSpace(rest), " ")
	return word, reason
}

// commands are the block's commands without comments; a backslash joins lines.
func (b block) commands() []string {
	var list []string
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		command, _, _ := strings.Cut(line, " #")
		if command = strings.TrimSpace(command); command != "" && command[0] != '#' {
			list = append(list, command)
		}
	}
	return list
}

var fence = regexp.MustCompile("^(\\s*)```(.*)$")

// blocks reads the fenced blocks of a page, those inside lists too.
func blocks(page, text string) []block {
	var list []block
	indent := ""
	var open *block
	for i, line := range strings.Split(text, "\n") {
		match := fence.FindStringSubmatch(line)
		switch {
		case match != nil && open == nil:
			indent = match[1]
			open = &block{page: page, line: i + 1, info: strings.TrimSpace(match[2])}
		case match != nil:
			list = append(list, *open)
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	return list
}

func pages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	add := func(path string) {
		text, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		texts[path] = string(text)
	}
	add("README.md")
	require.NoError(t, fs.WalkDir(os.DirFS(root), "docs", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			add(path)
		}
		return err
	}))
	return texts
}

func TestCommands(t *testing.T) {
	run := newRunner(t)
	checked := 0
	for page, text := range pages(t) {
		for _, b := range blocks(page, text) {
			language, _, _ := strings.Cut(b.info, " ")
			t.Run(b.String(), func(t *testing.T) {
				if language == "text" { // what a program prints, or a synopsis
					return
				}
				if language != "sh" && language != "bash" {
					for _, command := range b.commands() {
						require.NotRegexp(t, `^(bin/flyball|flyball|make|temporal|tctl|docker|curl|go|npm) [a-z-]`, command,
							"a block with commands is marked as sh, so that it is checked")
					}
					return
				}
				checked++
				switch how, reason := b.how(); how {
				case "":
					run.block(t, b)
				case "e2e":
					run.endToEnd(t, b)
				case "temporal":
					for _, command := range b.commands() {
						temporalCommand(t, command)
					}
				case "norun":
					require.NotEmpty(t, reason, "norun says why")
				default:
					require.Fail(t, "nothing checks a block that is marked "+how)
				}
			})
		}
	}
	require.NotZero(t, checked)
}

// runner runs commands in a folder that looks like a built checkout beside a running Flyball.
type runner struct {
	dir, flyball, makefile, ci string
	live                       string // the sources of the tests that run commands on running servers
	gateway                    string // the address of one, which stands in for that of the pages
}

func newRunner(t *testing.T) runner {
	t.Helper()
	r := runner{dir: t.TempDir(), gateway: external(t)}
	r.flyball = filepath.Join(r.dir, "bin", "flyball")
	build := exec.Command("go", "build", "-o", r.flyball, "./cmd/flyball")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	checkout, err := filepath.Abs(root)
	require.NoError(t, err)
	for _, folder := range []string{"policies", "deploy"} {
		require.NoError(t, os.Symlink(filepath.Join(checkout, folder), filepath.Join(r.dir, folder)))
	}

	chaos := httptest.NewServer(simulate.New(simulate.Options{Seed: 1, Logger: slog.New(slog.DiscardHandler)}).Handler())
	t.Cleanup(chaos.Close)
	addresses, err := json.Marshal(map[string]string{"ingest": chaos.URL})
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(r.dir, ".flyball"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, ".flyball", "addresses.json"), addresses, 0o600))

	read := func(path string) string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(text)
	}
	r.makefile, r.ci = read(filepath.Join(root, "Makefile")), read(filepath.Join(root, ".ci/run"))
	for _, pattern := range []string{"tests/e2e/*.go", "cmd/flyball/testdata/script/*.txtar"} {
		sources, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, path := range sources {
			r.live += read(path)
		}
	}
	return r
}

// elsewhere says which test runs the make targets that CI does not.
var elsewhere = map[string]string{
	"up": "tests/repo/make_test.go", // and tests/e2e, what it starts
}

// block runs what can be run here; make targets must exist and be run by CI, or by the test named for them.
func (r runner) block(t *testing.T, b block) {
	commands := b.commands()
	plain := slices.ContainsFunc(commands, func(c string) bool { return !strings.HasPrefix(c, "make ") })
	for _, command := range commands {
		target, ok := strings.CutPrefix(command, "make ")
		if !ok {
			continue
		}
		require.False(t, plain, "give make a block of its own")
		require.Regexp(t, `(?m)^`+regexp.QuoteMeta(target)+`:.* ## `, r.makefile)
		if file, ok := elsewhere[target]; ok {
			require.FileExists(t, filepath.Join(root, file))
		} else {
			require.Regexp(t, `(?m)^stage \w+ make `+target+`$`, r.ci, "CI runs make %s", target)
		}
	}
	if !plain {
		return
	}
	shell := exec.CommandContext(t.Context(), "sh", "-eu", "-c", strings.ReplaceAll(b.text, "http://127.0.0.1:8080/", r.gateway+"/"))
	shell.Dir = r.dir
	shell.Env = append(os.Environ(), "PATH="+filepath.Join(r.dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := shell.CombinedOutput()
	require.NoError(t, err, string(out))
}

// endToEnd requires of a command of ours that the end-to-end tests run it and that its flags exist.
func (r runner) endToEnd(t *testing.T, b block) {
	for _, command := range b.commands() {
		words := strings.Fields(command)
		if words[0] == "curl" {
			path := regexp.MustCompile(`127\.0\.0\.1:\d+(/\S*)`).FindStringSubmatch(command)
			require.NotNil(t, path, command)
			require.True(t, strings.Contains(r.live, `"`+path[1]+`"`), "tests/e2e asks for %s", path[1])
			continue
		}
		require.Contains(t, []string{"flyball", "bin/flyball"}, words[0])
		require.True(t, strings.Contains(r.live, `"`+words[1]+`"`) || regexp.MustCompile(`(?m)^(exec|code \d) flyball `+words[1]+`\b`).MatchString(r.live),
			"tests/e2e, or a script of cmd/flyball, runs flyball %s", words[1])
		var name []string
		for _, word := range words[1:] {
			if !regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(word) {
				break
			}
			name = append(name, word)
		}
		help, err := exec.CommandContext(t.Context(), r.flyball, append(name, "--help")...).CombinedOutput()
		require.NoError(t, err, string(help))
		for _, flag := range regexp.MustCompile(`\s(--[a-z-]+)`).FindAllStringSubmatch(command, -1) {
			require.Contains(t, string(help), flag[1], command)
		}
	}
}

// inputs are what people send, by the message's name.
var inputs = map[string]func() any{
	contract.Decide:      func() any { return new(contract.DecideRequest) },
	contract.Acknowledge: func() any { return new(contract.AcknowledgeRequest) },
	contract.SkipStep:    func() any { return new(contract.SkipStepRequest) },
	contract.Resolve:     func() any { return new(contract.ResolveRequest) },
	contract.RerunStep:   func() any { return new(contract.RerunStepRequest) },
	contract.Annotate:    func() any { return new(contract.AnnotateRequest) },
	contract.SetMute:     func() any { return new(contract.MuteRequest) },
	contract.AcceptLevel: func() any { return new(contract.AcceptLevelRequest) },
	contract.Split:       func() any { return new(contract.SplitRequest) },
	contract.Recalibrate: func() any { return new(contract.RecalibrateRequest) },
}

var (
	option    = regexp.MustCompile(`--([a-z-]+) ('[^']*'|\S+)`)
	attribute = regexp.MustCompile(`\bFlyball\w+`)
	workflow  = regexp.MustCompile(`^(sweep/\d+|(autonomy|calibration)/[^/]+|alert/[^/]+/[^/]+|(decision/)?incident/[^/]+/[^/]+/\d+(/[a-z_]+/\d+)?)$`)
)

// temporalCommand checks what a command of the temporal CLI names against the contract.
func temporalCommand(t *testing.T, command string) {
	require.Regexp(t, `^temporal workflow (list|query|signal|update execute|start) `, command)
	options := map[string]string{}
	for _, match := range option.FindAllStringSubmatch(command, -1) {
		options[match[1]] = strings.Trim(match[2], "'")
	}
	if strings.HasPrefix(command, "temporal workflow list ") {
		require.NotEmpty(t, options["query"], command)
		for _, name := range attribute.FindAllString(options["query"], -1) {
			require.Contains(t, contract.SearchAttributes(), name, command)
		}
		if match := regexp.MustCompile(`WorkflowType="(\w+)"`).FindStringSubmatch(options["query"]); match != nil {
			require.Contains(t, []string{contract.Sweep, contract.AlertLoop, contract.Incident, contract.Decision, contract.Autonomy, contract.Group}, match[1])
		}
		return
	}
	require.Regexp(t, workflow, options["workflow-id"], command)
	if strings.HasPrefix(command, "temporal workflow query ") {
		require.Equal(t, contract.State, options["type"], command)
		return
	}
	if strings.HasPrefix(command, "temporal workflow start ") {
		require.Equal(t, contract.Calibration, options["type"], "the only one that people start")
		require.Equal(t, contract.TaskQueue, options["task-queue"])
		strictly(t, options["input"], new(contract.CalibrationInput), command)
		return
	}
	require.Contains(t, inputs, options["name"], command)
	strictly(t, options["input"], inputs[options["name"]](), command)
}

// strictly requires that an input has no field that its message lacks.
func strictly(t *testing.T, input string, message any, command string) {
	decoder := json.NewDecoder(strings.NewReader(input))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(message), command)
}

// A link to a file of the repository leads somewhere.
func TestLinks(t *testing.T) {
	links := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for page, text := range pages(t) {
		for _, match := range links.FindAllStringSubmatch(text, -1) {
			require.FileExists(t, filepath.Join(root, filepath.Dir(page), match[1]), page)
		}
	}
}

// README.md shows what `flyball up` prints, and fits a screen.
func TestReadme(t *testing.T) {
	readme := pages(t)["README.md"]
	require.LessOrEqual(t, strings.Count(readme, "\n"), 70)
	up, err := os.ReadFile(filepath.Join(root, "cmd/flyball/up.go"))
	require.NoError(t, err)
	for _, line := range regexp.MustCompile(`(?m)^(Inject|Approve) .*$`).FindAllString(readme, -1) {
		require.Contains(t, string(up), strings.ReplaceAll(line, "bin/flyball", "%s"))
	}
	for _, target := range []string{"make up", "make test"} {
		require.Contains(t, readme, target)
	}
}

func TestBlocks(t *testing.T) {
	got := blocks("p", "a\n```sh norun (why not)\nx \\\n  y # z\n# only\n```\n1. b\n\n   ```\n   c\n   ```\n")
	require.Equal(t, []block{{"p", 2, "sh norun (why not)", "x \\\n  y # z\n# only\n"}, {"p", 9, "", "c\n"}}, got)
	require.Equal(t, []string{"x    y"}, got[0].commands())
	how, reason := got[0].how()
	require.Equal(t, "norun (why not)", how+" "+reason)
}
