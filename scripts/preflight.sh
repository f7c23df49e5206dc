#!/bin/sh
# Checks that this machine can build and run Flyball, before anything is built: so it needs a POSIX shell and
# nothing else. Prints one line when all is there; else a table of what is missing and how to get it, and
# exits with 2. PREFLIGHT_ROOT stands in for / in front of /proc and /sys, for the tests.
set -u

root=${PREFLIGHT_ROOT:-}
min_go=1.26
min_node=20
min_memory_mb=3900 # a 4 GB machine, less what its kernel keeps
min_disk_mb=6000   # the Temporal server's build and the engine library
built_disk_mb=1000 # once they are there

case $(uname -s 2>/dev/null) in
Darwin) os=macos ;;
*) os=linux ;;
esac

rows=''
found=''

# need NAME FOUND HOW adds a row to the table.
need() {
	rows="$rows$(printf '  %-18s %-16s %s' "$1" "$2" "$3")
"
}

have() { command -v "$1" >/dev/null 2>&1; }

# at_least VERSION MAJOR[.MINOR] compares two versions; text after the numbers does not count.
at_least() {
	major=${1%%.*} rest=${1#*.}
	minor=${rest%%[!0-9]*}
	want_major=${2%%.*} want_minor=0
	case $2 in *.*) want_minor=${2#*.} ;; esac
	case $major in '' | *[!0-9]*) return 1 ;; esac
	[ "$major" -gt "$want_major" ] || { [ "$major" -eq "$want_major" ] && [ "${minor:-0}" -ge "$want_minor" ]; }
}

# tool NAME VERSION MINIMUM HOW checks a versioned tool; an empty VERSION means that it is not there.
tool() {
	if [ -z "$2" ]; then
		need "$1 $3 or newer" missing "$4"
	elif at_least "$2" "$3"; then
		found="$found$1 $2, "
	else
		need "$1 $3 or newer" "$2" "$4"
	fi
}

# program NAME MACOS LINUX checks a tool of which any version will do.
program() {
	if have "$1"; then
		found="$found$1, "
	elif [ "$os" = macos ]; then
		need "$1" missing "$2"
	else
		need "$1" missing "$3"
	fi
}

# memory_mb prints the memory that this process may use: the machine's, or a container's smaller limit.
memory_mb() {
	kb=0
	if [ -r "$root/proc/meminfo" ]; then
		while read -r name value _; do
			[ "$name" = MemTotal: ] && kb=$value && break
		done <"$root/proc/meminfo"
	elif have sysctl; then
		kb=$(($(sysctl -n hw.memsize 2>/dev/null || echo 0) / 1024))
	fi
	for limit in $(cgroup_limits); do
		case $limit in '' | *[!0-9]*) continue ;; esac
		# A limit of more than 15 digits is the kernel's way of saying that there is none.
		[ ${#limit} -le 15 ] && [ $((limit / 1024)) -lt "$kb" ] && kb=$((limit / 1024))
	done
	echo $((kb / 1024))
}

# cgroup_limits prints the memory limits of this process's control groups, up to the root, in bytes.
cgroup_limits() {
	[ -r "$root/proc/self/cgroup" ] || return 0
	while IFS=: read -r _ controllers path; do
		case $controllers in
		'') base=$root/sys/fs/cgroup file=memory.max ;;
		memory) base=$root/sys/fs/cgroup/memory file=memory.limit_in_bytes ;;
		*) continue ;;
		esac
		path=${path%/}
		while :; do
			[ -r "$base$path/$file" ] && read -r limit <"$base$path/$file" && echo "$limit"
			[ -n "$path" ] || break
			path=${path%/*}
		done
	done <"$root/proc/self/cgroup"
}

# disk_mb DIR prints the free space of the file system of a folder.
disk_mb() {
	df -Pk "$1" 2>/dev/null | {
		read -r _
		read -r _ _ _ free _ || free=
		case $free in
		'' | *[!0-9]*) echo unknown ;;
		*) echo $((free / 1024)) ;;
		esac
	}
}

# The tools. GOTOOLCHAIN=local asks for the Go that is installed, and not for one it would download.
version=''
have go && version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) && version=${version#go}
tool go "$version" "$min_go" 'https://go.dev/dl/ (a distribution package is often older)'
version=''
have node && version=$(node --version 2>/dev/null) && version=${version#v}
tool node "$version" "$min_node" 'https://nodejs.org/en/download'
program npm 'it comes with node: https://nodejs.org/en/download' 'it comes with node from nodejs.org; on Debian: apt-get install npm'
program make 'xcode-select --install' 'apt-get install make, or dnf install make'
program git 'xcode-select --install' 'apt-get install git, or dnf install git'

memory=$(memory_mb)
if [ "$memory" -ge "$min_memory_mb" ]; then
	found="$found$memory MB of memory, "
else
	need '4 GB of memory' "$memory MB" 'a larger machine, or a higher memory limit of the container'
fi

min=$min_disk_mb
for built in .flyball/bin/temporald-*; do
	[ -x "$built" ] && min=$built_disk_mb
done
for folder in . "${HOME:-.}"; do
	free=$(disk_mb "$folder")
	if [ "$free" = unknown ]; then
		need "$min MB of disk" unknown "df -Pk $folder must work"
	elif [ "$free" -lt "$min" ]; then
		need "$min MB of disk" "$free MB" "free some on the file system of $folder, or use another"
	elif [ "$folder" = . ]; then
		found="$found$free MB of disk"
	fi
done

if [ -n "$rows" ]; then
	{
		echo 'Flyball cannot be built here yet:'
		printf '  %-18s %-16s %s\n' NEEDED FOUND 'HOW TO GET IT'
		printf '%s' "$rows"
	} >&2
	exit 2
fi
echo "preflight: $found"
