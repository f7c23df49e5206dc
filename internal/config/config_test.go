package config

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func none(string) (string, bool) { return "", false }

func TestParse(t *testing.T) {
	t.Parallel()
	c, err := Parse(nil, none)
	require.NoError(t, err)
	require.Equal(t, Default(), c)

	c, err = Parse([]byte("clickhouse:\n  url: http://db:8123\n  password: ${PASSWORD}\nprofile: demo\n"), func(name string) (string, bool) {
		return "a: \"b\"\n# ${PASSWORD}", name == "PASSWORD"
	})
	require.NoError(t, err)
	require.Equal(t, "http://db:8123", c.ClickHouse.URL)
	require.Equal(t, "default", c.ClickHouse.User)
	require.Equal(t, "a: \"b\"\n# ${PASSWORD}", c.ClickHouse.Password, "a secret is a value whatever it holds")
	require.Equal(t, Demo, c.Profile)

	c, err = Parse([]byte("otlp: {listen: '', tenant_attribute: customer.id}\nlitellm: {tenant: [user_api_key_org_id]}\n"), none)
	require.NoError(t, err, "OTLP/gRPC may be off")
	require.Equal(t, OTLP{TenantAttribute: "customer.id"}, c.OTLP)
	require.Equal(t, []string{"user_api_key_org_id"}, c.LiteLLM.Tenant)
}

func TestParseSaysEverythingThatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"unknown key": {"clickhuose:\n  url: x\n", []string{"clickhuose"}},
		"its line":    {"# for the night\n\n\nprofile:   demo\nclickhuose: {url: x}\n", []string{"line 5: field clickhuose not found"}},
		"doubled key": {"profile: demo\nprofile: demo\n", []string{"already defined"}},
		"not YAML":    {"profile: [", []string{"yaml"}},
		"many": {
			"profile: fast\nspool: ''\nredis:\n  addr: localhost\nclickhouse:\n  url: db:8123\n  password: ${NOPE}\ntokens: [{hash: abc, next_hash: def}]\notlp: {listen: '4317'}\nlitellm: {tenant: []}\n",
			[]string{"otlp.listen", "litellm.tenant", "NOPE is not set", `"fast" is neither`, "spool", "redis.addr", "clickhouse.url", "tokens[0].hash", "tokens[0].next_hash"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(c.text), none)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	require.NoError(t, Standard.Tuning().Validate())
	require.NoError(t, Demo.Tuning().Validate())
	require.Less(t, Demo.Tuning().Limits.Minimums.Cost, Standard.Tuning().Limits.Minimums.Cost)
}

func TestParseRoles(t *testing.T) {
	t.Parallel()
	roles, err := ParseRoles("worker, console")
	require.NoError(t, err)
	require.Equal(t, []Role{Worker, Console}, roles)
	_, err = ParseRoles("worker,cooking")
	require.ErrorContains(t, err, `"cooking"`)
}

func TestAccess(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte(`access:
  groups:
    fin-ops: {roles: [finops]}
    evaluation: {roles: [ai_engineering, embargo]}
    acme: {roles: [tenant], tenants: [acme, acme-labs]}
  embargoed_models: ["next-*"]
`), none)
	require.NoError(t, err)
	require.True(t, c.Access.Groups["evaluation"].Has(Embargo))
	require.Equal(t, []string{"acme", "acme-labs"}, c.Access.Groups["acme"].Tenants)

	_, err = Parse([]byte(`access:
  groups:
    a: {roles: [boss]}
    b: {roles: [embargo]}
    c: {roles: [tenant]}
    d: {roles: [finops], tenants: [x]}
    e: {roles: [finops, tenant], tenants: ["x\ny"]}
    flyball_reader: {roles: [oncall]}
    f: {}
  embargoed_models: ["[a-z]", ""]
  unrestricted: [""]
`), none)
	for _, want := range []string{
		`access.groups.a.roles: "boss" is none of finops, ai_engineering, oncall, tenant, embargo`,
		"access.groups.b.roles: name one of finops",
		"access.groups.c: the role tenant needs tenants",
		"access.groups.d: the role tenant needs tenants, and tenants need the role tenant",
		"access.groups.e.roles: a role that sees every tenant leaves nothing",
		"access.groups.e.tenants[0]",
		"access.groups.flyball_reader: names that begin with flyball",
		"access.groups.f.roles: name one of",
		"access.embargoed_models[0]", "access.embargoed_models[1]", "access.unrestricted[0]",
	} {
		require.ErrorContains(t, err, want)
	}
}

// TestAccessExamples: what the documentation and the shipped configuration propose is accepted.
func TestAccessExamples(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	_, after, found := strings.Cut(string(page), "```yaml\naccess:")
	require.True(t, found)
	section, _, _ := strings.Cut(after, "```")
	examples := []string{"access:" + section}

	shipped, err := os.ReadFile("../../deploy/flyball.yaml")
	require.NoError(t, err)
	_, after, found = strings.Cut(string(shipped), "\n# access:\n")
	require.True(t, found)
	section, _, _ = strings.Cut(after, "\n\n")
	examples = append(examples, "access:\n"+regexp.MustCompile(`(?m)^# `).ReplaceAllString(section, ""))

	for _, example := range examples {
		c, err := Parse([]byte(example), none)
		require.NoError(t, err, example)
		require.NotEmpty(t, c.Access.Groups)
		require.NotEmpty(t, c.Access.EmbargoedModels)
		require.Equal(t, []string{"backup"}, c.Access.Unrestricted)
	}
}
