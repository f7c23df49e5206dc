package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// ShippedEvaluators in place of a directory means those that Flyball ships with.
const ShippedEvaluators = "shipped"

// Judge is the model that evaluators of the kind judge ask. Without a model there is none.
type Judge struct {
	BaseURL        string        `yaml:"base_url"` // of an OpenAI-compatible API
	Model          string        `yaml:"model"`
	Provider       string        `yaml:"provider"` // as in the price book; empty where the model's name is enough
	APIKey         string        `yaml:"api_key"`  // best ${NAME}; empty: none is sent
	APIKeyFile     string        `yaml:"api_key_file"`
	Temperature    *float64      `yaml:"temperature"`     // left out: the model's own
	ResponseFormat string        `yaml:"response_format"` // json_schema, or json_object where the endpoint knows no other
	Timeout        time.Duration `yaml:"timeout"`         // of one call
	Concurrency    int           `yaml:"concurrency"`     // calls at once
	MaxUSDPerDay   string        `yaml:"max_usd_per_day"` // a decimal; of one UTC day
	Tenant         string        `yaml:"tenant"`          // that its calls are accounted to
}

var defaultJudge = Judge{
	BaseURL: "https://api.openai.com/v1", ResponseFormat: "json_schema", Timeout: 30 * time.Second, Concurrency: 8,
	Tenant: "flyball-judge",
}

// Cap is MaxUSDPerDay, exactly.
func (j Judge) Cap() (usage.PicoUSD, error) {
	amount, exact, err := pricing.Parse(j.MaxUSDPerDay)
	if err != nil || !exact || amount <= 0 {
		return 0, fmt.Errorf("judge.max_usd_per_day: %q is not an amount above 0, such as 5 or 2.50", j.MaxUSDPerDay)
	}
	return amount, nil
}

// Key is the API key, from the file where one is named.
func (j Judge) Key() (string, error) {
	if j.APIKeyFile == "" {
		return j.APIKey, nil
	}
	text, err := os.ReadFile(j.APIKeyFile)
	if err != nil {
		return "", fmt.Errorf("judge.api_key_file: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (j Judge) problems() []error {
	if j.Model == "" {
		return nil
	}
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("judge."+format, args...))
		}
	}
	u, err := url.Parse(j.BaseURL)
	check(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", "base_url: it is not http://host/… or https://host/…")
	check(err != nil || u.User == nil, "base_url: give the key as api_key: addresses are logged") // and so it is not said here
	check(j.APIKey == "" || j.APIKeyFile == "", "api_key: give it or api_key_file, not both")
	check(j.Temperature == nil || *j.Temperature >= 0 && *j.Temperature <= 2, "temperature: must be from 0 to 2")
	check(slices.Contains([]string{"json_schema", "json_object"}, j.ResponseFormat), "response_format: %q is neither json_schema nor json_object", j.ResponseFormat)
	check(j.Timeout >= time.Second && j.Timeout <= 10*time.Minute, "timeout: must be from 1s to 10m")
	check(j.Concurrency >= 1 && j.Concurrency <= 256, "concurrency: must be from 1 to 256")
	check(plainName(j.Tenant) && j.Tenant != "*" && len(j.Tenant) <= 256, "tenant: name the tenant that its calls are accounted to")
	if _, err := j.Cap(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// Content says whether what was asked and answered is kept. It is not, unless somebody says so.
type Content struct {
	Keep      bool          `yaml:"keep"`
	Retention time.Duration `yaml:"retention"`
	Tenants   []string      `yaml:"tenants"` // whose; empty: everybody's
}

// Of is for how long the texts of a tenant are kept; 0: not at all.
func (c Content) Of(tenant string) time.Duration {
	if !c.Keep || len(c.Tenants) > 0 && !slices.Contains(c.Tenants, tenant) {
		return 0
	}
	return c.Retention
}

func (c Content) problems() []error {
	if c.Keep && (c.Retention < time.Hour || c.Retention > 2*365*24*time.Hour) {
		return []error{errors.New("content.retention: must be from 1h to 17520h (two years)")}
	}
	return nil
}
