package volume_test

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// Files that share blocks are written, cut, punched, cloned over one another and removed, while everything is folded and stores
// delete what is dead at once: each file holds what it should, and in the end exactly the blocks live that files use.
func TestCloneAmongRewriters(t *testing.T) {
	r := newFoldRig(t, volume.Config{BlockIDAge: 20 * time.Millisecond, FlushAge: 5 * time.Millisecond})
	f := r.folderTo(-time.Minute, slowBlocks{r.blocks})
	var ids sync.Map
	r.blocks.setFailWrite(func(id uint64, _ int) error {
		ids.Store(id, true)
		return nil
	})
	const count, size, page = 5, 400_000, 4096
	type file struct {
		ino   vfs.Ino
		model []byte
	}
	var files [count]file
	names, serial := [count]string{}, 0
	fresh := func(i int) {
		serial++
		names[i] = string(rune('a'+i)) + string(rune('0'+serial%10)) + string(rune('0'+serial/10%10)) + string(rune('0'+serial/100))
		files[i] = file{ino: create(t, r, names[i])}
	}
	for i := range files {
		fresh(i)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := f.Pass(ctx); err != nil {
				t.Errorf("folding: %v", err)
				return
			}
			r.meta.purge(t)
			r.reap(t)
		}
	})
	src := rand.New(rand.NewPCG(7, 7))
	grow := func(p []byte, n int) []byte { return append(p, make([]byte, max(0, n-len(p)))...) }
	clones := 0
	limit := time.Now().Add(5 * time.Minute)
	for step := 0; (step < 1500 || f.Stats().Blocks < 10) && time.Now().Before(limit); step++ {
		i := src.IntN(count)
		x := &files[i]
		off, n := src.IntN(size), src.IntN(60_000)+1
		n = min(n, size-off)
		var err error
		switch src.IntN(12) {
		case 0:
			cut := uint64(off)
			_, err = r.SetAttr(ctx, &vfs.Root, x.ino, vfs.SetAttr{Size: &cut}, false)
			x.model = grow(x.model[:min(off, len(x.model))], off)
		case 1, 2:
			err = r.Deallocate(ctx, &vfs.Root, x.ino, uint64(off), uint64(n))
			if off < len(x.model) {
				clear(x.model[off:min(off+n, len(x.model))])
			}
		case 3:
			err = r.Allocate(ctx, &vfs.Root, x.ino, uint64(off), uint64(n))
			x.model = grow(x.model, off+n)
		case 4:
			if _, err = r.Remove(ctx, &vfs.Root, vfs.RootIno, names[i], vfs.RemoveFile); err == nil {
				fresh(i)
			}
		case 5, 6, 7:
			s := &files[src.IntN(count)]
			from, to := src.IntN(size)/page*page, off/page*page
			if from >= len(s.model) || to+len(s.model)-from > size || s == x && to < len(s.model) {
				continue
			}
			err = r.Clone(ctx, &vfs.Root, s.ino, uint64(from), x.ino, uint64(to), 0)
			part := bytes.Clone(s.model[from:])
			x.model = grow(x.model, to+len(part))
			copy(x.model[to:], part)
			clones++
		default:
			if src.IntN(2) == 0 {
				n = min(n, 3000)
			}
			p := random(n, uint64(step))
			_, _, err = r.Write(ctx, &vfs.Root, x.ino, uint64(off), p, []vfs.Stable{vfs.Unstable, vfs.FileSync}[src.IntN(2)])
			x.model = grow(x.model, off+n)
			copy(x.model[off:], p)
		}
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		look := &files[src.IntN(count)]
		if got := read(t, r, look.ino, 0, size+1); !bytes.Equal(got, look.model) {
			t.Fatalf("step %d: inode %d has %d bytes, want %d, or others", step, look.ino, len(got), len(look.model))
		}
	}
	close(done)
	wg.Wait()
	if t.Failed() {
		return
	}
	if s := f.Stats(); s.Blocks < 10 || clones < 100 {
		t.Errorf("%d clones, %+v: the test shows little", clones, s)
	}
	if err := r.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.meta.purge(t)
	r.reap(t)
	live := map[uint64]bool{}
	for _, x := range files {
		if got := read(t, r, x.ino, 0, size+1); !bytes.Equal(got, x.model) {
			t.Fatalf("inode %d differs in the end", x.ino)
		}
		list, _ := r.meta.extents(t, x.ino)
		for _, e := range list {
			if e.Block != 0 {
				live[e.Block] = true
			}
		}
	}
	ids.Range(func(id, _ any) bool {
		want := metapb.BlockState_BLOCK_DEAD
		if live[id.(uint64)] {
			want = metapb.BlockState_BLOCK_LIVE
		}
		if s := r.meta.states(t, id.(uint64))[0]; s != want {
			t.Errorf("block %#x is %v, want %v", id, s, want)
		}
		return true
	})
	r.meta.mu.Lock()
	defer r.meta.mu.Unlock()
	if err := fsm.Check(r.meta.store); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d clones, %+v", clones, f.Stats())
}

// A clone is one command: it does all or nothing. What is too much for that is refused, and can be cloned in parts.
func TestCloneIsWhole(t *testing.T) {
	r := newFoldRig(t, volume.Config{})
	const pages = 3000
	src, dst := create(t, r, "src"), create(t, r, "dst")
	data := random(pages*4096, 1)
	for at := 0; at < len(data); at += 8192 { // pages that no page follows
		write(t, r, src, uint64(at), data[at:at+4096], vfs.FileSync)
		clear(data[at+4096 : at+8192])
	}
	size := uint64(len(data))
	if _, err := r.SetAttr(ctx, &vfs.Root, src, vfs.SetAttr{Size: &size}, true); err != nil {
		t.Fatal(err)
	}
	commands, refuse := 0, false
	r.gw.fail = func(c *metapb.Command) error {
		if c.GetCloneRange() != nil {
			if commands++; refuse {
				return vfs.Errorf(vfs.KindUnavailable, "test", "refused")
			}
		}
		return nil
	}
	unchanged := func(what string, err error, kind vfs.Kind) {
		t.Helper()
		if a, aerr := r.GetAttr(ctx, dst); vfs.KindOf(err) != kind || aerr != nil || a.Size != 0 || a.Used != 0 {
			t.Fatalf("%s: %v; %+v, %v", what, err, a, aerr)
		}
	}
	unchanged("too many pieces", r.Clone(ctx, &vfs.Root, src, 0, dst, 0, 0), vfs.KindXDev)
	refuse = true
	unchanged("refused", r.Clone(ctx, &vfs.Root, src, 0, dst, 0, size/2), vfs.KindUnavailable)
	refuse, commands = false, 0
	for at := uint64(0); at < size; at += size / 2 {
		if err := r.Clone(ctx, &vfs.Root, src, at, dst, at, size/2); err != nil {
			t.Fatal(err)
		}
	}
	if commands != 2 || !bytes.Equal(read(t, r, dst, 0, len(data)), data) {
		t.Fatalf("%d commands, or the clone differs", commands)
	}
}
