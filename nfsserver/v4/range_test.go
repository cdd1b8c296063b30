package v4_test

import (
	"bytes"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/vfs"
)

func allocate(id nfsv4.Stateid4, off, n uint64) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_ALLOCATE{Opallocate: nfsv4.Allocate4args{AaStateid: id, AaOffset: off, AaLength: n}}
}

func deallocate(id nfsv4.Stateid4, off, n uint64) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_DEALLOCATE{Opdeallocate: nfsv4.Deallocate4args{DaStateid: id, DaOffset: off, DaLength: n}}
}

func clone(src, dst nfsv4.Stateid4, from, to, n uint64) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_CLONE{Opclone: nfsv4.Clone4args{ClSrcStateid: src, ClDstStateid: dst, ClSrcOffset: from, ClDstOffset: to, ClCount: n}}
}

// pair is the saved filehandle, and the current one.
func pair(src, dst []byte) []nfsv4.NfsArgop4 {
	return []nfsv4.NfsArgop4{putFH(src), &nfsv4.NfsArgop4_OP_SAVEFH{}, putFH(dst)}
}

// openFor opens a file and returns its handle and stateid.
func (c *client) openFor(owner string, access uint32, name string) ([]byte, nfsv4.Stateid4) {
	c.t.Helper()
	res := c.ok(ops(root(), open(owner, access, 0, unchecked(), named(name)), &nfsv4.NfsArgop4_OP_GETFH{})...)
	return fhOf(last(res)), openOK(res[len(res)-2]).Stateid
}

func (w *world) content(ino vfs.Ino, n int) []byte {
	w.t.Helper()
	buf := make([]byte, n)
	k, _, err := w.fs.Read(w.t.Context(), ino, 0, buf)
	if err != nil {
		w.t.Fatal(err)
	}
	return buf[:k]
}

func TestRanges(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	w.mk(vfs.RootIno, "l", vfs.TypeSymlink, 0o777, 0)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o600, 0)
	to := w.mk(vfs.RootIno, "g", vfs.TypeFile, 0o600, 0)
	c := w.connect("a", 2)
	data := pattern(40_000)
	f, id := c.openFor("o", rw, "f")
	g, gid := c.openFor("o", wr, "g")
	_, read := c.openFor("reader", rd, "f")
	c.ok(putFH(f), write(id, 0, nfsv4.FILE_SYNC4, data))

	c.ok(putFH(f), deallocate(id, 4000, 20_000))
	clear(data[4000:24_000])
	c.ok(putFH(f), allocate(id, 0, 50_000))
	data = append(data, make([]byte, 10_000)...)
	if got := w.content(ino, 60_000); !bytes.Equal(got, data) {
		t.Fatal("another content after DEALLOCATE and ALLOCATE")
	}
	seek := func(off uint64, what nfsv4.DataContent4) nfsv4.SeekRes4 {
		op := &nfsv4.NfsArgop4_OP_SEEK{Opseek: nfsv4.Seek4args{SaStateid: id, SaOffset: off, SaWhat: what}}
		return last(c.ok(putFH(f), op)).(*nfsv4.NfsResop4_OP_SEEK).Opseek.(*nfsv4.Seek4res_NFS4_OK).Resok4
	}
	for _, s := range []struct {
		off  uint64
		what nfsv4.DataContent4
		want nfsv4.SeekRes4
	}{
		{0, nfsv4.NFS4_CONTENT_HOLE, nfsv4.SeekRes4{SrOffset: 4096}},
		{4096, nfsv4.NFS4_CONTENT_DATA, nfsv4.SeekRes4{SrOffset: 20480}},
		{20480, nfsv4.NFS4_CONTENT_HOLE, nfsv4.SeekRes4{SrOffset: 40960}},
		{40960, nfsv4.NFS4_CONTENT_DATA, nfsv4.SeekRes4{SrEof: true, SrOffset: 50_000}},
	} {
		if got := seek(s.off, s.what); got != s.want {
			t.Errorf("SEEK %d from %d: %+v, want %+v", s.what, s.off, got, s.want)
		}
	}
	c.ok(ops(pair(f, g), clone(id, gid, 0, 4096, 0))...)
	want := append(make([]byte, 4096), data...)
	if got := w.content(to, 60_000); !bytes.Equal(got, want) {
		t.Fatal("another content after CLONE")
	}

	for name, x := range map[string]struct {
		ops  []nfsv4.NfsArgop4
		want nfsv4.Nfsstat4
	}{
		"ALLOCATE of nothing":            {ops(putFH(f), allocate(id, 0, 0)), nfsv4.NFS4ERR_INVAL},
		"ALLOCATE of too much":           {ops(putFH(f), allocate(id, 1, vfs.MaxSize)), nfsv4.NFS4ERR_FBIG},
		"ALLOCATE of more than there is": {ops(putFH(f), allocate(id, 0, 1<<50)), nfsv4.NFS4ERR_NOSPC},
		"ALLOCATE by a reader":           {ops(putFH(f), allocate(read, 0, 1)), nfsv4.NFS4ERR_OPENMODE},
		"ALLOCATE with another's":        {ops(putFH(f), allocate(gid, 0, 1)), nfsv4.NFS4ERR_BAD_STATEID},
		"ALLOCATE of a directory":        {ops(at("d"), allocate(anonymous, 0, 1)), nfsv4.NFS4ERR_ISDIR},
		"ALLOCATE of a symlink":          {ops(at("l"), allocate(anonymous, 0, 1)), nfsv4.NFS4ERR_SYMLINK},
		"ALLOCATE above exports":         {ops(&nfsv4.NfsArgop4_OP_PUTROOTFH{}, allocate(anonymous, 0, 1)), nfsv4.NFS4ERR_ISDIR},
		"DEALLOCATE by a reader":         {ops(putFH(f), deallocate(read, 0, 1)), nfsv4.NFS4ERR_OPENMODE},
		"DEALLOCATE of nothing":          {ops(putFH(f), deallocate(id, 0, 0)), nfsv4.NFS4ERR_INVAL},
		"CLONE without a source":         {ops(putFH(g), clone(id, gid, 0, 0, 0)), nfsv4.NFS4ERR_NOFILEHANDLE},
		"CLONE unaligned":                {ops(pair(f, g), clone(id, gid, 1, 0, 4096)), nfsv4.NFS4ERR_INVAL},
		"CLONE beyond the end":           {ops(pair(f, g), clone(id, gid, 4096, 0, 50_000)), nfsv4.NFS4ERR_INVAL},
		"CLONE over itself":              {ops(pair(f, f), clone(id, id, 0, 4096, 8192)), nfsv4.NFS4ERR_INVAL},
		"CLONE to what is not written":   {ops(pair(f, f), clone(id, read, 0, 65536, 0)), nfsv4.NFS4ERR_OPENMODE},
		"CLONE with swapped stateids":    {ops(pair(f, g), clone(gid, id, 0, 0, 0)), nfsv4.NFS4ERR_BAD_STATEID},
		"CLONE to a directory":           {ops(putFH(f), &nfsv4.NfsArgop4_OP_SAVEFH{}, at("d"), clone(id, anonymous, 0, 0, 0)), nfsv4.NFS4ERR_WRONG_TYPE},
	} {
		if res := c.do(x.ops...); res.Status != x.want {
			t.Errorf("%s: %s, want %s", name, nfsv4.Nfsstat4_name[res.Status], nfsv4.Nfsstat4_name[x.want])
		}
	}
	one := w.connect("b", 1)
	if res := one.do(ops(putFH(f), allocate(anonymous, 0, 1))...); res.Status != nfsv4.NFS4ERR_OP_ILLEGAL {
		t.Errorf("minor version 1: %s", nfsv4.Nfsstat4_name[res.Status])
	}
}

// TestRangesElsewhere: other file systems, read-only exports, file systems that have none of it.
func TestRangesElsewhere(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	other := memfs.New(memfs.Options{})
	w := newWorldOf(t, mem, mem, 0)
	plain := struct{ vfs.FS }{memfs.New(memfs.Options{})}
	ex := exportOf(2, "/other", other, export.ReadWrite, export.SquashNone)
	ex.FSID = 8
	ro := exportOf(3, "/ro", mem, export.ReadOnly, export.SquashNone)
	none := exportOf(4, "/plain", plain, export.ReadWrite, export.SquashNone)
	none.FSID = 9
	w.exports.Replace(w.table(exportOf(1, "/default", mem, export.ReadWrite, export.SquashNone), ex, ro, none))
	c := w.connect("a", 2)
	handle := func(path string) []byte {
		res := c.ok(&nfsv4.NfsArgop4_OP_PUTROOTFH{}, lookup(path), open("o", rw, 0, unchecked(), named("f")), write(current, 0, nfsv4.FILE_SYNC4, pattern(9000)), &nfsv4.NfsArgop4_OP_GETFH{})
		return fhOf(last(res))
	}
	a, b, p := handle("default"), handle("other"), handle("plain")
	c.fails(nfsv4.NFS4ERR_XDEV, ops(pair(a, b), clone(anonymous, anonymous, 0, 0, 0))...)
	c.fails(nfsv4.NFS4ERR_NOTSUPP, ops(pair(p, p), clone(anonymous, anonymous, 0, 65536, 0))...)
	c.fails(nfsv4.NFS4ERR_NOTSUPP, putFH(p), allocate(anonymous, 0, 1))
	c.fails(nfsv4.NFS4ERR_NOTSUPP, putFH(p), deallocate(anonymous, 0, 1))
	ops3 := ops(&nfsv4.NfsArgop4_OP_PUTROOTFH{}, lookup("ro"), lookup("f"))
	c.fails(nfsv4.NFS4ERR_ROFS, ops(ops3, allocate(anonymous, 0, 1))...)
	c.fails(nfsv4.NFS4ERR_ROFS, ops(ops3, &nfsv4.NfsArgop4_OP_SAVEFH{}, clone(anonymous, anonymous, 0, 65536, 0))...)
	c.ok(ops(ops3, &nfsv4.NfsArgop4_OP_SAVEFH{}, putFH(a), clone(anonymous, anonymous, 0, 65536, 0))...)
}
