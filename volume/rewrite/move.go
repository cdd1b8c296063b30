package rewrite

import (
	"context"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/background"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/raftmeta/pieces"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

const (
	// unitIDs is how many block ids are leased at once.
	unitIDs = 4096
	// giveBackTimeout is how long the end of a pass waits for the return of ids.
	giveBackTimeout = 2 * time.Second
)

// File is a file whose extents are moved.
type File struct {
	Shard  uint16 // of its namespace
	FS     uint32
	Ino    uint64
	Blocks volume.Blocks // where its blocks are read, and the new ones written
}

// Mover moves parts of files, one after the other and not faster than its rate.
type Mover struct {
	meta  volume.Meta
	rate  float64 // bytes per second
	stats *counters
	units map[uint16]*unit // by shard
	buf   []byte           // of the new block
	old   []byte           // of an old one
	last  [2]uint64        // the file system and inode that were moved last

	desk   func(shard uint16) *background.Desk
	permit *background.Permit // of the task under way
}

// begin waits for the permission of a shard's leader to do a task. The task's context ends when it is taken back; end ends the task.
func (m *Mover) begin(ctx context.Context, shard uint16, t *metapb.WorkTask) (task context.Context, end func(), err error) {
	var d *background.Desk
	if m.desk != nil {
		d = m.desk(shard)
	}
	p, err := d.Acquire(ctx, nil, t)
	if err != nil {
		return nil, nil, err
	}
	m.permit = p
	return p.Context(), func() { p.Done(); m.permit = nil }, nil
}

// Task does one task of a pass with the permission of the shard's leader, within the context that f gets: it ends when the permission is taken
// back, which is no error.
func (m *Mover) Task(ctx context.Context, shard uint16, t *metapb.WorkTask, f func(ctx context.Context) error) error {
	task, end, err := m.begin(ctx, shard, t)
	if err != nil {
		return err
	}
	defer end()
	err = f(task)
	if err != nil && ctx.Err() == nil && m.permit.TakenBack() {
		return nil
	}
	return err
}

// unit is a leased range of block ids.
type unit struct{ first, next, end uint64 }

// Query asks the shard of f about its file system.
func (m *Mover) Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	return m.meta.Query(ctx, shard, q)
}

// nextID returns a block id that was never used.
func (m *Mover) nextID(ctx context.Context, shard uint16) (uint64, error) {
	u := m.units[shard]
	if u != nil && u.next == u.end {
		m.giveBack(ctx, shard)
		u = nil
	}
	if u == nil {
		res, err := m.meta.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: unitIDs}}})
		if err != nil {
			return 0, err
		}
		b := res.GetBlocks()
		if b.GetCount() == 0 {
			return 0, vfs.Errorf(vfs.KindInternal, "rewrite", "an empty range of block ids")
		}
		u = &unit{first: b.GetFirst(), next: b.GetFirst(), end: b.GetFirst() + uint64(b.GetCount())}
		m.units[shard] = u
	}
	u.next++
	return u.next - 1, nil
}

// giveBack ends the use of leased ids: those that did not become blocks are dead. Without an answer they stay leased until
// this gateway's end.
func (m *Mover) giveBack(ctx context.Context, shard uint16) {
	u := m.units[shard]
	if u == nil {
		return
	}
	delete(m.units, shard)
	// Also when the work was stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	_, err := m.meta.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_ReturnBlocks{ReturnBlocks: &metapb.ReturnBlocks{First: []uint64{u.first}}}})
	if err != nil {
		m.stats.unreturned.Add(1)
	}
}

// Move puts parts, extents of f in ascending order as the metadata named them, into a new block (or several, if one
// command cannot take all of them), and returns how many bytes went there. Parts that are not there any more are left alone;
// a file that is gone is no error. The parts together span no more than a block.
func (m *Mover) Move(ctx context.Context, f File, parts []*metapb.Extent) (uint64, error) {
	span := pieces.End(parts[len(parts)-1]) - parts[0].Offset
	if err := m.permit.WaitN(ctx, int(span)); err != nil {
		return 0, vfs.Wrap("rewrite", err)
	}
	began := time.Now()
	n, err := m.move(ctx, f, parts)
	switch vfs.KindOf(err) {
	case vfs.KindStale, vfs.KindNotFound: // the file is gone, or a block, which the file then does not have any more
		err = nil
	}
	if n > 0 {
		m.stats.bytes.Add(n)
		if file := [2]uint64{uint64(f.FS), f.Ino}; file != m.last {
			m.last = file
			m.stats.files.Add(1)
		}
	}
	if err != nil {
		return n, vfs.Wrap("rewrite", err)
	}
	m.permit.At(f.Ino, parts[0].Offset)
	m.permit.Did(0, n)
	pause := time.Duration(float64(span)/m.rate*float64(time.Second)) - time.Since(began)
	select {
	case <-time.After(pause):
		return n, nil
	case <-ctx.Done():
		return n, ctx.Err()
	}
}

func (m *Mover) move(ctx context.Context, f File, parts []*metapb.Extent) (uint64, error) {
	base := parts[0].Offset
	data, err := m.read(ctx, f, parts)
	if err != nil {
		return 0, err
	}
	id, err := m.nextID(ctx, f.Shard)
	if err != nil {
		return 0, err
	}
	to, err := f.Blocks.Write(ctx, id, volume.Owner{FS: f.FS, Ino: f.Ino, Offset: base}, data)
	if err != nil {
		return 0, err
	}
	c := &metapb.RewriteExtents{Ino: f.Ino, Extents: make([]*metapb.ExtentRewrite, len(parts))}
	for i, e := range parts {
		w := &metapb.ExtentRewrite{
			Offset: e.Offset, Length: e.Length, OldBlock: e.Block, OldBlockOffset: e.BlockOffset,
			Block: id, BlockOffset: uint32(e.Offset - base), BlockLength: to.Len, Pg: to.PG, K: uint32(to.K), M: uint32(to.M),
		}
		if e.Block == 0 {
			w.InlineHash, w.OldBlockOffset = xxhash.Sum64(e.Inline), 0
		}
		c.Extents[i] = w
	}
	res, err := m.meta.Apply(ctx, f.Shard, &metapb.Command{Fs: f.FS, Op: &metapb.Command_RewriteExtents{RewriteExtents: c}})
	if vfs.KindOf(err) == vfs.KindTooMany && len(parts) > 1 {
		half := len(parts) / 2
		a, err := m.move(ctx, f, parts[:half])
		if err != nil {
			return a, err
		}
		z, err := m.move(ctx, f, parts[half:])
		return a + z, err
	}
	if err != nil {
		return 0, err
	}
	rw := res.GetRewrite()
	for i, taken := range rw.GetParts() {
		if i < len(parts) && taken < parts[i].Length {
			m.stats.refused.Add(1)
		}
	}
	if rw.GetBytes() > 0 {
		m.stats.blocks.Add(1)
	}
	return rw.GetBytes(), nil
}

// read puts what the parts hold where it will be in the new block, with zeros between them.
func (m *Mover) read(ctx context.Context, f File, parts []*metapb.Extent) ([]byte, error) {
	const op = "rewrite"
	base, end := parts[0].Offset, pieces.End(parts[len(parts)-1])
	n := end - base
	if n > blockstore.MaxBlock {
		return nil, vfs.Errorf(vfs.KindInternal, op, "inode %d: %d bytes at %d are more than a block", f.Ino, n, base)
	}
	if uint64(cap(m.buf)) < n+blockstore.MaxPadding {
		m.buf = make([]byte, n+blockstore.MaxPadding)
	}
	data := m.buf[:n]
	clear(data)
	type from struct {
		block  volume.Block
		lo, hi uint32
	}
	var blocks []from
	at := make(map[uint64]int) // index in blocks
	prev := base
	for _, e := range parts {
		bad := e.Offset < prev || e.Length == 0
		if e.Block == 0 {
			bad = bad || len(e.Inline) != int(e.Length)
		} else {
			bad = bad || e.BlockLength > blockstore.MaxBlock || uint64(e.BlockOffset)+uint64(e.Length) > uint64(e.BlockLength)
		}
		if bad {
			return nil, vfs.Errorf(vfs.KindCorrupt, op, "inode %d names %d bytes from %d on of block %#x, which has %d, at %d", f.Ino, e.Length, e.BlockOffset, e.Block, e.BlockLength, e.Offset)
		}
		prev = pieces.End(e)
		if e.Block == 0 {
			copy(data[e.Offset-base:], e.Inline)
			continue
		}
		i, ok := at[e.Block]
		if !ok {
			i = len(blocks)
			at[e.Block] = i
			b := volume.Block{ID: e.Block, PG: e.Pg, K: uint8(e.K), M: uint8(e.M), Len: e.BlockLength}
			blocks = append(blocks, from{block: b, lo: e.BlockOffset})
		}
		b := &blocks[i]
		b.lo, b.hi = min(b.lo, e.BlockOffset), max(b.hi, e.BlockOffset+e.Length)
	}
	// One read for all that is used of a block.
	for _, b := range blocks {
		if cap(m.old) < int(b.hi-b.lo) {
			m.old = make([]byte, b.hi-b.lo)
		}
		old := m.old[:b.hi-b.lo]
		if err := f.Blocks.Read(ctx, b.block, b.lo, old); err != nil {
			return nil, err
		}
		for _, e := range parts {
			if e.Block == b.block.ID {
				copy(data[e.Offset-base:], old[e.BlockOffset-b.lo:][:e.Length])
			}
		}
	}
	return data, nil
}
