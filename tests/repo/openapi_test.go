package repo

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
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

// routes finds the patterns that the product's code registers, "METHOD /path": no other text looks like one.
func routes(t *testing.T) []string {
	t.Helper()
	pattern := regexp.MustCompile(`^(GET|POST|PUT|PATCH|DELETE) (/\S*)$`)
	var found []string
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			if strings.HasPrefix(p.path(), "tests/") || strings.HasSuffix(p.path(), "test") || strings.HasPrefix(p.path(), "cmd/chserve") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
					value, err := strconv.Unquote(text.Value)
					require.NoError(t, err)
					if pattern.MatchString(value) {
						found = append(found, strings.ReplaceAll(value, "...}", "}"))
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

	// Ingest and gateway have handlers of their own, which the command mounts path by path; but for those of the
	// pass-through, which it mounts all.
	mounted := read(t, "cmd/flyball/system.go") + read(t, "cmd/flyball/gateway.go")
	require.Contains(t, mounted, "range s.proxy.Routes()")
	mounted += read(t, "internal/gateway/proxy.go")
	for path := range described.Paths {
		if strings.HasPrefix(path, "/v1/") {
			subtree, _, whole := strings.Cut(path, "{")
			at := regexp.MustCompile(`"([A-Z]+ )?`+regexp.QuoteMeta(path)+`"`).MatchString(strings.ReplaceAll(mounted, "...}", "}")) ||
				whole && strings.Contains(mounted, `"`+subtree+`"`)
			require.True(t, at, "flyball serve does not mount %s", path)
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

// A body's description must have the fields that the Go type has by its JSON names, of the same kinds; what
// is required must always be there.
func TestAPIHasTheFieldsOfBodies(t *testing.T) {
	var document map[string]any
	readYAML(t, "docs/openapi.yaml", &document)
	at := func(path ...string) any {
		var node any = document
		for _, name := range path {
			within, ok := node.(map[string]any)
			require.True(t, ok && within[name] != nil, "docs/openapi.yaml has no %s", strings.Join(path, " "))
			node = within[name]
		}
		return node
	}
	const body = "application/json"
	sent := func(path string) any { return at("paths", path, "post", "requestBody", "content", body, "schema") }
	answered := func(method, path string) any {
		return at("paths", path, method, "responses", "200", "content", body, "schema")
	}
	for where, b := range map[string]struct {
		schema any
		goType string
	}{
		"POST /v1/decide takes":    {sent("/v1/decide"), "gateway.question"},
		"POST /v1/decide answers":  {answered("post", "/v1/decide"), "gateway.decision"},
		"POST /v1/settle reports":  {at("components", "schemas", "Report"), "gateway.report"},
		"POST /v1/settle answers":  {answered("post", "/v1/settle"), "gateway.settlements"},
		"budgets":                  {at("components", "schemas", "Budget"), "treasury.View"},
		"PUT /v1/budgets/… takes":  {at("components", "schemas", "BudgetChange"), "treasury.Change"},
		"GET /v1/requests/… shows": {at("components", "schemas", "Request"), "gateway.Recent"},
		"GET /v1/sampling answers": {answered("get", "/v1/sampling"), "gateway.sampling"},
		"GET /v1/flags answers":    {answered("get", "/v1/flags"), "gateway.obeyed"},
		"POST /v1/complexity sets": {at("components", "schemas", "Complexity"), "complexity.Record"},
		"GET /v1/complexity lists": {answered("get", "/v1/complexity"), "complexity.List"},
		"ingest answers":           {at("components", "schemas", "Receipt"), "ingest.answer"},
		"GET /api/status answers":  {answered("get", "/api/status"), "console.Status"},
		"GET /api/live answers":    {answered("get", "/api/live"), "console.liveBody"},
		"GET /api/incidents lists": {at("paths", "/api/incidents", "get", "responses", "200", "content", body, "schema", "items"), "console.Incident"},
		"GET /api/decisions lists": {at("paths", "/api/decisions", "get", "responses", "200", "content", body, "schema", "items"), "console.Decision"},
		"GET /api/audit lists":     {at("paths", "/api/audit", "get", "responses", "200", "content", body, "schema", "items"), "console.Decided"},
		"GET /api/savings lists":   {at("paths", "/api/savings", "get", "responses", "200", "content", body, "schema", "items"), "console.Savings"},
		"GET /api/groups lists":    {at("paths", "/api/groups", "get", "responses", "200", "content", body, "schema", "items"), "console.Group"},
		"GET /api/mutes answers":   {answered("get", "/api/mutes"), "console.Mutes"},
		"POST /api/order takes":    {sent("/api/order"), "console.Order"},
		"POST /api/order answers":  {answered("post", "/api/order"), "console.Outcome"},
		"POST /api/decide takes":   {sent("/api/decide"), "console.Verdict"},
		"POST /api/decide answers": {answered("post", "/api/decide"), "console.Decision"},
		"the gateway's refusals":   {at("components", "schemas", "Error"), "gateway.problem"},
		"the console's refusals":   {at("components", "schemas", "Error"), "console.problem"},
	} {
		t.Run(where, func(t *testing.T) {
			pkg, name, _ := strings.Cut(b.goType, ".")
			m := matcher{t: t, document: document}
			m.match(where, b.schema, pkg, ast.NewIdent(name))
			require.Empty(t, m.wrong)
		})
	}
}

// The comparison would also find nothing if it looked at nothing.
func TestAPIComparisonBites(t *testing.T) {
	field := func(kind string) map[string]any { return map[string]any{"type": kind} }
	key := map[string]any{"type": "object", "properties": map[string]any{"tenant": field("string"), "model": field("string")}}
	for name, spoil := range map[string]func(properties map[string]any){
		"":                           func(map[string]any) {},
		"are not described: [model]": func(p map[string]any) { delete(p, "model") },
		"do not exist: [extra]":      func(p map[string]any) { p["extra"] = field("string") },
		"want string":                func(p map[string]any) { p["model"] = field("number") },
	} {
		copied := map[string]any{"type": "object", "properties": maps.Clone(key["properties"].(map[string]any))}
		spoil(copied["properties"].(map[string]any))
		m := matcher{t: t}
		m.match("key", copied, "usage", ast.NewIdent("Key"))
		require.Equal(t, name == "", len(m.wrong) == 0, name)
		require.Contains(t, strings.Join(m.wrong, "\n"), name)
	}
}

// matcher compares schemas with the types that the product's code encodes and decodes.
type matcher struct {
	t        *testing.T
	document map[string]any
	wrong    []string
}

// scalars are the kinds of types that encode themselves; the other named types are looked up.
var scalars = map[string][]string{
	"string": {"string"}, "bool": {"boolean"}, "int": {"integer"}, "int64": {"integer"}, "float64": {"number"},
	"json.RawMessage": {"object"}, "time.Time": {"string"}, "json.Number": {"number"}, "console.USD": {"number"},
}

func (m *matcher) report(where, format string, args ...any) {
	m.wrong = append(m.wrong, where+" "+fmt.Sprintf(format, args...))
}

// match compares a schema with a type that stands in the package.
func (m *matcher) match(where string, node any, pkg string, goType ast.Expr) {
	schema := m.resolve(node)
	name := ""
	switch typed := goType.(type) {
	case *ast.StarExpr:
		m.match(where, node, pkg, typed.X)
		return
	case *ast.ArrayType:
		if schema["type"] != "array" {
			m.report(where, "is %v, want array", schema["type"])
			return
		}
		m.match(where+"[]", schema["items"], pkg, typed.Elt)
		return
	case *ast.MapType:
		if schema["type"] != "object" {
			m.report(where, "is %v, want object", schema["type"])
			return
		}
		m.match(where+"{}", schema["additionalProperties"], pkg, typed.Value)
		return
	case *ast.StructType:
		m.object(where, schema, pkg, typed)
		return
	case *ast.SelectorExpr:
		pkg, name = typed.X.(*ast.Ident).Name, typed.Sel.Name
	case *ast.Ident:
		name = typed.Name
	default:
		m.t.Fatalf("%s: a type that this test does not know: %T", where, goType)
	}
	for _, scalar := range []string{name, pkg + "." + name} {
		if kinds, ok := scalars[scalar]; ok {
			if !slices.Contains(kinds, fmt.Sprint(schema["type"])) {
				m.report(where, "is %v, want %s", schema["type"], kinds[0])
			}
			return
		}
	}
	m.match(where, node, pkg, declared(m.t, pkg, name))
}

// object compares a schema's properties with a struct's fields.
func (m *matcher) object(where string, schema map[string]any, pkg string, typed *ast.StructType) {
	properties, _ := schema["properties"].(map[string]any)
	fields := jsonFields(m.t, pkg, typed)
	var missing, extra []string
	for name, field := range fields {
		if properties[name] == nil {
			missing = append(missing, name)
			continue
		}
		m.match(where+" "+name, properties[name], field.pkg, field.goType)
	}
	for name := range properties {
		if _, ok := fields[name]; !ok {
			extra = append(extra, name)
		}
	}
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if fields[fmt.Sprint(name)].optional {
			m.report(where, "requires %s, which is left out when empty", name)
		}
	}
	if len(missing) > 0 {
		m.report(where, "has fields that are not described: %v", missing)
	}
	if len(extra) > 0 {
		m.report(where, "describes fields that do not exist: %v", extra)
	}
}

func (m *matcher) resolve(node any) map[string]any {
	schema, ok := node.(map[string]any)
	require.True(m.t, ok, "%v is no schema", node)
	if ref, ok := schema["$ref"].(string); ok {
		var at any = m.document
		for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			at = at.(map[string]any)[name]
		}
		return m.resolve(at)
	}
	return schema
}

// jsonField is a field as encoding/json sees it.
type jsonField struct {
	pkg      string // in which its type stands
	goType   ast.Expr
	optional bool
}

// jsonFields are the struct's fields by their JSON names, those of embedded structs included.
func jsonFields(t *testing.T, pkg string, typed *ast.StructType) map[string]jsonField {
	fields := map[string]jsonField{}
	for _, f := range typed.Fields.List {
		if len(f.Names) == 1 && !f.Names[0].IsExported() {
			continue
		}
		if len(f.Names) == 0 {
			from, name := pkg, ""
			switch embedded := f.Type.(type) {
			case *ast.SelectorExpr:
				from, name = embedded.X.(*ast.Ident).Name, embedded.Sel.Name
			case *ast.Ident:
				name = embedded.Name
			}
			maps.Copy(fields, jsonFields(t, from, declared(t, from, name).(*ast.StructType)))
			continue
		}
		require.NotNil(t, f.Tag, "%s.%s has no JSON name", pkg, f.Names[0])
		tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json")
		name, options, _ := strings.Cut(tag, ",")
		fields[name] = jsonField{pkg, f.Type, strings.Contains(options, "omit")}
	}
	return fields
}

// declared is what the package declares the type to be.
func declared(t *testing.T, pkg, name string) ast.Expr {
	files, err := filepath.Glob(filepath.Join(root, "internal", pkg, "*.go"))
	require.NoError(t, err)
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range file.Decls {
			group, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range group.Specs {
				if spec, ok := s.(*ast.TypeSpec); ok && spec.Name.Name == name {
					return spec.Type
				}
			}
		}
	}
	t.Fatalf("internal/%s declares no type %s", pkg, name)
	return nil
}
