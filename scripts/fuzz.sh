#!/bin/sh
# Runs every fuzz target of the module, one after the other, FLYBALL_FUZZ_TIME long each (1h unless told). An input
# that fails is kept by go under the package's testdata/fuzz: commit it with the mend, and every later test runs it.
# Arguments are packages to look in; all of the module when there are none.
set -u

cd "$(dirname "$0")/.." || exit 1
time=${FLYBALL_FUZZ_TIME:-1h}
failed=''
for package in $(go list "${@:-./...}"); do
	dir=$(go list -f '{{.Dir}}' "$package")
	for target in $(cat "$dir"/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p'); do
		echo "fuzz $package $target for $time"
		go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel "${FLYBALL_FUZZ_PARALLEL:-2}" ||
			failed="$failed $target"
	done
done
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
