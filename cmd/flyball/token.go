package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/ingest"
)

// tokenCommand makes ingest tokens.
func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make ingest tokens",
		Args:  cobra.NoArgs, // a mistyped subcommand is bad usage, not a request for help
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCommand())
	return cmd
}

// stanza is a token as the configuration has it. Its fields are those of config.Token, without the empty ones.
type stanza struct {
	Name    string   `yaml:"name,omitempty"`
	Hash    string   `yaml:"hash"`
	Tenant  string   `yaml:"tenant"`
	Scopes  []string `yaml:"scopes,flow,omitempty"`
	Expires string   `yaml:"expires,omitempty"`
}

func newTokenCommand() *cobra.Command {
	var s stanza
	var days int
	cmd := &cobra.Command{
		Use:   "new [--name NAME] [--tenant TENANT] [--scope spans,quality,…] [--days N]",
		Short: "Make a token: the secret for its sender, the stanza for the configuration",
		Long: "Make a random token. Its secret is shown this once, on stderr: give it to the sender, as\n" +
			"FLYBALL_INGEST_TOKEN or as the bearer token of its requests. The stanza on stdout is for the\n" +
			"configuration's tokens or its tokens_file, which is read again when it changes; it holds\n" +
			"the secret's hash only. With the scope calls it is a virtual key: what OpenAI's and\n" +
			"Anthropic's clients are given in place of the provider's key.",
		Example: "  flyball token new --name checkout --tenant org_42 >> tokens.yaml\n" +
			"  flyball token new --name judge --tenant org_42 --scope quality --days 90 >> tokens.yaml\n" +
			"  flyball token new --name gateway >> tokens.yaml\n" +
			"  flyball token new --name checkout-calls --tenant org_42 --scope calls >> tokens.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if days < 0 {
				return &exitError{exitUsage, fmt.Errorf("--days %d: a token cannot have expired before it is made", days)}
			}
			if days > 0 {
				s.Expires = time.Now().UTC().AddDate(0, 0, days).Format(time.RFC3339)
			}
			return newToken(s, rand.Reader, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&s.Name, "name", "", "what logs and answers call it")
	cmd.Flags().StringVar(&s.Tenant, "tenant", "", "the tenant whose telemetry it may send (default: trusted for all tenants)")
	cmd.Flags().StringSliceVar(&s.Scopes, "scope", nil, "what it is for: spans, quality, outcomes, deployments, decide, budgets, calls (default: all telemetry, and decide without a tenant)")
	cmd.Flags().IntVar(&days, "days", 0, "how long it is valid (default: for ever)")
	return cmd
}

// newToken writes the stanza to out and the secret for people.
func newToken(s stanza, random io.Reader, out, people io.Writer) error {
	raw := make([]byte, 32)
	if _, err := io.ReadFull(random, raw); err != nil {
		return fmt.Errorf("drawing a secret: %w", err)
	}
	secret := "fly_" + base64.RawURLEncoding.EncodeToString(raw)
	s.Hash = ingest.HashToken(secret)
	token := ingest.Token{Name: s.Name, Hashes: []string{s.Hash}, Tenant: s.Tenant}
	for _, scope := range s.Scopes {
		token.Scopes = append(token.Scopes, ingest.Scope(strings.TrimSpace(scope)))
	}
	if _, err := ingest.NewDoor([]ingest.Token{token}); err != nil {
		return &exitError{exitUsage, err}
	}
	text, err := yaml.Marshal([]stanza{s})
	if err != nil {
		return err
	}
	if _, err := out.Write(text); err != nil {
		return err
	}
	_, err = fmt.Fprintf(people, "The secret, shown this once:\n%s\n", secret)
	return err
}
