package data

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hannaSpearman is the rank correlation of ChatGPT's ratings, by the first of four prompts, with the mean of the three
// raters, over 1,056 stories: the figures that come with HANNA.
var hannaSpearman = map[string]float64{"RE": 0.365, "CH": 0.447, "EM": 0.379, "SU": 0.236, "EG": 0.409, "CX": 0.465}

// TestHANNA gives `flyball judge correlate` the ratings of HANNA (Chhun et al.): a row a system that wrote stories, a
// column for each rater or judge, criterion and prompt, and in each cell a list of its stories' ratings.
func TestHANNA(t *testing.T) {
	file, err := os.Open(filepath.Join(folder(t, "judge"), "hanna_metric_scores_llm.csv"))
	require.NoError(t, err)
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	require.NoError(t, err)
	column := func(name string) (ratings []float64) {
		i := slices.Index(rows[0], name)
		require.GreaterOrEqual(t, i, 0, name)
		for _, row := range rows[1:] {
			var of []float64
			require.NoError(t, json.Unmarshal([]byte(row[i]), &of), "%s of %s", name, row[0])
			require.Len(t, of, 96)
			ratings = append(ratings, of...)
		}
		return ratings
	}
	binary := flyball(t)
	for criterion, want := range hannaSpearman {
		people := [][]float64{column("Human 1 " + criterion), column("Human 2 " + criterion), column("Human 3 " + criterion)}
		judge := column("ChatGPT " + criterion + " 1")
		var pairs strings.Builder
		for i := range judge {
			fmt.Fprintf(&pairs, "{\"human\":%v,\"judge\":%v}\n", (people[0][i]+people[1][i]+people[2][i])/3, judge[i])
		}
		correlate := exec.CommandContext(t.Context(), binary, "judge", "correlate", "-", "--json")
		correlate.Stdin = strings.NewReader(pairs.String())
		text, err := correlate.Output()
		require.NoError(t, err)
		var got struct {
			N                 int
			Pearson, Spearman float64
			TauB              float64 `json:"kendall_tau_b"`
		}
		require.NoError(t, json.Unmarshal(text, &got))
		require.Equal(t, 1056, got.N)
		require.Equal(t, want, math.Round(got.Spearman*1000)/1000, "%s: %v", criterion, got.Spearman)
		fmt.Printf("HANNA %s: Spearman %.3f, tau-b %.3f, Pearson %.3f over %d stories\n", criterion, got.Spearman, got.TauB, got.Pearson, got.N)
	}
}
