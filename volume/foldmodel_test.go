package volume_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// slowBlocks gives others time between the reading and the command. It decides nothing.
type slowBlocks struct{ *blocks }

func (b slowBlocks) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	time.Sleep(300 * time.Microsecond)
	return b.blocks.Write(ctx, id, o, data)
}

// Everything is folded all the time, stores delete what is dead at once, while files are written, cut off and read: each reads what
// it wrote, usage is exact, and nothing is leaked.
func TestFoldAmongWriters(t *testing.T) {
	r := newFoldRig(t, volume.Config{BlockIDAge: 20 * time.Millisecond, FlushAge: 5 * time.Millisecond})
	f := r.folderTo(-time.Minute, slowBlocks{r.blocks}) // also what is newest
	var ids sync.Map
	r.blocks.setFailWrite(func(id uint64, _ int) error {
		ids.Store(id, true)
		return nil
	})
	const writers, size = 4, 200_000
	still := create(t, r, "still")
	frozen := random(size, 77)
	r.append(t, still, 0, frozen, 4000)
	limit := time.Now().Add(5 * time.Minute)
	enough := func() bool {
		s := f.Stats()
		return s.Blocks >= 50 && s.RefusedParts >= 10 || time.Now().After(limit)
	}
	models := make([][]byte, writers)
	inos := make([]vfs.Ino, writers)
	var writing, wg sync.WaitGroup
	done := make(chan struct{})
	for i := range writers {
		inos[i] = create(t, r, string(rune('a'+i)))
		writing.Go(func() {
			src := rand.New(rand.NewPCG(uint64(i), 5))
			model := make([]byte, 0, size)
			for step := 0; step < 100 || !enough(); step++ {
				off, n := src.IntN(size), src.IntN(6000)+1
				n = min(n, size-off)
				p := random(n, uint64(step))
				if src.IntN(20) == 0 {
					cut := uint64(off)
					if _, err := r.SetAttr(ctx, &vfs.Root, inos[i], vfs.SetAttr{Size: &cut}, false); err != nil {
						t.Errorf("writer %d: %v", i, err)
						return
					}
					model = append(model[:min(off, len(model))], make([]byte, max(0, off-len(model)))...)
					continue
				}
				if _, _, err := r.Write(ctx, &vfs.Root, inos[i], uint64(off), p, []vfs.Stable{vfs.Unstable, vfs.FileSync, vfs.FileSync, vfs.FileSync, vfs.FileSync}[src.IntN(5)]); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
				if len(model) < off+n {
					model = append(model, make([]byte, off+n-len(model))...)
				}
				copy(model[off:], p)
				got := make([]byte, size+1)
				k, _, err := r.Read(ctx, inos[i], 0, got)
				if err != nil || !bytes.Equal(got[:k], model) {
					t.Errorf("writer %d, step %d: %d bytes, want %d; %v", i, step, k, len(model), err)
					return
				}
			}
			models[i] = model
		})
	}
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
			r.reap(t)
			got := make([]byte, size+1)
			if n, _, err := r.Read(ctx, still, 0, got); err != nil || !bytes.Equal(got[:n], frozen) {
				t.Errorf("the file that is only read: %v", err)
				return
			}
		}
	})
	writing.Wait()
	close(done)
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, ino := range inos {
		commit(t, r, ino)
	}
	pass(t, f)
	s := f.Stats()
	if s.Blocks < 50 || s.RefusedParts < 10 {
		t.Errorf("%+v: the test shows little", s)
	}
	t.Logf("%+v", s)
	if err := r.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.meta.purge(t) // what was cut off is charged until then
	live := map[uint64]bool{}
	sum := uint64(0)
	for i, ino := range append(inos, still) {
		want := frozen
		if i < writers {
			want = models[i]
		}
		if !bytes.Equal(read(t, r, ino, 0, size+1), want) {
			t.Fatalf("file %d differs in the end", i)
		}
		list, _ := r.meta.extents(t, ino)
		n := uint64(0)
		for _, e := range list {
			n += uint64(e.Length)
			if e.Block != 0 {
				live[e.Block] = true
			}
		}
		used, _ := r.used(t, ino)
		if used != n {
			t.Errorf("file %d: %d bytes used, its extents have %d", i, used, n)
		}
		sum += n
	}
	if _, all := r.used(t, still); all != sum {
		t.Errorf("%d bytes used, the extents have %d", all, sum)
	}
	r.reap(t)
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
}

// hookedBlocks calls during between the reading and the command.
type hookedBlocks struct {
	*blocks
	during func()
}

func (b *hookedBlocks) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	if b.during != nil {
		b.during()
	}
	return b.blocks.Write(ctx, id, o, data)
}

// One file: any order of small and larger writes, cuts, folding with changes in its middle, the end of old blocks, and
// crashes. It always holds what was written, and usage is what its extents have.
func TestFoldModel(t *testing.T) {
	made, refused := uint64(0), uint64(0)
	rapid.Check(t, func(rt *rapid.T) {
		const size = 80_000
		r := newFoldRig(t, volume.Config{})
		defer func() { r.volume().Abandon() }()
		to := &hookedBlocks{blocks: r.blocks}
		f := r.folderTo(-time.Minute, to)
		ino := create(rt, r, "f")
		var model []byte
		change := func() {
			off := rapid.IntRange(0, size-1).Draw(rt, "offset")
			if rapid.IntRange(0, 3).Draw(rt, "page") > 0 {
				off -= off % 4096 // so that pages follow one another
			}
			if rapid.IntRange(0, 9).Draw(rt, "cut") == 0 {
				to := uint64(off)
				if _, err := r.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: &to}, false); err != nil {
					rt.Fatal(err)
				}
				model = append(model[:min(off, len(model))], make([]byte, max(0, off-len(model)))...)
				return
			}
			n := rapid.SampledFrom([]int{1, 100, 4096, 5000, 12_288, 30_000}).Draw(rt, "bytes")
			n = min(n, size-off)
			p := random(n, rapid.Uint64().Draw(rt, "content"))
			model = append(model, make([]byte, max(0, off+n-len(model)))...)
			copy(model[off:], p)
			if rapid.Bool().Draw(rt, "page by page") {
				r.append(rt, ino, uint64(off), p, 4096)
				return
			}
			write(rt, r, ino, uint64(off), p, rapid.SampledFrom([]vfs.Stable{vfs.Unstable, vfs.FileSync, vfs.FileSync, vfs.FileSync}).Draw(rt, "stable"))
		}
		check := func() {
			if !bytes.Equal(read(rt, r, ino, 0, size+1), model) {
				rt.Fatal("bytes differ")
			}
		}
		fold := func() {
			n, err := f.Pass(ctx)
			if err != nil {
				rt.Fatal(err)
			}
			made += n
			check()
		}
		for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
			for range rapid.IntRange(1, 25).Draw(rt, "changes") {
				change()
			}
			if rapid.IntRange(0, 4).Draw(rt, "no commit") < 4 {
				commit(rt, r, ino)
			}
			if rapid.Bool().Draw(rt, "fold") {
				if rapid.Bool().Draw(rt, "disturbed") {
					n := rapid.IntRange(1, 5).Draw(rt, "changes during")
					to.during = func() {
						for range n {
							change()
						}
					}
				}
				fold()
				to.during = nil
			}
			if rapid.Bool().Draw(rt, "reap") {
				r.reap(rt)
				check()
			}
			if rapid.IntRange(0, 4).Draw(rt, "crash") == 0 {
				commit(rt, r, ino)
				refused += f.Stats().RefusedParts
				r.Crash()
				f = r.folderTo(-time.Minute, to)
				check()
			}
		}
		commit(rt, r, ino)
		fold()
		refused += f.Stats().RefusedParts
		r.meta.purge(rt)
		list, _ := r.meta.extents(rt, ino)
		sum := uint64(0)
		for _, e := range list {
			sum += uint64(e.Length)
		}
		if file, all := r.used(rt, ino); file != sum || all != sum {
			rt.Fatalf("%d bytes used, in all %d, the extents have %d", file, all, sum)
		}
	})
	t.Logf("%d blocks were made, %d parts refused", made, refused)
	if made < 20 || refused < 5 {
		t.Error("the test shows little")
	}
}
