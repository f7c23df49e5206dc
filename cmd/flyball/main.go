// Flyball is a governor for LLM spend and quality. This is its one binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes that every command keeps to.
const (
	exitFailed = 1 // the check failed
	exitUsage  = 2 // bad usage or configuration
	exitAway   = 3 // a needed service is away
)

// exitError carries an exit code to main. Its message has been made for people.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main without the process, so that testscript can call it.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	return execute(ctx, root)
}

// execute runs the command that root's arguments name and gives its error an exit code: the one that it
// carries, else that of a failure when the command had begun.
func execute(ctx context.Context, root *cobra.Command) int {
	began := false
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(root.ErrOrStderr(), "flyball:", err)
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case began:
		return exitFailed
	}
	return exitUsage // cobra refuses the words of a command before it begins
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "flyball",
		Short:         "A governor for LLM spend and quality",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(costCommand())
	root.AddCommand(pricesCommand())
	root.AddCommand(replayCommand())
	root.AddCommand(chaosCommand())
	root.AddCommand(policyCommand())
	root.AddCommand(rerateCommand(), rebuildCommand(), compactCommand())
	root.AddCommand(complexityCommand(), kpiCommand())
	root.AddCommand(judgeCommand(), calibrationCommand(connect))
	root.AddCommand(tokenCommand(), routerCommand())
	root.AddCommand(evaluatorsCommand(), feedbackCommand())
	root.AddCommand(slackCommand())
	root.AddCommand(upCommand(), serveCommand(), migrateCommand(), accessCommand(), doctorCommand())
	root.AddCommand(peopleCommands(connect)...)
	root.AddCommand(fallbackCommand(connect), budgetCommand())
	root.AddCommand(decisionCommand(connect), reportsCommand())
	return root
}
