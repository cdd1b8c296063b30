package raftmeta

import (
	"errors"
	"slices"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/internal/replica"
	"github.com/rackfs/rackfs/vfs"
)

// FirstIncarnation is that of metadata which was never restored from a backup. Block stores are
// stamped with the incarnation that they belong to.
const FirstIncarnation uint64 = fsm.FirstIncarnation

// FormatOptions describe a new metadata directory.
type FormatOptions struct {
	Dir     string
	Cluster []byte // id, 1 to 64 bytes
	Node    string // a-z, 0-9 and '-': the name in the node's certificate
	Shards  []uint16
	Log     Backend  // default WAL
	Files   vfile.FS // nil: the operating system's
}

func orOS(files vfile.FS) vfile.FS {
	if files == nil {
		return vfile.OS{}
	}
	return files
}

// Replica is one replica of a shard.
type Replica struct {
	Shard uint16
	ID    string // NODE.RANDOM
}

// Node is the name of the replica's node.
func (r Replica) Node() string { return mux.NodeOf(r.ID) }

// Format makes a directory with a new replica, with a new id, of each shard. Repeated it adds
// what is missing and returns what is there. The replicas belong to nothing yet: see Bootstrap.
func Format(o FormatOptions) ([]Replica, error) {
	if o.Log == "" {
		o.Log = WAL
	}
	infos, err := replica.Format(orOS(o.Files), o.Dir, o.Cluster, o.Node, o.Shards, o.Log)
	if err != nil {
		return nil, err
	}
	var rs []Replica
	for _, i := range infos {
		rs = append(rs, Replica{i.Shard, i.ID})
	}
	return rs, nil
}

// What hashicorp/raft calls its term and vote in the stable store. They are part of its disk format.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
)

// Bootstrap begins a new shard: it makes voters the first configuration of the replica of shard in dir, which must be
// one of them. It is done at one replica only, once in the shard's life, while its
// server does not run; the others learn of it from Raft. Repeated with the same voters, as
// after a crash, it does nothing.
//
// Whoever calls it must know that the shard never existed: that all voters' directories are new.
// files is where dir is, nil the operating system's.
func Bootstrap(files vfile.FS, dir string, shard uint16, voters []Replica) error {
	const op = "raftmeta.bootstrap"
	files = orOS(files)
	node, err := replica.OpenNode(files, dir)
	if err != nil {
		return err
	}
	defer node.Close()
	info, err := replica.ReadInfo(files, dir, shard)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	var conf raft.Configuration
	self := false
	for _, v := range voters {
		if v.Shard != shard {
			return vfs.Errorf(vfs.KindInvalid, op, "replica %s is of shard %d, not %d", v.ID, v.Shard, shard)
		}
		if slices.ContainsFunc(conf.Servers, func(s raft.Server) bool { return mux.NodeOf(string(s.ID)) == v.Node() }) {
			return vfs.Errorf(vfs.KindInvalid, op, "two voters of shard %d on node %s", shard, v.Node())
		}
		self = self || v.ID == info.ID
		conf.Servers = append(conf.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v.ID), Address: raft.ServerAddress(v.ID)})
	}
	if !self {
		return vfs.Errorf(vfs.KindInvalid, op, "replica %s in %s is not one of the voters", info.ID, dir)
	}
	logs, err := replica.OpenLogs(node.ShardDir(shard), info, replica.LogOptions{Files: files})
	if err != nil {
		return err
	}
	return vfs.Wrap(op, errors.Join(bootstrap(logs, shard, conf), logs.Close()))
}

// bootstrap is raft.BootstrapCluster, but does not take its own first half, after a crash, for a replica in use.
func bootstrap(logs *replica.Logs, shard uint16, conf raft.Configuration) error {
	const op = "raftmeta.bootstrap"
	used := vfs.Errorf(vfs.KindExists, op, "the replica of shard %d is in use already", shard)
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	if last > 0 {
		var first raft.Log
		if err := logs.GetLog(1, &first); err != nil || first.Type != raft.LogConfiguration {
			return used
		}
		if !slices.Equal(raft.DecodeConfiguration(first.Data).Servers, conf.Servers) {
			return used
		}
		return nil
	}
	term, err := getUint64(logs.Stable, keyCurrentTerm)
	if err != nil {
		return err
	}
	vote, err := getUint64(logs.Stable, keyLastVoteTerm)
	if err != nil {
		return err
	}
	if term > 1 || vote > 0 {
		return used
	}
	if err := logs.Stable.SetUint64(keyCurrentTerm, 1); err != nil {
		return err
	}
	return logs.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)})
}

// getUint64 reads a number that may not have been set: 0.
func getUint64(s raft.StableStore, key []byte) (uint64, error) {
	v, err := s.GetUint64(key)
	if err != nil && err.Error() == "not found" { // the contract of raft.StableStore
		return 0, nil
	}
	return v, err
}
