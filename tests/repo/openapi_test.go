package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// undescribed are the routes that docs/openapi.yaml leaves out.
var undescribed = []string{
	"GET /",                 // the console's pages
	"POST /v1/chaos",        // the simulator's, under `flyball up` only: docs/demo.md
	"GET /v1/chaos",         //
	"DELETE /v1/chaos/{id}", //
}

// routes finds the patterns that the product's code registers, as "METHOD /path".
func routes(t *testing.T) []string {
	t.Helper()
	pattern := regexp.MustCompile(`^(GET|POST|PUT|PATCH|DELETE) (/\S*)$`)
	var found []string
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			if strings.HasPrefix(p.path(), "tests/") || strings.HasPrefix(p.path(), "cmd/chserve") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) == 0 {
					return true
				}
				method, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || method.Sel.Name != "HandleFunc" && method.Sel.Name != "Handle" {
					return true
				}
				if text, ok := call.Args[0].(*ast.BasicLit); ok {
					if value, err := strconv.Unquote(text.Value); err == nil && pattern.MatchString(value) {
						found = append(found, value)
					}
				}
				return true
			})
		}
	}
	return found
}

type api struct {
	OpenAPI string
	Paths   map[string]map[string]struct {
		OperationID string `yaml:"operationId"`
		Summary     string
		Responses   map[string]any
	}
}

func TestAPIDescribesWhatIsServed(t *testing.T) {
	var described api
	readYAML(t, "docs/openapi.yaml", &described)
	require.Regexp(t, `^3\.1\.`, described.OpenAPI)
	var operations []string
	ids := map[string]bool{}
	for path, methods := range described.Paths {
		for method, operation := range methods {
			name := strings.ToUpper(method) + " " + path
			operations = append(operations, name)
			require.NotEmpty(t, operation.Summary, name)
			require.Regexp(t, `^[a-z][A-Za-z]*$`, operation.OperationID, name)
			require.False(t, ids[operation.OperationID], "operationId %s is given twice", operation.OperationID)
			ids[operation.OperationID] = true
			require.NotEmpty(t, operation.Responses, name)
		}
	}
	served := slices.DeleteFunc(routes(t), func(route string) bool { return slices.Contains(undescribed, route) })
	require.ElementsMatch(t, served, operations, "what is served, and what docs/openapi.yaml describes")

	// Ingest and gateway have handlers of their own, which the command mounts path by path.
	mounted := read(t, "cmd/flyball/system.go")
	for path := range described.Paths {
		if strings.HasPrefix(path, "/v1/") {
			require.True(t, strings.Contains(mounted, `"`+path+`"`), "flyball serve does not mount %s", path)
		}
	}
}

func TestAPIReferencesResolve(t *testing.T) {
	var document map[string]any
	readYAML(t, "docs/openapi.yaml", &document)
	used := map[string]bool{}
	var walk func(node any)
	walk = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			if ref, ok := node["$ref"].(string); ok {
				used[ref] = true
				var at any = document
				for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					within, ok := at.(map[string]any)
					require.True(t, ok && within[name] != nil, "%s leads nowhere", ref)
					at = within[name]
				}
			}
			for value := range maps.Values(node) {
				walk(value)
			}
		case []any:
			for _, value := range node {
				walk(value)
			}
		}
	}
	walk(document)
	for kind, named := range document["components"].(map[string]any) {
		for name := range named.(map[string]any) {
			require.True(t, kind == "securitySchemes" || used["#/components/"+kind+"/"+name], "components/%s/%s is used by nothing", kind, name)
		}
	}
}

// Ingest refuses fields that it does not know, so the description must have just those that it knows.
func TestAPIHasTheFieldsOfRecords(t *testing.T) {
	var document struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]any }
		}
	}
	readYAML(t, "docs/openapi.yaml", &document)
	decoder := read(t, "internal/ingest/decode.go")
	for list, schema := range map[string]string{"spanFields": "Span", "qualityFields": "Quality", "outcomeFields": "Outcome", "deploymentFields": "Deployment"} {
		match := regexp.MustCompile(list + `\s*=\s*index\(([^)]*)\)`).FindStringSubmatch(decoder)
		require.NotNil(t, match, list)
		var known []string
		for _, name := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(match[1], -1) {
			known = append(known, name[1])
		}
		require.ElementsMatch(t, known, slices.Collect(maps.Keys(document.Components.Schemas[schema].Properties)), schema)
	}
}
