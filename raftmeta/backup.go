package raftmeta

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/machine"
	"github.com/rackfs/rackfs/raftmeta/internal/replica"
	"github.com/rackfs/rackfs/raftmeta/internal/snapstore"
	"github.com/rackfs/rackfs/vfs"
)

// copyDir is where in a replica's directory a copy of its state is made that is streamed into a backup, madeDir and rawDir where one is made from
// a backup. Nothing in them outlives the process that made it.
const (
	copyDir = "backup"
	rawDir  = "restore-raw"
	madeDir = "restore"
)

// Renewal says what restored metadata begins with.
type Renewal = fsm.Renewal

// Identity is what the state of a shard says of itself.
type Identity = fsm.Identity

// State is a copy of a shard's state, made by OpenState: hard links to its files, which a stream is made of while it is read.
type State struct {
	Identity       // Applied is a lower bound: entries go on being applied while the copy is made
	Bytes    int64 // of the stream
	r        *snapstore.Reader
	dir      string
	opt      machine.Options
	close    func() error
}

// Read implements io.Reader with the stream.
func (s *State) Read(p []byte) (int, error) { return s.r.Read(p) }

// Inspect opens the copy for reading.
func (s *State) Inspect(read func(fsm.View) error) error { return machine.Inspect(s.dir, s.opt, read) }

// Close removes the copy.
func (s *State) Close() error { return errors.Join(s.r.Close(), s.close()) }

// OpenState makes a copy of the state that this server's replica of a shard has, when it has applied everything up to an index: that of
// a linearizable ShardInfoQ makes the copy contain all that was acknowledged before. Writes go on meanwhile. One copy of a shard is made at a time.
func (s *Server) OpenState(ctx context.Context, shard uint16, applied uint64) (*State, error) {
	const op = "raftmeta.backup"
	sh, err := s.shard(uint32(shard))
	if err != nil {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "node %s has no replica of shard %d: ask a node that has one", s.node.Name, shard)
	}
	if err := sh.host.Wait(ctx, applied); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	select {
	case sh.copying <- struct{}{}:
	case <-ctx.Done():
		return nil, vfs.Errorf(vfs.KindBusy, op, "another backup of shard %d is being made on node %s: try again when it is done: %w", shard, s.node.Name, context.Cause(ctx))
	}
	dir := filepath.Join(s.node.ShardDir(shard), copyDir)
	st := &State{dir: dir, opt: machine.Options{Shard: shard, Cluster: s.node.Cluster, Logger: sh.log, Files: s.opt.files, PebbleFS: s.opt.pebbleFS}, close: func() error {
		err := s.opt.files.RemoveAll(dir)
		<-sh.copying
		return err
	}}
	if err := st.open(sh, s.opt.files, dir); err != nil {
		return nil, vfs.Wrap(op, errors.Join(err, st.close()))
	}
	return st, nil
}

func (s *State) open(sh *shard, files vfile.FS, dir string) error {
	v, _, err := sh.host.View()
	if err != nil {
		return err
	}
	s.Identity, err = fsm.IdentityOf(v)
	v.Release()
	if err != nil {
		return err
	}
	if err := files.RemoveAll(dir); err != nil {
		return err
	}
	if err := sh.host.Checkpoint(dir); err != nil {
		return err
	}
	s.r, s.Bytes, err = snapstore.OpenCheckpoint(files, dir, s.Applied)
	return err
}

// FirstVoter is one of the voters that a restored shard begins with.
type FirstVoter struct {
	Dir string // of the node's metadata; made by Format, with a replica of the shard that never ran
	ID  string // of that replica
}

// RestoreOptions say what a shard is made of.
type RestoreOptions struct {
	Cluster []byte
	Shard   uint16
	Voters  []FirstVoter
	Renewal Renewal
	Files   vfile.FS     // nil: the operating system's
	Logger  *slog.Logger // nil: slog.Default()
}

// RestoreShard begins a shard with the state of a stream that State was read from, renewed (fsm.Renew): all its voters get the same
// snapshot, and a log that begins behind it. It returns what was read, and the file systems in it. What an error or a crash leaves is of no use: it
// begins with new directories.
func RestoreShard(o RestoreOptions, stream io.Reader) (id Identity, namespaces []uint32, err error) {
	const op = "raftmeta.restore"
	o.Files = orOS(o.Files)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if len(o.Voters) == 0 {
		return id, nil, vfs.Errorf(vfs.KindInvalid, op, "no voters")
	}
	raw, made := o.path(0, rawDir), o.path(0, madeDir)
	if _, err := snapstore.Unpack(o.Files, stream, raw); err != nil {
		return id, nil, vfs.Wrap(op, err)
	}
	var applied uint64
	mo := machine.Options{Shard: o.Shard, Cluster: o.Cluster, Logger: o.Logger, Files: o.Files}
	err = machine.Edit(raw, made, mo, func(s fsm.Store) (err error) {
		if id, err = fsm.IdentityOf(s); err != nil {
			return err
		}
		if namespaces, err = fsm.Namespaces(s); err != nil {
			return err
		}
		applied, err = fsm.Renew(s, fsm.Options{Shard: o.Shard, Cluster: o.Cluster}, o.Renewal)
		return err
	})
	if err == nil {
		err = o.begin(applied, made)
	}
	return id, namespaces, vfs.Wrap(op, errors.Join(err, o.Files.RemoveAll(raw), o.Files.RemoveAll(made)))
}

func (o *RestoreOptions) path(voter int, name string) string {
	return filepath.Join((&replica.Node{Dir: o.Voters[voter].Dir}).ShardDir(o.Shard), name)
}

// begin gives every voter a snapshot with the state in dir, which it takes away, and the first term.
func (o *RestoreOptions) begin(applied uint64, dir string) error {
	var conf raft.Configuration
	for _, v := range o.Voters {
		conf.Servers = append(conf.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v.ID), Address: raft.ServerAddress(v.ID)})
	}
	const term = 1
	var first *snapstore.Store
	var id string
	for i, v := range o.Voters {
		info, err := replica.ReadInfo(o.Files, v.Dir, o.Shard)
		if err != nil {
			return err
		}
		if info.ID != v.ID {
			return vfs.Errorf(vfs.KindInvalid, "", "the replica in %s is %s, not %s", v.Dir, info.ID, v.ID)
		}
		snaps, err := snapstore.Open(o.Files, o.path(i, snapshotDir), 1, o.Logger)
		if err != nil {
			return err
		}
		sink, err := snaps.Create(1, applied, term, conf, 1, nil)
		if err != nil {
			return err
		}
		if i == 0 {
			first, id = snaps, sink.ID()
			err = sink.(*snapstore.Sink).Checkpoint(applied, func(to string) error { return o.Files.Rename(dir, to) })
		} else {
			err = copySnapshot(first, id, sink)
		}
		if err != nil {
			return errors.Join(err, sink.Cancel())
		}
		if err := sink.Close(); err != nil {
			return err
		}
		if err := o.firstTerm(i, info, term); err != nil {
			return err
		}
	}
	return nil
}

func copySnapshot(from *snapstore.Store, id string, to io.Writer) error {
	_, r, err := from.Open(id)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, r)
	return errors.Join(err, r.Close())
}

// firstTerm makes the term of the snapshot the replica's, whose log has to be empty.
func (o *RestoreOptions) firstTerm(voter int, info replica.Info, term uint64) error {
	dir := o.path(voter, "")
	logs, err := replica.OpenLogs(dir, info, replica.LogOptions{Files: o.Files})
	if err != nil {
		return err
	}
	last, err := logs.LastIndex()
	if err == nil && last > 0 {
		err = vfs.Errorf(vfs.KindExists, "", "the replica in %s is in use already", dir)
	}
	if err == nil {
		err = logs.Stable.SetUint64(keyCurrentTerm, term)
	}
	return errors.Join(err, logs.Close())
}
