package v4_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/vfs"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// Reads of every way to send them (inside the reply, by writev), padded and
// not, at the end and beyond.
func TestReadWrite(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 1)
	content := pattern(1<<20 + 17)
	res := c.ok(ops(root(), open("o", rw, 0, unchecked(), named("f")), &nfsv4.NfsArgop4_OP_GETFH{})...)
	id, fh := openOK(res[2]).Stateid, fhOf(res[3])
	for off := 0; off < len(content); off += 300_001 {
		end := min(off+300_001, len(content))
		ok := writeOK(last(c.ok(putFH(fh), write(id, uint64(off), nfsv4.UNSTABLE4, content[off:end]))))
		if int(ok.Count) != end-off {
			t.Fatalf("wrote %d of %d", ok.Count, end-off)
		}
	}
	for _, off := range []int{0, 1, 4095, 1 << 19, len(content) - 5, len(content), len(content) + 10} {
		for _, n := range []int{0, 1, 2, 3, 4, 5, 16 << 10, 16<<10 + 1, 1 << 20} {
			got := readOK(last(c.ok(putFH(fh), read(id, uint64(off), uint32(n)))))
			want := content[min(off, len(content)):min(off+n, len(content))]
			if sha256.Sum256(got.Data) != sha256.Sum256(want) {
				t.Fatalf("%d bytes at %d: %d bytes that differ", n, off, len(got.Data))
			}
			if got.Eof != (off+n >= len(content)) {
				t.Errorf("%d bytes at %d: eof %v", n, off, got.Eof)
			}
		}
	}
	// More than a READ may carry is cut short.
	if got := readOK(last(c.ok(putFH(fh), read(id, 0, 1<<20+100)))); len(got.Data) != 1<<20 || got.Eof {
		t.Errorf("%d bytes, eof %v", len(got.Data), got.Eof)
	}
	if got := readOK(last(c.ok(putFH(fh), read(id, 1<<63, 10)))); len(got.Data) != 0 || !got.Eof {
		t.Errorf("beyond the largest file: %+v", got)
	}
	c.fails(nfsv4.NFS4ERR_FBIG, putFH(fh), write(id, vfs.MaxSize-1, nfsv4.UNSTABLE4, []byte("xx")))
	c.fails(nfsv4.NFS4ERR_FBIG, putFH(fh), write(id, 1<<63, nfsv4.UNSTABLE4, nil))
	if ok := writeOK(last(c.ok(putFH(fh), write(id, 5, nfsv4.FILE_SYNC4, nil)))); ok.Count != 0 {
		t.Errorf("writing nothing: %+v", ok)
	}
}

// Two READs and their neighbours in one COMPOUND keep their order in the reply.
func TestTwoReadsInOneCompound(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 1)
	content := pattern(100_000)
	c.ok(ops(root(), open("o", wr, 0, unchecked(), named("f")), write(current, 0, nfsv4.FILE_SYNC4, content), closeFile(current))...)
	for _, cache := range []bool{false, true} {
		c.cache = cache
		n := uint32(40_001)
		if cache {
			n = 3001
		}
		args := encodeCompound(t, 1, append([]nfsv4.NfsArgop4{c.sequence()}, ops(at("f"), read(anonymous, 0, n), getAttr(4), read(anonymous, 50_000, n), getAttr(1))...)...)
		first, err := c.send(args)
		if err != nil {
			t.Fatal(err)
		}
		res := decodeReply(t, first)
		c.want(res, nfsv4.NFS4_OK)
		k := len(res.Resarray)
		a, b := readOK(res.Resarray[k-4]).Data, readOK(res.Resarray[k-2]).Data
		if !bytes.Equal(a, content[:n]) || !bytes.Equal(b, content[50_000:50_000+n]) {
			t.Error("data differ")
		}
		if again, err := c.send(args); cache && (err != nil || !bytes.Equal(again, first)) {
			t.Errorf("the retry was answered differently: %v", err)
		}
	}
}

func TestStabilityAndVerifier(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 1)
	res := c.ok(ops(root(), open("o", rw, 0, unchecked(), named("f")), &nfsv4.NfsArgop4_OP_GETFH{})...)
	id, fh := openOK(res[2]).Stateid, fhOf(res[3])
	verf := func(how nfsv4.StableHow4) [8]byte {
		ok := writeOK(last(c.ok(putFH(fh), write(id, 0, how, []byte("data")))))
		if ok.Committed < how {
			t.Errorf("asked for %v, got %v", how, ok.Committed)
		}
		return ok.Writeverf
	}
	first := verf(nfsv4.UNSTABLE4)
	if verf(nfsv4.DATA_SYNC4) != first || verf(nfsv4.FILE_SYNC4) != first {
		t.Error("the verifier changed by itself")
	}
	commit := &nfsv4.NfsArgop4_OP_COMMIT{}
	committed := func() [8]byte {
		return last(c.ok(putFH(fh), commit)).(*nfsv4.NfsResop4_OP_COMMIT).Opcommit.(*nfsv4.Commit4res_NFS4_OK).Resok4.Writeverf
	}
	if committed() != first {
		t.Error("COMMIT has another verifier than WRITE")
	}
	verf(nfsv4.UNSTABLE4)
	w.fs.Crash()
	if committed() == first {
		t.Error("the verifier did not change although data was lost")
	}
	w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	w.mk(vfs.RootIno, "l", vfs.TypeSymlink, 0o777, 0)
	c.fails(nfsv4.NFS4ERR_ISDIR, ops(at("d"), commit)...)
	c.fails(nfsv4.NFS4ERR_SYMLINK, ops(at("l"), commit)...)
	c.fails(nfsv4.NFS4ERR_INVAL, putFH(fh), &nfsv4.NfsArgop4_OP_COMMIT{Opcommit: nfsv4.Commit4args{Offset: vfs.MaxSize, Count: 2}})
}

// Who may read and write with what stateid.
func TestPermissionOfIO(t *testing.T) {
	bypass := nfsv4.Stateid4{Seqid: 0xffffffff, Other: [12]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}}
	w := newWorld(t)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o600, 1000)
	w.mk(vfs.RootIno, "x", vfs.TypeFile, 0o711, 1000)
	w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	w.mk(vfs.RootIno, "l", vfs.TypeSymlink, 0o777, 0)
	w.mk(vfs.RootIno, "p", vfs.TypeFIFO, 0o644, 0)
	superuser := w.connect("a", 1)
	mine, other := superuser.as(1000, 1000), superuser.as(2000, 2000)
	fh := mine.handleOf("f")

	for _, id := range []nfsv4.Stateid4{anonymous, bypass} {
		mine.ok(putFH(fh), write(id, 0, nfsv4.FILE_SYNC4, []byte("x")), read(id, 0, 1))
		other.fails(nfsv4.NFS4ERR_ACCESS, putFH(fh), read(id, 0, 1))
		other.fails(nfsv4.NFS4ERR_ACCESS, putFH(fh), write(id, 0, nfsv4.FILE_SYNC4, []byte("x")))
		other.ok(ops(at("x"), read(id, 0, 1))...)
	}
	// What was opened stays usable when the mode changes.
	id := openOK(last(mine.ok(ops(root(), open("o", rw, 0, nil, named("f")))...))).Stateid
	none := uint32(0)
	if _, err := w.fs.SetAttr(context.Background(), &vfs.Root, ino, vfs.SetAttr{Mode: &none}, false); err != nil {
		t.Fatal(err)
	}
	mine.ok(putFH(fh), read(id, 0, 1), write(id, 0, nfsv4.FILE_SYNC4, []byte("y")), setAttr(id, attrs(nfsv4.FATTR4_SIZE, uint64(0))))
	// Another client cannot use the stateid.
	other.fails(nfsv4.NFS4ERR_BAD_STATEID, putFH(fh), read(id, 0, 1))
	// Nor does it fit another file.
	mine.fails(nfsv4.NFS4ERR_BAD_STATEID, ops(at("x"), read(id, 0, 1))...)

	for name, want := range map[string]nfsv4.Nfsstat4{"d": nfsv4.NFS4ERR_ISDIR, "l": nfsv4.NFS4ERR_SYMLINK, "p": nfsv4.NFS4ERR_WRONG_TYPE} {
		superuser.fails(want, ops(at(name), read(anonymous, 0, 1))...)
		superuser.fails(want, ops(at(name), write(anonymous, 0, nfsv4.FILE_SYNC4, []byte("x")))...)
	}
	mine.fails(nfsv4.NFS4ERR_BADXDR, putFH(fh), write(anonymous, 0, 3, []byte("x")))
}

// RFC 8881, 16.2.3.1.2.
func TestCurrentStateid(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.connect("a", 1)
	save, restore := &nfsv4.NfsArgop4_OP_SAVEFH{}, &nfsv4.NfsArgop4_OP_RESTOREFH{}
	o := open("o", rw, 0, nil, named("f"))
	c.ok(ops(root(), o, write(current, 0, nfsv4.FILE_SYNC4, []byte("abc")), read(current, 0, 3), closeFile(current))...)
	c.ok(ops(root(), o, save, root(), restore, closeFile(current))...)
	c.fails(nfsv4.NFS4ERR_BAD_STATEID, ops(root(), o, at("f"), closeFile(current))...)
	c.fails(nfsv4.NFS4ERR_BAD_STATEID, ops(at("f"), closeFile(current))...)
}

func TestLocks(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	a, b := w.connect("a", 1), w.connect("b", 1)
	fh := a.handleOf("f")
	opened := func(c *client) nfsv4.Stateid4 {
		return openOK(last(c.ok(ops(root(), open("o", rw, 0, nil, named("f")))...))).Stateid
	}
	first := func(id nfsv4.Stateid4, owner string, typ nfsv4.NfsLockType4, off, n uint64) nfsv4.NfsArgop4 {
		return &nfsv4.NfsArgop4_OP_LOCK{Oplock: nfsv4.Lock4args{Locktype: typ, Offset: off, Length: n,
			Locker: &nfsv4.Locker4_TRUE{OpenOwner: nfsv4.OpenToLockOwner4{OpenStateid: id, LockOwner: nfsv4.LockOwner4{Owner: []byte(owner)}}}}}
	}
	lockID := func(r nfsv4.NfsResop4) nfsv4.Stateid4 {
		return r.(*nfsv4.NfsResop4_OP_LOCK).Oplock.(*nfsv4.Lock4res_NFS4_OK).Resok4.LockStateid
	}
	test := func(owner string, typ nfsv4.NfsLockType4, off, n uint64) nfsv4.NfsArgop4 {
		return &nfsv4.NfsArgop4_OP_LOCKT{Oplockt: nfsv4.Lockt4args{Locktype: typ, Offset: off, Length: n, Owner: nfsv4.LockOwner4{Owner: []byte(owner)}}}
	}
	unlock := func(id nfsv4.Stateid4, off, n uint64) nfsv4.NfsArgop4 {
		return &nfsv4.NfsArgop4_OP_LOCKU{Oplocku: nfsv4.Locku4args{Locktype: nfsv4.WRITE_LT, LockStateid: id, Offset: off, Length: n}}
	}
	ida, idb := opened(a), opened(b)
	held := lockID(last(a.ok(putFH(fh), first(ida, "p1", nfsv4.WRITE_LT, 10, 20))))

	res := last(b.fails(nfsv4.NFS4ERR_DENIED, putFH(fh), first(idb, "p2", nfsv4.READ_LT, 0, 0xffffffffffffffff)))
	denied := res.(*nfsv4.NfsResop4_OP_LOCK).Oplock.(*nfsv4.Lock4res_NFS4ERR_DENIED).Denied
	if denied.Offset != 10 || denied.Length != 20 || denied.Locktype != nfsv4.WRITE_LT || string(denied.Owner.Owner) != "p1" || denied.Owner.Clientid != a.id {
		t.Errorf("LOCK denied by %+v", denied)
	}
	res = last(b.fails(nfsv4.NFS4ERR_DENIED, putFH(fh), test("p2", nfsv4.WRITE_LT, 29, 1)))
	if d := res.(*nfsv4.NfsResop4_OP_LOCKT).Oplockt.(*nfsv4.Lockt4res_NFS4ERR_DENIED).Denied; d.Offset != 10 || string(d.Owner.Owner) != "p1" {
		t.Errorf("LOCKT denied by %+v", d)
	}
	b.ok(putFH(fh), test("p2", nfsv4.WRITE_LT, 30, 1))
	a.ok(putFH(fh), test("p1", nfsv4.WRITE_LT, 0, 100)) // the owner's own lock does not deny
	a.fails(nfsv4.NFS4ERR_LOCKS_HELD, putFH(fh), &nfsv4.NfsArgop4_OP_FREE_STATEID{OpfreeStateid: nfsv4.FreeStateid4args{FsaStateid: held}})

	// The middle is given back.
	r := last(a.ok(putFH(fh), unlock(held, 15, 5))).(*nfsv4.NfsResop4_OP_LOCKU).Oplocku.(*nfsv4.Locku4res_NFS4_OK).LockStateid
	if r.Other != held.Other || r.Seqid != held.Seqid+1 {
		t.Errorf("LOCKU gave %v after %v", r, held)
	}
	b.ok(putFH(fh), first(idb, "p2", nfsv4.WRITE_LT, 15, 5))
	// A lock stateid serves for I/O, and the lock owner may lock more with it.
	a.ok(putFH(fh), write(r, 0, nfsv4.FILE_SYNC4, []byte("x")))
	again := &nfsv4.NfsArgop4_OP_LOCK{Oplock: nfsv4.Lock4args{Locktype: nfsv4.READ_LT, Offset: 100, Length: 1,
		Locker: &nfsv4.Locker4_FALSE{LockOwner: nfsv4.ExistLockOwner4{LockStateid: r}}}}
	r = lockID(last(a.ok(putFH(fh), again)))

	for name, x := range map[string]struct {
		op   nfsv4.NfsArgop4
		want nfsv4.Nfsstat4
	}{
		"length 0":            {first(ida, "p1", nfsv4.READ_LT, 0, 0), nfsv4.NFS4ERR_INVAL},
		"beyond 2^64":         {first(ida, "p1", nfsv4.READ_LT, 10, 0xfffffffffffffffe), nfsv4.NFS4ERR_INVAL},
		"an unknown type":     {first(ida, "p1", 5, 0, 1), nfsv4.NFS4ERR_BADXDR},
		"another's stateid":   {first(idb, "p1", nfsv4.READ_LT, 0, 1), nfsv4.NFS4ERR_BAD_STATEID},
		"LOCKT with length 0": {test("p9", nfsv4.READ_LT, 0, 0), nfsv4.NFS4ERR_INVAL},
	} {
		if res := a.do(putFH(fh), x.op); res.Status != x.want {
			t.Errorf("%s: %v, want %v", name, nfsv4.Nfsstat4_name[res.Status], nfsv4.Nfsstat4_name[x.want])
		}
	}
	a.fails(nfsv4.NFS4ERR_ISDIR, ops(at("d"), test("p1", nfsv4.READ_LT, 0, 1))...)
	a.fails(nfsv4.NFS4ERR_ISDIR, ops(at("d"), first(ida, "p1", nfsv4.READ_LT, 0, 1))...)

	tested := last(a.ok(&nfsv4.NfsArgop4_OP_TEST_STATEID{OptestStateid: nfsv4.TestStateid4args{TsStateids: []nfsv4.Stateid4{ida, r, idb}}}))
	codes := tested.(*nfsv4.NfsResop4_OP_TEST_STATEID).OptestStateid.(*nfsv4.TestStateid4res_NFS4_OK).TsrResok4.TsrStatusCodes
	if len(codes) != 3 || codes[0] != nfsv4.NFS4_OK || codes[1] != nfsv4.NFS4_OK || codes[2] != nfsv4.NFS4ERR_BAD_STATEID {
		t.Errorf("TEST_STATEID: %v", codes)
	}
}

func TestVersion42(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	c := w.connect("a", 2)
	c.ok(ops(root(), open("o", wr, 0, unchecked(), named("f")), write(current, 0, nfsv4.FILE_SYNC4, pattern(1000)), closeFile(current))...)
	seek := func(off uint64, what nfsv4.DataContent4) nfsv4.NfsArgop4 {
		return &nfsv4.NfsArgop4_OP_SEEK{Opseek: nfsv4.Seek4args{SaOffset: off, SaWhat: what}}
	}
	found := func(op nfsv4.NfsArgop4) nfsv4.SeekRes4 {
		return last(c.ok(ops(at("f"), op)...)).(*nfsv4.NfsResop4_OP_SEEK).Opseek.(*nfsv4.Seek4res_NFS4_OK).Resok4
	}
	if r := found(seek(10, nfsv4.NFS4_CONTENT_DATA)); r.SrEof || r.SrOffset != 10 {
		t.Errorf("data: %+v", r)
	}
	if r := found(seek(10, nfsv4.NFS4_CONTENT_HOLE)); !r.SrEof || r.SrOffset != 1000 {
		t.Errorf("hole: %+v", r)
	}
	c.fails(nfsv4.NFS4ERR_NXIO, ops(at("f"), seek(1000, nfsv4.NFS4_CONTENT_HOLE))...)
	c.fails(nfsv4.NFS4ERR_UNION_NOTSUPP, ops(at("f"), seek(0, 7))...)
	c.fails(nfsv4.NFS4ERR_ISDIR, ops(at("d"), seek(0, nfsv4.NFS4_CONTENT_DATA))...)
	advise := &nfsv4.NfsArgop4_OP_IO_ADVISE{OpioAdvise: nfsv4.IoAdvise4args{IaaCount: 10, IaaHints: []uint32{3}}}
	hints := last(c.ok(ops(at("f"), advise)...)).(*nfsv4.NfsResop4_OP_IO_ADVISE).OpioAdvise.(*nfsv4.IoAdvise4res_NFS4_OK).Resok4.IorHints
	for _, h := range hints {
		if h != 0 {
			t.Errorf("promises to heed hints %v", hints)
		}
	}
	c.fails(nfsv4.NFS4ERR_ISDIR, ops(at("d"), advise)...)
	for _, op := range []nfsv4.NfsArgop4{
		&nfsv4.NfsArgop4_OP_READ_PLUS{},
	} {
		c.fails(nfsv4.NFS4ERR_NOTSUPP, ops(at("f"), op)...)
	}
}

// fullFS stores no more than room bytes of a file.
type fullFS struct {
	*memfs.FS
	room uint64
}

func (f *fullFS) Write(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	full := vfs.KindQuota.Err("write")
	if off+uint64(len(p)) <= f.room {
		return f.FS.Write(ctx, c, ino, off, p, s)
	}
	if off >= f.room {
		return 0, vfs.Verifier{}, full
	}
	got, v, err := f.FS.Write(ctx, c, ino, off, p[:f.room-off], s)
	if err != nil {
		return got, v, err
	}
	return got, v, &vfs.ShortWrite{N: int(f.room - off), Err: full}
}

// A WRITE of which only a part fits a quota says how much; the rest is refused with DQUOT.
func TestShortWrite(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	w := newWorldOf(t, mem, &fullFS{mem, 1000}, 0)
	c := w.connect("a", 1)
	c.ok(ops(root(), open("o", wr, 0, unchecked(), named("f")), closeFile(current))...)
	res := writeOK(last(c.ok(ops(at("f"), write(anonymous, 600, nfsv4.FILE_SYNC4, pattern(700)))...)))
	if res.Count != 400 || res.Committed != nfsv4.FILE_SYNC4 {
		t.Errorf("%+v", res)
	}
	c.fails(nfsv4.NFS4ERR_DQUOT, ops(at("f"), write(anonymous, 1000, nfsv4.UNSTABLE4, pattern(300)))...)
	if a := attrsOK(t, last(c.ok(ops(at("f"), getAttr(nfsv4.FATTR4_SIZE))...))); a[nfsv4.FATTR4_SIZE] != uint64(1000) {
		t.Errorf("%v", a)
	}
}
