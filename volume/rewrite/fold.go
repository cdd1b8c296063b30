package rewrite

import (
	"context"
	"log/slog"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/raftmeta/pieces"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

const (
	// foldBatch is how many chunks are taken from a volume at a time.
	foldBatch = 256
	// foldExtents bounds the extents that are looked at together.
	foldExtents = 4096
)

// Folding is the source of what small flushes left behind.
type Folding struct {
	Volumes func() []Folded
	Age     time.Duration // for which a chunk was not written
	Logger  *slog.Logger
}

// Folded is a volume whose files are folded.
type Folded struct {
	Volume *volume.Volume
	Shard  uint16
	FS     uint32
	Blocks volume.Blocks
}

var _ Source = (*Folding)(nil)

// Pending implements Source.
func (f *Folding) Pending() string {
	for _, v := range f.Volumes() {
		if v.Volume.FragmentCount() > 0 {
			return "fragments"
		}
	}
	return ""
}

// Pass implements Source.
func (f *Folding) Pass(ctx context.Context, m *Mover) error {
	for _, v := range f.Volumes() {
		due := v.Volume.TakeFragments(f.Age, foldBatch)
		if len(due) == 0 {
			continue
		}
		v.Volume.PutBackFragments(due) // what is due may be another after the wait
		t := &metapb.WorkTask{Kind: metapb.WorkKind_WORK_FOLD, Fs: v.FS, Spare: moveSpare, BlocksTotal: uint64(len(due))}
		if err := m.Task(ctx, v.Shard, t, func(ctx context.Context) error { return f.volume(ctx, m, &v) }); err != nil {
			return err
		}
	}
	return nil
}

// moveSpare orders rewriting: no data is in danger.
const moveSpare = 1

// volume folds what is due in a volume.
func (f *Folding) volume(ctx context.Context, m *Mover, v *Folded) error {
	for {
		list := v.Volume.TakeFragments(f.Age, foldBatch)
		for i, g := range list {
			m.permit.At(uint64(g.Ino), g.Offset)
			err := v.fold(ctx, m, g)
			if err == nil {
				m.permit.Did(1, 0)
				continue
			}
			if k := vfs.KindOf(err); ctx.Err() == nil && (k == vfs.KindCorrupt || k == vfs.KindInternal || k == vfs.KindInvalid) {
				f.Logger.Error("a part of a file is not folded", "fs", v.FS, "ino", g.Ino, "offset", g.Offset, "err", err)
				m.stats.failures.Add(1)
				continue
			}
			v.Volume.PutBackFragments(list[i:])
			return err
		}
		if len(list) < foldBatch {
			return nil
		}
	}
}

// Found remembers chunks that the leader of a shard found, to be folded as if this gateway had left them in pieces a while ago.
func (f *Folding) Found(shard uint16, list []*metapb.WorkPiece) {
	for _, p := range list {
		for _, v := range f.Volumes() {
			if v.Shard == shard && v.FS == p.Fs {
				v.Volume.AddFragment(vfs.Ino(p.Ino), p.Offset, f.Age)
			}
		}
	}
}

// Room is how many more chunks of a shard's file systems can be remembered, as far as a leader should care.
func (f *Folding) Room(shard uint16) int {
	room := foldBatch
	for _, v := range f.Volumes() {
		if v.Shard == shard {
			room -= v.Volume.FragmentCount()
		}
	}
	return max(room, 0)
}

// Chunks of pieces are those of volumes.
var _ [0]struct{} = [pieces.ChunkSize - volume.FragmentSize]struct{}{}

// fold moves what plan chooses of one chunk.
func (v *Folded) fold(ctx context.Context, m *Mover, g volume.Fragment) error {
	file := File{Shard: v.Shard, FS: v.FS, Ino: uint64(g.Ino), Blocks: v.Blocks}
	end := g.Offset + volume.FragmentSize
	for at := g.Offset; at < end; {
		var list []*metapb.Extent
		for at < end && len(list) < foldExtents {
			q := &metapb.ExtentsQ{Ino: file.Ino, Offset: at, Length: end - at, MaxExtents: uint32(foldExtents - len(list))}
			res, err := m.Query(ctx, v.Shard, &metapb.Query{Fs: v.FS, Q: &metapb.Query_Extents{Extents: q}})
			switch vfs.KindOf(err) {
			case vfs.KindOK:
			case vfs.KindStale, vfs.KindNotFound:
				return nil // the file is gone
			default:
				return err
			}
			x := res.GetExtents()
			list = append(list, x.GetExtents()...)
			switch next := x.GetNext(); {
			case next == 0:
				at = end
			case next <= at:
				return vfs.Errorf(vfs.KindInternal, "fold", "extents of inode %d: no progress at %d", file.Ino, at)
			default:
				at = next
			}
		}
		for _, group := range pieces.Plan(list) {
			if _, err := m.Move(ctx, file, group); err != nil {
				return err
			}
		}
	}
	return nil
}
