package powercut

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/crashtest"
	"github.com/rackfs/rackfs/internal/vfile/pebblefs"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/machine"
	"github.com/rackfs/rackfs/raftmeta/internal/propose"
	"github.com/rackfs/rackfs/raftmeta/internal/replica"
	"github.com/rackfs/rackfs/raftmeta/internal/snapstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

const (
	testFS    = 7
	testShard = 3
	testPool  = 1
	stores    = 6
	dataK     = 4
	parityM   = 2
	groups    = 4

	segmentBytes  = store.MinSegmentSize
	memTableBytes = 64 << 10
	// raftTimeout is the heartbeat of a voter that is alone: how long it takes to elect itself.
	raftTimeout = 10 * time.Millisecond
	// patience is when a hanging test ends.
	patience = 5 * time.Minute
)

var (
	testCluster = segment.ID{0xc1}
	quiet       = slog.New(slog.DiscardHandler)

	// bolt says which files bbolt writes, past the file layer.
	bolt = crashtest.Library{Names: []string{"stable.db", "wal-meta.db"}, SyncsName: []string{"wal-meta.db"}}
)

// disks are the files of a machine. The log of the metadata has a place of its own because of bbolt.
type disks struct {
	mem  *vfile.Mem // stores, the metadata's state and snapshots
	log  vfile.FS   // the node's directory
	node string     // its path in log
}

// box is a machine that runs.
type box struct {
	ctx    context.Context
	cancel context.CancelFunc
	stores []*store.Store
	served *server.Server
	wire   *wire.Server
	serve  chan error
	client *wire.Client
	groups []placement.PG
	*shard
	zero *zero // shard 0
}

// shard is the replica of the namespace shard.
type shard struct {
	dir   *replica.Node
	logs  *replica.Logs
	host  *machine.Host
	trans *raft.InmemTransport
	raft  *raft.Raft
	batch *propose.Batcher
}

// format makes the directories of a new machine.
func format(d disks) error {
	for _, dir := range []string{"/meta", "/stores"} {
		if err := d.mem.Mkdir(dir); err != nil {
			return err
		}
	}
	if _, err := replica.Format(d.log, d.node, testCluster[:], "n1", []uint16{testShard}, replica.WAL); err != nil {
		return err
	}
	return d.mem.SyncDir("/")
}

// start puts a machine into operation. create makes what a new one lacks.
func start(d disks, create bool) (_ *box, err error) {
	b := &box{serve: make(chan error, 1)}
	b.ctx, b.cancel = context.WithTimeout(context.Background(), patience)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.stop())
		}
	}()
	if b.shard, err = openShard(d, create); err != nil {
		return b, err
	}
	disksOf := map[uint32]*store.Store{}
	var targets []placement.Target
	for i := range stores {
		s, err := store.Open(b.ctx, store.Options{
			Dir: fmt.Sprintf("/stores/%d", i+1), Cluster: testCluster, Create: create, MetadataIncarnation: fsm.FirstIncarnation,
			SegmentSize: segmentBytes, ReserveBytes: 4096, CompactPercent: -1, MemTableBytes: memTableBytes,
			FS: d.mem, IndexFS: pebblefs.New(d.mem), Logger: quiet,
		})
		if err != nil {
			return b, err
		}
		b.stores = append(b.stores, s)
		disksOf[uint32(i+1)] = s
		targets = append(targets, placement.Target{Node: fmt.Sprintf("n%d", i+1), Disk: uint32(i + 1)})
	}
	if b.groups, err = placement.Static(targets, dataK, parityM, groups); err != nil {
		return b, err
	}
	if b.zero, err = newZero(b.stores, b.groups); err != nil {
		return b, err
	}
	b.served = server.New(disksOf, server.Options{Logger: quiet})
	b.wire = wire.NewServer(b.served.Handle, wire.ServerOptions{Security: insecure("n1", blockstore.RoleBlock), Logger: quiet})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.wire = nil
		return b, err
	}
	go func() { b.serve <- b.wire.Serve(l) }()
	b.client = wire.NewClient(wire.Dialer("tcp", l.Addr().String()), wire.ClientOptions{Security: insecure("gw", blockstore.RoleGateway), Logger: quiet})
	return b, nil
}

func insecure(name, role string) wire.Security {
	return wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name, Roles: []string{role}}}
}

func openShard(d disks, create bool) (s *shard, err error) {
	s = &shard{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = replica.OpenNode(d.log, d.node); err != nil {
		return s, err
	}
	info, err := replica.ReadInfo(d.log, d.node, testShard)
	if err != nil {
		return s, err
	}
	if s.logs, err = replica.OpenLogs(s.dir.ShardDir(testShard), info, replica.LogOptions{Files: d.log, WALSegmentBytes: 1 << 20}); err != nil {
		return s, err
	}
	snaps, err := snapstore.Open(d.mem, "/meta/snapshots", 1, quiet)
	if err != nil {
		return s, err
	}
	if s.host, err = machine.Open(machine.Options{
		Dir: "/meta/state", Shard: testShard, Cluster: testCluster[:], MemTableBytes: memTableBytes, CacheBytes: 64 << 10,
		Logger: quiet, Files: d.mem, PebbleFS: pebblefs.New(d.mem),
	}, snaps); err != nil {
		return s, err
	}
	var addr raft.ServerAddress
	addr, s.trans = raft.NewInmemTransport(raft.ServerAddress(info.ID))
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = raft.ServerID(info.ID), hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = raftTimeout, raftTimeout, raftTimeout
	conf.TrailingLogs = 2
	conf.NoSnapshotRestoreOnStart, conf.BatchApplyCh, conf.NoLegacyTelemetry = true, true, true
	if create {
		alone := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: addr}}}
		if err := raft.BootstrapCluster(conf, s.logs, s.logs.Stable, snaps, s.trans, alone); err != nil {
			return s, err
		}
	}
	if s.raft, err = raft.NewRaft(conf, s.host, s.logs, s.logs.Stable, snaps, s.trans); err != nil {
		return s, err
	}
	s.batch = propose.New(propose.Options{
		Apply: func(entry []byte) propose.Future { return s.raft.Apply(entry, 0) },
		Results: func(r any) ([]*metapb.Result, error) {
			x := r.(machine.Response)
			return x.Results, x.Err
		},
	})
	select {
	case <-s.raft.LeaderCh():
	case <-time.After(patience):
		return s, fmt.Errorf("no leader after %v", patience)
	}
	f := s.raft.Barrier(0)
	if err := f.Error(); err != nil {
		return s, err
	}
	if i, ok := f.(raft.IndexFuture); ok {
		s.host.Reached(i.Index()) // as takeOffice of package raftmeta does
	}
	return s, nil
}

func (s *shard) close() error {
	var errs []error
	if s.batch != nil {
		errs = append(errs, s.batch.Close(context.Background()))
	}
	if s.raft != nil {
		errs = append(errs, s.raft.Shutdown().Error())
	}
	if s.trans != nil {
		errs = append(errs, s.trans.Close())
	}
	if s.host != nil {
		errs = append(errs, s.host.Close())
	}
	if s.logs != nil {
		errs = append(errs, s.logs.Close())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.Close())
	}
	return errors.Join(errs...)
}

// stop ends a machine in good order.
func (b *box) stop() error {
	var errs []error
	if b.client != nil {
		b.client.Close()
	}
	if b.wire != nil {
		errs = append(errs, b.wire.Close())
		<-b.serve
	}
	for _, s := range b.stores {
		errs = append(errs, s.Close())
	}
	if b.shard != nil {
		errs = append(errs, b.shard.close())
	}
	b.cancel()
	return errors.Join(errs...)
}

// liveDisks are those of the machine whose power is cut; real is to be refreshed before.
func liveDisks(root string, watch func(vfile.Change) bool) (disks, *crashtest.Real, error) {
	d := disks{mem: vfile.NewMem(-1), node: filepath.Join(root, "node")}
	d.mem.Watch(watch)
	r, err := crashtest.NewReal(d.mem, root, bolt)
	d.log = r
	return d, r, err
}

// leftDisks are those of what a cut left of the machine in root; files of the log are below tmp.
func leftDisks(left *vfile.Mem, root, tmp string) (disks, error) {
	return disks{mem: left, log: vfile.OS{}, node: filepath.Join(tmp, "node")}, crashtest.Export(left, root, tmp)
}

// tempDir is a directory in memory that the function it returns removes.
func tempDir() (string, func(), error) {
	dir, err := os.MkdirTemp(crashtest.Memory(), "powercut")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

// zero is shard 0.
type zero struct {
	mu    sync.Mutex
	store *fsm.MemStore
	fsm   *fsm.Machine
	index uint64
}

func newZero(all []*store.Store, groups []placement.PG) (*zero, error) {
	z := &zero{store: fsm.NewMemStore()}
	var err error
	if z.fsm, err = fsm.Open(z.store, fsm.Options{Cluster: testCluster[:]}); err != nil {
		return nil, err
	}
	cmds := raises()
	for i, s := range all {
		info := s.Info()
		cmds = append(cmds, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{
			Id: uint32(i + 1), Node: fmt.Sprintf("n%d", i+1), Address: "127.0.0.1:1", Uuid: info.Store[:],
		}}}})
	}
	pool := &metapb.Pool{Id: testPool, Name: "p", K: dataK, M: parityM}
	for _, g := range groups {
		pg := &metapb.PlacementGroup{Id: g.ID, Epoch: g.Epoch}
		for _, s := range g.Slots {
			pg.Slots = append(pg.Slots, &metapb.Slot{Store: s.Target.Disk})
		}
		pool.Pgs = append(pool.Pgs, pg)
	}
	cmds = append(cmds, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: pool}}})
	for _, c := range cmds {
		if _, err := z.apply(c); err != nil {
			return nil, err
		}
	}
	return z, nil
}

// raises are the commands that bring a new shard to the newest level.
func raises() (cmds []*metapb.Command) {
	for l := uint32(2); l <= fsm.Level; l++ {
		cmds = append(cmds, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: l}}})
	}
	return cmds
}
