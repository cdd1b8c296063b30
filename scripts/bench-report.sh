#!/bin/bash
# Measures what docs/benchmarks.md reports, in parts of a few minutes each, and makes the pages of it:
#
#   bench-report.sh DIR OUT [PART...]
#
# DIR is a directory on the disk that is meant, OUT where results go (PART.json). Parts: names random streams large training kernel growth-names growth-large growth-data
# others-names others-data, and report, which makes pages of the results that are there; without any: all of these. kernel and others need root; BIN is the binary
# (bin/rackfs). Each part has a new cluster, which is removed after it. Parts that must be named: mixed, an hour of mixed load, which is part of the report if it is there, and
# mixed-short, a quarter of an hour of it, which is not: rackfs bench report has its curves, too. With OUT=docs/benchmarks the
# table of goals in docs/benchmarks.md is made anew. RUN is put before each measurement, such as a lock that keeps others off.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath "${1:?name a directory on the disk that is meant}")
out=$(mkdir -p "${2:?name a directory for results}" && realpath "$2")
shift 2
bin=$(realpath "${BIN:-bin/rackfs}")
work=$dir/rackfs-report
ours=
trap '[ -z "$ours" ] || rm -rf "$work"' EXIT
# fresh: a new place; where things are does not depend on the part, so that targets are the same in all.
fresh() {
	[ -n "$ours" ] || [ ! -e "$work" ] || { echo "bench-report: $work exists: another one is at work there, or it is left of one; remove it" >&2; exit 1; }
	ours=1
	rm -rf "$work"
	mkdir -p "$work/plain"
}
compare() { # PART FLAGS...: synced and rackfs in turn
	local part=$1
	shift
	fresh
	$RUN "$bin" bench compare --json "$out/$part.json" "$@" "synced=dir-sync:$work/plain" "rackfs=dev:$work/cluster"
}
mixed() { # PART TIME
	fresh
	$RUN "$bin" bench run --json "$out/$1.json" --workload mixed --time "$2" --rate 50 "dev:$work/cluster"
}
growth() { # PART FLAGS...
	local part=$1
	shift
	fresh
	$RUN "$bin" bench growth --json "$out/$part.json" "$@" "rackfs=dev:$work/cluster"
}
others() { # PART FLAGS...
	local part=$1
	shift
	BIN=$bin $RUN scripts/bench-others.sh "$dir" --json "$out/$part.json" --drop-caches "$@"
}
RUN=${RUN:-}
kernel_test=(go test ./test/kernel)
[ -z "${KERNEL_TEST:-}" ] || kernel_test=("$KERNEL_TEST") # made by go test -c
[ $# -gt 0 ] || set -- names random streams large training kernel growth-names growth-large growth-data others-names others-data report
for part in "$@"; do
	case $part in
	names) compare names --workload metadata-private,metadata-shared,small-files --workers 64 --files 200 --time 2s --repeat 3 ;;
	random) compare random --workload random --workers 16 --time 2s --repeat 3 ;;
	training) compare training --workload training,checkpoint,locks --time 2s --checkpoint-size 64MiB --repeat 3 ;;
	streams) compare streams --workload streams --workers 4 --time 2s --repeat 3 "encrypted=dev:$work/encrypted" --dev-flag encrypted=--encrypt ;;
	large) compare large --workload large-directory,tree --workers 16 --time 2s --repeat 1 ;;
	kernel)
		fresh
		TMPDIR=$work RACKFS_TEST_BINARY=$bin RACKFS_BENCH_OUT=$out/kernel.json RACKFS_BENCH_FLAGS="--repeat 1" \
			$RUN "${kernel_test[@]}" -test.run '^$' -test.bench BenchmarkKernelClient -test.benchtime 1x
		;;
	mixed) mixed mixed 1h ;;
	mixed-short) mixed mixed-short 15m ;;
	growth-names) growth growth-names --workload metadata-private,metadata-shared --time 1s --files 50 --repeat 3 ;;
	growth-large) growth growth-large --workload large-directory --time 1s --entries 10000 --repeat 3 ;;
	growth-data) growth growth-data --workload small-files,random,streams --time 2s --files 20 --random-size 64MiB --stream-size 32MiB --repeat 3 ;;
	others-names) others others-names --workload metadata-private,small-files --workers 16 --time 1s --files 100 --repeat 3 ;;
	others-data) others others-data --workload streams,random,tree,large-directory --workers 8 --time 1s --stream-size 32MiB --random-size 64MiB --tree-files 200 --entries 2000 --repeat 3 ;;
	report)
		# Results that others read name no place of this machine.
		sed -i -e "s|$work|DIR|g; s|$dir/rackfs-others\.[A-Za-z0-9]*|DIR|g; s|$out/||g; s|\"$bin\"|\"rackfs\"|g" "$out"/*.json
		page() { # NAME PARTS...: of those that are there
			local name=$1 files=() p
			shift
			for p in "$@"; do
				[ ! -e "$out/$p.json" ] || files+=("$out/$p.json")
			done
			[ ${#files[@]} != 0 ] || return 0
			if [ "$name" != report ]; then
				"$bin" bench report --out "$out/$name.html" "${files[@]}"
				return
			fi
			"$bin" bench report --goals docs/benchmarks/goals.json --out "$out/$name.html" "${files[@]}"
			"$bin" bench report --goals docs/benchmarks/goals.json --markdown "${files[@]}" | tee "$out/goals.md"
			if [ "$out" = "$PWD/docs/benchmarks" ]; then # the page that people read has it between two marks
				sed -i -e '/<!-- goals -->/,/<!-- end -->/{/<!-- goals -->/r docs/benchmarks/goals.md' -e '/<!--/!d}' docs/benchmarks.md
				rm docs/benchmarks/goals.md
			fi
		}
		page report names random streams large training kernel mixed
		page others others-names others-data
		page growth growth-names growth-large growth-data
		;;
	*)
		echo "bench-report: there is no part $part" >&2
		exit 1
		;;
	esac
done
