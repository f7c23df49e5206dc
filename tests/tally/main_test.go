package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTally(t *testing.T) {
	for name, test := range map[string]struct{ events, want string }{
		"nothing ran": {"", "tests: 0 passed, 0 failed, 0 skipped\n"},
		"all kinds": {
			`{"Action":"pass","Package":"p","Test":"TestA"}
			{"Action":"fail","Package":"p","Test":"TestB"}
			{"Action":"fail","Package":"p"}
			{"Action":"output","Package":"p","Test":"TestC","Output":"=== RUN   TestC\n"}
			{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:7: no redis-server\n"}
			{"Action":"output","Package":"p","Test":"TestC","Output":"--- SKIP: TestC (0.00s)\n"}
			{"Action":"skip","Package":"p","Test":"TestC"}
			{"Action":"output","Package":"q","Test":"TestC/x","Output":"        d_test.go:7: no redis-server\n"}
			{"Action":"skip","Package":"q","Test":"TestC/x"}
			{"Action":"skip","Package":"q","Test":"TestD"}
			{"Action":"skip","Package":"no tests"}
			{"Action":"pass","Package":"q"}`,
			"skipped 3 tests:\n  2 × no redis-server\n  1 × no reason given\ntests: 1 passed, 1 failed, 3 skipped\n",
		},
		"a package that does not build": {
			`# p: undefined: x
			{"Action":"build-fail","ImportPath":"p"}
			{"Action":"fail","Package":"p"}`,
			"tests: 0 passed, 1 failed, 0 skipped\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			sum := newTally()
			require.NoError(t, sum.read(strings.NewReader(test.events)))
			var out strings.Builder
			sum.print(&out)
			require.Equal(t, test.want, out.String())
		})
	}
}
