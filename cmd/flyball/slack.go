package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/notify"
)

// slackCommand helps to set Slack up.
func slackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "slack",
		Short: "Set Slack up",
		Args:  cobra.NoArgs, // a mistyped subcommand is bad usage, not a request for help
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(slackManifestCommand())
	return cmd
}

func slackManifestCommand() *cobra.Command {
	var socket bool
	var address string
	cmd := &cobra.Command{
		Use:   "manifest [--socket=false --url URL]",
		Short: "Print the manifest of the Slack app",
		Long: "Print the manifest from which Slack makes the app: at api.slack.com/apps choose Create New App,\n" +
			"then From a manifest, and paste it. It asks for the scopes that Flyball uses and no others.\n\n" +
			"What people press comes through Socket Mode, a connection that Flyball opens, so that nothing has\n" +
			"to be reachable from outside; it needs an app-level token with the scope connections:write. Where\n" +
			"that is not wanted, --socket=false lets Slack call the console under --url instead.",
		Example: "  flyball slack manifest > manifest.yaml\n" +
			"  flyball slack manifest --socket=false --url https://flyball.example.com > manifest.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case socket && address != "":
				return &exitError{exitUsage, errors.New("--url is only for --socket=false: through Socket Mode Slack calls nothing")}
			case !socket && address == "":
				return &exitError{exitUsage, errors.New("--socket=false needs --url, the address under which Slack reaches the console")}
			}
			manifest, err := notify.SlackManifest(address)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			_, err = cmd.OutOrStdout().Write(manifest)
			return err
		},
	}
	cmd.Flags().BoolVar(&socket, "socket", true, "take what people press through Socket Mode")
	cmd.Flags().StringVar(&address, "url", "", "where Slack reaches the console, https://…, without Socket Mode")
	return cmd
}
