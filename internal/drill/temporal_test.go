package drill

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// server is a Temporal server that knows one history.
type server struct {
	events  []*history.HistoryEvent
	err     error
	signals []string
}

func (s *server) QueryWorkflow(context.Context, string, string, string, ...any) (converter.EncodedValue, error) {
	return nil, s.err
}

func (s *server) SignalWorkflow(_ context.Context, id, _, name string, _ any) error {
	s.signals = append(s.signals, name+" "+id)
	return s.err
}

func (s *server) GetWorkflowHistory(context.Context, string, string, bool, enums.HistoryEventFilterType) client.HistoryEventIterator {
	return &events{left: s.events}
}

type events struct{ left []*history.HistoryEvent }

func (e *events) HasNext() bool { return len(e.left) > 0 }

func (e *events) Next() (next *history.HistoryEvent, err error) {
	next, e.left = e.left[0], e.left[1:]
	return next, nil
}

func payload(t *testing.T, v any) *commonpb.Payloads {
	t.Helper()
	p, err := converter.GetDefaultDataConverter().ToPayloads(v)
	require.NoError(t, err)
	return p
}

func TestToldIsTheAnswerOfTheChannels(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
	scheduled := func(id int64, activity string, n contract.Notice) *history.HistoryEvent {
		return &history.HistoryEvent{EventId: id, EventTime: timestamppb.New(at), Attributes: &history.HistoryEvent_ActivityTaskScheduledEventAttributes{
			ActivityTaskScheduledEventAttributes: &history.ActivityTaskScheduledEventAttributes{ActivityType: &commonpb.ActivityType{Name: activity}, Input: payload(t, n)},
		}}
	}
	completed := func(id, of int64, after time.Duration, r contract.PostResult) *history.HistoryEvent {
		return &history.HistoryEvent{EventId: id, EventTime: timestamppb.New(at.Add(after)), Attributes: &history.HistoryEvent_ActivityTaskCompletedEventAttributes{
			ActivityTaskCompletedEventAttributes: &history.ActivityTaskCompletedEventAttributes{ScheduledEventId: of, Result: payload(t, r)},
		}}
	}
	s := &server{events: []*history.HistoryEvent{
		scheduled(5, "Post", contract.Notice{Kind: contract.NoticeOpened, Level: detect.Investigate}),
		completed(7, 5, time.Second, contract.PostResult{Posted: []string{"pagerduty"}}),
		scheduled(9, "Post", contract.Notice{Kind: contract.NoticeStep, Level: detect.Page}),
		scheduled(10, "RecordIncident", contract.Notice{Kind: contract.NoticeOpened, Level: detect.Page}),
		completed(11, 9, 2*time.Second, contract.PostResult{}), completed(12, 10, 2*time.Second, contract.PostResult{}),
		scheduled(13, "Post", contract.Notice{Kind: contract.NoticeEscalated, Level: detect.Page}),
	}}
	loop := &Temporal{Client: s}
	told, err := loop.Told(t.Context(), "incident/x/y/1", detect.Page)
	require.NoError(t, err)
	require.Nil(t, told, "it is on its way")
	s.events = append(s.events, completed(15, 13, 3*time.Second, contract.PostResult{Posted: []string{"slack"}}))
	told, err = loop.Told(t.Context(), "incident/x/y/1", detect.Page)
	require.NoError(t, err)
	require.Equal(t, &Telling{At: at.Add(3 * time.Second), Result: contract.PostResult{Posted: []string{"slack"}}}, told)
	told, err = loop.Told(t.Context(), "incident/x/y/1", detect.Investigate)
	require.NoError(t, err)
	require.Equal(t, at.Add(time.Second), told.At)
}

func TestADrillTouchesNoOtherTenant(t *testing.T) {
	t.Parallel()
	s := &server{}
	loop := &Temporal{Client: s}
	real := usage.Key{Tenant: "org_42", Model: "gpt-4o"}
	require.Error(t, loop.Resolve(t.Context(), real, "over"))
	require.Error(t, loop.Decide(t.Context(), contract.DecisionID(contract.IncidentID(real, time.Unix(1, 0)), "downgrade", 1), contract.Approve))
	require.Error(t, loop.Decide(t.Context(), "incident/group/model:gpt-4o/1", contract.Approve))
	require.Empty(t, s.signals)
	require.NoError(t, loop.Resolve(t.Context(), key, "over"))
	require.Equal(t, []string{"resolve alert/flyball-drill/claude-3-sonnet"}, s.signals)
	s.err = serviceerror.NewNotFound("it has ended")
	require.NoError(t, loop.Resolve(t.Context(), key, "over"), "what has ended needs no word")
	state, err := loop.Alert(t.Context(), key)
	require.NoError(t, err)
	require.True(t, calm(state), "a key without a loop is calm")
	_, err = loop.Tuning(t.Context())
	require.ErrorIs(t, err, ErrAway, "without a sweep nothing is found")
	s.err = errors.New("no connection")
	_, err = loop.Alert(t.Context(), key)
	require.ErrorIs(t, err, ErrAway)
}

func TestCheckSaysWhatToMend(t *testing.T) {
	t.Parallel()
	in := contract.DrillInput{}.WithDefaults()
	status := http.StatusOK
	var token string
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token = r.Header.Get("Authorization")
		w.WriteHeader(status)
	}))
	defer front.Close()
	check := func() error { return NewPlant(in, front.URL, "secret", newStage().runner().Log).Check(t.Context()) }
	require.NoError(t, check())
	require.Equal(t, "Bearer secret", token)
	status = http.StatusForbidden
	require.ErrorContains(t, check(), "drills.token")
	require.NotErrorIs(t, check(), ErrAway)
	status = http.StatusBadGateway
	require.ErrorIs(t, check(), ErrAway)
	front.Close()
	require.ErrorIs(t, check(), ErrAway)
	require.ErrorContains(t, check(), "drills.ingest")
	in.Model = "gpt-17"
	require.ErrorContains(t, check(), "claude-3-sonnet")
}
