package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Gate is the gateway through which clients call models.
type Gate struct {
	Upstreams     []Upstream    `yaml:"upstreams"`      // the first that serves a model is asked; none: OpenAI and Anthropic, as far as their keys are in the environment
	UpstreamsFile string        `yaml:"upstreams_file"` // in their place, a list; read again when it changes
	OutputCap     int64         `yaml:"output_cap"`     // tokens that a call of a tenant with budgets may generate where it does not say
	TLS           TLS           `yaml:"tls"`            // of the listener that ingest and gateway share
	MaxBody       int64         `yaml:"max_body"`       // bytes of one call
	MaxHeader     int           `yaml:"max_header"`     // bytes of one call's headers
	MaxCalls      int           `yaml:"max_calls"`      // under way at once
	BodyTime      time.Duration `yaml:"body_time"`      // in which a call's body must have come
	WriteTime     time.Duration `yaml:"write_time"`     // in which a client must take what it is sent
	Drain         time.Duration `yaml:"drain"`          // that calls under way may take once the process is told to stop
}

// TLS is a certificate with its key, in files. Without both nothing is encrypted.
type TLS struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Upstream is an endpoint that speaks OpenAI's or Anthropic's API.
type Upstream struct {
	Name         string   `yaml:"name"`
	Family       string   `yaml:"family"`        // openai or anthropic: the API
	Provider     string   `yaml:"provider"`      // by whose prices; left out: the family's own
	URL          string   `yaml:"url"`           // up to and with the version: https://api.openai.com/v1
	KeyEnv       string   `yaml:"key_env"`       // the environment variable with its key
	KeyFile      string   `yaml:"key_file"`      // or the file; read again when it changes
	Models       []string `yaml:"models"`        // patterns such as gpt-*; left out: all
	Fallback     []string `yaml:"fallback"`      // upstreams of the same family to ask, in this order, when this one cannot
	AllowPrivate bool     `yaml:"allow_private"` // it may have an address of a private network, and no TLS
	Timeouts     Timeouts `yaml:"timeouts"`
}

// Timeouts are how long an upstream may take. What is left out is what the defaults say.
type Timeouts struct {
	Connect   time.Duration `yaml:"connect"`
	FirstByte time.Duration `yaml:"first_byte"` // until it begins to answer
	Idle      time.Duration `yaml:"idle"`       // between two bytes of its answer
	Whole     time.Duration `yaml:"whole"`      // of one call
}

var defaultGate = Gate{
	OutputCap: 16_384, MaxBody: 32 << 20, MaxHeader: 64 << 10, MaxCalls: 10_000,
	BodyTime: time.Minute, WriteTime: 30 * time.Second, Drain: 30 * time.Second,
}

// defaultTimeouts are long: a model may think for minutes before it says a word.
var defaultTimeouts = Timeouts{Connect: 10 * time.Second, FirstByte: 10 * time.Minute, Idle: 5 * time.Minute, Whole: 30 * time.Minute}

// Families are the APIs that an upstream may speak, and the address of who invented each.
var families = map[string]string{"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}

// LoadUpstreams are the upstreams of the file, or else those that are configured, or else those whose keys the
// environment holds, all with their defaults; lookup is os.LookupEnv.
func (g Gate) LoadUpstreams(lookup func(string) (string, bool)) ([]Upstream, error) {
	list, where := slices.Clone(g.Upstreams), "gateway.upstreams"
	switch {
	case g.UpstreamsFile != "":
		where = g.UpstreamsFile
		raw, err := os.ReadFile(g.UpstreamsFile)
		if err != nil {
			return nil, fmt.Errorf("gateway.upstreams_file: %w", err)
		}
		decoder := yaml.NewDecoder(bytes.NewReader(raw))
		decoder.KnownFields(true)
		if err := decoder.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
	case len(list) == 0:
		for _, own := range [...]Upstream{
			{Name: "openai", Family: "openai", KeyEnv: "OPENAI_API_KEY"},
			{Name: "anthropic", Family: "anthropic", KeyEnv: "ANTHROPIC_API_KEY"},
		} {
			if key, ok := lookup(own.KeyEnv); ok && key != "" {
				list = append(list, own)
			}
		}
	}
	for i := range list {
		list[i].defaults()
	}
	if err := errors.Join(checkUpstreams(where, list)...); err != nil {
		return nil, err
	}
	return list, nil
}

func (u *Upstream) defaults() {
	if u.Provider == "" {
		u.Provider = u.Family
	}
	if u.URL == "" && u.Provider == u.Family {
		u.URL = families[u.Family]
	}
	t, d := &u.Timeouts, defaultTimeouts
	for _, x := range [...]struct {
		of        *time.Duration
		otherwise time.Duration
	}{{&t.Connect, d.Connect}, {&t.FirstByte, d.FirstByte}, {&t.Idle, d.Idle}, {&t.Whole, d.Whole}} {
		if *x.of == 0 {
			*x.of = x.otherwise
		}
	}
}

// Key is the upstream's key. Its errors do not hold it.
func (u Upstream) Key(lookup func(string) (string, bool)) (string, error) {
	key, err := readKey(u.KeyEnv, u.KeyFile, lookup)
	if err != nil {
		return "", fmt.Errorf("upstream %q: %w", u.Name, err)
	}
	return key, nil
}

// readKey is the key of an endpoint; empty where neither is named.
func readKey(env, file string, lookup func(string) (string, bool)) (string, error) {
	key := ""
	switch {
	case file != "":
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("key_file: %w", err)
		}
		if key = strings.TrimSpace(string(text)); key == "" {
			return "", fmt.Errorf("key_file: %s is empty", file)
		}
	case env != "":
		if key, _ = lookup(env); key == "" {
			return "", fmt.Errorf("key_env: the environment variable %s is not set", env)
		}
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("its key holds characters that no header may have")
	}
	return key, nil
}

// checkUpstreams reports what is wrong with a list that has its defaults.
func checkUpstreams(where string, list []Upstream) []error {
	var errs []error
	byName := map[string]Upstream{}
	for i, u := range list {
		check := func(ok bool, format string, args ...any) {
			if !ok {
				errs = append(errs, fmt.Errorf("%s[%d]."+format, append([]any{where, i}, args...)...))
			}
		}
		check(plainName(u.Name), "name: name the upstream")
		_, twice := byName[u.Name]
		check(!twice, "name: %q is there twice", u.Name)
		byName[u.Name] = u
		check(families[u.Family] != "", "family: %q is neither openai nor anthropic", u.Family)
		for _, err := range endpointProblems(u.URL, u.AllowPrivate) {
			check(false, "url: %w", err)
		}
		check(u.KeyEnv == "" || u.KeyFile == "", "key_env: give it or key_file, not both")
		for _, pattern := range u.Models {
			_, err := path.Match(pattern, "")
			check(err == nil && pattern != "", "models: %q is not a pattern such as gpt-*", pattern)
		}
		for name, d := range map[string]time.Duration{"connect": u.Timeouts.Connect, "first_byte": u.Timeouts.FirstByte, "idle": u.Timeouts.Idle, "whole": u.Timeouts.Whole} {
			check(d > 0 && d <= 24*time.Hour, "timeouts.%s: must be more than 0 and at most 24h", name)
		}
	}
	for i, u := range list {
		for _, name := range u.Fallback {
			other, ok := byName[name]
			if !ok || name == u.Name || other.Family != u.Family {
				errs = append(errs, fmt.Errorf("%s[%d].fallback: %q is not another upstream of the family %s", where, i, name, u.Family))
			}
		}
	}
	return errs
}

// endpointProblems are those of the address of an API. They do not say it: it may hold a secret.
func endpointProblems(text string, private bool) (errs []error) {
	address, err := url.Parse(text)
	if err != nil || address.Scheme != "https" && address.Scheme != "http" || address.Host == "" || address.RawQuery != "" || address.Fragment != "" {
		errs = append(errs, errors.New("it is not https://host/v1"))
	}
	if err == nil && address.User != nil {
		errs = append(errs, errors.New("give the key as key_env or key_file: addresses are logged"))
	}
	if err == nil && address.Scheme == "http" && !private {
		errs = append(errs, errors.New("without TLS its key could be read on the way: use https, or say allow_private for an upstream on your own network"))
	}
	return errs
}

func (g Gate) problems() []error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("gateway."+format, args...))
		}
	}
	check(len(g.Upstreams) == 0 || g.UpstreamsFile == "", "upstreams: give them or upstreams_file, not both")
	check((g.TLS.CertFile == "") == (g.TLS.KeyFile == ""), "tls: it takes cert_file and key_file")
	check(g.OutputCap >= 16 && g.OutputCap <= 10_000_000, "output_cap: must be from 16 to 10000000")
	check(g.MaxBody >= 1<<10 && g.MaxBody <= 1<<30, "max_body: must be from 1024 to 1073741824")
	check(g.MaxHeader >= 4<<10 && g.MaxHeader <= 1<<20, "max_header: must be from 4096 to 1048576")
	check(g.MaxCalls >= 1 && g.MaxCalls <= 1_000_000, "max_calls: must be from 1 to 1000000")
	for name, d := range map[string]time.Duration{"body_time": g.BodyTime, "write_time": g.WriteTime} {
		check(d >= time.Second && d <= time.Hour, "%s: must be from 1s to 1h", name)
	}
	check(g.Drain >= 0 && g.Drain <= time.Hour, "drain: must be from 0s to 1h")
	list := slices.Clone(g.Upstreams)
	for i := range list {
		list[i].defaults()
	}
	return append(errs, checkUpstreams("gateway.upstreams", list)...)
}
