package repo

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/semver"

	"github.com/flyball-dev/flyball/internal/config"
)

// compose is what the checks below read of docker-compose.yml.
type compose struct {
	Services map[string]service
	Volumes  map[string]any
}

type service struct {
	Image       string
	Build       string
	Command     []string
	Environment map[string]string
	Volumes     []string
	Ports       []string
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Healthcheck *struct{ Test []string }
	Restart     string
}

// published maps the ports inside a service to those on the machine, which must be loopback's.
func (s service) published(t *testing.T) map[string]string {
	ports := map[string]string{}
	for _, mapping := range s.Ports {
		outside, inside, ok := strings.Cut(strings.TrimPrefix(mapping, "127.0.0.1:"), ":")
		require.True(t, ok && strings.HasPrefix(mapping, "127.0.0.1:"), "%s is published beyond this machine", mapping)
		ports[inside] = outside
	}
	return ports
}

// mounts maps the paths inside a service to what is mounted there.
func (s service) mounts() map[string]string {
	mounts := map[string]string{}
	for _, volume := range s.Volumes {
		source, target, _ := strings.Cut(volume, ":")
		mounts[strings.TrimSuffix(target, ":ro")] = source
	}
	return mounts
}

var reference = regexp.MustCompile(`\$\{([A-Z0-9_]+)(?::\?[^}]*)?\}`)

// exampleEnv reads deploy/example.env, which stands for the operator's .env.
func exampleEnv(t *testing.T) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(read(t, "deploy/example.env")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			env[name] = value
		}
	}
	require.NotEmpty(t, env)
	return env
}

// expand fills in the references of a compose value.
func expand(t *testing.T, value string, env map[string]string) string {
	return reference.ReplaceAllStringFunc(value, func(ref string) string {
		name := reference.FindStringSubmatch(ref)[1]
		require.Contains(t, env, name, "deploy/example.env lacks a variable of docker-compose.yml")
		return env[name]
	})
}

// deployed reads the compose file, and the configuration as its service sees it.
func deployed(t *testing.T) (compose, config.Config) {
	var c compose
	readYAML(t, "docker-compose.yml", &c)
	env := exampleEnv(t)
	for _, s := range c.Services {
		for name, value := range s.Environment {
			s.Environment[name] = expand(t, value, env)
		}
	}
	require.Equal(t, c.Services["migrate"].Environment, c.Services["flyball"].Environment, "both read the same configuration")
	conf, err := config.Load(root+"/deploy/flyball.yaml", func(name string) (string, bool) {
		value, ok := c.Services["flyball"].Environment[name]
		return value, ok
	})
	require.NoError(t, err)
	return c, conf
}

func TestComposeMatchesTheConfiguration(t *testing.T) {
	c, conf := deployed(t)
	require.ElementsMatch(t, []string{"clickhouse", "redis", "postgres", "temporal", "temporal-ui", "migrate", "flyball"}, slices.Collect(maps.Keys(c.Services)))
	flyball := c.Services["flyball"]

	clickHouse, err := url.Parse(conf.ClickHouse.URL)
	require.NoError(t, err)
	for address, want := range map[string]string{clickHouse.Host: "clickhouse:8123", conf.Redis.Addr: "redis:6379", conf.Temporal.Address: "temporal:7233"} {
		require.Equal(t, want, address, "a service by the port that its image listens on")
		host, _, err := net.SplitHostPort(address)
		require.NoError(t, err)
		require.Equal(t, "service_healthy", flyball.DependsOn[host].Condition)
		require.NotNil(t, c.Services[host].Healthcheck, "%s is waited for until it is healthy", host)
	}
	require.Equal(t, "service_completed_successfully", flyball.DependsOn["migrate"].Condition)

	server := c.Services["clickhouse"].Environment
	require.Equal(t, [3]string{server["CLICKHOUSE_USER"], server["CLICKHOUSE_PASSWORD"], server["CLICKHOUSE_DB"]},
		[3]string{conf.ClickHouse.User, conf.ClickHouse.Password, conf.ClickHouse.Database})
	require.Equal(t, c.Services["redis"].Environment["REDIS_PASSWORD"], conf.Redis.Password)
	require.Equal(t, c.Services["temporal"].Environment["DEFAULT_NAMESPACE"], conf.Temporal.Namespace)
	require.Equal(t, c.Services["temporal"].Environment["POSTGRES_PWD"], c.Services["postgres"].Environment["POSTGRES_PASSWORD"])
	require.Equal(t, conf.Temporal.Address, c.Services["temporal-ui"].Environment["TEMPORAL_ADDRESS"])

	published := flyball.published(t)
	for _, listen := range []string{conf.Ingest.Listen, conf.Console.Listen, conf.OTLP.Listen} {
		host, port, err := net.SplitHostPort(listen)
		require.NoError(t, err)
		require.Equal(t, "0.0.0.0", host, "loopback in a container is reached by nobody")
		require.Equal(t, port, published[port])
	}
	require.NotEmpty(t, conf.Tokens, "without a token only loopback may send")
	require.Contains(t, strings.Join(flyball.Healthcheck.Test, " "), strings.TrimPrefix(conf.Ingest.Listen, "0.0.0.0:"))
	ui, err := url.Parse(conf.Temporal.UI)
	require.NoError(t, err)
	require.Equal(t, ui.Port(), c.Services["temporal-ui"].published(t)["8080"])

	mounts := flyball.mounts()
	require.Contains(t, c.Volumes, mounts[conf.Spool], "acknowledged telemetry survives the container")
	for _, name := range []string{"migrate", "flyball"} {
		command := c.Services[name].Command
		file := command[slices.Index(command, "--config")+1]
		require.Equal(t, "./deploy/flyball.yaml", c.Services[name].mounts()[file], name)
	}
	roles, err := config.ParseRoles(flyball.Command[slices.Index(flyball.Command, "--role")+1])
	require.NoError(t, err)
	require.ElementsMatch(t, config.Roles(), roles)
}

// released is what a tag looks like that always means the same release of the image.
func released(image string) string {
	repository, _, _ := strings.Cut(image, ":")
	parts := map[string]int{"clickhouse/clickhouse-server": 4, "postgres": 2}[repository]
	return fmt.Sprintf(`^[a-z/-]+:\d+(\.\d+){%d}$`, cmp.Or(parts, 3)-1)
}

func TestTagsThatMoveAreNoPins(t *testing.T) {
	for image, pinned := range map[string]bool{
		"clickhouse/clickhouse-server:26.8": false, "clickhouse/clickhouse-server:26.8.20": false, "clickhouse/clickhouse-server:26.8.20.9": true,
		"redis:7.4": false, "redis:7.4.1": true, "postgres:16": false, "postgres:16.4": true, "temporalio/ui:latest": false,
	} {
		require.Equal(t, pinned, regexp.MustCompile(released(image)).MatchString(image), image)
	}
}

func TestComposeIsPinnedAndDurable(t *testing.T) {
	c, _ := deployed(t)
	used := map[string]bool{}
	for name, s := range c.Services {
		require.NotEmpty(t, s.Restart, name)
		s.published(t)
		for _, source := range s.mounts() {
			used[source] = true
		}
		if s.Build == "" {
			require.Regexp(t, released(s.Image), s.Image, "%s names one release: a shorter tag moves with each patch", name)
		}
		for on, when := range s.DependsOn {
			require.Contains(t, c.Services, on)
			require.Equal(t, when.Condition == "service_healthy", c.Services[on].Healthcheck != nil, "%s waits for %s", name, on)
		}
	}
	for volume := range c.Volumes {
		require.True(t, used[volume], "volume %s is mounted", volume)
	}
}

func TestImageBuildsAsItIsRun(t *testing.T) {
	c, conf := deployed(t)
	dockerfile := read(t, "Dockerfile")
	stages := strings.Split(dockerfile, "\nFROM ")
	require.Len(t, stages, 3, "a comment, the build stage and the image")
	require.Regexp(t, `(?m)^USER [1-9]\d*:[1-9]\d*$`, stages[2], "not root")

	builder := regexp.MustCompile(`^golang:(\d+\.\d+\.\d+) AS build`).FindStringSubmatch(stages[1])
	require.NotNil(t, builder)
	needs := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read(t, "go.mod"))
	require.GreaterOrEqual(t, semver.Compare("v"+builder[1], "v"+needs[1]), 0, "the builder's Go is older than go.mod's")
	require.Regexp(t, `^debian:\d+\.\d+-slim\n`, stages[2])

	require.Contains(t, stages[2], conf.Spool)
	_, ingest, _ := net.SplitHostPort(conf.Ingest.Listen)
	_, console, _ := net.SplitHostPort(conf.Console.Listen)
	_, otlp, _ := net.SplitHostPort(conf.OTLP.Listen)
	require.Contains(t, stages[2], "EXPOSE "+ingest+" "+console+" "+otlp)
	require.Contains(t, stages[2], `CMD ["`+strings.Join(c.Services["flyball"].Command, `", "`)+`"]`)

	// What .dockerignore lets through is all that the build and the image copy.
	var sent []string
	for line := range strings.Lines(read(t, ".dockerignore")) {
		if folder, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			sent = append(sent, folder)
		}
	}
	wanted := []string{"go.mod", "go.sum", "deploy/flyball.yaml"}
	list := exec.Command("go", "list", "-deps", "-f", `{{if not .Standard}}{{.ImportPath}}{{end}}`, "./cmd/flyball")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	for dep := range strings.FieldsSeq(string(out)) {
		if own, ok := strings.CutPrefix(dep, module+"/"); ok {
			wanted = append(wanted, own)
		}
	}
	for _, file := range wanted {
		require.True(t, slices.ContainsFunc(sent, func(folder string) bool {
			return file == folder || strings.HasPrefix(file, folder+"/")
		}), ".dockerignore keeps %s from the build", file)
	}
}

// The Collector's configuration sends to where the deployed Flyball listens, with its token.
func TestCollectorSendsToFlyball(t *testing.T) {
	_, conf := deployed(t)
	var collector struct {
		Receivers, Processors map[string]any
		Exporters             map[string]struct {
			Endpoint    string
			Headers     map[string]string
			Compression string
		}
		Service struct {
			Pipelines map[string]struct{ Receivers, Processors, Exporters []string }
		}
	}
	readYAML(t, "deploy/otel-collector.yaml", &collector)
	_, ingest, _ := net.SplitHostPort(conf.Ingest.Listen)
	_, otlp, _ := net.SplitHostPort(conf.OTLP.Listen)
	require.Equal(t, "http://flyball:"+ingest, collector.Exporters["otlphttp/flyball"].Endpoint)
	require.Equal(t, "flyball:"+otlp, collector.Exporters["otlp/flyball"].Endpoint)
	for name, exporter := range collector.Exporters {
		require.Equal(t, "gzip", exporter.Compression, name)
		for _, secret := range exporter.Headers {
			require.Equal(t, "Bearer ${env:FLYBALL_INGEST_TOKEN}", secret, name)
		}
		require.Len(t, exporter.Headers, 1, name)
	}
	require.ElementsMatch(t, []string{"traces", "logs"}, slices.Collect(maps.Keys(collector.Service.Pipelines)), "the signals that Flyball takes")
	for name, pipeline := range collector.Service.Pipelines {
		for _, part := range pipeline.Receivers {
			require.Contains(t, collector.Receivers, part, name)
		}
		for _, part := range pipeline.Processors {
			require.Contains(t, collector.Processors, part, name)
		}
		for _, part := range pipeline.Exporters {
			require.Contains(t, collector.Exporters, part, name)
		}
	}
}
