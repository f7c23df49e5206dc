.DEFAULT_GOAL := help
.PHONY: help up engine build test race stability lint fmt e2e soak bench-ingest bench-sweep bench-query bench-alert bench-evaluate bench-policy bench-backtest bench-gateway bench-budget clean

help: ## Print the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## Check the machine, fetch the engine, build, and run everything here (Ctrl-C stops it)
	@sh scripts/preflight.sh
	@$(MAKE) --no-print-directory -j2 engine build
	@exec bin/flyball up

# npm writes this file last; the library is an optional dependency, so npm succeeds without it too.
engine_installed := cmd/chserve/engine/node_modules/.package-lock.json

engine: $(engine_installed) ## Fetch the ClickHouse engine library

$(engine_installed): cmd/chserve/engine/package-lock.json
	npm --prefix cmd/chserve/engine ci --ignore-scripts --no-audit --no-fund
	@ls cmd/chserve/engine/node_modules/@chdb/*/libchdb.* >/dev/null || \
		{ rm -f $@; echo 'npm found no engine library for this platform (glibc Linux or macOS is needed)' >&2; exit 1; }
	@touch $@

build: ## Build bin/flyball and bin/chserve
	go build -o bin/ ./cmd/flyball ./cmd/chserve

# Without npm the tests that need the engine are skipped, and counted.
test: bin/gotestsum ## Run everything quick that proves it works; count what was skipped
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory engine; fi
	@mkdir -p bin/results
	@bin/gotestsum --format pkgname --hide-summary skipped --jsonfile bin/results/test.json -- -timeout 14m ./...; \
		status=$$?; go run ./tests/tally bin/results/test.json; exit $$status

# What runs goroutines without an engine, and the pure packages that they share.
racy := ./internal/alert ./internal/complexity ./internal/config ./internal/console ./internal/detect ./internal/devstack ./internal/evaluate ./internal/gateway \
	./internal/inbox ./internal/ingest ./internal/policy ./internal/redis ./internal/replay ./internal/routing \
	./internal/simulate ./workflows

race: bin/gotestsum ## Run the tests of the concurrent packages under the race detector (needs a C compiler)
	@mkdir -p bin/results
	CGO_ENABLED=1 bin/gotestsum --format pkgname --jsonfile bin/results/race.json -- -race -short -timeout 14m $(racy)

stability: ## Prove the loop stable in simulated time, and print the tables (two minutes of CPU); FLYBALL_DATA adds recorded traffic
	go test ./tests/stability -count 1 -timeout 30m -v

lint: bin/golangci-lint bin/workflowcheck ## Check style, import rules and the determinism of workflows
	bin/golangci-lint run ./...
	bin/workflowcheck ./workflows/...
	@bin/golangci-lint run ./tests/repo/testdata/internal/kpi 2>&1 | grep -q 'is not allowed from list .pure.' || \
		{ echo 'depguard does not find the imports that are planted in tests/repo/testdata' >&2; exit 1; }
	@bin/workflowcheck ./tests/repo/testdata/workflows 2>&1 | grep -q 'Late is non-deterministic' || \
		{ echo 'workflowcheck does not find the clock that is planted in tests/repo/testdata' >&2; exit 1; }

fmt: bin/golangci-lint ## Format the code
	bin/golangci-lint fmt ./...

e2e: bin/gotestsum bin/tctl engine ## Run the whole loop on real servers, kills included (builds the Temporal server once)
	@mkdir -p bin/results
	bin/gotestsum --format standard-verbose --jsonfile bin/results/e2e.json -- -tags e2e -count 1 -timeout 60m ./tests/e2e/...

soak: engine ## Run the long versions of the tests, then every fuzzer for an hour (FLYBALL_SOAK, FLYBALL_FUZZ_TIME)
	FLYBALL_SOAK=$${FLYBALL_SOAK:-1} go test -tags e2e -count 1 -timeout 4h -v ./tests/...
	sh scripts/fuzz.sh

bench-ingest: engine ## Measure ingest: decode and price per format on one core, the whole way to the store against a bare insert, and bytes on disk
	go test ./internal/ingest -run '^$$' -bench 'DecodeAndPrice|OfficialDecoder' -cpu 1 -benchtime 3s
	FLYBALL_BENCH=1 go test ./tests/bench -run '^$$' -bench Ingest -benchtime 3x
	FLYBALL_BENCH=1 go test ./tests/bench -run '^$$' -bench Storage -benchtime 1x

bench-sweep: engine ## Measure a tick of the sweep and its memory at 1,000, 10,000 and 100,000 keys
	FLYBALL_BENCH=1 go test -p 1 ./internal/clickhouse ./activities -run '^$$' -bench 'Sweep|Tick' -benchtime 20x

bench-query: engine ## Measure dashboard queries and compaction at the shape of 10 million calls a day
	FLYBALL_BENCH=1 go test ./internal/clickhouse -run '^$$' -bench Query -benchtime 200x -timeout 30m
	FLYBALL_BENCH=1 go test ./internal/clickhouse -run '^$$' -bench Compact -benchtime 1x -timeout 30m

bench-backtest: engine ## Measure a backtest in key-days a second: the core alone, and over stored telemetry on the real engine
	go test ./internal/backtest -run '^$$' -bench Core -benchtime 3x
	FLYBALL_BENCH=1 go test ./internal/backtest -run '^$$' -bench Stored -benchtime 1x -timeout 30m

bench-alert: engine ## Measure detection on the real stack over 100 injections of each fault (FLYBALL_BENCH_N), what an idle Flyball takes, and actions of Temporal
	FLYBALL_BENCH=alert go test -tags e2e -count 1 -timeout 90m -v -run Bench ./tests/e2e/...

bench-evaluate: ## Measure evaluators: scores a second of heuristics, and from a call's acknowledgement to its score at 100 calls a second
	go test ./internal/evaluate -run '^$$' -bench Heuristics -cpu 1 -benchtime 2s
	FLYBALL_BENCH=1 go test ./tests/bench -run '^$$' -bench Evaluate -benchtime 1x

bench-gateway: ## Measure the gateway against a bare reverse proxy: latency, throughput and allocations at 10, 100 and 1,000 concurrent calls
	FLYBALL_BENCH=1 go test ./internal/gateway -count 1 -v -run BenchGateway
	go test ./internal/gateway -run "^$$" -bench Decide -benchtime 2s

bench-policy: ## Measure policies: evaluations a second of CPU time by policy and answer, a candidate's cost, explain, load and lint
	go test ./internal/policy -run '^$$' -bench Policy -benchtime 1s

bench-budget: ## Measure budgets: a promise from a lease, with and without its journal, and a hold in Redis at 10,000 a second against a script that does nothing
	go test ./internal/treasury -run '^$$' -bench Lease -cpu 1 -benchtime 2s
	FLYBALL_BENCH=budget go test ./internal/redis -run BenchRedis -count 1 -v

clean: ## Remove what was built and fetched; the state in .flyball stays
	rm -rf bin cmd/chserve/engine/node_modules

# Developer tools, each pinned by a module of its own and built once.
bin/%: tools/%/go.mod tools/%/go.sum
	GOBIN="$(CURDIR)/bin" nice go install -C tools/$* tool
	@touch $@
