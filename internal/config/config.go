// Package config is Flyball's configuration: one typed struct, read from one YAML file, checked once,
// with every error at once.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Role is a part of Flyball that a process may run.
type Role string

// The roles.
const (
	Worker  Role = "worker"  // workflows and activities: sweep, alerts, incidents, decisions
	Ingest  Role = "ingest"  // POST /v1/spans, /v1/quality, /v1/deployments; OTLP; LiteLLM
	Gateway Role = "gateway" // POST /v1/decide, and calls of models
	Console Role = "console" // pages and their API
)

// Roles are all of them.
func Roles() []Role { return []Role{Worker, Ingest, Gateway, Console} }

// ParseRoles reads a comma-separated list.
func ParseRoles(list string) ([]Role, error) {
	var roles []Role
	for name := range strings.SplitSeq(list, ",") {
		role := Role(strings.TrimSpace(name))
		if !slices.Contains(Roles(), role) {
			return nil, fmt.Errorf("role %q is none of worker, ingest, gateway, console", name)
		}
		roles = append(roles, role)
	}
	return roles, nil
}

// Profile sets the pace of everything that waits.
type Profile string

// The profiles. Demo has low sample minimums, short holds and a runbook ten times as fast: right for
// synthetic traffic, far too nervous for real tenants.
const (
	Standard Profile = "standard"
	Demo     Profile = "demo"
)

// Tuning is what the profile gives every workflow that is started under it.
func (p Profile) Tuning() contract.Tuning {
	if p != Demo {
		return contract.NewTuning(1)
	}
	t := contract.NewTuning(0.1)
	t.Holds.Page, t.Holds.Investigate, t.Holds.Recovery = 5*time.Second, 5*time.Second, 20*time.Second
	l := &t.Limits
	l.Minimums.Cost, l.Minimums.Quality = 20, 10
	l.MinHoldback, l.FirstStep, l.SampleWithin = 0.10, 0.10, time.Minute
	l.Dwell, l.ClearFor, l.IllFor, l.SecondClear = 10*time.Second, 15*time.Second, 30*time.Second, time.Minute
	l.StepWait, l.MaxHold, l.UnprovenHold, l.CoolDown = 5*time.Minute, time.Hour, 10*time.Minute, 3*time.Minute
	return t
}

// Config is the whole configuration. Every role reads what it needs of it.
type Config struct {
	Profile     Profile           `yaml:"profile"`         // standard (default) or demo
	Policies    string            `yaml:"policies"`        // a directory; files that it lacks are the shipped ones
	Shadow      string            `yaml:"policies_shadow"` // a second directory, judged beside the first and never acted upon; empty: none
	PriceBook   string            `yaml:"price_book"`      // a file in place of the built-in book
	StatusPages map[string]string `yaml:"status_pages"`    // provider: address of its statuspage.io summary.json; none: those that the providers publish

	Rollbacks []Rollback `yaml:"rollbacks"` // webhooks that undo deployments

	Ingest     Listener   `yaml:"ingest"`      // ingest and gateway share it
	Spool      string     `yaml:"spool"`       // directory of acknowledged telemetry that is not stored yet
	Tokens     []Token    `yaml:"tokens"`      // to ingest and gateway; without any, only programs on loopback are let in
	TokensFile string     `yaml:"tokens_file"` // more of them, a list; read again when it changes
	OTLP       OTLP       `yaml:"otlp"`
	LiteLLM    LiteLLM    `yaml:"litellm"`
	Access     Access     `yaml:"access"` // who may read what of the telemetry
	Console    Listener   `yaml:"console"`
	Hosts      []string   `yaml:"hosts"` // names by which browsers address the console
	ClickHouse ClickHouse `yaml:"clickhouse"`
	Redis      Redis      `yaml:"redis"`
	Temporal   Temporal   `yaml:"temporal"`
	Notify     Notify     `yaml:"notify"` // how people hear of incidents
	Drills     Drills     `yaml:"drills"` // where the calls of drills are sent
	Gateway    Gate       `yaml:"gateway"`
	Router     Router     `yaml:"router"`

	Evaluators string  `yaml:"evaluators"` // a directory over the shipped ones, or shipped; empty: nothing is scored here
	Judge      Judge   `yaml:"judge"`
	Content    Content `yaml:"content"`
}

// Listener is where a server listens.
type Listener struct {
	Listen string `yaml:"listen"` // host:port
}

// OTLP is how OpenTelemetry is taken in. OTLP/HTTP is served beside the rest of ingest.
type OTLP struct {
	Listen          string `yaml:"listen"`           // host:port of OTLP/gRPC; empty: not served
	TenantAttribute string `yaml:"tenant_attribute"` // names the tenant where neither flyball.tenant_id nor tenant.id does
}

// LiteLLM is how LiteLLM's log is taken in.
type LiteLLM struct {
	Tenant []string `yaml:"tenant"` // fields of its metadata that name the tenant; the first that is there wins
}

// Token lets a sender of telemetry in, and one without a tenant whoever asks the gateway too. What is left
// out of the limits and times does not limit.
type Token struct {
	Name              string    `yaml:"name"`       // in logs and answers
	Hash              string    `yaml:"hash"`       // the hex SHA-256 of the secret
	NextHash          string    `yaml:"next_hash"`  // of a second secret, while it replaces the first
	Tenant            string    `yaml:"tenant"`     // empty: trusted for all tenants
	Scopes            []string  `yaml:"scopes"`     // spans, quality, outcomes, deployments, decide, budgets, calls; left out: all telemetry, and decide where it is trusted for all
	NotBefore         time.Time `yaml:"not_before"` // RFC 3339
	Expires           time.Time `yaml:"expires"`
	RequestsPerSecond float64   `yaml:"requests_per_second"`
	RecordsPerSecond  float64   `yaml:"records_per_second"`
	MaxBody           int64     `yaml:"max_body"` // bytes of one request after decompression
}

// LoadTokens reads the file of tokens: a list of them. An empty one is refused, since it would open ingest
// to every program on this machine.
func LoadTokens(path string) ([]Token, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the ingest tokens: %w", err)
	}
	var tokens []Token
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	if err := decoder.Decode(&tokens); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("%s: lists no token: see flyball token new", path)
	}
	if err := checkTokens(tokens); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return tokens, nil
}

func checkTokens(tokens []Token) error {
	var errs []error
	for i, t := range tokens {
		if !tokenHash.MatchString(t.Hash) {
			errs = append(errs, fmt.Errorf("tokens[%d].hash: want the 64 hex digits of the secret's SHA-256", i))
		}
		if t.NextHash != "" && !tokenHash.MatchString(t.NextHash) {
			errs = append(errs, fmt.Errorf("tokens[%d].next_hash: want the 64 hex digits of the secret's SHA-256", i))
		}
	}
	return errors.Join(errs...)
}

// ClickHouse is where telemetry is stored.
type ClickHouse struct {
	URL      string `yaml:"url"`
	User     string `yaml:"user"`
	Password string `yaml:"password"`
	Database string `yaml:"database"`

	StoragePolicy string `yaml:"storage_policy"` // that migrate puts the raw tables under; empty: leaves them as they are
	Cluster       string `yaml:"cluster"`        // on whose servers migrate makes replicated tables; empty: the one at url
}

// clickHouseName is the form of StoragePolicy and Cluster.
var clickHouseName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// Redis is where flags are published.
type Redis struct {
	Addr     string `yaml:"addr"`
	Password string `yaml:"password"`
}

// Temporal is where workflows live.
type Temporal struct {
	Address   string `yaml:"address"`
	Namespace string `yaml:"namespace"`
	UI        string `yaml:"ui"` // its UI's address, for links
}

// Default is what a file need not say.
func Default() Config {
	return Config{
		Profile: Standard,
		OTLP:    OTLP{Listen: "127.0.0.1:4317"},
		LiteLLM: LiteLLM{Tenant: []string{"user_api_key_team_id", "user_api_key_org_id", "user_api_key_alias"}},
		Ingest:  Listener{"127.0.0.1:8080"}, Console: Listener{"127.0.0.1:8088"}, Spool: "spool",
		ClickHouse: ClickHouse{URL: "http://127.0.0.1:8123", User: "default", Database: "flyball"},
		Redis:      Redis{Addr: "127.0.0.1:6379"},
		Temporal:   Temporal{Address: "127.0.0.1:7233", Namespace: "default"},
		Notify:     Notify{PagerDuty: PagerDuty{API: "https://events.pagerduty.com"}},
		Gateway:    defaultGate, Router: defaultRouter,
		Judge: defaultJudge, Content: Content{Retention: 7 * 24 * time.Hour},
	}
}

// variable is a reference to the environment.
var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// Load reads a file over the defaults. ${NAME} stands for the environment variable, which must be
// set; lookup is os.LookupEnv. Unknown and doubled keys are refused.
func Load(path string, lookup func(string) (string, bool)) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := Parse(raw, lookup)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse is Load on a file's content.
func Parse(raw []byte, lookup func(string) (string, bool)) (Config, error) {
	var missing []error
	expand := func(value string) string {
		return variable.ReplaceAllStringFunc(value, func(ref string) string {
			name := ref[2 : len(ref)-1]
			v, ok := lookup(name)
			if !ok {
				missing = append(missing, fmt.Errorf("environment variable %s is not set", name))
			}
			return v
		})
	}
	text := raw // decoded as it is where nothing is to be expanded, so that errors name the file's own lines
	if variable.Match(raw) {
		var doc yaml.Node
		if err := yaml.Unmarshal(raw, &doc); err != nil {
			return Config{}, err
		}
		expandNode(&doc, expand)
		var err error
		if text, err = yaml.Marshal(&doc); err != nil {
			return Config{}, err
		}
	}
	c := Default()
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, err
	}
	if err := errors.Join(append(missing, c.Validate())...); err != nil {
		return Config{}, err
	}
	return c, nil
}

// expandNode expands every scalar value after parsing, so that a secret's characters cannot change
// the file's structure.
func expandNode(n *yaml.Node, expand func(string) string) {
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "${") {
		n.Value = expand(n.Value)
		n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
	}
	for _, child := range n.Content {
		expandNode(child, expand)
	}
}

// tokenHash is the form of Token.Hash.
var tokenHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Validate reports everything that is wrong, at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Profile == Standard || c.Profile == Demo, "profile: %q is neither standard nor demo", c.Profile)
	for name, listen := range map[string]string{"ingest.listen": c.Ingest.Listen, "console.listen": c.Console.Listen, "redis.addr": c.Redis.Addr, "temporal.address": c.Temporal.Address} {
		_, _, err := net.SplitHostPort(listen)
		check(err == nil, "%s: %q is not host:port", name, listen)
	}
	if c.OTLP.Listen != "" {
		_, _, err := net.SplitHostPort(c.OTLP.Listen)
		check(err == nil, "otlp.listen: %q is not host:port; leave it empty to serve no OTLP/gRPC", c.OTLP.Listen)
	}
	check(len(c.LiteLLM.Tenant) > 0, "litellm.tenant: name at least one field of LiteLLM's metadata")
	u, err := url.Parse(c.ClickHouse.URL)
	check(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", "clickhouse.url: %q is not http://host:port or https://host:port", c.ClickHouse.URL)
	for provider, page := range c.StatusPages {
		u, err := url.Parse(page)
		check(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", "status_pages.%s: %q is not an http or https address", provider, page)
	}
	check(c.Spool != "", "spool: name a directory that survives restarts")
	check(c.ClickHouse.Database != "", "clickhouse.database: name the database")
	for key, name := range map[string]string{"storage_policy": c.ClickHouse.StoragePolicy, "cluster": c.ClickHouse.Cluster} {
		check(name == "" || clickHouseName.MatchString(name), "clickhouse.%s: %q must be letters, digits, dots, dashes and underscores", key, name)
	}
	check(c.Temporal.Namespace != "", "temporal.namespace: name the namespace")
	errs = append(errs, c.Access.problems()...)
	errs = append(errs, c.Notify.problems()...)
	errs = append(errs, c.Drills.problems()...)
	errs = append(errs, c.Gateway.problems()...)
	errs = append(errs, c.Router.problems()...)
	errs = append(errs, checkRollbacks(c.Rollbacks)...)
	errs = append(errs, c.Judge.problems()...)
	errs = append(errs, c.Content.problems()...)
	if err := checkTokens(c.Tokens); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
