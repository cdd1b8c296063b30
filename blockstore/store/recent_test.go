package store

import (
	"bytes"
	"context"
	"testing"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// TestRecent: what is read of shards that were read before is what the index says at that moment, and what the disk holds.
func TestRecent(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, manual())
	defer mustClose(t, s)
	const off, n = 3*segment.PageSize + 7, 5000
	k, other := key(1, 5, 0), key(1, 11, 0)
	read := func() {
		t.Helper()
		r, err := s.Get(ctx, k, off, n)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		want := shardPut(k, 1)
		if !bytes.Equal(r.Bytes, want.Data[off:off+n]) || r.Record.Block != k.Block || r.Record.Owner != want.Owner {
			t.Fatalf("not what was written, of %+v", r.Record)
		}
	}
	known := func(want bool) (at *sighting) {
		t.Helper()
		if at, _ = s.recent.get(k); (at != nil) != want {
			t.Fatalf("known: %v, want %v", at != nil, want)
		}
		return at
	}

	mustPut(t, s, k)
	checkShard(t, s, k)
	known(false) // it was read as a whole
	read()
	first := known(true)
	read()
	if r, ok := s.getRecent(first, off, n); !ok {
		t.Fatal("it is not read by what is known of it")
	} else {
		r.Release()
	}
	if _, err := s.Get(ctx, k, int(first.l.length)-10, 11); vfs.KindOf(err) != vfs.KindInvalid {
		t.Fatal(err)
	}

	// Deleted, it is gone at once, and who looked before does not bring it back.
	_, stamp := s.recent.get(k)
	mustDelete(t, s, k)
	known(false)
	s.saw(k, first.l, &first.record, first.crcs, stamp)
	known(false)
	_, err := s.Get(ctx, k, off, n)
	wantKind(t, err, vfs.KindNotFound)

	// While the index changes, nothing comes in.
	end := s.recent.change(nil)
	_, stamp = s.recent.get(k)
	s.saw(k, first.l, &first.record, first.crcs, stamp)
	end()
	s.saw(k, first.l, &first.record, first.crcs, stamp)
	known(false)

	// Moved by compaction, it is read where it is now; by an old sighting it is not read at all.
	mustPut(t, s, k)
	mustPut(t, s, other)
	read()
	before := known(true)
	rotate(t, s)
	mustDelete(t, s, other)
	mustCompact(t, s)
	known(false)
	if _, ok := s.getRecent(before, off, n); ok {
		if now, _, _ := s.lookup(k); now != before.l {
			t.Fatal("read where it was")
		}
	}
	read()

	// What the disk does not hold any more is not answered.
	at := known(true)
	g, _, _ := s.headerOf(at.l.file)
	page := at.l.offset() + int64(segment.HeaderLen(int(at.l.length))) + 3*segment.PageSize
	if _, err := g.f.WriteAt([]byte("damaged"), page); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(ctx, k, off, n)
	wantKind(t, err, vfs.KindCorrupt)
	known(false)
}

func TestRecentIsBounded(t *testing.T) {
	var r recent
	crcs := make(segment.CRCs, 4096)
	const n = 4 * recentBytes / 4096
	_, stamp := r.get(key(1, 0, 0))
	for b := range uint64(n) {
		r.add(&sighting{key: key(1, b, 0), crcs: crcs}, stamp)
		if r.bytes > recentBytes || len(r.m) != len(r.ring) {
			t.Fatalf("%d bytes, %d keys, %d in the ring", r.bytes, len(r.m), len(r.ring))
		}
		if s, _ := r.get(key(1, 0, 0)); s == nil { // it is used all the time
			t.Fatalf("what is used went when there were %d", b)
		}
	}
	if at, _ := r.get(key(1, n-1, 0)); at == nil {
		t.Fatal("the newest is not there")
	}
	r.clear()
	if len(r.m) != 0 || len(r.ring) != 0 || r.bytes != 0 {
		t.Fatal(len(r.m), len(r.ring), r.bytes)
	}
}
