package raftmeta

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/raftmeta/pieces"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// piecePage is how many extent records are looked at between two pauses.
	piecePage = 1000
	// pieceLooks is how many chunks are looked at again between two pauses.
	pieceLooks = 16
	// pieceExtents bounds what is looked at of one chunk.
	pieceExtents = 4096
	// maxSuspects and maxPieces bound the chunks that are watched, and those that wait to be handed out.
	maxSuspects = 4096
	maxPieces   = 1024
	// piecesAtOnce bounds one answer.
	piecesAtOnce = 256
)

// forgotten are chunks of files that are in many pieces. A gateway folds what it left in pieces itself; what it forgot, by dying or by
// overflow, the leader of the shard finds by walking its own extent records, slowly and without end. A chunk that Plan would join
// something of, and that is the same when it is looked at again after Options.PieceAge, is handed to any gateway that has room, once;
// if nothing comes of it, the next walk finds it again.
type forgotten struct {
	mu       sync.Mutex // guards the following
	ready    []*metapb.WorkPiece
	suspects map[fsm.Chunk]suspect
	st       PieceStatus
}

// suspect is how a chunk was.
type suspect struct {
	hash uint64
	at   time.Duration
}

// PieceStatus is how the search for forgotten pieces stands.
type PieceStatus struct {
	Records uint64 // looked at, since this replica leads
	Passes  uint64 // over all of them
	Watched int    // chunks that are looked at again
	Ready   int    // that wait for a gateway
	Handed  uint64 // that a gateway took
}

func (f *forgotten) status() PieceStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.st
	st.Watched, st.Ready = len(f.suspects), len(f.ready)
	return st
}

// take hands out up to n chunks.
func (f *forgotten) take(n int) []*metapb.WorkPiece {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = min(n, len(f.ready), piecesAtOnce)
	out := slices.Clone(f.ready[:n])
	f.ready = slices.Delete(f.ready, 0, n)
	f.st.Handed += uint64(n)
	return out
}

// note takes in how a chunk is at now.
func (f *forgotten) note(c fsm.Chunk, hash uint64, worth bool, now, age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, known := f.suspects[c]
	switch {
	case !worth:
		delete(f.suspects, c)
	case !known && slices.ContainsFunc(f.ready, func(p *metapb.WorkPiece) bool { return p.Fs == c.FS && p.Ino == c.Ino && p.Offset == c.Offset }):
	case !known && len(f.suspects) < maxSuspects, known && old.hash != hash:
		if f.suspects == nil {
			f.suspects = map[fsm.Chunk]suspect{}
		}
		f.suspects[c] = suspect{hash, now}
	case known && now-old.at >= age && len(f.ready) < maxPieces:
		delete(f.suspects, c)
		f.ready = append(f.ready, &metapb.WorkPiece{Fs: c.FS, Ino: c.Ino, Offset: c.Offset})
	}
}

// due are chunks to be looked at again, oldest first.
func (f *forgotten) due(now, age time.Duration, n int) (out []fsm.Chunk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = min(n, maxPieces-len(f.ready))
	for c, s := range f.suspects {
		if now-s.at >= age {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b fsm.Chunk) int {
		return cmp.Or(cmp.Compare(f.suspects[a].at, f.suspects[b].at), cmp.Compare(a.FS, b.FS), cmp.Compare(a.Ino, b.Ino), cmp.Compare(a.Offset, b.Offset))
	})
	return out[:max(min(n, len(out)), 0)]
}

func (f *forgotten) looked(records int, pass bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.st.Records += uint64(records)
	if pass {
		f.st.Passes++
	}
}

// findPieces walks the extents of a shard that this replica leads, until ctx ends. It reads the replica's own state: nothing that
// it finds needs to be true.
func (sh *shard) findPieces(ctx context.Context, f *forgotten) {
	o := &sh.s.opt
	var cursor []byte
	rest := o.Monotonic() // until then no walk begins
	for pause(ctx, o.PiecePause) == nil {
		if sh.host.Status().Level < levelRewrite {
			continue
		}
		v, cache, err := sh.host.View()
		if err != nil {
			return // the replica stops
		}
		now := o.Monotonic()
		look := f.due(now, o.PieceAge, pieceLooks)
		if now >= rest {
			var found []fsm.Chunk
			if found, cursor, err = fsm.Fragmented(v, cursor, pieces.ChunkSize, piecePage); err != nil {
				sh.log.Error("raftmeta: extents cannot be listed", "err", err)
				v.Release()
				return
			}
			if f.looked(piecePage, cursor == nil); cursor == nil {
				rest = now + o.PieceAge
			}
			look = append(look, found...)
		}
		for _, c := range look {
			hash, worth, err := fragments(v, cache, c)
			if err != nil {
				sh.log.Error("raftmeta: a file's extents cannot be read", "fs", c.FS, "ino", c.Ino, "offset", c.Offset, "err", err)
				continue
			}
			f.note(c, hash, worth, now, o.PieceAge)
			if ctx.Err() != nil {
				break
			}
		}
		v.Release()
	}
}

// levelRewrite is the feature level that has RewriteExtents.
const levelRewrite = 2

// fragments reads a chunk. hash tells one state of it from another.
func fragments(v fsm.View, cache *fsm.Cache, c fsm.Chunk) (hash uint64, worth bool, err error) {
	var list []*metapb.Extent
	h := xxhash.New()
	end := c.Offset + pieces.ChunkSize
	for at := c.Offset; at < end && len(list) < pieceExtents; {
		q := &metapb.ExtentsQ{Ino: c.Ino, Offset: at, Length: end - at, MaxExtents: uint32(pieceExtents - len(list))}
		r := fsm.Query(v, cache, &metapb.Query{Fs: c.FS, Q: &metapb.Query_Extents{Extents: q}})
		switch k := vfs.Kind(r.Kind); k {
		case vfs.KindOK:
		case vfs.KindStale, vfs.KindNotFound:
			return 0, false, nil // the file is gone
		default:
			return 0, false, vfs.Errorf(k, "raftmeta.find", "%s", r.Text)
		}
		x := r.GetExtents()
		list = append(list, x.GetExtents()...)
		if at = x.GetNext(); at == 0 {
			break
		}
	}
	var b []byte
	for _, e := range list {
		b = binary.BigEndian.AppendUint64(b[:0], e.Offset)
		b = binary.BigEndian.AppendUint32(b, e.Length)
		b = binary.BigEndian.AppendUint64(b, e.Block)
		b = binary.BigEndian.AppendUint32(b, e.BlockOffset)
		h.Write(append(b, e.Inline...))
	}
	return h.Sum64(), len(pieces.Plan(list)) > 0, nil
}
