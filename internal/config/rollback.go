package config

import (
	"fmt"
	"net"
	"net/url"
)

// Rollback is where a service's deployments are undone: Flyball posts there, once a person has approved it.
type Rollback struct {
	Service string `yaml:"service"` // as deployments name it
	URL     string `yaml:"url"`     // https, or http on loopback
	Secret  string `yaml:"secret"`  // signs what is posted; at least 16 characters
}

// secretLength is the least: what is shorter can be guessed from one signed call.
const secretLength = 16

// checkRollbacks says what is wrong with the rollbacks. It never shows a secret, nor an address, which may hold
// one.
func checkRollbacks(all []Rollback) (problems []error) {
	seen := map[string]bool{}
	for i, r := range all {
		wrong := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("rollbacks[%d] %s: "+format, append([]any{i, r.Service}, args...)...))
		}
		if r.Service == "" {
			wrong("name the service, as deployments do")
		}
		if seen[r.Service] {
			wrong("the service has another one already")
		}
		seen[r.Service] = true
		u, err := url.Parse(r.URL)
		switch {
		case err != nil || u.Host == "":
			wrong("url is no address: write https://host/path")
		case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		default:
			wrong("url must be https, or http on loopback: what it orders must not be readable on the way")
		}
		if len(r.Secret) < secretLength {
			wrong("secret needs at least %d characters; openssl rand -hex 32 makes one", secretLength)
		}
	}
	return problems
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
