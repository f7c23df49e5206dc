package complexity

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadTimes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file string
		want []Record
		bad  []string
	}{
		"without a header": {"b,9\na,2.5,org\nb,1\n\na,4,org\n", []Record{{Task: "b", Minutes: []float64{9, 1}}, {TenantID: "org", Task: "a", Minutes: []float64{2.5, 4}}}, nil},
		"with one":         {"\ufeffTenant, minutes ,TASK\norg,3,a\n,4,a\n", []Record{{Task: "a", Minutes: []float64{4}}, {TenantID: "org", Task: "a", Minutes: []float64{3}}}, nil},
		"a quoted task":    {"\"a, b\",3\n", []Record{{Task: "a, b", Minutes: []float64{3}}}, nil},
		"bad rows": {"a,1\na,soon\na,0\na,NaN\na\na,1,org,x\n,1\n\xff,1\na,\"1\"2\na,3\n", []Record{{Task: "a", Minutes: []float64{1, 3}}}, []string{
			`2 minutes "soon" is not a number`, "3 minutes must be between 0.001 and 525600 (0)", "4 minutes must be between 0.001 and 525600 (NaN)",
			"5 has 1 columns: want task,minutes[,tenant]", "6 has 4 columns: want task,minutes[,tenant]", "7 the task is missing", "8 is not valid UTF-8",
			`9 extraneous or missing " in quoted-field`,
		}},
		"nothing": {"", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var bad []string
			got, err := ReadTimes(strings.NewReader(test.file), func(line int, format string, args ...any) {
				bad = append(bad, fmt.Sprint(line, " ", fmt.Sprintf(format, args...)))
			})
			require.NoError(t, err)
			require.Equal(t, test.want, got)
			require.Equal(t, test.bad, bad)
		})
	}
	for file, message := range map[string]string{"task,minutes,when\n": `has a column "when"`, "task,minutes,task\n": "has a column twice"} {
		_, err := ReadTimes(strings.NewReader(file), func(int, string, ...any) {})
		require.ErrorContains(t, err, message)
	}
}
