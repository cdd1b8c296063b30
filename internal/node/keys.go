package node

// key is one key of the configuration file.
type key struct {
	path    string
	example string // YAML value that --print-config shows
	set     bool   // it has to be given: --print-config shows it without a comment sign
	doc     string
}

// keys are all keys, in the order in which --print-config shows them.
var keys = []key{
	{"name", "node-1", true, "Name of this node: a-z, 0-9 and '-', at most 63. It is in the node's certificate and never changes."},
	{"data", "/var/lib/rackfs", true, "Directory of the node's identity and metadata."},
	{"roles", "[meta, block, gateway]", true, "What this node does: meta (votes on the metadata), block (stores data on its disks), gateway (serves NFS),\nlocal (serves a directory of its own disk to its own workloads).\nA node group, and the shared part of the cluster, has one gateway, or several with nfs.several. The token that a node joins with has to allow its roles."},
	{"advertise", "10.0.0.1", true, "Address or host name under which the other nodes reach this one. Ports are those that it listens on."},
	{"zone", "eu-1", false, "Where the node is. A placement group spreads over these if the pool's failure domain is zone or rack."},
	{"rack", "r1", false, ""},
	{"group", "", false, "Node group that the node joins with; it has to exist. Later it is changed with rackfs group add and remove."},
	{"meta.listen", ":7071", false, "Address of the metadata port."},
	{"meta.raft_log", "raft-wal", false, "Log of the metadata: raft-wal or raft-boltdb. Fixed when the node is made."},
	{"meta.gc_grace", "10m", false, "How long data stays that no file uses any more, 1s to 720h. The same on all meta nodes."},
	{"meta.gateway_lease", "1m", false, "How long what a gateway has is kept for it when nothing is heard of it, 2s to 10m: locks that its clients do not have, and files that it was writing,\nwait that long after it died. The same on all meta nodes. For gateways that do not say it themselves (nfs.gateway_lease)."},
	{"meta.gateway_linger", "4m", false, "How long a file that was removed stays for clients that had it open for reading at a gateway that died less than so long ago, 2s to 1h, unless they use it meanwhile, which keeps it.\nOf what was open for more than two seconds the metadata knows. The same on all meta nodes."},
	{"control.listen", ":7072", false, "Address at which a meta node lets nodes join and renews certificates."},
	{"block.listen", ":7073", false, "Address of the block server."},
	{"block.disks", "[/srv/rackfs/disk1, /srv/rackfs/disk2]", false, "One directory for each disk; required with role block. A directory that does not exist, or is empty, gets a new store\nonce; later it has to be there (see rackfs node --replace-disk)."},
	{"block.segment", "256MiB", false, "Size of the preallocated files of a new store, 1MiB to 4GiB."},
	{"block.map_every", "10s", false, "How often a disk's background work looks for changes of the cluster map: slots that it is to fill, 50ms to 1h."},
	{"block.retry_after", "1m", false, "When it tries again what was not complete, because others were away, 50ms to 1h."},
	{"block.collect_every", "1h", false, "How often it looks through a whole disk for what nobody needs: what is left of writes that were given up, and what was deleted while the node was away, 50ms to 24h."},
	{"block.budget", "128MiB", false, "What may be read and written of each disk per second by clients and background work (repair, moves, scrub, compaction) together,\n1MiB to 64GiB, a power of two. Clients are never held up; background work takes what they leave, but at least an eighth."},
	{"nfs.listen", ":2049", false, "Address of the NFS server of a gateway."},
	{"nfs.several", "false", false, "There may be other gateways in this node's group, which serve the same file systems; all of them have this. Clients get no delegations then."},
	{"nfs.peers_listen", ":7075", false, "Address where the other gateways carry requests to that came to them, of clients that this one serves; with nfs.several."},
	{"nfs.gateway_lease", "3s", false, "The same for this gateway alone, 2s to 10m: so long after it died, or was cut off, others have its addresses and clients. With nfs.several 3s, else what meta nodes say.\nA gateway that stands still for two thirds of it makes its clients wait, one that does so for longer loses them to others."},
	{"nfs.addresses", "[10.0.0.50/24, 10.0.0.51/24]", false, "Addresses, of IPv4 or IPv6 (\"fd00:10::50/64\"), with the length of their network, that clients mount and that move between the gateways of the group: the same on all, but each\nwith its own first. Needs nfs.several, nfs.listen without an address, and CAP_NET_ADMIN and CAP_NET_RAW."},
	{"nfs.v3_listen", "\"\"", false, "Address of a read-only NFSv3 server, on which everybody is nobody; \"\" for none. Mount with vers=3,ro,nolock,proto=tcp,port=P,mountport=P."},
	{"nfs.allow", "[10.0.0.0/8]", false, "Networks or addresses that may mount, besides this machine; none by default."},
	{"nfs.root_squash", "false", false, "Treat clients' root as nobody."},
	{"nfs.noatime", "false", false, "Do not record times of access; else as relatime."},
	{"nfs.delegations", "read", false, "Files given to clients to open and cache on their own until somebody is in conflict with that: read,\nwrite (for reading and writing) or none."},
	{"nfs.reply_cache", "256MiB", false, "Memory for the replies that clients may ask for again, of all clients together, 1MiB to 64GiB. When it is short, clients are asked to\nhave fewer requests in progress at once, and new ones may have few."},
	{"nfs.lease", "30s", false, "How long a silent client keeps its locks, 1s to 1h."},
	{"local.dir", "/var/lib/rackfs-local", false, "Directory of a node with the role local, on ext4, xfs or btrfs: this node's volumes of file systems of kind local.\nThey are on this machine only, and lost with it."},
	{"local.listen", ":2050", false, "Address of the NFS server of local volumes. Only this machine and local.clients may mount them."},
	{"local.clients", "[10.244.3.0/24]", false, "Networks of this machine's workloads, such as its pods."},
	{"local.lazy_names", "false", false, "Answer creating, removing, renaming and setting attributes before they are on the disk, as NFS-Ganesha and exports \"async\" do.\nA power failure then takes back the last seconds of them; what was written and synced to files stays."},
	{"http.listen", "127.0.0.1:7070", false, "Address of /healthz, /status and /metrics; \"\" for none."},
	{"api.listen", ":7443", false, "Address of the HTTP API and the dashboard of a gateway; \"\" for none. TLS, but on loopback addresses."},
	{"api.cert", "/etc/rackfs/api.crt", false, "Its certificate, PEM; else the node's own, of the cluster's CA."},
	{"api.key", "/etc/rackfs/api.key", false, "The certificate's key, PEM."},
	{"import.allow", "[10.0.0.0/8, minio.example.com]", false, "Networks, addresses and host names (*.example.com: all below it) that imports may come from besides public addresses with TLS.\nGateways call them for users: allow what is meant to be read by those, nothing else."},
	{"import.parallel", "8", false, "How many objects are imported at a time, 1 to 64."},
	{"import.rate", "64MiB", false, "How many bytes per second imports may read, 1MiB to 64GiB, a power of two; else there is no limit."},
	{"gossip.listen", ":7074", false, "Address at which nodes tell each other who is alive, TCP and UDP; the same port on all nodes. \"\" for not taking part."},
	{"gossip.probe_every", "1s", false, "How often a node probes one other by gossip, 50ms to 1m."},
	{"gossip.rejoin_every", "5s", false, "How often it speaks to those that it takes for dead, so that a cut that is over heals."},
	{"health.probe_every", "500ms", false, "How often the metadata leader asks each store how it is, 50ms to 1m. All of this section: the same on all meta nodes."},
	{"health.fail_after", "1s", false, "How long a store takes no writes until it is down: writers do without it."},
	{"health.suspect_after", "10s", false, "The same until it is suspect, which people are told."},
	{"health.out_after", "10m", false, "How long a store is silent until it is out: what it held is made anew on others."},
	{"health.up_after", "2s", false, "How long it takes writes again until it is up."},
	{"log.level", "info", false, "debug, info, warn or error; logs go to standard error."},
}
