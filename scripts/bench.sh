#!/bin/bash
# A short measurement of everything, against plain directories of the same disk: bench.sh [MORE FLAGS of rackfs bench compare].
# BENCH_DIR chooses the disk (here by default), OUT where results go (bin/bench).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-bin/bench}
dir=$(mktemp -d "${BENCH_DIR:-.}/rackfs-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/plain"
bin/rackfs bench compare --short --json "$out.json" "$@" \
  plain="dir:$dir/plain" synced="dir-sync:$dir/plain" rackfs="dev:$dir/cluster"
bin/rackfs bench report --out "$out.html" "$out.json"
