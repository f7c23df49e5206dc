package repo

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pure lists the packages that are functions of their arguments.
var pure = []string{
	"internal/alert", "internal/budget", "internal/calibrate", "internal/contract", "internal/detect", "internal/effect",
	"internal/kpi", "internal/pricing", "internal/router", "internal/routing", "internal/runbook", "internal/usage", "internal/wire",
}

// impure are the parts of the standard library that a pure package may not use.
var impure = []string{
	"database/sql", "io/ioutil", "log", "log/slog", "math/rand", "math/rand/v2", "net", "net/http",
	"os", "os/exec", "os/signal", "path/filepath", "sync", "sync/atomic", "syscall",
}

// owners say which package speaks to each outside system.
var owners = map[string]string{
	"github.com/google/cel-go":                        "internal/policy",
	"github.com/ClickHouse/clickhouse-go/v2":          "internal/clickhouse",
	"github.com/go-faster/city":                       "internal/clickhouse",
	"github.com/redis/go-redis/v9":                    "internal/redis",
	"github.com/slack-go/slack":                       "internal/notify",
	"github.com/PagerDuty/go-pagerduty":               "internal/notify",
	"github.com/go-analyze/charts":                    "internal/notify",
	"github.com/alicebob/miniredis/v2":                "internal/devstack",
	"github.com/santhosh-tekuri/jsonschema":           "internal/evaluate",
	"github.com/ebitengine/purego":                    "cmd/chserve/chdb",
	"go.opentelemetry.io/proto/otlp":                  "internal/ingest",
	"go.opentelemetry.io/otel":                        "", // tests only
	"github.com/schollz/progressbar/v3":               "cmd/flyball",
	"github.com/chromedp/chromedp":                    "", // tests only
	"github.com/openai/openai-go/v3":                  "", // tests only
	"github.com/anthropics/anthropic-sdk-go":          "", // tests only
	"github.com/pb33f/libopenapi":                     "internal/apitest",
	"github.com/pb33f/libopenapi-validator":           "internal/apitest",
	"github.com/flyball-dev/flyball/internal/apitest": "", // tests only
	"github.com/stretchr/testify":                     "", // tests only
	"github.com/rogpeppe/go-internal":                 "", // tests only
	"go.temporal.io/sdk/testsuite":                    "", // tests only
	"github.com/flyball-dev/flyball/workers":          "cmd/flyball",
	"github.com/flyball-dev/flyball/workflows":        "workers",
}

// goPackage is what `go list -json` says about one package.
type goPackage struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// path is the package's folder in the checkout.
func (p goPackage) path() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func packages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.Command("go", "list", "-tags", "e2e", "-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports", "./...")
	list.Dir = root
	out, err := list.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		require.NoError(t, err, string(exit.Stderr))
	}
	require.NoError(t, err)
	var all []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			require.NotEmpty(t, all)
			return all
		} else {
			require.NoError(t, err)
		}
		all = append(all, p)
	}
}

// broken lists the import rules that a package breaks.
func broken(p goPackage) []string {
	var found []string
	breaks := func(imported, rule string) { found = append(found, p.path()+" imports "+imported+": "+rule) }
	isPure := slices.Contains(pure, p.path())
	for _, imported := range p.Imports {
		own, inside := strings.CutPrefix(imported, module+"/")
		switch {
		case isPure && inside && !slices.Contains(pure, own):
			breaks(own, "a pure package imports only pure packages")
		case isPure && !inside && strings.Contains(strings.Split(imported, "/")[0], "."):
			breaks(imported, "a pure package imports nothing from outside")
		case isPure && slices.Contains(impure, imported):
			breaks(imported, "a pure package does no I/O and shares nothing")
		case p.path() == "workflows" && inside && own != "activities" && !slices.Contains(pure, own):
			breaks(own, "workflow code is deterministic: pure packages, and the activities that it names")
		}
		for system, owner := range owners {
			test := strings.HasPrefix(p.path(), "tests/") || strings.HasSuffix(p.path(), "test")
			if within(imported, system) && p.path() != owner && (owner != "" || !test) {
				breaks(imported, "only "+orTests(owner)+" may")
			}
		}
	}
	// Tests may speak to what their package speaks to, and the engine's tests to the engine by its own client.
	for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
		for _, system := range []string{"github.com/google/cel-go", "github.com/ClickHouse/clickhouse-go/v2", "github.com/redis/go-redis/v9"} {
			engine := p.path() == "cmd/chserve" && strings.Contains(system, "clickhouse-go")
			if within(imported, system) && p.path() != owners[system] && !engine {
				breaks(imported, "only "+owners[system]+" may, in tests too")
			}
		}
	}
	return found
}

func within(imported, tree string) bool {
	return imported == tree || strings.HasPrefix(imported, tree+"/")
}

func orTests(owner string) string {
	if owner == "" {
		return "tests"
	}
	return owner
}

func TestImportRulesHold(t *testing.T) {
	for _, p := range packages(t) {
		require.Empty(t, broken(p))
	}
}

// The rules above would also be empty if they looked at nothing.
func TestImportRulesBite(t *testing.T) {
	for name, p := range map[string]goPackage{
		"pure with an outside package":   {ImportPath: module + "/internal/kpi", Imports: []string{"go.yaml.in/yaml/v3"}},
		"pure with an impure package":    {ImportPath: module + "/internal/kpi", Imports: []string{module + "/internal/pricing/book"}},
		"pure with files":                {ImportPath: module + "/internal/kpi", Imports: []string{"os"}},
		"CEL in workflows":               {ImportPath: module + "/workflows", Imports: []string{module + "/internal/policy"}},
		"CEL in activities":              {ImportPath: module + "/activities", Imports: []string{"github.com/google/cel-go/cel"}},
		"workflows from activities":      {ImportPath: module + "/activities", Imports: []string{module + "/workflows"}},
		"workflows from the console":     {ImportPath: module + "/internal/console", Imports: []string{module + "/workflows"}},
		"ClickHouse from another's test": {ImportPath: module + "/internal/ingest", XTestImports: []string{"github.com/ClickHouse/clickhouse-go/v2"}},
		"ClickHouse from chserve":        {ImportPath: module + "/cmd/chserve", Imports: []string{"github.com/ClickHouse/clickhouse-go/v2"}},
		"PagerDuty from the console":     {ImportPath: module + "/internal/console", Imports: []string{"github.com/PagerDuty/go-pagerduty"}},
		"Slack from the activities":      {ImportPath: module + "/activities", Imports: []string{"github.com/slack-go/slack"}},
		"Redis from the gateway":         {ImportPath: module + "/internal/gateway", Imports: []string{"github.com/redis/go-redis/v9"}},
		"a provider's client":            {ImportPath: module + "/internal/gateway", Imports: []string{"github.com/openai/openai-go/v3/option"}},
		"a browser in the product":       {ImportPath: module + "/internal/console", Imports: []string{"github.com/chromedp/chromedp"}},
	} {
		t.Run(name, func(t *testing.T) { require.Len(t, broken(p), 1) })
	}
}

// A pure package or a workflow that asks the clock gives another answer on each call; `now` is an argument.
func TestNoClockInPureCode(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.path()) && p.path() != "workflows" {
			continue
		}
		for _, name := range p.GoFiles {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				from, ok := call.X.(*ast.Ident)
				clock := ok && from.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker", "Tick"}, call.Sel.Name)
				require.False(t, clock, "%s asks the clock", files.Position(n.Pos()))
				return true
			})
		}
	}
}

// Each list of pure packages says the same: this test's, the linter's and the architecture page's.
func TestPurePackagesAreListedAlike(t *testing.T) {
	var linter struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]struct {
						Files, Allow []string
					}
				}
			}
		}
	}
	readYAML(t, ".golangci.yml", &linter)
	rules := linter.Linters.Settings.Depguard.Rules
	for _, rule := range []string{"pure", "no-io"} {
		want := []string{"!$test"}
		for _, p := range pure {
			want = append(want, "**/"+p+"/*.go")
		}
		require.ElementsMatch(t, want, rules[rule].Files, "rule %s of .golangci.yml", rule)
	}
	allowed := []string{"$gostd"}
	for _, p := range pure {
		allowed = append(allowed, module+"/"+p+"$")
	}
	require.ElementsMatch(t, allowed, rules["pure"].Allow)

	var documented, present []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(internal/[a-z]+)` \\| (yes)? ?\\|").FindAllStringSubmatch(read(t, "docs/architecture.md"), -1) {
		present = append(present, row[1])
		if row[2] != "" {
			documented = append(documented, row[1])
		}
	}
	require.ElementsMatch(t, pure, documented, "the pure packages of docs/architecture.md")
	for _, p := range packages(t) {
		if path := p.path(); strings.Count(path, "/") == 1 && strings.HasPrefix(path, "internal/") {
			require.Contains(t, present, path, "docs/architecture.md says what each package hides")
		}
	}
}
