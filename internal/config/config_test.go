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
			"profile: fast\nspool: ''\nredis:\n  addr: localhost\nclickhouse:\n  url: db:8123\n  password: ${NOPE}\ntokens: [{hash: abc, next_hash: def}]\n",
			[]string{"NOPE is not set", `"fast" is neither`, "spool", "redis.addr", "clickhouse.url", "tokens[0].hash", "tokens[0].next_hash"},
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
