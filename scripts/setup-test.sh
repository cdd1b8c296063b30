#!/bin/sh
# Installs what the tests need beyond Go and make, on Debian and its relatives, as root. It does nothing, in a few
# milliseconds, when everything is there. The tests say themselves what a missing tool makes them skip; with CI=true they fail.
set -eu

fail() {
	echo "setup-test: $*" >&2
	exit 1
}

missing=
need() { # need PROGRAM PACKAGE: PACKAGE is wanted when PROGRAM is not in PATH
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

PATH=$PATH:/usr/sbin:/sbin
need linux.uml user-mode-linux # the kernel that the NFS client tests boot
need ip iproute2               # its network
need mkfs.ext4 e2fsprogs       # its disk
need mkfs.xfs xfsprogs         # disks of local volumes
need mkfs.btrfs btrfs-progs    # likewise
need git git                   # works on the mount in a test
need sqlite3 sqlite3           # likewise
need mount.nfs nfs-common      # rackfs mount
need chromium chromium         # opens the dashboard
if grep -qw amx_tile /proc/cpuinfo; then
	need gcc "gcc libc6-dev" # a preload without which that kernel does not run on such processors: internal/kclient/preload/xstate.c
fi

if [ -n "$missing" ]; then
	[ "$(id -u)" = 0 ] || fail "missing:$missing. Run this as root, or install them yourself."
	command -v apt-get >/dev/null 2>&1 || fail "missing:$missing. Only Debian's apt-get is known here; install their equivalents yourself."
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	# The package lists of an image are often missing or too old to find the files they name.
	# shellcheck disable=SC2086 # a list of words
	{ apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 || {
		tail -n 20 "$log" >&2
		fail "apt-get could not install:$missing"
	}
fi

# Test networks use cubic. A network namespace may only choose algorithms that the host allows.
allowed=/proc/sys/net/ipv4/tcp_allowed_congestion_control
if [ "$(id -u)" = 0 ] && read -r algorithms <$allowed; then
	case " $algorithms " in
	*" cubic "*) ;;
	*) echo "$algorithms cubic" >$allowed 2>/dev/null || true ;; # kernels without cubic: the tests take reno
	esac
fi
