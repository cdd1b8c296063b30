package vfstest

import (
	"bytes"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/vfs"
)

// ranger is all of the optional interfaces for ranges.
type ranger interface {
	vfs.Allocator
	vfs.Seeker
	vfs.Cloner
}

func (e *env) ranger() ranger {
	e.Helper()
	r, ok := e.fs.(ranger)
	if !ok {
		e.Skip("this file system has no operations on ranges")
	}
	return r
}

// seek checks where data and hole are, from off on.
func (e *env) seek(ino vfs.Ino, off, data, hole uint64) {
	e.Helper()
	size := e.attr(ino).Size
	for what, want := range map[vfs.SeekFor]uint64{vfs.SeekData: data, vfs.SeekHole: hole} {
		got, err := e.ranger().Seek(e.ctx, ino, off, what)
		e.ok(err)
		if got.Offset != want || got.Size != size {
			e.Fatalf("seek %d from %d: %+v, want %d of %d", what, off, got, want, size)
		}
	}
}

func testAllocate(e *env) {
	r := e.ranger()
	f := e.create(alice, "f", 0o6777)
	before, after := e.changes(f.Ino, func() { e.ok(r.Allocate(e.ctx, bob, f.Ino, 4096, 1<<20)) })
	e.touched(before, after, true)
	if after.Size != 4096+1<<20 || after.Used < 1<<20 || after.Mode != 0o777 {
		e.Fatalf("allocated: %+v", after)
	}
	e.holds(f.Ino, make([]byte, 4096+1<<20))
	if !e.bounds.ReadIsData {
		e.seek(f.Ino, 0, after.Size, 0)
	}
	// What is written takes the space, and is not taken away by allocating again.
	data := pattern(20_000, 4)
	for _, s := range []vfs.Stable{vfs.Unstable, vfs.FileSync} {
		e.write(f.Ino, 8192, data, s)
		e.commit(f.Ino)
		if a := e.attr(f.Ino); a.Used != after.Used {
			e.Fatalf("used %d, was %d", a.Used, after.Used)
		}
		e.ok(r.Allocate(e.ctx, root, f.Ino, 0, 100_000))
		if a := e.attr(f.Ino); a.Used < 4096+1<<20 || a.Size != after.Size {
			e.Fatalf("%d bytes use %d", a.Size, a.Used)
		}
		e.same(e.read(f.Ino, 8192, len(data)), data)
		after.Used = e.attr(f.Ino).Used
	}
	if !e.bounds.ReadIsData {
		e.seek(f.Ino, 0, 8192, 0)
	}
	// Not more than there is, however much is asked for.
	st, err := e.fs.StatFS(e.ctx, f.Ino)
	e.ok(err)
	e.want(vfs.KindNoSpace, r.Allocate(e.ctx, root, f.Ino, 0, st.AvailBytes+64<<30))
	e.want(vfs.KindNoSpace, r.Allocate(e.ctx, root, f.Ino, 0, vfs.MaxSize))
	e.want(vfs.KindTooBig, r.Allocate(e.ctx, root, f.Ino, 2, vfs.MaxSize))
	e.want(vfs.KindInvalid, r.Allocate(e.ctx, root, f.Ino, 2, 0))
	e.want(vfs.KindIsDir, r.Allocate(e.ctx, root, e.dir, 0, 1))
	e.want(vfs.KindStale, r.Allocate(e.ctx, root, 1<<60, 0, 1))
	if a := e.attr(f.Ino); a.Size != after.Size {
		e.Fatalf("size %d after refusals", a.Size)
	}
	// Truncation gives it back.
	_, err = e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{Size: p(uint64(0))}, true)
	e.ok(err)
	if a := e.attr(f.Ino); a.Used != 0 {
		e.Fatalf("an empty file uses %d", a.Used)
	}
}

func testDeallocate(e *env) {
	r := e.ranger()
	f := e.create(alice, "f", 0o6777)
	const size = 9 << 20
	for _, s := range []vfs.Stable{vfs.FileSync, vfs.Unstable} {
		want := pattern(size, byte(s)+1)
		for at := 0; at < size; at += 1 << 20 {
			e.write(f.Ino, uint64(at), want[at:at+1<<20], s)
		}
		for _, c := range []struct{ off, n int }{
			{0, 1}, {4095, 2}, {8192, 4096}, {100_000, 300_000}, {4<<20 - 10, 20}, {size - 5000, 4096}, {size - 10, 100}, {3 << 20, 5 << 20},
		} {
			before, after := e.changes(f.Ino, func() { e.ok(r.Deallocate(e.ctx, bob, f.Ino, uint64(c.off), uint64(c.n))) })
			e.touched(before, after, true)
			if after.Size != size || after.Mode != 0o777 {
				e.Fatalf("a hole of %d at %d: %+v", c.n, c.off, after)
			}
			clear(want[c.off:min(c.off+c.n, size)])
			if s == vfs.Unstable {
				e.write(f.Ino, 50_000, want[50_000:51_000], s)
			}
			e.same(e.read(f.Ino, uint64(max(c.off-10_000, 0)), c.n+20_000), want[max(c.off-10_000, 0):min(c.off-10_000+c.n+20_000+max(10_000-c.off, 0), size)])
		}
		e.commit(f.Ino)
		e.holds(f.Ino, want)
	}
	if a := e.attr(f.Ino); a.Used > 4<<20 && !e.bounds.Ahead {
		e.Fatalf("4 MiB and holes use %d", a.Used)
	}
	e.ok(r.Deallocate(e.ctx, root, f.Ino, 0, vfs.MaxSize))
	e.holds(f.Ino, make([]byte, size))
	if a := e.attr(f.Ino); a.Used != 0 && !e.bounds.Ahead {
		e.Fatalf("a file that is a hole uses %d", a.Used)
	}
	e.ok(r.Deallocate(e.ctx, root, f.Ino, 1<<40, 1)) // beyond the end
	if a := e.attr(f.Ino); a.Size != size {
		e.Fatalf("size %d", a.Size)
	}
	e.want(vfs.KindTooBig, r.Deallocate(e.ctx, root, f.Ino, 2, vfs.MaxSize))
	e.want(vfs.KindInvalid, r.Deallocate(e.ctx, root, f.Ino, 2, 0))
	e.want(vfs.KindIsDir, r.Deallocate(e.ctx, root, e.dir, 0, 1))
}

func testSeek(e *env) {
	r := e.ranger()
	f := e.create(root, "f", 0o600)
	e.seek(f.Ino, 0, 0, 0)
	e.seek(f.Ino, 100, 0, 0)
	const page = 4096
	// Data in pages 0 and 1, 5, 5000 and 5001; each as it is buffered and as it is durable, and both mixed.
	for round, s := range []vfs.Stable{vfs.Unstable, vfs.FileSync, vfs.Unstable} {
		e.write(f.Ino, 0, pattern(page, 1), s)
		e.write(f.Ino, 5*page, pattern(page, 2), vfs.Unstable)
		e.write(f.Ino, page, pattern(page, 3), vfs.FileSync)
		e.write(f.Ino, 5000*page, pattern(2*page, 4), s)
		_, err := e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{Size: p(uint64(1 << 40))}, true)
		e.ok(err)
		if round == 2 {
			e.write(f.Ino, 5*page, pattern(page, 2), vfs.Unstable)
		}
		e.seek(f.Ino, 0, 0, 2*page)
		e.seek(f.Ino, page+7, page+7, 2*page)
		e.seek(f.Ino, 2*page, 5*page, 2*page)
		e.seek(f.Ino, 3*page+1, 5*page, 3*page+1)
		e.seek(f.Ino, 5*page, 5*page, 6*page)
		e.seek(f.Ino, 6*page, 5000*page, 6*page)
		e.seek(f.Ino, 5001*page+1, 5001*page+1, 5002*page)
		e.seek(f.Ino, 5002*page, 1<<40, 5002*page)
		e.seek(f.Ino, 1<<40, 1<<40, 1<<40)
		e.seek(f.Ino, 1<<41, 1<<40, 1<<40)
	}
	// A long run of data, in more pieces than are asked for at once.
	g := e.create(root, "g", 0o600)
	for i := range 1500 {
		e.write(g.Ino, uint64(i)*page, pattern(page, byte(i)), vfs.Unstable)
		if i%100 == 0 {
			e.commit(g.Ino)
		}
	}
	e.seek(g.Ino, 0, 0, 1500*page)
	e.ok(r.Deallocate(e.ctx, root, g.Ino, 1234*page, page))
	e.seek(g.Ino, 0, 0, 1234*page)
	e.seek(g.Ino, 1234*page, 1235*page, 1234*page)
	_, err := r.Seek(e.ctx, e.dir, 0, vfs.SeekData)
	e.want(vfs.KindIsDir, err)
	_, err = r.Seek(e.ctx, 1<<60, 0, vfs.SeekHole)
	e.want(vfs.KindStale, err)
}

func testClone(e *env) {
	r := e.ranger()
	const page, size = 4096, 9<<20 + 100
	src := e.create(alice, "src", 0o644)
	if e.bounds.NoClone {
		e.write(src.Ino, 0, pattern(page, 1), vfs.FileSync)
		dst := e.create(alice, "dst", 0o644)
		e.want(vfs.KindNotSupported, r.Clone(e.ctx, bob, src.Ino, 0, dst.Ino, 0, 0))
		e.holds(dst.Ino, nil)
		return
	}
	data := pattern(size, 1)
	for at := 0; at < size; at += 1 << 20 {
		s := vfs.FileSync
		if at > 4<<20 {
			s = vfs.Unstable // what is not durable yet is cloned too
		}
		e.write(src.Ino, uint64(at), data[at:min(at+1<<20, size)], s)
	}
	clear(data[2<<20 : 3<<20])
	e.ok(r.Deallocate(e.ctx, root, src.Ino, 2<<20, 1<<20))

	dst := e.create(alice, "dst", 0o6777)
	e.write(dst.Ino, 100, pattern(5000, 9), vfs.Unstable) // dropped
	sb := e.attr(src.Ino)
	before, after := e.changes(dst.Ino, func() { e.ok(r.Clone(e.ctx, bob, src.Ino, 0, dst.Ino, 0, 0)) })
	e.touched(before, after, true)
	e.untouched(sb, e.attr(src.Ino))
	if after.Size != size || after.Mode != 0o777 || after.Used > sb.Used+page {
		e.Fatalf("cloned: %+v of %+v", after, sb)
	}
	e.holds(dst.Ino, data)
	e.holds(src.Ino, data)
	e.seek(dst.Ino, 0, 0, 2<<20)

	// Each is its own file from then on.
	e.write(src.Ino, 5000, []byte("source"), vfs.FileSync)
	e.write(dst.Ino, 6<<20, []byte("destination"), vfs.Unstable)
	inSrc, inDst := bytes.Clone(data), bytes.Clone(data)
	copy(inSrc[5000:], "source")
	copy(inDst[6<<20:], "destination")
	e.holds(src.Ino, inSrc)
	e.holds(dst.Ino, inDst)

	// A part elsewhere, over what is there; the same file; its end.
	e.ok(r.Clone(e.ctx, root, src.Ino, page, dst.Ino, 3<<20, 1<<20))
	copy(inDst[3<<20:4<<20], inSrc[page:])
	e.holds(dst.Ino, inDst)
	e.ok(r.Clone(e.ctx, root, dst.Ino, 3<<20, dst.Ino, 10<<20, 2<<20))
	inDst = append(inDst, make([]byte, 12<<20-len(inDst))...)
	copy(inDst[10<<20:], inDst[3<<20:5<<20])
	e.holds(dst.Ino, inDst)
	if e.bounds.ClonePages {
		e.want(vfs.KindInvalid, r.Clone(e.ctx, root, src.Ino, 9<<20, dst.Ino, 11<<20, 100))
	} else {
		e.ok(r.Clone(e.ctx, root, src.Ino, 9<<20, dst.Ino, 11<<20, 100))
		copy(inDst[11<<20:], inSrc[9<<20:])
	}
	e.holds(dst.Ino, inDst)

	for i, c := range []struct {
		src        vfs.Ino
		off, at, n uint64
		want       vfs.Kind
	}{
		{src.Ino, 1, 0, page, vfs.KindInvalid},
		{src.Ino, 0, 1, page, vfs.KindInvalid},
		{src.Ino, 0, 0, page + 1, vfs.KindInvalid},
		{src.Ino, 0, 0, size + 1, vfs.KindInvalid},
		{src.Ino, 16 << 20, 0, 0, vfs.KindInvalid},
		{src.Ino, 0, vfs.MaxSize &^ (page - 1), page, vfs.KindTooBig},
		{dst.Ino, 0, page, 2 * page, vfs.KindInvalid},
		{e.dir, 0, 0, 0, vfs.KindIsDir},
		{1 << 60, 0, 0, 0, vfs.KindStale},
	} {
		if err := r.Clone(e.ctx, root, c.src, c.off, dst.Ino, c.at, c.n); vfs.KindOf(err) != c.want {
			e.Fatalf("case %d: %v, want %v", i, err, c.want)
		}
	}
	e.holds(dst.Ino, inDst)

	// The other lives when one is gone.
	third := e.create(root, "third", 0o600)
	e.ok(r.Clone(e.ctx, root, dst.Ino, 0, third.Ino, 0, 0))
	e.remove(e.dir, "src")
	e.remove(e.dir, "dst")
	e.holds(third.Ino, inDst)
	empty := e.create(root, "empty", 0o600)
	e.ok(r.Clone(e.ctx, root, empty.Ino, 0, third.Ino, 0, 0))
	e.holds(third.Ino, inDst)
}

// The same in the model.

func (m *model) ranger() ranger { r, _ := m.impl.(ranger); return r }

func (m *model) allocate(t *rapid.T) {
	r := m.ranger()
	if r == nil {
		t.Skip("no ranges")
	}
	n, c := m.file(t, "file"), drawCred.Draw(t, "cred")
	off, length := drawOffset.Draw(t, "offset"), uint64(drawLength.Draw(t, "length"))
	err := m.ref.Allocate(m.ctx, c, n.ref, off, length)
	if !sameError(t, err, r.Allocate(m.ctx, c, n.impl, off, length)) {
		m.look(t, n)
	}
}

func (m *model) deallocate(t *rapid.T) {
	r := m.ranger()
	if r == nil {
		t.Skip("no ranges")
	}
	n, c := m.file(t, "file"), drawCred.Draw(t, "cred")
	off, length := drawOffset.Draw(t, "offset"), uint64(drawLength.Draw(t, "length"))
	err := m.ref.Deallocate(m.ctx, c, n.ref, off, length)
	if !sameError(t, err, r.Deallocate(m.ctx, c, n.impl, off, length)) {
		m.look(t, n)
	}
}

func (m *model) clone(t *rapid.T) {
	r := m.ranger()
	if r == nil || boundsOf(m.impl).NoClone {
		t.Skip("no ranges")
	}
	c, src, dst := drawCred.Draw(t, "cred"), m.file(t, "source"), m.file(t, "file")
	draw := func(what string) uint64 { return drawOffset.Draw(t, what) &^ (vfs.CloneAlign - 1) }
	from, at := draw("from"), draw("to")
	length := uint64(0)
	if rapid.Bool().Draw(t, "a part") {
		length = uint64(drawLength.Draw(t, "length"))
		if rapid.IntRange(0, 3).Draw(t, "any") > 0 {
			length &^= vfs.CloneAlign - 1
		}
	}
	if boundsOf(m.impl).ClonePages {
		s, _ := m.ref.GetAttr(m.ctx, src.ref) // one that is gone is found so by both
		d, _ := m.ref.GetAttr(m.ctx, dst.ref)
		if length == 0 && from < s.Size {
			length = s.Size - from
		}
		if end := at + length; length%vfs.CloneAlign != 0 && end < d.Size {
			t.Skip("not pages")
		}
	}
	err := m.ref.Clone(m.ctx, c, src.ref, from, dst.ref, at, length)
	if !sameError(t, err, r.Clone(m.ctx, c, src.impl, from, dst.impl, at, length)) {
		m.look(t, src)
		m.look(t, dst)
	}
}

// seek: between off and the data that is found all is zero, and so is what is found as a hole.
func (m *model) seek(t *rapid.T) {
	r := m.ranger()
	if r == nil {
		t.Skip("no ranges")
	}
	n, off := m.file(t, "file"), drawOffset.Draw(t, "offset")
	x, err := m.ref.Seek(m.ctx, n.ref, off, vfs.SeekData)
	data, err2 := r.Seek(m.ctx, n.impl, off, vfs.SeekData)
	if sameError(t, err, err2) {
		return
	}
	hole, err := r.Seek(m.ctx, n.impl, off, vfs.SeekHole)
	if err != nil || data.Size != x.Size || hole.Size != x.Size {
		t.Fatalf("%v: sizes %d and %d, want %d", err, data.Size, hole.Size, x.Size)
	}
	if off >= x.Size {
		if data.Offset != x.Size || hole.Offset != x.Size {
			t.Fatalf("data at %d, a hole at %d, at or behind the end %d", data.Offset, hole.Offset, x.Size)
		}
		return
	}
	zero := func(lo, hi uint64) {
		buf := make([]byte, min(hi-lo, 1<<20))
		k, _, err := m.ref.Read(m.ctx, n.ref, lo, buf)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.IndexFunc(buf[:k], func(r rune) bool { return r != 0 }); i >= 0 {
			t.Fatalf("byte %d is data; from %d on there should be data at %d, a hole at %d of %d", lo+uint64(i), off, data.Offset, hole.Offset, x.Size)
		}
	}
	if min(data.Offset, hole.Offset) != off || data.Offset > x.Size || hole.Offset > x.Size {
		t.Fatalf("from %d on data at %d, a hole at %d of %d", off, data.Offset, hole.Offset, x.Size)
	}
	zero(off, data.Offset)
	if hole.Offset < x.Size {
		next, err := r.Seek(m.ctx, n.impl, hole.Offset, vfs.SeekData)
		if err != nil || next.Offset <= hole.Offset {
			t.Fatalf("a hole at %d, data at %d, %v", hole.Offset, next.Offset, err)
		}
		zero(hole.Offset, next.Offset)
	}
}
