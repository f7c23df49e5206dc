package repo

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Envoy's example asks Flyball before anything is changed, with the whole call, and lets nothing through unasked.
// internal/gateway runs its Lua.
func TestEnvoyExample(t *testing.T) {
	type patterns struct {
		Patterns []map[string]string
	}
	var example struct {
		Static struct {
			Listeners []struct {
				Buffer int `yaml:"per_connection_buffer_limit_bytes"`
				Chains []struct {
					Filters []struct {
						Config struct {
							Filters []struct {
								Name   string
								Config struct {
									FailureModeAllow *bool            `yaml:"failure_mode_allow"`
									Mutations        map[string][]any `yaml:"mutations"`
									Body             struct {
										Max     int  `yaml:"max_request_bytes"`
										Partial bool `yaml:"allow_partial_message"`
									} `yaml:"with_request_body"`
									Service struct {
										Prefix string `yaml:"path_prefix"`
										Answer struct {
											Upstream patterns `yaml:"allowed_upstream_headers"`
										} `yaml:"authorization_response"`
										Server struct{ Cluster string } `yaml:"server_uri"`
									} `yaml:"http_service"`
									Code struct{ Filename string } `yaml:"default_source_code"`
								} `yaml:"typed_config"`
							} `yaml:"http_filters"`
							Routes struct {
								Hosts []struct {
									Routes []struct{ Route struct{ Cluster string } }
								} `yaml:"virtual_hosts"`
							} `yaml:"route_config"`
						} `yaml:"typed_config"`
					}
				} `yaml:"filter_chains"`
			}
			Clusters []struct{ Name string }
		} `yaml:"static_resources"`
	}
	readYAML(t, "docs/examples/envoy/envoy.yaml", &example)
	clusters := map[string]bool{}
	for _, c := range example.Static.Clusters {
		clusters[c.Name] = true
	}
	require.Len(t, example.Static.Listeners, 1)
	listener := example.Static.Listeners[0]
	manager := listener.Chains[0].Filters[0].Config
	require.Len(t, manager.Filters, 4)
	var names []string
	for _, f := range manager.Filters {
		names = append(names, strings.TrimPrefix(f.Name, "envoy.filters.http."))
	}
	require.Equal(t, []string{"header_mutation", "ext_authz", "lua", "router"}, names)

	ours := []string{"x-flyball-hold-id", "x-flyball-edits"}
	var removed, passed []string
	for _, m := range manager.Filters[0].Config.Mutations["request_mutations"] {
		removed = append(removed, m.(map[string]any)["remove"].(string))
	}
	authz := manager.Filters[1].Config
	for _, p := range authz.Service.Answer.Upstream.Patterns {
		passed = append(passed, p["exact"])
	}
	require.Equal(t, ours, removed, "a client's own word on them is dropped")
	require.Equal(t, ours, passed)
	require.False(t, *authz.FailureModeAllow)
	require.False(t, authz.Body.Partial)
	require.Equal(t, listener.Buffer, authz.Body.Max)
	require.Equal(t, "/v1/authz", authz.Service.Prefix)
	require.True(t, clusters[authz.Service.Server.Cluster])
	require.Contains(t, read(t, "docs/examples/envoy/flyball.lua"), `httpCall("`+authz.Service.Server.Cluster+`"`)
	require.FileExists(t, filepath.Join(root, "docs/examples/envoy", filepath.Base(manager.Filters[2].Config.Code.Filename)))
	for _, r := range manager.Routes.Hosts[0].Routes {
		require.True(t, clusters[r.Route.Cluster], r.Route.Cluster)
	}
}

func TestLuaExamplesCompile(t *testing.T) {
	luac := ""
	for _, name := range []string{"luac", "luac5.4", "luac5.1"} {
		if path, err := exec.LookPath(name); err == nil {
			luac = path
			break
		}
	}
	if luac == "" {
		t.Skip("luac is not installed (Debian's lua5.4): the Lua examples are not compiled here")
	}
	scripts, err := filepath.Glob(filepath.Join(root, "docs/examples/*/*.lua"))
	require.NoError(t, err)
	nested, err := filepath.Glob(filepath.Join(root, "docs/examples/*/*/*.lua"))
	require.NoError(t, err)
	scripts = append(scripts, nested...)
	require.Len(t, scripts, 3)
	for _, path := range scripts {
		out, err := exec.CommandContext(t.Context(), luac, "-p", path).CombinedOutput()
		require.NoError(t, err, string(out))
	}
}
