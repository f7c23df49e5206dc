package activities

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	// now is when tests that pass their own time begin: well inside an hour.
	now = time.Date(2026, 3, 2, 3, 10, 0, 0, time.UTC)
	// tuning is that of real time.
	tuning = contract.NewTuning(1)

	opus  = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	haiku = usage.Key{Tenant: "org_42", Model: "claude-3-haiku"}
	other = usage.Key{Tenant: "datamill", Model: "gpt-4o"}
	whole = usage.Key{Tenant: "org_42", Model: usage.AnyModel}
)

// shipped is the set of the shipped policies, whose own tests are run elsewhere.
var shipped = sync.OnceValues(func() (*policy.Set, error) { return policy.Compile(policies.Files) })

// shippedSet gives the shipped policies.
func shippedSet(t *testing.T) func() *policy.Set {
	t.Helper()
	set, err := shipped()
	require.NoError(t, err)
	return func() *policy.Set { return set }
}

// silent is a log for tests that do not look at it.
func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// recorded is a log that can be read.
func recorded() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

// bench runs one activity inside a bubble of simulated time, as a worker would.
type bench struct {
	*testsuite.TestActivityEnvironment
	callOff context.CancelFunc // what the server does to a cancelled activity
	stop    chan struct{}      // closed when the worker is asked to stop
	beats   []beat
	ctx     context.Context
	result  any
	err     error
}

// beat is one heartbeat.
type beat struct {
	at      time.Time
	details any
}

// newBench is a bench for the activities of a struct.
func newBench(t *testing.T, activities any) *bench {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(silent()))
	b := &bench{TestActivityEnvironment: suite.NewTestActivityEnvironment(), stop: make(chan struct{})}
	b.ctx, b.callOff = context.WithCancel(t.Context())
	t.Cleanup(b.callOff)
	b.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{&tap{bench: b}}})
	b.SetWorkerStopChannel(b.stop)
	b.RegisterActivity(activities)
	return b
}

// run executes an activity, and returns what it returned.
func run[R any](t *testing.T, b *bench, activity, request any) (R, error) {
	t.Helper()
	// The environment's own answer is that ten minutes are up, whatever an activity did that took longer.
	_, _ = b.ExecuteActivity(activity, request)
	result, ok := b.result.(R)
	require.True(t, ok, "the activity did not run")
	return result, b.err
}

// tap sees every heartbeat, which the environment passes on only now and then, and takes the
// environment's deadline from the activity.
type tap struct {
	interceptor.WorkerInterceptorBase
	bench *bench
}

func (t *tap) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	in := &inbound{bench: t.bench}
	in.Next = next
	return in
}

type inbound struct {
	interceptor.ActivityInboundInterceptorBase
	bench *bench
}

func (i *inbound) Init(next interceptor.ActivityOutboundInterceptor) error {
	out := &outbound{bench: i.bench}
	out.Next = next
	return i.Next.Init(out)
}

func (i *inbound) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(i.bench.ctx, cancel)()
	i.bench.result, i.bench.err = i.Next.ExecuteActivity(ctx, in)
	return i.bench.result, i.bench.err
}

type outbound struct {
	interceptor.ActivityOutboundInterceptorBase
	bench *bench
}

func (o *outbound) RecordHeartbeat(ctx context.Context, details ...any) {
	o.bench.beats = append(o.bench.beats, beat{at: time.Now(), details: details[0]})
	o.Next.RecordHeartbeat(ctx, details...)
}
