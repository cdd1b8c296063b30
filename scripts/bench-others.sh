#!/bin/bash
# Measures rackfs beside a plain directory, NFS-Ganesha and GlusterFS, on one disk of this machine and in turn:
#
#   bench-others.sh DIR [FLAGS of rackfs bench compare]
#
# As root; Debian packages nfs-ganesha-vfs, glusterfs-server and glusterfs-client. What is not installed is left out. TARGETS="plain ganesha gluster rackfs"
# chooses; BIN is the binary (bin/rackfs). DIR is a directory on the disk that is meant; what is made in it is removed at the end.
#
# Equal promises: fsync and COMMIT reach the disk with all four, and each change of names is on the disk before it is answered: rackfs does so by itself,
# the plain directory is synced by the client (dir-sync), and the directories below Ganesha and below Gluster's bricks have ext4's attribute D, with which
# the kernel syncs changes of names. LAZY=1 leaves that attribute away, as most do: their names are in memory when answered then.
# Not equal: the plain directory and Ganesha lose all with one disk, GlusterFS 4+2 (six bricks, one server) and rackfs 4+2 may lose two.
#
# Everything runs in namespaces of its own (network, mounts, processes), which end with this script: nothing of it is seen outside, nothing stays.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" != --inside ]; then
	dir=${1:?name a directory on the disk that is meant}
	shift
	[ "$(id -u)" = 0 ] || { echo "bench-others: needs root" >&2; exit 1; }
	work=$(mktemp -d "$(realpath "$dir")/rackfs-others.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	unshare --net --mount --pid --fork --kill-child --mount-proc "$0" --inside "$work" "$@"
	exit
fi
work=$2
shift 2
bin=$(realpath "${BIN:-bin/rackfs}")
targets=" ${TARGETS:-plain ganesha gluster rackfs} "
wanted() { [[ $targets == *" $1 "* ]]; }
# The directories of state that the packages have fixed are our own ones here.
own() {
	local d
	for d in "$@"; do
		mkdir -p "$d" "$work/state$d"
		mount --bind "$work/state$d" "$d"
	done
}
# until_true SECONDS WHAT COMMAND...
until_true() {
	local n=$1 what=$2 i
	shift 2
	for ((i = 0; i < n * 5; i++)); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.2
	done
	echo "bench-others: $what after $n s" >&2
	exit 1
}
opens() { exec 3<>"/dev/tcp/$1/$2" && exec 3>&-; }
# Directories whose names the kernel syncs; promises tells what that makes of them.
names=memory
synced() {
	mkdir -p "$@"
	if [ "${LAZY:-}" != 1 ] && chattr +D "$@" 2>/dev/null; then
		names=disk
	fi
}

# Traffic is on the loopback device of this namespace; cubic there, as with test networks.
ip link set lo up
address=10.99.0.1
ip addr add $address/32 dev lo
sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || true

args=()
if wanted plain; then
	mkdir "$work/plain"
	kind=dir-sync
	[ "${LAZY:-}" != 1 ] || kind=dir
	args+=("plain=$kind:$work/plain")
fi
if wanted ganesha && command -v ganesha.nfsd >/dev/null; then
	own /var/lib/nfs /run/ganesha
	mkdir -p /var/lib/nfs/ganesha
	synced "$work/ganesha"
	chmod 777 "$work/ganesha"
	cat >"$work/ganesha.conf" <<-END
		NFS_CORE_PARAM { Protocols = 4; NFS_Port = 12049; Bind_addr = 127.0.0.1; Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; }
		NFSv4 { Minor_Versions = 1, 2; Only_Numeric_Owners = true; Delegations = false; Graceless = true; }
		EXPORT { Export_Id = 1; Path = $work/ganesha; Pseudo = /bench; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 4; Transports = TCP; FSAL { Name = VFS; } }
		LOG { Default_Log_Level = EVENT; }
	END
	ganesha.nfsd -F -f "$work/ganesha.conf" -L "$work/ganesha.log" -p "$work/ganesha.pid" &
	pid=$!
	until_true 60 "Ganesha does not serve, see $work/ganesha.log," opens 127.0.0.1 12049
	args+=("ganesha=nfs:127.0.0.1:12049/bench" --pid "ganesha=$pid" --durability "ganesha=names=$names,data=disk,losses=0")
fi
if wanted gluster && command -v glusterd >/dev/null; then
	own /var/lib/glusterd /run/gluster /var/log/glusterfs
	bricks=()
	for i in 1 2 3 4 5 6; do
		synced "$work/brick$i"
		bricks+=("$address:$work/brick$i/data")
	done
	glusterd
	until_true 60 "glusterd does not answer" gluster --mode=script pool list
	# force: all bricks are on one server and on the disk of the system, which is what this machine has.
	gluster --mode=script volume create bench disperse-data 4 redundancy 2 transport tcp "${bricks[@]}" force
	gluster --mode=script volume start bench
	mkdir "$work/gluster"
	until_true 60 "the volume cannot be mounted" mount -t glusterfs $address:/bench "$work/gluster"
	until_true 60 "the bricks are not connected" touch "$work/gluster/probe"
	rm "$work/gluster/probe"
	for pid in $(pgrep -x glusterd) $(pgrep -x glusterfsd) $(pgrep -f -- '--volfile-id shd/'); do
		args+=(--pid "gluster=$pid")
	done
	args+=(--client-pid "gluster=$(pgrep -f -- "$work/gluster\$")" "gluster=dir:$work/gluster" --durability "gluster=names=$names,data=disk,losses=2")
fi
if wanted rackfs; then
	args+=("rackfs=dev:$work/rackfs")
fi
"$bin" bench compare "$@" "${args[@]}"
