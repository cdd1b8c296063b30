package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Metadata asks leaders. *raftmeta.Client is one.
type Metadata interface {
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// Source has a replica of every shard. *raftmeta.Server is one.
type Source interface {
	OpenState(ctx context.Context, shard uint16, applied uint64) (*raftmeta.State, error)
}

// Options say what is backed up.
type Options struct {
	Meta    Metadata
	Source  Source
	Shards  []uint16 // all that the cluster has
	Release string
	Grace   time.Duration // how long blocks are kept that no file uses any more
	Now     func() time.Time
}

// Write makes a backup and writes it. What is written is a backup only if Write succeeds.
func Write(ctx context.Context, o Options, out io.Writer) (Head, []Shard, error) {
	head, shards, err := write(ctx, o, out)
	return head, shards, vfs.Wrap("backup", err)
}

func write(ctx context.Context, o Options, out io.Writer) (head Head, shards []Shard, err error) {
	// Namespace shards first, shard 0 last: see the package comment.
	order := slices.Sorted(slices.Values(o.Shards))
	if len(order) < 2 || order[0] != 0 {
		return head, nil, vfs.Errorf(vfs.KindInvalid, "", "shards %v: shard 0 and at least one namespace shard are needed", order)
	}
	order = append(order[1:], 0)
	began := o.Now()
	head = Head{Release: o.Release, Began: began.UTC(), GoodUntil: began.Add(o.Grace).UTC(), Shards: order}
	var states []*raftmeta.State
	defer func() {
		for _, s := range states {
			err = errors.Join(err, s.Close())
		}
	}()
	for i, shard := range order {
		r, err := o.Meta.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
		if err != nil {
			return head, nil, err
		}
		s, err := o.Source.OpenState(ctx, shard, r.GetShardInfo().GetApplied())
		if err != nil {
			return head, nil, err
		}
		states = append(states, s)
		shards = append(shards, Shard{Shard: shard, Applied: s.Applied, Level: s.Level, Bytes: s.Bytes})
		if i == 0 {
			head.Cluster, head.Incarnation = hex.EncodeToString(s.Cluster), s.Incarnation
		}
		if s.Incarnation != head.Incarnation || hex.EncodeToString(s.Cluster) != head.Cluster || s.Shard != shard {
			return head, nil, vfs.Errorf(vfs.KindIncompatible, "", "shard %d is of incarnation %d, shard %d of %d", shard, s.Incarnation, order[0], head.Incarnation)
		}
	}
	if took := o.Now().Sub(began); took > o.Grace {
		return head, nil, vfs.Errorf(vfs.KindUnavailable, "", "copying the shards took %v, longer than blocks are kept (%v): the copies do not belong together; try again", took, o.Grace)
	}
	w := writer{out}
	if err := w.begin(); err != nil {
		return head, nil, err
	}
	if err := w.json(kindHead, head); err != nil {
		return head, nil, err
	}
	for i, s := range states {
		if err := ctx.Err(); err != nil {
			return head, nil, err
		}
		if err := w.json(kindShard, shards[i]); err != nil {
			return head, nil, err
		}
		if err := w.section(kindState, s.Bytes, s); err != nil {
			return head, nil, err
		}
	}
	return head, shards, w.json(kindEnd, End{Shards: len(states)})
}

// Save writes what fill gives to the file path, which must not exist: under another name, verified, synced and then renamed. It is readable by its
// owner only: keys are in it.
func Save(path string, fill func(io.Writer) error) (head Head, shards []Shard, err error) {
	err = saveNew(path, func(f *os.File) error { return fill(f) }, func(f *os.File) (err error) {
		head, shards, err = Verify(f)
		return err
	})
	return head, shards, err
}

// saveNew makes a new file, which others cannot read. It gets its name when it is on the disk and verified.
func saveNew(path string, fill, verify func(*os.File) error) (err error) {
	const op = "backup"
	if _, err := os.Lstat(path); err == nil {
		return vfs.Errorf(vfs.KindExists, op, "%s exists: choose another name", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return vfs.Wrap(op, err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
		err = vfs.Wrap(op, err)
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := verify(f); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // not Rename: it would replace what somebody made meanwhile
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	return (vfile.OS{}).SyncDir(filepath.Dir(path))
}
