#!/bin/bash
# Runs every fuzz target of the repository for FUZZTIME (default 3s), one after the other: the go tool takes
# one target of one package at a time. Each package's test binary is compiled once. New
# inputs that reach new code are kept in FUZZCACHE (default: the go tool's own); an input that fails is written to the
# package's testdata/fuzz, to be committed with the fix.
#
#   scripts/fuzz.sh [-l] [PATTERN]    -l: list the targets; PATTERN: those of PACKAGE/TARGET that match
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
FUZZTIME=${FUZZTIME:-3s}
FUZZCACHE=${FUZZCACHE:-$($GO env GOCACHE)/fuzz}
list=
if [ "${1:-}" = -l ]; then
	list=1
	shift
fi
pattern=${1:-.}

targets=$(grep -roP --include='*_test.go' '^func \KFuzz\w+(?=\(f \*testing\.F\))' . |
	sed -E 's|^\./([^:]*)/[^/:]*:|\1/|' | sort -u | grep -E -- "$pattern")
if [ -n "$list" ]; then
	echo "$targets"
	exit
fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
module=$($GO list -m)
failed=()
# As go test -fuzz does, but only our packages count coverage: to instrument Pebble, Raft and all else they import takes
# minutes, and guides nobody. make lint is what vets; a panic's stack needs no debug information.
for dir in $(sed -E 's|/[^/]*$||' <<<"$targets" | sort -u); do # one by one: of several go chooses the names, for v4 the one above it
	$GO test -c -vet=off -ldflags="-s -w" -gcflags="$module/...=-d=libfuzzer" -o "$bin/${dir//\//-}.test" "./$dir"
done
for t in $targets; do
	dir=${t%/*} name=${t##*/}
	# Minimising is bounded: one large input would take a minute.
	if out=$(cd "$dir" && "$bin/${dir//\//-}.test" -test.run='^$' -test.fuzz="^$name\$" -test.fuzztime="$FUZZTIME" \
		-test.fuzzminimizetime=100x -test.fuzzcachedir="$FUZZCACHE/$module/$dir" 2>&1); then
		echo "ok    $t  $(grep -oP 'execs: \d+' <<<"$out" | tail -1)"
	elif grep -q '^ *context deadline exceeded$' <<<"$out" && ! grep -qE 'Failing input|panic:|terminated|hung' <<<"$out"; then
		# The fuzzer reports its own deadline as a failure when a busy machine stops its workers late.
		echo "ok    $t  $(grep -oP 'execs: \d+' <<<"$out" | tail -1), stopped late"
	else
		echo "FAIL  $t"
		echo "$out"
		failed+=("$t")
	fi
done
if [ ${#failed[@]} -gt 0 ]; then
	echo "failing targets: ${failed[*]}"
	exit 1
fi
