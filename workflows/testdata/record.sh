#!/bin/sh
# Records the histories that TestReplay replays, against a real Temporal server: the one at
# FLYBALL_RECORD_ADDRESS, or a temporald of its own. Run it from anywhere in the repository after a change
# that needs a new history, and give the new files names that say what is new; the old ones stay.
set -eu
cd "$(dirname "$0")/../.."
if [ -z "${FLYBALL_RECORD_ADDRESS:-}" ]; then
	temporald=${TEMPORALD:-$(ls -t .flyball/bin/temporald-* 2>/dev/null | head -n 1)}
	[ -x "$temporald" ] || { echo "no temporald in .flyball/bin: run make up once, or set TEMPORALD or FLYBALL_RECORD_ADDRESS" >&2; exit 3; }
	data=$(mktemp -d)
	mkfifo "$data/stdin"
	"$temporald" --data "$data" --listen 127.0.0.1:27233 --ui-listen 127.0.0.1:28233 --exit-with-stdin <"$data/stdin" >"$data/ready" &
	exec 9>"$data/stdin" # closed when this script ends, and then the server ends
	trap 'exec 9>&-; wait; rm -rf "$data"' EXIT
	until grep -q ready "$data/ready"; do sleep 0.2; done
	FLYBALL_RECORD_ADDRESS=127.0.0.1:27233
fi
export FLYBALL_RECORD_ADDRESS
go test -count=1 -run 'TestRecord$' -v ./workflows
go test -count=1 -run 'TestReplay$' ./workflows
