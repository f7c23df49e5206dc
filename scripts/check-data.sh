#!/usr/bin/env bash
# Replays real traces through a running Flyball and checks that what ClickHouse then holds is exact, to the
# token: the Azure code trace twice under one run name, and the Mooncake trace with its cache hits. Before that,
# counts every recorded provider response again and passes it through the gateway, compares the price book with others' price files and correlates a
# judge's published ratings with people's (tests/data),
# and prints how often two weeks of the traces, nothing being wrong, page and investigate (tests/stability).
#
#   scripts/check-data.sh [DATA]      DATA holds traces/, cassettes/, prices/ and judge/; the default is ../shared/data
#
# Needs go, bin/flyball, bin/chserve, the engine library, node and curl. Exits 1 when a figure differs.
set -euo pipefail
cd "$(dirname "$0")/.."
data=$(realpath "${1:-../shared/data}")
traces=$data/traces
azure=$traces/AzureLLMInferenceTrace_code.csv
mooncake=$traces/synthetic_trace.jsonl
for file in "$azure" "$mooncake"; do
	[ -r "$file" ] || { echo "check-data: $file cannot be read" >&2; exit 2; }
done

FLYBALL_DATA=$data FLYBALL=$PWD/bin/flyball go test -count=1 -v ./tests/data
FLYBALL_DATA=$data go test -count=1 -v -run TestRecordedTraffic ./tests/stability ./internal/gateway

state=$(mktemp -d)
up=
stop() {
	if [ -n "$up" ]; then
		kill -INT "$up" 2>/dev/null || true
		wait "$up" || true
	fi
	rm -rf "$state"
}
trap stop EXIT

bin/flyball up --no-simulator --state "$state/flyball" --port-base $((20000 + RANDOM % 10000)) >"$state/log" 2>&1 </dev/null &
up=$!

# await SECONDS COMMAND… runs the command until it succeeds.
await() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		kill -0 "$up" 2>/dev/null || { echo 'check-data: flyball up has ended:' >&2; tail -n 20 "$state/log" >&2; exit 1; }
		[ "$SECONDS" -lt "$deadline" ] || { echo "check-data: gave up waiting for: $*" >&2; tail -n 20 "$state/log" >&2; exit 1; }
		sleep 0.5
	done
}

addresses=$state/flyball/addresses.json
serving() { [ -s "$addresses" ] && curl -fsS -o /dev/null "$(field ingest)/healthz" 2>/dev/null; }
field() { node -e 'let v = JSON.parse(require("fs").readFileSync(process.argv[1])); for (const k of process.argv[2].split(".")) v = v[k]; console.log(v)' "$addresses" "$1"; }
await 120 serving
clickhouse=$(field clickhouse.url)
database=$(field clickhouse.database)
printf 'X-ClickHouse-User: %s\nX-ClickHouse-Key: %s\n' "$(field clickhouse.user)" "$(field clickhouse.password)" >"$state/headers"

query() { curl -fsS -H "@$state/headers" --data-binary "$1" "$clickhouse/?database=$database&default_format=TSV" | tr '\t' ' '; }
holds() { [ "$(query "$1")" = "$2" ]; }

failed=0
# check WHAT QUERY WANT waits until the query answers as wanted: what is acknowledged is stored soon after.
check() {
	local deadline=$((SECONDS + 60))
	until holds "$2" "$3" || [ "$SECONDS" -ge "$deadline" ]; do sleep 0.5; done
	if holds "$2" "$3"; then
		echo "ok    $1: $3"
	else
		echo "FAIL  $1: want $3, have $(query "$2")"
		failed=1
	fi
}

replay() { bin/flyball replay --url "$(field ingest)" --run check-data "$@"; }
input='sum(uncached_input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens)'

for _ in 1 2; do replay --now --tenant azure "$azure"; done
check 'Azure, spans' "SELECT count(), $input, sum(output_tokens) FROM spans WHERE tenant_id = 'azure'" '8819 18059974 245896'
check 'Azure, kpi_1m' "SELECT sum(requests), $input, sum(output_tokens) FROM kpi_1m WHERE tenant_id = 'azure'" '8819 18059974 245896'
replay --tenant mooncake "$mooncake"
check 'Mooncake, spans' "SELECT count(), sum(cache_read_tokens), $input FROM spans WHERE tenant_id = 'mooncake'" '3993 39852661 61194628'
check 'Mooncake, kpi_1m' "SELECT sum(requests), sum(cache_read_tokens), $input FROM kpi_1m WHERE tenant_id = 'mooncake'" '3993 39852661 61194628'
exit "$failed"
