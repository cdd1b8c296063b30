package vfstest

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

func testReadWrite(e *env) {
	for _, s := range []vfs.Stable{vfs.Unstable, vfs.DataSync, vfs.FileSync} {
		for _, n := range []int{1, 511, 4096, 4097, 32<<10 + 1, 1 << 20, 5 << 20} {
			f := e.createIn(root, e.mkdir(string(rune('a'+s))+string(rune('A'+n%26))+string(rune('a'+n/7%26)), 0o700), "f", 0o600)
			e.open(f.Ino, vfs.OpenWrite)
			data := pattern(n, byte(n))
			for off := 0; off < n; off += 1 << 20 {
				piece := append([]byte(nil), data[off:min(off+1<<20, n)]...)
				e.write(f.Ino, uint64(off), piece, s)
				clear(piece) // the caller's again
			}
			e.holds(f.Ino, data)
			e.commit(f.Ino)
			e.holds(f.Ino, data)
			if a := e.attr(f.Ino); a.Used < uint64(n) {
				e.Fatalf("%d bytes use %d", n, a.Used)
			}
			e.close(f.Ino, vfs.OpenWrite)
			e.holds(f.Ino, data)
			// Pieces, unaligned, and beyond the end.
			for _, off := range []int{0, 1, n / 3, n - 1} {
				got := e.read(f.Ino, uint64(off), 1000)
				e.same(got, data[off:min(off+1000, n)])
			}
			e.read(f.Ino, uint64(n), 10)
			e.read(f.Ino, uint64(n)+1<<40, 10)
		}
	}
}

func testOverwrite(e *env) {
	f := e.create(root, "f", 0o600)
	want := pattern(300_000, 1)
	e.write(f.Ino, 0, want, vfs.FileSync)
	for i, c := range []struct {
		off, n int
		s      vfs.Stable
	}{
		{0, 10, vfs.Unstable}, {4090, 12, vfs.Unstable}, {4096, 4096, vfs.FileSync}, {5000, 100, vfs.DataSync},
		{100_000, 70_000, vfs.Unstable}, {99_999, 3, vfs.FileSync}, {299_990, 30, vfs.Unstable}, {0, 200_000, vfs.FileSync},
		{1, 1, vfs.FileSync}, {150_000, 1, vfs.Unstable},
	} {
		data := pattern(c.n, byte(10+i))
		e.write(f.Ino, uint64(c.off), data, c.s)
		if need := c.off + c.n; need > len(want) {
			want = append(want, make([]byte, need-len(want))...)
		}
		copy(want[c.off:], data)
		e.holds(f.Ino, want)
	}
	e.commit(f.Ino)
	e.holds(f.Ino, want)
}

func testSparse(e *env) {
	f := e.create(root, "f", 0o600)
	const far = 1 << 40
	e.write(f.Ino, far, []byte("end"), vfs.Unstable)
	e.write(f.Ino, 10_000, []byte("x"), vfs.Unstable)
	for range 2 {
		if a := e.attr(f.Ino); a.Size != far+3 {
			e.Fatalf("size %d", a.Size)
		}
		e.same(e.read(f.Ino, far-5, 10), []byte("\x00\x00\x00\x00\x00end"))
		want := make([]byte, 20_000)
		want[10_000] = 'x'
		e.same(e.read(f.Ino, 0, 20_000), want)
		e.same(e.read(f.Ino, 1<<39, 3<<20), make([]byte, 3<<20))
		e.commit(f.Ino)
	}
	if a := e.attr(f.Ino); a.Used > 64<<20 {
		e.Fatalf("4 bytes of %d use %d", a.Size, a.Used)
	}
}

func testTruncate(e *env) {
	f := e.create(alice, "f", 0o600)
	size := func(n uint64) {
		e.Helper()
		before, after := e.changes(f.Ino, func() {
			a, err := e.fs.SetAttr(e.ctx, alice, f.Ino, vfs.SetAttr{Size: &n}, false)
			e.ok(err)
			if a.Size != n {
				e.Fatalf("size %d, want %d", a.Size, n)
			}
		})
		e.touched(before, after, true)
	}
	want := pattern(100_000, 3)
	for _, s := range []vfs.Stable{vfs.FileSync, vfs.Unstable} {
		e.write(f.Ino, 0, want, s)
		size(50_001)
		e.holds(f.Ino, want[:50_001])
		size(70_000) // what was cut off does not come back
		e.holds(f.Ino, append(append([]byte(nil), want[:50_001]...), make([]byte, 19_999)...))
		e.write(f.Ino, 60_000, []byte("z"), s)
		size(70_000)
		e.same(e.read(f.Ino, 59_999, 3), []byte{0, 'z', 0})
		size(0)
		e.holds(f.Ino, nil)
		size(8192)
		e.holds(f.Ino, make([]byte, 8192))
		e.write(f.Ino, 8192, []byte("tail"), s)
		size(1)
		e.commit(f.Ino)
		e.holds(f.Ino, []byte{0})
		size(9 << 20)
		e.same(e.read(f.Ino, 4<<20, 100), make([]byte, 100))
		size(0)
	}
	_, err := e.fs.SetAttr(e.ctx, alice, f.Ino, vfs.SetAttr{Size: p(uint64(1 << 63))}, false)
	e.want(vfs.KindTooBig, err)
	largest := e.bounds.MaxSize
	size(largest)
	e.same(e.read(f.Ino, largest-10, 100), make([]byte, 10))
}

func testTimesOfData(e *env) {
	f := e.create(root, "f", 0o600)
	e.open(f.Ino, vfs.OpenWrite)
	before, after := e.changes(f.Ino, func() { e.write(f.Ino, 0, []byte("hello"), vfs.Unstable) })
	e.touched(before, after, true)
	before, after = e.changes(f.Ino, func() { e.write(f.Ino, 0, []byte("HELLO"), vfs.FileSync) })
	e.touched(before, after, true)
	before, after = e.changes(f.Ino, func() { e.write(f.Ino, 5, []byte("!"), vfs.Unstable) })
	e.touched(before, after, true)
	// To make it durable is no change, nor to read, look, open or close.
	before, after = e.changes(f.Ino, func() {
		e.commit(f.Ino)
		e.read(f.Ino, 0, 10)
		e.lookup(e.dir, "f")
		e.list(e.dir, 10)
		e.open(f.Ino, vfs.OpenRead)
		e.close(f.Ino, vfs.OpenRead)
	})
	e.untouched(before, after)
	// Nor is a write of nothing.
	before, after = e.changes(f.Ino, func() {
		e.write(f.Ino, 0, nil, vfs.FileSync)
		e.write(f.Ino, 100, nil, vfs.Unstable)
	})
	e.untouched(before, after)
	// A time set by the client stays until the next write, whatever was buffered before it.
	e.write(f.Ino, 0, []byte("x"), vfs.Unstable)
	old := f.Btime.Add(-1000 * 3600e9)
	_, err := e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{MtimeSet: vfs.TimeClient, Mtime: old}, true)
	e.ok(err)
	e.commit(f.Ino)
	e.close(f.Ino, vfs.OpenWrite)
	if a := e.attr(f.Ino); !a.Mtime.Equal(old) {
		e.Fatalf("mtime %v, want %v", a.Mtime, old)
	}
	before, after = e.changes(f.Ino, func() { e.write(f.Ino, 0, []byte("y"), vfs.Unstable) })
	e.touched(before, after, true)
}

// testTimeOfAccess: the first read after a change moves atime, and nothing else; further ones do not, for a day.
func testTimeOfAccess(e *env) {
	f := e.create(root, "f", 0o644)
	e.open(f.Ino, vfs.OpenRead|vfs.OpenWrite)
	defer e.close(f.Ino, vfs.OpenRead|vfs.OpenWrite)
	check := func(what string, ino vfs.Ino, moves bool, read func()) {
		e.Helper()
		before, after := e.changes(ino, read)
		e.untouched(before, after)
		if moved := !after.Atime.Equal(before.Atime); moved != moves {
			e.Fatalf("%s: atime %v, before %v; should it move: %v", what, after.Atime, before.Atime, moves)
		}
		if moves && (after.Atime.Before(after.Mtime) || after.Atime.Before(after.Ctime)) {
			e.Fatalf("%s: atime %v is before mtime %v or ctime %v", what, after.Atime, after.Mtime, after.Ctime)
		}
		e.equalAttr(after, e.attr(ino))
	}
	readFile := func() { e.read(f.Ino, 0, 1) }
	listDir := func() { e.list(e.dir, 10) }
	e.write(f.Ino, 0, []byte("x"), vfs.FileSync)
	check("first read", f.Ino, true, readFile)
	check("second read", f.Ino, false, readFile)
	e.write(f.Ino, 0, []byte("y"), vfs.Unstable)
	e.commit(f.Ino)
	check("after a write", f.Ino, true, readFile)
	old := time.Now().Add(-48 * time.Hour)
	_, err := e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{AtimeSet: vfs.TimeClient, Atime: old}, false)
	e.ok(err)
	if a := e.attr(f.Ino); !a.Atime.Equal(old) {
		e.Fatalf("atime %v, want %v", a.Atime, old)
	}
	check("an old time of access", f.Ino, true, readFile)
	check("first listing", e.dir, true, listDir)
	check("second listing", e.dir, false, listDir)
	e.create(root, "g", 0o644)
	check("after a new name", e.dir, true, listDir)
	if a := e.list(e.dir, 10)[0].Attr; a.Atime.Before(a.Mtime) && a.Ino == f.Ino {
		e.Fatalf("a listing tells atime %v", a.Atime)
	}
}

// testChangeIsStable: all ways to ask for the attributes agree, before and
// after what is dirty becomes durable.
func testChangeIsStable(e *env) {
	f := e.create(root, "f", 0o644)
	e.open(f.Ino, vfs.OpenWrite)
	for i := range 20 {
		e.write(f.Ino, uint64(i)*5000, pattern(6000, byte(i)), vfs.Unstable)
		a := e.attr(f.Ino)
		for range 2 {
			e.equalAttr(a, e.lookup(e.dir, "f"))
			e.equalAttr(a, *e.list(e.dir, 10)[0].Attr)
			o, err := e.fs.Open(e.ctx, root, f.Ino, vfs.OpenRead, false)
			e.ok(err)
			e.equalAttr(a, o)
			e.close(f.Ino, vfs.OpenRead)
			e.commit(f.Ino)
			e.equalAttr(a, e.attr(f.Ino))
		}
		l := e.link(f.Ino, e.dir, "l")
		if l.Change <= a.Change || l.Size != a.Size {
			e.Fatalf("link: %+v after %+v", l, a)
		}
		e.remove(e.dir, "l")
	}
	a := e.attr(f.Ino)
	e.close(f.Ino, vfs.OpenWrite)
	e.equalAttr(a, e.attr(f.Ino))
}

// equalAttr compares all but what is allocated.
func (e *env) equalAttr(a, b vfs.Attr) {
	e.Helper()
	if a.Ino != b.Ino || a.Size != b.Size || a.Mode != b.Mode || a.Nlink != b.Nlink ||
		a.Change != b.Change || !a.Mtime.Equal(b.Mtime) || !a.Ctime.Equal(b.Ctime) || !a.Atime.Equal(b.Atime) {
		e.Fatalf("attributes differ:\n%+v\n%+v", a, b)
	}
}

func testWriteClearsSetuid(e *env) {
	for i, s := range []vfs.Stable{vfs.Unstable, vfs.FileSync} {
		f := e.create(root, string(rune('a'+i)), 0o6777)
		e.write(f.Ino, 0, []byte("x"), s) // root may keep them
		if a := e.attr(f.Ino); a.Mode != 0o6777 {
			e.Fatalf("mode %o", a.Mode)
		}
		_, _, err := e.fs.Write(e.ctx, bob, f.Ino, 0, []byte("y"), s)
		e.ok(err)
		if a := e.attr(f.Ino); a.Mode != 0o777 {
			e.Fatalf("mode %o", a.Mode)
		}
		e.commit(f.Ino)
		if a := e.attr(f.Ino); a.Mode != 0o777 {
			e.Fatalf("mode %o after commit", a.Mode)
		}
		_, err = e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{Mode: p(uint32(0o4777))}, false)
		e.ok(err)
		a, err := e.fs.SetAttr(e.ctx, bob, f.Ino, vfs.SetAttr{Size: p(uint64(0))}, false)
		e.ok(err)
		if a.Mode != 0o777 {
			e.Fatalf("mode %o after truncate", a.Mode)
		}
		// A mode set after the write is the one that stays.
		_, _, err = e.fs.Write(e.ctx, bob, f.Ino, 0, []byte("y"), s)
		e.ok(err)
		_, err = e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{Mode: p(uint32(0o4777))}, false)
		e.ok(err)
		e.commit(f.Ino)
		if a := e.attr(f.Ino); a.Mode != 0o4777 {
			e.Fatalf("mode %o, set after the write", a.Mode)
		}
	}
}

func testWriteLimits(e *env) {
	f := e.create(root, "f", 0o600)
	try := func(off uint64, n int) error {
		_, _, err := e.fs.Write(e.ctx, root, f.Ino, off, make([]byte, n), vfs.FileSync)
		return err
	}
	e.want(vfs.KindTooBig, try(vfs.MaxSize, 1))
	e.want(vfs.KindTooBig, try(vfs.MaxSize-1, 2))
	e.want(vfs.KindTooBig, try(1<<63, 1))
	e.want(vfs.KindTooBig, try(1<<64-1, 2))
	if a := e.attr(f.Ino); a.Size != 0 {
		e.Fatalf("size %d", a.Size)
	}
	largest := e.bounds.MaxSize
	e.want(vfs.KindTooBig, try(largest, 1))
	e.ok(try(largest-1, 1))
	if a := e.attr(f.Ino); a.Size != largest {
		e.Fatalf("size %d", a.Size)
	}
	e.same(e.read(f.Ino, largest-1, 10), []byte{0})
	e.read(f.Ino, 1<<64-1, 10)
}

func testUnlinkedOpen(e *env) {
	for i, s := range []vfs.Stable{vfs.Unstable, vfs.FileSync} {
		name := string(rune('a' + i))
		f := e.create(root, name, 0o600)
		e.open(f.Ino, vfs.OpenRead|vfs.OpenWrite)
		e.open(f.Ino, vfs.OpenRead)
		data := pattern(50_000, 9)
		e.write(f.Ino, 0, data[:30_000], s)
		e.remove(e.dir, name)
		e.absent(e.dir, name)
		if a := e.attr(f.Ino); a.Nlink != 0 || a.Size != 30_000 {
			e.Fatalf("%+v", a)
		}
		e.write(f.Ino, 30_000, data[30_000:], s)
		e.commit(f.Ino)
		e.holds(f.Ino, data)
		_, err := e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{Size: p(uint64(40_000)), Mode: p(uint32(0o640))}, true)
		e.ok(err)
		e.close(f.Ino, vfs.OpenRead|vfs.OpenWrite)
		e.holds(f.Ino, data[:40_000])
		e.write(f.Ino, 0, []byte("lost with it"), vfs.Unstable)
		e.close(f.Ino, vfs.OpenRead)
		_, err = e.fs.GetAttr(e.ctx, f.Ino)
		e.want(vfs.KindStale, err)
		_, _, err = e.fs.Read(e.ctx, f.Ino, 0, make([]byte, 10))
		e.want(vfs.KindStale, err)
	}
}

func testRenamedOverOpen(e *env) {
	f, g := e.create(root, "f", 0o600), e.create(root, "g", 0o600)
	e.write(f.Ino, 0, []byte("new"), vfs.Unstable)
	e.write(g.Ino, 0, []byte("old"), vfs.Unstable)
	e.open(g.Ino, vfs.OpenRead)
	e.rename(e.dir, "f", e.dir, "g")
	if a := e.attr(g.Ino); a.Nlink != 0 {
		e.Fatalf("%+v", a)
	}
	e.holds(g.Ino, []byte("old"))
	e.holds(e.lookup(e.dir, "g").Ino, []byte("new"))
	e.close(g.Ino, vfs.OpenRead)
	_, err := e.fs.GetAttr(e.ctx, g.Ino)
	e.want(vfs.KindStale, err)
	e.holds(f.Ino, []byte("new"))
}

func testCommit(e *env) {
	f := e.create(root, "f", 0o600)
	v := e.write(f.Ino, 0, pattern(10_000, 1), vfs.Unstable)
	if got := e.write(f.Ino, 10_000, pattern(10_000, 2), vfs.Unstable); got != v {
		e.Fatal("the verifier changed and nothing was lost")
	}
	if got := e.commit(f.Ino); got != v {
		e.Fatal("the verifier changed and nothing was lost")
	}
	got, err := e.fs.Commit(e.ctx, f.Ino, 5000, 100)
	e.ok(err)
	if got != v {
		e.Fatal("the verifier changed and nothing was lost")
	}
	// Ranges beyond the end, and absurd ones, are empty.
	for _, r := range [][2]uint64{{1 << 40, 10}, {1<<64 - 1, 1<<64 - 1}} {
		_, err := e.fs.Commit(e.ctx, f.Ino, r[0], r[1])
		e.ok(err)
	}
}

func testCrashKeepsCommitted(e *env) {
	cr, ok := e.fs.(Crasher)
	if !ok {
		e.Skip("this implementation cannot lose what is not durable")
	}
	f, g := e.create(root, "f", 0o600), e.create(root, "g", 0o600)
	data := pattern(5<<20, 7)
	for off := 0; off < len(data); off += 1 << 20 {
		e.write(f.Ino, uint64(off), data[off:off+1<<20], vfs.Unstable)
	}
	e.commit(f.Ino)
	e.write(g.Ino, 3, []byte("sync"), vfs.FileSync)
	e.write(g.Ino, 3, []byte("data"), vfs.DataSync)
	d := e.mkdir("d", 0o700)
	fa, ga := e.attr(f.Ino), e.attr(g.Ino)
	e.write(f.Ino, 100, []byte("not committed"), vfs.Unstable)
	shown := e.attr(f.Ino)
	cr.Crash()
	e.lookup(e.dir, "d")
	e.attr(d)
	got := e.read(f.Ino, 0, len(data)+1)
	copy(got[100:], data[100:100+len("not committed")]) // may be there or not
	e.same(got, data)
	e.holds(g.Ino, []byte("\x00\x00\x00data"))
	if a := e.attr(f.Ino); a.Size != fa.Size || a.Change < fa.Change {
		e.Fatalf("%+v, committed %+v", a, fa)
	}
	if a := e.attr(g.Ino); a.Size != ga.Size || a.Change < ga.Change {
		e.Fatalf("%+v, committed %+v", a, ga)
	}
	// A change value that was seen is never given to other content.
	e.write(f.Ino, 0, []byte("other"), vfs.FileSync)
	if a := e.attr(f.Ino); a.Change <= shown.Change {
		e.Fatalf("change %d was shown before the crash, now it is %d", shown.Change, a.Change)
	}
}

func testCrashChangesVerifier(e *env) {
	cr, ok := e.fs.(Crasher)
	if !ok {
		e.Skip("this implementation cannot lose what is not durable")
	}
	f := e.create(root, "f", 0o600)
	v := e.write(f.Ino, 0, []byte("one"), vfs.Unstable)
	cr.Crash()
	if got := e.commit(f.Ino); got == v {
		e.Fatal("a crash may have lost unstable bytes, and the verifier is the same")
	}
	w := e.write(f.Ino, 0, []byte("two"), vfs.Unstable)
	if got := e.commit(f.Ino); got != w {
		e.Fatal("the verifier changed and nothing was lost")
	}
	cr.Crash()
	e.holds(f.Ino, []byte("two"))
}

func testStatFS(e *env) {
	if e.bounds.SharedSpace {
		e.Skip("others use the same space at the same time")
	}
	before, err := e.fs.StatFS(e.ctx, e.dir)
	e.ok(err)
	f := e.create(root, "f", 0o600)
	e.write(f.Ino, 0, pattern(3<<20, 1), vfs.FileSync)
	after, err := e.fs.StatFS(e.ctx, e.dir)
	e.ok(err)
	if after.UsedFiles != before.UsedFiles+1 || after.UsedBytes < before.UsedBytes+3<<20 {
		e.Fatalf("%+v\n%+v", before, after)
	}
	if after.TotalBytes < after.UsedBytes || after.FreeBytes > after.TotalBytes || after.AvailBytes > after.FreeBytes || after.FreeFiles > after.TotalFiles {
		e.Fatalf("%+v", after)
	}
	e.remove(e.dir, "f")
	gone, err := e.fs.StatFS(e.ctx, e.dir)
	e.ok(err)
	if gone.UsedFiles != before.UsedFiles || gone.UsedBytes != before.UsedBytes {
		e.Fatalf("%+v\n%+v", before, gone)
	}
}

func testCanceledContext(e *env) {
	f := e.create(root, "f", 0o600)
	e.write(f.Ino, 0, []byte("before"), vfs.FileSync)
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	try := func(err error) {
		e.Helper()
		if k := vfs.KindOf(err); k != vfs.KindOK && k != vfs.KindCanceled && k != vfs.KindUnknown {
			e.Fatalf("%v", err)
		}
	}
	_, err := e.fs.GetAttr(ctx, f.Ino)
	try(err)
	_, err = e.fs.Create(ctx, root, e.dir, "g", vfs.CreateArgs{})
	try(err)
	_, _, err = e.fs.Write(ctx, root, f.Ino, 0, []byte("BEFORE"), vfs.FileSync)
	try(err)
	_, err = e.fs.Commit(ctx, f.Ino, 0, 0)
	try(err)
	_, _, err = e.fs.Read(ctx, f.Ino, 0, make([]byte, 10))
	try(err)
	// It may have happened or not, and everything still works.
	if got := e.read(f.Ino, 0, 10); !bytes.EqualFold(got, []byte("before")) {
		e.Fatalf("%q", got)
	}
	e.write(f.Ino, 0, []byte("after!"), vfs.FileSync)
	e.holds(f.Ino, []byte("after!"))
}

func testConcurrentWrites(e *env) {
	f := e.create(root, "f", 0o600)
	const workers, each = 6, 700_001
	want := pattern(workers*each, 5)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for off, i := w*each, 0; off < (w+1)*each; i++ {
				n := min(1+(i*7919)%70_000, (w+1)*each-off)
				if _, _, err := e.fs.Write(e.ctx, root, f.Ino, uint64(off), want[off:off+n], vfs.Unstable); err != nil {
					e.Error(err)
					return
				}
				if i%16 == w {
					if _, err := e.fs.Commit(e.ctx, f.Ino, 0, 0); err != nil {
						e.Error(err)
						return
					}
				}
				off += n
			}
		})
	}
	wg.Wait()
	e.holds(f.Ino, want)
	e.commit(f.Ino)
	e.holds(f.Ino, want)
}

// testConcurrentWriteTruncateRead has one page written with a single value at
// a time, while others read it, commit it and cut it: a reader sees zeros or
// one value, never a mix; only what was written, whatever the bounds.
func testConcurrentWriteTruncateRead(e *env) {
	const writers, writes = 3, 40
	f := e.create(root, "f", 0o600)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				if _, _, err := e.fs.Write(e.ctx, root, f.Ino, 8192, bytes.Repeat([]byte{byte(1 + w*writes + i)}, 4096), vfs.Stable(i%3)); err != nil {
					e.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 20 {
			if _, err := e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{Size: p(uint64(i % 3 * 8192))}, false); err != nil {
				e.Error(err)
			}
			if _, err := e.fs.Commit(e.ctx, f.Ino, 0, 0); err != nil {
				e.Error(err)
			}
		}
	})
	for range 2 {
		wg.Go(func() {
			buf := make([]byte, 4096)
			for range 100 {
				n, _, err := e.fs.Read(e.ctx, f.Ino, 8192, buf)
				if err != nil {
					e.Error(err)
					return
				}
				for _, b := range buf[:n] {
					if b > writers*writes {
						e.Errorf("read %d, which nobody wrote", b)
						return
					}
					if b != buf[0] && !e.bounds.TornReads {
						e.Errorf("a mix of %d and %d", buf[0], b)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}
