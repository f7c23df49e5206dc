package notify

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/contract"
)

// The manifest has what Slack's schema wants, within its bounds, and nothing that the schema does not know.
func TestSlackManifest(t *testing.T) {
	t.Parallel()
	type manifest struct {
		Display struct {
			Name, Description string
			BackgroundColor   string `yaml:"background_color"`
		} `yaml:"display_information"`
		Features struct {
			BotUser struct {
				DisplayName  string `yaml:"display_name"`
				AlwaysOnline bool   `yaml:"always_online"`
			} `yaml:"bot_user"`
		}
		OAuth struct {
			Scopes struct{ Bot []string }
		} `yaml:"oauth_config"`
		Settings struct {
			Interactivity struct {
				IsEnabled  bool   `yaml:"is_enabled"`
				RequestURL string `yaml:"request_url"`
			}
			SocketMode bool `yaml:"socket_mode_enabled"`
		}
	}
	read := func(address string) (m manifest) {
		text, err := SlackManifest(address)
		require.NoError(t, err)
		decoder := yaml.NewDecoder(bytes.NewReader(text))
		decoder.KnownFields(true)
		require.NoError(t, decoder.Decode(&m), string(text))
		require.NotEmpty(t, m.Display.Name)
		require.LessOrEqual(t, len(m.Display.Name), 35)
		require.LessOrEqual(t, len(m.Display.Description), 140)
		require.Regexp(t, `^#[0-9a-f]{6}$`, m.Display.BackgroundColor)
		require.NotEmpty(t, m.Features.BotUser.DisplayName, "without a bot user there is no bot token")
		require.True(t, m.Settings.Interactivity.IsEnabled)
		return m
	}
	m := read("")
	require.True(t, m.Settings.SocketMode)
	require.Empty(t, m.Settings.Interactivity.RequestURL)
	for _, address := range []string{"https://flyball.example", "https://flyball.example/", "https://flyball.example/hooks/slack"} {
		m = read(address)
		require.False(t, m.Settings.SocketMode)
		require.Equal(t, "https://flyball.example/hooks/slack", m.Settings.Interactivity.RequestURL)
	}
	for _, address := range []string{"http://flyball.example", "flyball.example", "https://flyball.example/?x=1", "://"} {
		_, err := SlackManifest(address)
		require.Error(t, err, address)
	}
}

// The scopes are those that the methods need which are called, and no more.
func TestSlackScopes(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	h.slack.o.Chart = func(context.Context, contract.Notice) ([]byte, error) { return []byte("png"), nil }
	n := notice(contract.NoticeOpened, 1, h.incident)
	require.NoError(t, h.slack.Post(t.Context(), n))
	h.send(t, h.press(t, "U0ADA", actDeny, ""))
	h.send(t, h.press(t, "U0ADA", actAcknowledge, ""))
	h.hears(t, "U0ADA", "taken it on")
	needs := map[string][]string{
		"chat.postMessage": {"chat:write"}, "chat.update": {"chat:write"}, "chat.postEphemeral": {"chat:write"},
		"conversations.history": {"channels:history", "groups:history", "metadata.message:read"},
		"conversations.replies": {"channels:history", "groups:history", "metadata.message:read"},
		"users.info":            {"users:read"}, "views.open": nil,
		"files.getUploadURLExternal": {"files:write"}, "files.completeUploadExternal": {"files:write"},
	}
	var want []string
	for _, method := range h.Called() {
		scopes, listed := needs[method]
		require.True(t, listed, "%s: which scope does it need?", method)
		want = append(want, scopes...)
		delete(needs, method)
	}
	delete(needs, "chat.update") // by other tests
	require.Empty(t, needs, "not called here")
	slices.Sort(want)
	require.Equal(t, slices.Compact(want), slackScopes)
}
