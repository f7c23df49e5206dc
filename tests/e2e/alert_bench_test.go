//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/policies"
)

// alertBench is a stack in which many keys make five calls a second each, and fail one after the other.
type alertBench struct {
	*stack
	worker  *process
	traffic *traffic
	kinds   []*injected
	mended  map[usage.Key]bool
	early   int // incidents that opened before their key's fault
	idle    struct {
		keys      int
		lasted    time.Duration
		workflows int // beside the sweep
		beats     int // heartbeats of the sweep's activity
		sweep     actions
	}
}

// injected is one kind of fault, put into some keys, and what came of it.
type injected struct {
	name        string
	fault       fault
	scored      float64
	level       detect.Level // to wait for
	streams     []*stream
	fromFault   []float64 // seconds until the level was posted
	fromRule    []float64
	missed      int
	unexplained int // posted though the rule never held on what was stored, as computed here
}

// every is the mean time between two injections: so many keys fail at a time that the machine still keeps
// up with their incidents.
const every = 2 * time.Second

// gaveUp is when a fault counts as not seen.
const gaveUp = 10 * time.Minute

func newAlertBench(t *testing.T, n int) *alertBench {
	b := &alertBench{kinds: []*injected{
		{name: "cost × 3, quality −20 %, 10 % scored", fault: fault{cost: 3, quality: 0.8, volume: 1}, scored: 0.1, level: detect.Page},
		{name: "cost × 3, quality −20 %, all scored", fault: fault{cost: 3, quality: 0.8, volume: 1}, scored: 1, level: detect.Page},
		{name: "volume × 5, 10 % scored", fault: fault{cost: 1, quality: 1, volume: 5}, scored: 0.1, level: detect.Investigate},
	}, mended: map[usage.Key]bool{}}
	var all []*stream
	for _, kind := range b.kinds {
		for range n {
			s := &stream{n: len(all), rate: 5, scored: kind.scored}
			kind.streams, all = append(kind.streams, s), append(all, s)
		}
	}
	b.stack = up(t, filepath.Join(t.TempDir(), "state"), "--port-base", freeBase(t), "--no-simulator", "--no-worker")
	front := b.front(all)
	b.traffic = newTraffic(t, front, 0.8, 0.1, all)
	b.traffic.storeHistory(b.stack, time.Now())
	b.traffic.start(time.Now().Add(-16 * time.Minute))
	b.until("the traffic of the last quarter of an hour is there", 10*time.Minute, b.traffic.caughtUp)
	b.worker = start(t, "flyball", "serve", "--role", "worker", "--config", b.config("standard", b.redisSection()))
	b.until("every key has a baseline", 2*time.Minute, func() bool {
		rows, err := b.trySQL("SELECT uniqExact(tenant_id) FROM baselines WHERE model != '*' AND cost_buckets >= 12 AND quality_buckets >= 12")
		return err == nil && rows[0][0] == strconv.Itoa(len(all))
	})
	return b
}

// front starts ingest and gateway with a price book for the streams, and returns their address.
func (s *stack) front(streams []*stream, sections ...string) string {
	s.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	address := listener.Addr().String()
	require.NoError(s.t, listener.Close())
	prices := filepath.Join(s.t.TempDir(), "book.yaml")
	require.NoError(s.t, os.WriteFile(prices, []byte(book(streams)), 0o600))
	if len(sections) == 0 {
		sections = []string{s.redisSection()}
	}
	sections = append(sections, fmt.Sprintf("price_book: %q\nspool: %q\ningest: {listen: %q}\notlp: {listen: \"\"}", prices, s.t.TempDir(), address))
	start(s.t, "flyball", "serve", "--role", "ingest,gateway", "--config", s.config("standard", sections...))
	s.until("ingest answers", time.Minute, func() bool {
		response, err := http.Get("http://" + address + "/healthz")
		if err == nil {
			response.Body.Close()
		}
		return err == nil
	})
	return "http://" + address
}

// quiet lets all keys be as usual for a while and counts what Temporal is asked to do meanwhile.
func (b *alertBench) quiet(lasts time.Duration) {
	client := b.dialTemporal()
	defer client.Close()
	before, began := b.actionsOf(client, contract.SweepID(0)), time.Now()
	var beat time.Time
	b.until("the quiet time is over", lasts+time.Minute, func() bool {
		d, err := client.DescribeWorkflowExecution(b.t.Context(), contract.SweepID(0), "")
		if err == nil && len(d.GetPendingActivities()) > 0 {
			if at := d.GetPendingActivities()[0].GetLastHeartbeatTime().AsTime(); at.After(beat) {
				beat = at
				b.idle.beats++
			}
		}
		return time.Since(began) >= lasts
	})
	b.idle.keys, b.idle.lasted = len(b.traffic.streams), time.Since(began)
	b.idle.workflows = b.running("AlertLoop") + b.running("Incident") + b.running("Group")
	b.idle.sweep = b.actionsOf(client, contract.SweepID(0)).minus(before)
}

// run injects the faults in random order, about one each two seconds, ends each when it is seen, and
// computes what the tables show.
func (b *alertBench) run() {
	type injection struct {
		kind   *injected
		stream *stream
		at     time.Time
	}
	var all []*injection
	for _, kind := range b.kinds {
		for _, s := range kind.streams {
			all = append(all, &injection{kind: kind, stream: s})
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	begins := time.Now()
	for i, x := range all {
		x.at = begins.Add(time.Duration(i)*every + rand.N(every))
	}
	next := 0
	seen := map[usage.Key]time.Time{}
	b.until("all faults are seen, or given up", time.Duration(len(all))*every+gaveUp+time.Minute, func() bool {
		for ; next < len(all) && !time.Now().Before(all[next].at); next++ {
			all[next].stream.inject(all[next].kind.fault)
		}
		posted := firstPosts(b.posts())
		waiting := 0
		for _, x := range all[:next] {
			key := x.stream.key()
			at, ok := posted[posting{key, x.kind.level}]
			switch {
			case b.mended[key]:
			case ok, time.Since(x.stream.fault.begins) > gaveUp:
				x.stream.mend()
				b.mended[key] = true
				if ok {
					seen[key] = at
				}
			default:
				waiting++
			}
		}
		return next == len(all) && waiting == 0
	})
	opened := firstPosts(b.posts())
	for _, x := range all {
		key, began := x.stream.key(), x.stream.fault.begins
		at, ok := seen[key]
		if !ok {
			x.kind.missed++
			b.t.Logf("not seen: %s of %s", x.kind.name, key)
			continue
		}
		for _, level := range []detect.Level{detect.Page, detect.Investigate} {
			if first, ok := opened[posting{key, level}]; ok && first.Before(began) {
				b.early++
				b.t.Logf("%s was %s %s before its fault", key, level, began.Sub(first))
			}
		}
		x.kind.fromFault = append(x.kind.fromFault, at.Sub(began).Seconds())
		if held, ok := b.ruleHeld(x.stream, x.kind.level, at); ok {
			x.kind.fromRule = append(x.kind.fromRule, at.Sub(held).Seconds())
		} else {
			x.kind.unexplained++
		}
	}
}

// post is a notice as the log channel posted it.
type post struct {
	at    time.Time
	kind  contract.NoticeKind
	id    string
	level detect.Level
}

// noticeLine is what a worker's log says of a notice.
var noticeLine = regexp.MustCompile(`(?m)^time=(\S+) level=INFO .* notice=(\S+) id="?([^" ]+)"? .* level=(PAGE|INVESTIGATE)\b`)

// posts are the notices of the worker so far. This is where a channel's own record of what it has
// received takes the place of the log.
func (b *alertBench) posts() []post { return readPosts(b.t, b.worker.output()) }

func readPosts(t *testing.T, log string) []post {
	var all []post
	for _, m := range noticeLine.FindAllStringSubmatch(log, -1) {
		at, err := time.Parse(time.RFC3339Nano, m[1])
		require.NoError(t, err)
		all = append(all, post{at, contract.NoticeKind(m[2]), m[3], detect.Level(m[4])})
	}
	return all
}

// posting is a level of a key that people were told.
type posting struct {
	key   usage.Key
	level detect.Level
}

// firstPosts are the times at which each key's levels were first told.
func firstPosts(posts []post) map[posting]time.Time {
	first := map[posting]time.Time{}
	for _, p := range posts {
		if p.kind != contract.NoticeOpened && p.kind != contract.NoticeEscalated {
			continue
		}
		key, err := contract.KeyOf(p.id)
		if err != nil {
			continue // of a group
		}
		if at, ok := first[posting{key, p.level}]; !ok || p.at.Before(at) {
			first[posting{key, p.level}] = p.at
		}
	}
	return first
}

// stored is a call's cost or a score, as its code.
type stored struct {
	minute int64
	at     time.Time // when it was stored
	code   int16
	cost   float64
}

// ruleHeld is the first second after the fault's begin at which alert.yaml says the level, or a higher
// one, of what was stored by then.
func (b *alertBench) ruleHeld(s *stream, level detect.Level, posted time.Time) (time.Time, bool) {
	set, err := policy.Load(policies.Files)
	require.NoError(b.t, err)
	began := s.fault.begins.Truncate(time.Second)
	from := began.Add(-16 * time.Minute).Unix()
	costs := b.stored("SELECT toUnixTimestamp(toStartOfMinute(timestamp)), toUnixTimestamp64Milli(ingested_at), cost_pico_usd FROM spans WHERE tenant_id='%s' AND timestamp >= toDateTime(%d) ORDER BY ingested_at", s.key().Tenant, from)
	scores := b.stored("SELECT toUnixTimestamp(toStartOfMinute(timestamp)), toUnixTimestamp64Milli(ingested_at), score FROM quality WHERE tenant_id='%s' AND timestamp >= toDateTime(%d) ORDER BY ingested_at", s.key().Tenant, from)
	baseline := b.baseline(s.key())
	for at := began; at.Before(posted); at = at.Add(time.Second) {
		o := observe(s.key(), costs, scores, at)
		verdict, err := set.Alert(detect.Assemble(o, baseline, detect.DefaultMinimums, detect.None))
		require.NoError(b.t, err)
		if verdict.Level == level || verdict.Level == detect.Page {
			return at, true
		}
	}
	return time.Time{}, false
}

func (b *alertBench) stored(query string, args ...any) []stored {
	rows := b.sql(query, args...)
	all := make([]stored, len(rows))
	for i, row := range rows {
		minute, err := strconv.ParseInt(row[0], 10, 64)
		require.NoError(b.t, err)
		at, err := strconv.ParseInt(row[1], 10, 64)
		require.NoError(b.t, err)
		value, err := strconv.ParseFloat(row[2], 64)
		require.NoError(b.t, err)
		all[i] = stored{minute: minute / 60, at: time.UnixMilli(at)}
		if value > 1 { // pico-dollars
			all[i].cost = value
			all[i].code, _ = kpi.CostCode(usage.PicoUSD(value))
		} else {
			all[i].code = kpi.QualityCode(value)
		}
	}
	return all
}

// baseline is the key's in the newest slot: it has the same history in each.
func (b *alertBench) baseline(k usage.Key) detect.Baseline {
	rows := b.sql("SELECT cost_buckets, ln_cost, ln_cost_dev, ln_cost_sd, cost_bucket_n, quality_buckets, quality, quality_dev, quality_sd, quality_bucket_n, spend_per_minute_pico, spend_dev, requests_per_minute FROM baselines FINAL WHERE tenant_id='%s' AND model='%s' ORDER BY slot DESC LIMIT 1", k.Tenant, k.Model)
	require.Len(b.t, rows, 1)
	v := make([]float64, len(rows[0]))
	for i, text := range rows[0] {
		var err error
		v[i], err = strconv.ParseFloat(text, 64)
		require.NoError(b.t, err)
	}
	return detect.Baseline{
		Key: k, CostBuckets: int(v[0]), LnCost: v[1], LnCostDev: v[2], LnCostSD: v[3], CostBucketN: v[4],
		QualityBuckets: int(v[5]), Quality: v[6], QualityDev: v[7], QualitySD: v[8], QualityBucketN: v[9],
		SpendPerMinute: v[10], SpendDev: v[11], RequestsPerMin: v[12],
	}
}

// observe is the sweep's row of what was stored at a time, without the quantities that these faults leave
// alone.
func observe(k usage.Key, costs, scores []stored, at time.Time) detect.Observation {
	o := detect.Observation{Key: k}
	current := at.Unix() / 60
	var spend [2]float64 // of this minute and the last
	for i, length := range detect.Windows {
		within := func(all []stored) (codes []int16) {
			for _, s := range all {
				if s.at.After(at) {
					break // they are in the order of storing
				}
				if back := current - s.minute; back >= 0 && back < int64(length) {
					codes = append(codes, s.code)
				}
			}
			slices.Sort(codes)
			return codes
		}
		c, q := within(costs), within(scores)
		o.Windows[i] = detect.Window{CostN: len(c), QualityN: len(q)}
		if len(c) > 0 {
			o.Windows[i].LnCost = kpi.LnCost(float64(c[(len(c)-1)/2]))
		}
		if len(q) > 0 {
			o.Windows[i].Quality = kpi.Score(float64(q[(len(q)-1)/2]))
		}
		o.Whole.Requests = int64(len(c))
	}
	for _, s := range costs {
		if back := current - s.minute; !s.at.After(at) && (back == 0 || back == 1) {
			spend[back] += s.cost
		}
	}
	o.SpendLastPico = max(spend[1], spend[0]*detect.SpendScale(time.Duration(at.Unix()%60)*time.Second))
	return o
}

// printAside prints what the figures depend on: whether keys were grouped, and how many incidents opened
// without a fault.
func (b *alertBench) printAside() {
	b.t.Logf("%d keys of 5 calls/s, %d calls sent; one fault each %s; standard profile: holds of 20 s (PAGE) and 10 s (INVESTIGATE)", len(b.traffic.streams), b.traffic.calls.Load(), every)
	b.t.Logf("incidents of many keys: %d; incidents before their key's fault: %d", b.running("Group"), b.early)
}
