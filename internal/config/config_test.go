package config

import (
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
			"profile: fast\nspool: ''\nredis:\n  addr: localhost\nclickhouse:\n  url: db:8123\n  password: ${NOPE}\ntokens: [{hash: abc}]\notlp: {listen: '4317'}\nlitellm: {tenant: []}\n",
			[]string{"otlp.listen", "litellm.tenant", "NOPE is not set", `"fast" is neither`, "spool", "redis.addr", "clickhouse.url", "tokens[0].hash"},
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
