package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The engine was killed between the line of a part and the part: the line goes, so that a retry is no duplicate.
func TestTokensOfLostPartsAreForgotten(t *testing.T) {
	t.Parallel()
	const kept = "1\t20260101_1_1_0\ta\n" + // merged into 1–3
		"1\t20260101_3_3_0\tb\n" +
		"1\t20260102_2_2_1\tc\n" + // there
		"1\t20260103_4_4_0\td\n" + // dropped in order
		"2\t20260103_4_4_0\td\n" +
		"1\t20260104_5_5_0\tf\n" // mutated since
	for _, tc := range []struct{ name, log, want string }{
		{"all there", kept, kept},
		{"lost", kept + "1\t20260101_9_9_0\te\n", kept},
		{"lost before others", "1\t20260105_1_1_0\te\n" + kept, kept},
		{"torn line", kept + "1\t20260101_1_1_0\te", kept},
		{"torn name", kept + "1\t2026", kept},
		{"empty", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			store := t.TempDir()
			table := filepath.Join(store, "store", "abc", "abc-def")
			for _, dir := range []string{"deduplication_logs", "detached", "20260101_1_3_1", "20260102_2_2_1", "20260104_5_5_0_8", "tmp_insert_20260101_9_9_0"} {
				require.NoError(t, os.MkdirAll(filepath.Join(table, dir), 0o700))
			}
			path := filepath.Join(table, "deduplication_logs", "deduplication_log_1.txt")
			require.NoError(t, os.WriteFile(path, []byte(tc.log), 0o600))
			for range 2 { // a repaired log needs no repair
				require.NoError(t, forgetLostParts(store, slog.New(slog.DiscardHandler)))
				text, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, tc.want, string(text))
			}
		})
	}
}
