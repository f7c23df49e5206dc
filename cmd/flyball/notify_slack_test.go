package main

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/notify/slacktest"
	"github.com/flyball-dev/flyball/internal/usage"
)

// signalled is a Temporal server that writes down the signals it is to keep.
type signalled struct {
	client.Client

	mu   sync.Mutex
	kept []string
}

func (s *signalled) WorkflowService() workflowservice.WorkflowServiceClient {
	return signalService{to: s}
}

// signalService is its raw side.
type signalService struct {
	workflowservice.WorkflowServiceClient
	to *signalled
}

func (s signalService) SignalWorkflowExecution(_ context.Context, r *workflowservice.SignalWorkflowExecutionRequest, _ ...grpc.CallOption) (*workflowservice.SignalWorkflowExecutionResponse, error) {
	var said struct{ Who string }
	if err := converter.GetDefaultDataConverter().FromPayloads(r.GetInput(), &said); err != nil {
		return nil, err
	}
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	s.to.kept = append(s.to.kept, r.GetSignalName()+" "+r.GetWorkflowExecution().GetWorkflowId()+" by "+said.Who)
	return &workflowservice.SignalWorkflowExecutionResponse{}, nil
}

func (s *signalled) signals() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.kept...)
}

// TestSlackTellsAndHears: from the configuration to Slack's wire, and from a press there to a durable signal.
func TestSlackTellsAndHears(t *testing.T) {
	t.Parallel()
	workspace, err := slacktest.Listen("127.0.0.1:0", "C0PAGES", "C0FINDINGS")
	require.NoError(t, err)
	t.Cleanup(workspace.Close)
	workspace.AddUser("U0ADA", "Ada")
	parsed, err := config.Parse([]byte(`notify:
  console: https://flyball.example.com
  slack:
    bot_token: "${BOT}"
    app_token: "${APP}"
    channels: {on_call: C0PAGES, findings: C0FINDINGS, experiments: C0FINDINGS}
    api: "`+workspace.API()+`"
`), func(name string) (string, bool) {
		token, ok := map[string]string{"BOT": slacktest.BotToken, "APP": slacktest.AppToken}[name]
		return token, ok
	})
	require.NoError(t, err)
	s := front(t, func(c *config.Config) { c.Notify = parsed.Notify })

	key, at := usage.Key{Tenant: "org_42", Model: "claude-3-opus"}, time.Now().UTC().Truncate(time.Second)
	post := func(k usage.Key, level detect.Level) string {
		id := contract.IncidentID(k, at)
		result, err := s.router().Post(t.Context(), contract.Notice{
			Kind: contract.NoticeEscalated, ID: id, Incident: id, Key: k, Level: level, Opened: at, At: at, Title: "cost × 3",
			State: &contract.IncidentState{
				ID: id, Level: level, Phase: contract.IncidentOpen,
				Input: contract.IncidentInput{Key: k, Opened: at, Level: level, Tuning: contract.NewTuning(1)},
			},
		})
		require.NoError(t, err)
		require.Equal(t, []string{"slack"}, result.Posted)
		return id
	}
	incident := post(key, detect.Page)
	post(key.OfExperiment("ab"), detect.Page)
	require.Len(t, workspace.Messages("C0FINDINGS"), 1, "an experiment never pages")
	require.Len(t, workspace.Messages("C0PAGES"), 1, "Slack alone hears of pages where there is no pager")
	card := workspace.Messages("C0PAGES")[0]
	require.Contains(t, string(card.Blocks), s.links().Incident(incident))

	ctx, stop := context.WithCancel(t.Context())
	listening := make(chan struct{})
	go func() { defer close(listening); s.listenToSlack(ctx) }()
	t.Cleanup(func() { stop(); <-listening })
	require.Eventually(t, func() bool { return workspace.Connections() > 0 }, 10*time.Second, 10*time.Millisecond)
	temporal := &signalled{}
	s.people.arrive(temporal, s.config)
	press, err := workspace.Press("U0ADA", "C0PAGES", card.TS, "acknowledge", "")
	require.NoError(t, err)
	_, err = workspace.Deliver("envelope-1", press)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(temporal.signals()) == 1 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, "acknowledge "+incident+" by Ada (Slack U0ADA)", temporal.signals()[0])

	slack, err := (&system{config: s.config}).newSlack()
	require.NoError(t, err)
	e := &examination{config: s.config, slack: slack}
	require.NoError(t, e.examine(t.Context(), e.channels(), doctorOptions{within: 10 * time.Second}, io.Discard))
	s.config.Notify.Slack.BotToken = "xoxb-guessed"
	e.slack, err = (&system{config: s.config}).newSlack()
	require.NoError(t, err)
	var text strings.Builder
	require.Error(t, e.examine(t.Context(), e.channels(), doctorOptions{within: 10 * time.Second}, &text), "a token that Slack does not know")
	require.Contains(t, text.String(), "notify.slack.bot_token")
	require.NotContains(t, text.String(), "xoxb-guessed")
	require.Equal(t, "of", toward(contract.RollBack))
}
