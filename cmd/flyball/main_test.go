package main

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	plain := errors.New("broken")
	for _, tc := range []struct {
		name string
		args []string
		err  error // of the command
		want int
	}{
		{"good", []string{"do"}, nil, 0},
		{"a failure", []string{"do"}, plain, exitFailed},
		{"a service that is away", []string{"do"}, fmt.Errorf("asking: %w", &exitError{exitAway, plain}), exitAway},
		{"what the command refuses", []string{"do"}, &exitError{exitUsage, plain}, exitUsage},
		{"an unknown command", []string{"undo"}, nil, exitUsage},
		{"an unknown flag", []string{"do", "--fast"}, nil, exitUsage},
		{"too many words", []string{"do", "it"}, nil, exitUsage},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			root := rootCommand()
			root.AddCommand(&cobra.Command{Use: "do", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return tc.err }})
			root.SetArgs(tc.args)
			root.SetOut(io.Discard)
			root.SetErr(io.Discard)
			require.Equal(t, tc.want, execute(t.Context(), root))
		})
	}
}
