package raftmeta

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/machine"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/internal/propose"
	"github.com/rackfs/rackfs/raftmeta/internal/raftlog"
	"github.com/rackfs/rackfs/raftmeta/internal/replica"
	"github.com/rackfs/rackfs/raftmeta/internal/snapstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxAppendEntries bounds the entries of one message to a follower and of one batch of the
	// state machine. Entries are batches of commands already.
	maxAppendEntries = 64
	// transportTimeout bounds one message to a follower; that it lives is decided by heartbeats.
	transportTimeout = 10 * time.Second

	snapshotDir = "snapshots" // in a replica's directory
)

// shard is the replica of one shard and what makes it serve while it leads.
type shard struct {
	s    *Server
	id   uint16
	info replica.Info
	log  *slog.Logger

	logs    *replica.Logs
	host    *machine.Host
	streams *mux.Listener
	trans   *transport
	raft    *raft.Raft
	batch   *propose.Batcher

	lead atomic.Pointer[leadership] // nil unless this replica leads and may serve

	ctx    context.Context // of the leader loop
	cancel context.CancelFunc
	wg     sync.WaitGroup
	opened chan struct{}         // closed when openShard returns: the fields above are set
	stop   sync.Once             // stops a failed replica
	reason atomic.Pointer[error] // why it stopped; nil while it runs

	target   atomic.Uint64 // the leader's commit index as the keeper heard it last
	changing chan struct{} // holds a token while the shard's members are changed
	copying  chan struct{} // holds a token while there is a copy of the state that is streamed
}

func (s *Server) openShard(id uint16) (_ *shard, err error) {
	const op = "raftmeta.open"
	s.metrics.begin(id)
	o := s.opt
	sh := &shard{s: s, id: id, log: o.Logger.With("shard", id), opened: make(chan struct{}), changing: make(chan struct{}, 1), copying: make(chan struct{}, 1)}
	sh.ctx, sh.cancel = context.WithCancel(context.Background())
	defer func() {
		close(sh.opened)
		if err != nil {
			sh.quiesce()
			sh.close()
		}
	}()
	if sh.info, err = replica.ReadInfo(o.files, o.Dir, id); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	dir := s.node.ShardDir(id)
	if err := o.files.RemoveAll(filepath.Join(dir, copyDir)); err != nil { // of a process that was killed
		return nil, vfs.Wrap(op, err)
	}
	hlog := raftlog.New(sh.log, slog.LevelInfo)
	sh.logs, err = replica.OpenLogs(dir, sh.info, replica.LogOptions{
		Backend: o.Log, WALSegmentBytes: o.WALSegmentBytes, Files: o.files, Logger: hlog.Named("log"),
		OnFail: func(err error) { sh.fatal(vfs.Wrap("raftmeta.log", err)) }, WrapStable: o.wrapStable,
	})
	if err != nil {
		return nil, err
	}
	snaps, err := snapstore.Open(o.files, filepath.Join(dir, snapshotDir), o.RetainSnapshots, sh.log)
	if err != nil {
		return nil, err
	}
	sh.host, err = machine.Open(machine.Options{
		Dir: filepath.Join(dir, "state"), Shard: id, Cluster: s.node.Cluster,
		MaxLevel: o.MaxLevel, CacheBytes: o.RecordCacheBytes,
		BlockCache: s.blocks, MemTableBytes: o.MemTableBytes,
		OnFatal: sh.fatal, Logger: sh.log, Files: o.files, PebbleFS: o.pebbleFS,
	}, snaps)
	if err != nil {
		return nil, err
	}
	if sh.streams, err = s.mux.Listen(id, sh.info.ID); err != nil {
		return nil, err
	}
	d := mux.Dialer{Cluster: string(s.node.Cluster), Shard: id, Self: sh.info.ID, Security: o.ClientSecurity, Dial: o.dial}
	sh.trans = newTransport(network{sh.streams, d}, sh.info.ID, o.raftProtocol, sh.log, hlog.Named("transport"))
	conf := raftConfig(o, sh.info.ID)
	conf.Logger = hlog.Named("raft")
	sh.batch = propose.New(propose.Options{
		Apply:   func(entry []byte) propose.Future { return sh.raft.Apply(entry, 0) },
		Results: machineResults,
		Entry:   func(cmds, bytes int) { s.metrics.entry(id, cmds, bytes) },
	})
	if sh.raft, err = newRaft(conf, sh.host, sh.logs, snaps, sh.trans); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	sh.wg.Add(1)
	go sh.follow()
	return sh, nil
}

// newRaft is raft.NewRaft, which panics when it cannot read an entry. It runs on a goroutine of its own, which
// package replica ends when the term cannot be saved.
func newRaft(conf *raft.Config, fsm raft.FSM, logs *replica.Logs, snaps raft.SnapshotStore, trans raft.Transport) (r *raft.Raft, err error) {
	done := make(chan struct{})
	err = vfs.Errorf(vfs.KindIO, "raftmeta.open", "Raft's term cannot be saved")
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				r, err = nil, vfs.Errorf(vfs.KindCorrupt, "raftmeta.open", "the Raft log cannot be read: %v", p)
			}
		}()
		r, err = raft.NewRaft(conf, fsm, logs, logs.Stable, snaps, trans)
	}()
	<-done
	return r, err
}

// raftConfig pins everything about Raft that the rest of the package relies on.
func raftConfig(o Options, self string) *raft.Config {
	c := raft.DefaultConfig()
	c.ProtocolVersion = 3 // servers have ids of their own
	c.LocalID = raft.ServerID(self)
	c.HeartbeatTimeout = o.Timing.Heartbeat
	c.ElectionTimeout = o.Timing.Heartbeat
	c.LeaderLeaseTimeout = o.Timing.LeaderLease
	c.CommitTimeout = o.Timing.Commit
	c.MaxAppendEntries = maxAppendEntries
	c.BatchApplyCh = true
	c.TrailingLogs = o.TrailingLogs
	c.SnapshotInterval = o.SnapshotInterval
	c.SnapshotThreshold = o.SnapshotThreshold
	c.PreVoteDisabled = false
	c.NoSnapshotRestoreOnStart = true // machine.Open did
	c.NoLegacyTelemetry = true
	// A removed replica must not fall back to a cluster of its own.
	c.ShutdownOnRemove = true
	return c
}

// machineResults takes the response of package machine apart.
func machineResults(response any) ([]*metapb.Result, error) {
	r, ok := response.(machine.Response)
	if !ok {
		return nil, vfs.Errorf(vfs.KindInternal, "raftmeta.propose", "response of type %T", response)
	}
	if r.Err != nil {
		return nil, vfs.Errorf(vfs.KindUnknown, "raftmeta.propose", "%w", r.Err)
	}
	return r.Results, nil
}

// fatal is called on one of Raft's goroutines when the state machine or the log cannot go on. It stops
// this replica; the others elect a leader among themselves.
func (sh *shard) fatal(err error) {
	if !sh.reason.CompareAndSwap(nil, &err) {
		return
	}
	sh.log.Error("raftmeta: the replica stops", "err", err)
	sh.wg.Add(1)
	go func() {
		defer sh.wg.Done()
		<-sh.opened // Raft's goroutines start before NewRaft returns
		// Not while commands are in progress: their futures are answered by the running Raft.
		sh.shutdown()
	}()
}

// failure is why the replica stopped by itself; nil if it did not.
func (sh *shard) failure() error {
	if err := sh.reason.Load(); err != nil {
		return *err
	}
	return nil
}

// shutdown ends Raft, once.
func (sh *shard) shutdown() {
	sh.stop.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if sh.batch == nil {
			return
		}
		if err := sh.batch.Close(ctx); err != nil {
			sh.log.Warn("raftmeta: commands in progress were abandoned")
		}
		if sh.raft == nil {
			return
		}
		f := sh.raft.Shutdown()
		sh.streams.Close() // Raft may be in the middle of a snapshot from a leader that is not heard of any more
		if err := f.Error(); err != nil {
			sh.log.Warn("raftmeta: raft shutdown", "err", err)
		}
	})
}

// quiesce answers what is in progress and ends Raft; reads fail from here on.
func (sh *shard) quiesce() {
	sh.cancel()
	if sh.batch != nil {
		sh.shutdown()
	}
	sh.wg.Wait()
}

// close releases what the replica holds, after quiesce.
func (sh *shard) close() error {
	var errs []error
	if sh.trans != nil {
		errs = append(errs, sh.trans.Close())
	}
	if sh.host != nil {
		errs = append(errs, sh.host.Close())
	}
	if sh.logs != nil {
		errs = append(errs, sh.logs.Close())
	}
	return errors.Join(errs...)
}

// notLeader is the error that tells a client where to go: its text is the
// name of the leader's node, if it is known.
func (sh *shard) notLeader() error {
	_, id := sh.raft.LeaderWithID()
	return &vfs.Error{Kind: vfs.KindNotLeader, Op: "raftmeta", Text: mux.NodeOf(string(id))}
}

// propose puts encoded and checked commands through the log.
func (sh *shard) propose(ctx context.Context, cmds [][]byte) ([]*metapb.Result, []error, error) {
	if sh.raft.State() != raft.Leader { // only a hint: Raft decides
		return nil, nil, sh.notLeader()
	}
	return sh.batch.Do(ctx, cmds)
}

// read returns a view that contains everything that was committed when read was called.
func (sh *shard) read(ctx context.Context) (*machine.View, *fsm.Cache, error) {
	l := sh.lead.Load()
	if l == nil {
		return nil, nil, sh.notLeader()
	}
	index := sh.raft.CommitIndex()
	if err := l.confirm.Confirm(ctx); err != nil {
		if vfs.KindOf(err) == vfs.KindNotLeader {
			err = sh.notLeader()
		}
		return nil, nil, err
	}
	if err := sh.host.Wait(ctx, index); err != nil {
		return nil, nil, err
	}
	return sh.host.View()
}

// voters lists the voters of the newest configuration, committed or not.
func (sh *shard) voters() []string {
	f := sh.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var ids []string
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	return ids
}

// askTerm asks a voter for its current term. The answer must come from that very replica: one that was
// wiped and answers at its address has none of its promises to keep.
func (sh *shard) askTerm(ctx context.Context, voter string) (uint64, error) {
	req := &metapb.TermRequest{Shard: uint32(sh.id), Sequence: sh.s.sequence.Add(1)}
	var reply metapb.TermReply
	if err := sh.s.peers.call(ctx, mux.NodeOf(voter), OpTerm, req, &reply); err != nil {
		return 0, err
	}
	if reply.ServerId != voter || reply.Sequence != req.Sequence {
		return 0, vfs.Errorf(vfs.KindIncompatible, "raftmeta.term", "asked %s, answered by %s", voter, reply.ServerId)
	}
	return reply.Term, nil
}
