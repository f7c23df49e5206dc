#!/bin/sh
# Runs every fuzz target of the module, one after the other, FLYBALL_FUZZ_TIME long each (1h unless told). An input
# that fails is kept by go under the package's testdata/fuzz: commit it with the mend, and every later test runs it.
# Arguments are packages to look in; all of the module when there are none.
set -u

cd "$(dirname "$0")/.." || exit 1
time=${FLYBALL_FUZZ_TIME:-1h}
failed=''
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
for package in $(go list "${@:-./...}"); do
	dir=$(go list -f '{{.Dir}}' "$package")
	for target in $(cat "$dir"/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p'); do
		echo "fuzz $package $target for $time"
		go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel "${FLYBALL_FUZZ_PARALLEL:-2}" 2>&1 | tee "$log"
		# On a busy machine go's fuzzer may miss its own end and call that a failure: an input that fails is written.
		if grep -q '^FAIL' "$log" && { grep -q 'Failing input written' "$log" || ! grep -q 'context deadline exceeded' "$log"; }; then
			failed="$failed $target"
		fi
	done
done
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
