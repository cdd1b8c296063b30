package v4_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/vfs"
)

// pairingFS counts vfs opens that were not closed.
type pairingFS struct {
	*memfs.FS
	mu   sync.Mutex
	open map[vfs.Ino]map[vfs.OpenFlags]int
}

func (f *pairingFS) count(ino vfs.Ino, flags vfs.OpenFlags, by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = map[vfs.Ino]map[vfs.OpenFlags]int{}
	}
	if f.open[ino] == nil {
		f.open[ino] = map[vfs.OpenFlags]int{}
	}
	if f.open[ino][flags] += by; f.open[ino][flags] == 0 {
		delete(f.open[ino], flags)
	}
	if len(f.open[ino]) == 0 {
		delete(f.open, ino)
	}
}

func (f *pairingFS) total() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, flags := range f.open {
		for _, k := range flags {
			if k < 0 {
				return -1000
			}
			n += k
		}
	}
	return n
}

func (f *pairingFS) Open(ctx context.Context, c *vfs.Cred, ino vfs.Ino, flags vfs.OpenFlags, override bool) (vfs.Attr, error) {
	a, err := f.FS.Open(ctx, c, ino, flags, override)
	if err == nil {
		f.count(ino, flags, 1)
	}
	return a, err
}

func (f *pairingFS) Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	made, err := f.FS.Create(ctx, c, dir, name, a)
	if err == nil && a.Open != 0 {
		f.count(made.Attr.Ino, a.Open, 1)
	}
	return made, err
}

func (f *pairingFS) Close(ctx context.Context, ino vfs.Ino, flags vfs.OpenFlags) error {
	f.count(ino, flags, -1)
	return f.FS.Close(ctx, ino, flags)
}

func newPairing(t *testing.T) (*world, *pairingFS) {
	mem := memfs.New(memfs.Options{RootMode: 0o777})
	fs := &pairingFS{FS: mem}
	return newWorldOf(t, mem, fs, 0), fs
}

func unchecked(pairs ...any) nfsv4.Createhow4 {
	return &nfsv4.Createhow4_UNCHECKED4{Createattrs: attrs(pairs...)}
}

func guarded(pairs ...any) nfsv4.Createhow4 {
	return &nfsv4.Createhow4_GUARDED4{Createattrs: attrs(pairs...)}
}

func exclusive(v byte) nfsv4.Createhow4 {
	return &nfsv4.Createhow4_EXCLUSIVE4{Createverf: [8]byte{v}}
}

func exclusive41(v byte, pairs ...any) nfsv4.Createhow4 {
	return &nfsv4.Createhow4_EXCLUSIVE4_1{ChCreateboth: nfsv4.Creatverfattr{CvaVerf: [8]byte{v}, CvaAttrs: attrs(pairs...)}}
}

func TestOpenCreateModes(t *testing.T) {
	const mode, size = nfsv4.FATTR4_MODE, nfsv4.FATTR4_SIZE
	w, fs := newPairing(t)
	c := w.connect("a", 1)
	put := func(name, data string) {
		res := c.ok(ops(root(), open("w", wr, 0, unchecked(mode, uint32(0o644)), named(name)), write(current, 0, nfsv4.FILE_SYNC4, []byte(data)), closeFile(current))...)
		_ = res
	}
	put("old", "12345")
	for _, x := range []struct {
		name, file string
		how        nfsv4.Createhow4
		want       nfsv4.Nfsstat4
		size       uint64
		created    bool
		set        []uint32
	}{
		{"UNCHECKED, new", "u", unchecked(mode, uint32(0o640)), nfsv4.NFS4_OK, 0, true, []uint32{0, 2}},
		{"UNCHECKED, old", "old", unchecked(mode, uint32(0o600)), nfsv4.NFS4_OK, 5, false, []uint32{}},
		{"UNCHECKED, old, another size", "old", unchecked(size, uint64(3)), nfsv4.NFS4_OK, 5, false, []uint32{}},
		{"UNCHECKED, old, truncated", "old", unchecked(size, uint64(0), mode, uint32(0o600)), nfsv4.NFS4_OK, 0, false, []uint32{16}},
		{"UNCHECKED, new with a size", "sized", unchecked(size, uint64(77)), nfsv4.NFS4_OK, 77, true, []uint32{16}},
		{"GUARDED, new", "g", guarded(mode, uint32(0o640)), nfsv4.NFS4_OK, 0, true, []uint32{0, 2}},
		{"GUARDED, old", "g", guarded(mode, uint32(0o640)), nfsv4.NFS4ERR_EXIST, 0, false, nil},
		{"EXCLUSIVE4, new", "x", exclusive(1), nfsv4.NFS4_OK, 0, true, []uint32{}},
		{"EXCLUSIVE4, again", "x", exclusive(1), nfsv4.NFS4_OK, 0, false, []uint32{}},
		{"EXCLUSIVE4, somebody else", "x", exclusive(2), nfsv4.NFS4ERR_EXIST, 0, false, nil},
		{"EXCLUSIVE4_1, new", "y", exclusive41(1, mode, uint32(0o640)), nfsv4.NFS4_OK, 0, true, []uint32{0, 2}},
		{"EXCLUSIVE4_1, again", "y", exclusive41(1, mode, uint32(0o640)), nfsv4.NFS4_OK, 0, false, []uint32{0, 2}},
		{"EXCLUSIVE4_1, somebody else", "y", exclusive41(9, mode, uint32(0o640)), nfsv4.NFS4ERR_EXIST, 0, false, nil},
		{"UNCHECKED, an unsupported attribute", "z", unchecked(nfsv4.FATTR4_HIDDEN, uint32(1)), nfsv4.NFS4ERR_ATTRNOTSUPP, 0, false, nil},
		{"UNCHECKED, a read-only attribute", "z", unchecked(nfsv4.FATTR4_FILEID, uint64(1)), nfsv4.NFS4ERR_INVAL, 0, false, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			defer func() { c.t = w.t }()
			request := ops(root(), open("o", rw, 0, x.how, named(x.file)))
			if x.want != nfsv4.NFS4_OK {
				c.fails(x.want, request...)
				return
			}
			before := attrsOK(t, last(c.ok(ops(root(), getAttr(3))...)))[3].(uint64)
			res := c.ok(append(request, getAttr(1, size), closeFile(current))...)
			ok := openOK(res[2])
			if got := attrsOK(t, res[3]); got[1] != uint32(nfsv4.NF4REG) || got[size] != x.size {
				t.Errorf("%v", got)
			}
			if (ok.Cinfo.Before != ok.Cinfo.After) != x.created || ok.Cinfo.Before != before {
				t.Errorf("directory at %d: %+v", before, ok.Cinfo)
			}
			if !slices.Equal(ok.Attrset, x.set) {
				t.Errorf("attrset %v, want %v", ok.Attrset, x.set)
			}
			if _, none := ok.Delegation.(*nfsv4.OpenDelegation4_OPEN_DELEGATE_NONE); !none {
				t.Errorf("delegation %T", ok.Delegation)
			}
		})
	}
	if n := fs.total(); n != 0 {
		t.Errorf("%d vfs opens are left", n)
	}
}

func TestOpenRefuses(t *testing.T) {
	w, fs := newPairing(t)
	for name, typ := range map[string]vfs.Type{"dir": vfs.TypeDir, "lnk": vfs.TypeSymlink, "fifo": vfs.TypeFIFO, "chr": vfs.TypeChar, "file": vfs.TypeFile} {
		w.mk(vfs.RootIno, name, typ, 0o755, 0)
	}
	w.mk(vfs.RootIno, "mine", vfs.TypeFile, 0o600, 0)
	w.mk(vfs.RootIno, "exec", vfs.TypeFile, 0o711, 0)
	w.mk(vfs.RootIno, "none", vfs.TypeFile, 0o000, 1000)
	c := w.connect("a", 1)
	user := c.as(1000, 1000)
	mode := func(m uint32) nfsv4.Createhow4 { return unchecked(nfsv4.FATTR4_MODE, m) }
	const wantRead = nfsv4.OPEN4_SHARE_ACCESS_WANT_READ_DELEG
	for name, x := range map[string]struct {
		who  *client
		ops  []nfsv4.NfsArgop4
		want nfsv4.Nfsstat4
	}{
		"no access":                       {c, ops(root(), open("o", 0, 0, nil, named("file"))), nfsv4.NFS4ERR_INVAL},
		"an unknown want":                 {c, ops(root(), open("o", rd|0x600, 0, nil, named("file"))), nfsv4.NFS4ERR_INVAL},
		"an unknown flag":                 {c, ops(root(), open("o", rd|0x1000000, 0, nil, named("file"))), nfsv4.NFS4ERR_INVAL},
		"an unknown deny mode":            {c, ops(root(), open("o", rd, 4, nil, named("file"))), nfsv4.NFS4ERR_INVAL},
		"what is not there":               {c, ops(root(), open("o", rd, 0, nil, named("gone"))), nfsv4.NFS4ERR_NOENT},
		"a directory":                     {c, ops(root(), open("o", rd, 0, nil, named("dir"))), nfsv4.NFS4ERR_ISDIR},
		"a symlink":                       {c, ops(root(), open("o", rd, 0, nil, named("lnk"))), nfsv4.NFS4ERR_SYMLINK},
		"a pipe by name":                  {c, ops(root(), open("o", rd, 0, nil, named("fifo"))), nfsv4.NFS4ERR_SYMLINK},
		"a pipe by handle":                {c, ops(at("fifo"), open("o", rd, 0, nil, nil)), nfsv4.NFS4ERR_WRONG_TYPE},
		"a directory by handle":           {c, ops(at("dir"), open("o", rd, 0, nil, nil)), nfsv4.NFS4ERR_ISDIR},
		"creating over a directory":       {c, ops(root(), open("o", rd, 0, mode(0o644), named("dir"))), nfsv4.NFS4ERR_ISDIR},
		"creating over a symlink":         {c, ops(root(), open("o", rd, 0, mode(0o644), named("lnk"))), nfsv4.NFS4ERR_SYMLINK},
		"creating over a device":          {c, ops(root(), open("o", rd, 0, mode(0o644), named("chr"))), nfsv4.NFS4ERR_SYMLINK},
		"creating in a file":              {c, ops(at("file"), open("o", rd, 0, mode(0o644), named("x"))), nfsv4.NFS4ERR_NOTDIR},
		"creating in a symlink":           {c, ops(at("lnk"), open("o", rd, 0, mode(0o644), named("x"))), nfsv4.NFS4ERR_SYMLINK},
		"creating in another's directory": {user, ops(at("dir"), open("o", rd, 0, mode(0o644), named("x"))), nfsv4.NFS4ERR_ACCESS},
		"another's private file":          {user, ops(root(), open("o", rd, 0, nil, named("mine"))), nfsv4.NFS4ERR_ACCESS},
		"another's private file, O_CREAT": {user, ops(root(), open("o", rd, 0, mode(0o644), named("mine"))), nfsv4.NFS4ERR_ACCESS},
		"the own file without permission": {user, ops(root(), open("o", rd, 0, nil, named("none"))), nfsv4.NFS4ERR_ACCESS},
		"writing a program":               {user, ops(root(), open("o", wr, 0, nil, named("exec"))), nfsv4.NFS4ERR_ACCESS},
		"reading and writing a program":   {user, ops(root(), open("o", rw, 0, nil, named("exec"))), nfsv4.NFS4ERR_ACCESS},
		"CLAIM_FH with create":            {c, ops(at("file"), open("o", rd, 0, mode(0o644), nil)), nfsv4.NFS4ERR_INVAL},
		"a delegation by name":            {c, ops(root(), open("o", rd, 0, nil, &nfsv4.OpenClaim4_CLAIM_DELEGATE_CUR{DelegateCurInfo: nfsv4.OpenClaimDelegateCur4{File: "file"}})), nfsv4.NFS4ERR_BAD_STATEID},
		"a delegation by handle":          {c, ops(at("file"), open("o", rd, 0, nil, &nfsv4.OpenClaim4_CLAIM_DELEG_CUR_FH{})), nfsv4.NFS4ERR_BAD_STATEID},
		"a former delegation by name":     {c, ops(root(), open("o", rd, 0, nil, &nfsv4.OpenClaim4_CLAIM_DELEGATE_PREV{})), nfsv4.NFS4ERR_NOTSUPP},
		"a former delegation by handle":   {c, ops(at("file"), open("o", rd, 0, nil, &nfsv4.OpenClaim4_CLAIM_DELEG_PREV_FH{})), nfsv4.NFS4ERR_NOTSUPP},
		"a reclaim outside of the grace":  {c, ops(at("file"), open("o", rd, 0, nil, &nfsv4.OpenClaim4_CLAIM_PREVIOUS{DelegateType: nfsv4.OPEN_DELEGATE_NONE})), nfsv4.NFS4ERR_NO_GRACE},
	} {
		if res := x.who.do(x.ops...); res.Status != x.want {
			t.Errorf("%s: %v, want %v", name, nfsv4.Nfsstat4_name[res.Status], nfsv4.Nfsstat4_name[x.want])
		}
	}
	if n := fs.total(); n != 0 {
		t.Errorf("refused opens left %d vfs opens", n)
	}

	// What is allowed: a program may be read by who may execute it, and a new
	// file is open whatever its mode.
	user.ok(ops(root(), open("o", rd, 0, nil, named("exec")), read(current, 0, 10), closeFile(current))...)
	user.ok(ops(root(), open("o", rw, 0, mode(0), named("new")), write(current, 0, nfsv4.FILE_SYNC4, []byte("x")), closeFile(current))...)
	// A wish for a delegation is answered with a reason.
	res := c.ok(ops(root(), open("o", rd|wantRead, 0, nil, named("file")), closeFile(current))...)
	if d, ok := openOK(res[2]).Delegation.(*nfsv4.OpenDelegation4_OPEN_DELEGATE_NONE_EXT); !ok || d.OdWhynone.GetOndWhy() != nfsv4.WND4_NOT_SUPP_FTYPE {
		t.Errorf("delegation %#v", openOK(res[2]).Delegation)
	}
	if n := fs.total(); n != 0 {
		t.Errorf("%d vfs opens are left", n)
	}
}

// Every way an open ends closes the vfs opens that it held, once.
func TestVFSOpensArePaired(t *testing.T) {
	w, fs := newPairing(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	c := w.connect("a", 1)
	expect := func(what string, n int) {
		t.Helper()
		if got := fs.total(); got != n {
			t.Errorf("%s: %d vfs opens, want %d", what, got, n)
		}
	}
	downgrade := func(id nfsv4.Stateid4, access uint32) nfsv4.NfsArgop4 {
		return &nfsv4.NfsArgop4_OP_OPEN_DOWNGRADE{OpopenDowngrade: nfsv4.OpenDowngrade4args{OpenStateid: id, ShareAccess: access}}
	}
	id := openOK(last(c.ok(ops(root(), open("o", rd, 0, nil, named("f")))...))).Stateid
	expect("open for reading", 1)
	c.ok(ops(root(), open("o", rd, 0, nil, named("f")))...)
	expect("the same again", 1)
	id2 := openOK(last(c.ok(ops(root(), open("o", wr, 0, nil, named("f")))...))).Stateid
	if id2.Other != id.Other || id2.Seqid <= id.Seqid {
		t.Errorf("an upgrade gave %v after %v", id2, id)
	}
	if got := fs.total(); got < 1 {
		t.Errorf("upgraded: %d vfs opens", got)
	}
	c.ok(ops(at("f"), write(id2, 0, nfsv4.FILE_SYNC4, []byte("x")))...)
	down := last(c.ok(ops(at("f"), downgrade(id2, rd))...)).(*nfsv4.NfsResop4_OP_OPEN_DOWNGRADE).OpopenDowngrade.(*nfsv4.OpenDowngrade4res_NFS4_OK).Resok4.OpenStateid
	expect("downgraded", 1)
	c.fails(nfsv4.NFS4ERR_OPENMODE, ops(at("f"), write(down, 0, nfsv4.FILE_SYNC4, []byte("x")))...)
	c.fails(nfsv4.NFS4ERR_INVAL, ops(at("f"), downgrade(down, rw))...)
	c.ok(ops(at("f"), closeFile(down))...)
	expect("closed", 0)
	c.fails(nfsv4.NFS4ERR_BAD_STATEID, ops(at("f"), closeFile(down))...)

	// Special stateids open and close around the transfer.
	c.ok(ops(at("f"), read(anonymous, 0, 10), write(anonymous, 0, nfsv4.FILE_SYNC4, []byte("y")))...)
	expect("after I/O with a special stateid", 0)

	// A client whose lease is over keeps its opens until somebody needs them,
	// or it goes for good.
	d := w.connect("b", 1)
	c.ok(ops(root(), open("o", rd, nfsv4.OPEN4_SHARE_DENY_WRITE, nil, named("f")))...)
	d.fails(nfsv4.NFS4ERR_SHARE_DENIED, ops(root(), open("o", wr, 0, nil, named("f")))...)
	d.fails(nfsv4.NFS4ERR_SHARE_DENIED, ops(root(), open("o", wr, 0, unchecked(), named("f")))...)
	expect("one denied the other", 1)
	w.advance(lease / 2)
	d.ok(root()...)
	w.advance(lease/2 + time.Second)
	d.ok(ops(root(), open("o", wr, 0, nil, named("f")))...)
	expect("the lease of the first is over", 1)
	if res := c.do(root()...); res.Status != nfsv4.NFS4ERR_BADSESSION {
		t.Errorf("the expired client: %v", res.Status)
	}
	d.ok(ops(root(), &nfsv4.NfsArgop4_OP_DESTROY_SESSION{OpdestroySession: nfsv4.DestroySession4args{DsaSessionid: d.session}})...)
	w.advance(2 * lease)
	w.advance(25 * time.Hour)
	expect("all clients are gone", 0)
}

// An O_TRUNC that another client's deny mode refuses truncates nothing.
func TestDenyProtectsFromTruncation(t *testing.T) {
	w, fs := newPairing(t)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	size := uint64(100)
	if _, err := w.fs.SetAttr(context.Background(), &vfs.Root, ino, vfs.SetAttr{Size: &size}, false); err != nil {
		t.Fatal(err)
	}
	a, b := w.connect("a", 1), w.connect("b", 1)
	a.ok(ops(root(), open("o", rd, nfsv4.OPEN4_SHARE_DENY_WRITE, nil, named("f")))...)
	b.fails(nfsv4.NFS4ERR_SHARE_DENIED, ops(root(), open("o", wr, 0, unchecked(nfsv4.FATTR4_SIZE, uint64(0)), named("f")))...)
	if got, _ := w.fs.GetAttr(context.Background(), ino); got.Size != size {
		t.Errorf("truncated to %d", got.Size)
	}
	b.fails(nfsv4.NFS4ERR_LOCKED, ops(at("f"), setAttr(anonymous, attrs(nfsv4.FATTR4_SIZE, uint64(0))))...)
	if n := fs.total(); n != 1 {
		t.Errorf("%d vfs opens, want 1", n)
	}
}

// Nothing is granted that the store could not record.
func TestStoreFailure(t *testing.T) {
	w, fs := newPairing(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	c := w.dial(1)
	c.exchangeID("late")
	c.createSession(nfsv4.ChannelAttrs4{CaMaxrequestsize: 4096, CaMaxresponsesize: 4096, CaMaxresponsesizeCached: 4096, CaMaxoperations: 16, CaMaxrequests: 1})
	w.store.setFail(errors.New("no quorum"))
	c.fails(nfsv4.NFS4ERR_DELAY, &nfsv4.NfsArgop4_OP_RECLAIM_COMPLETE{})
	w.store.setFail(nil)
	c.ok(&nfsv4.NfsArgop4_OP_RECLAIM_COMPLETE{}) // the client tries again
	if w.store.holds("late") != c.id {
		t.Error("the record was not stored")
	}
	// A client that went away is forgotten before its files are closed; both
	// happen once the store works again.
	c.ok(ops(root(), open("o", rd, 0, nil, named("f")))...)
	w.store.setFail(errors.New("no quorum"))
	w.advance(48 * time.Hour)
	if w.store.holds("late") != c.id {
		t.Error("the record vanished although the store failed")
	}
	w.store.setFail(nil)
	w.advance(time.Second)
	if w.store.holds("late") != 0 {
		t.Error("the record of a client that went away was not removed later")
	}
	if n := fs.total(); n != 0 {
		t.Errorf("%d vfs opens are left", n)
	}
}

// An open is still readable, and closed where it belongs, after its export was
// taken away and came back.
func TestExportRemovedWhileOpen(t *testing.T) {
	w, fs := newPairing(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	c := w.connect("a", 1)
	fh := c.handleOf("f")
	id := openOK(last(c.ok(ops(root(), open("o", rd, 0, nil, named("f")))...))).Stateid
	w.exports.Replace(w.table())
	c.fails(nfsv4.NFS4ERR_STALE, putFH(fh))
	w.exports.Replace(w.table(exportOf(1, "/default", fs, export.ReadWrite, export.SquashNone)))
	c.ok(putFH(fh), read(id, 0, 10))
	w.exports.Replace(w.table())
	w.advance(48 * time.Hour)
	w.advance(48 * time.Hour)
	if n := fs.total(); n != 0 {
		t.Errorf("%d vfs opens are left", n)
	}
}

// replacingFS renames another file over one that was just found, as often as files are left.
type replacingFS struct {
	vfs.FS
	left atomic.Int32
}

func (r *replacingFS) Lookup(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string) (vfs.Attr, error) {
	a, err := r.FS.Lookup(ctx, c, dir, name)
	if n := r.left.Add(-1); name == "file" && err == nil && n >= 0 {
		if _, _, err := r.FS.Rename(ctx, &vfs.Root, dir, fmt.Sprint("new", n), dir, name); err != nil {
			return a, err
		}
	}
	return a, err
}

// A name that always stands for a file can be opened, however often the file is replaced; NFS4ERR_STALE is no answer to OPEN by name.
func TestOpenOfWhatIsReplaced(t *testing.T) {
	for _, n := range []int32{1, 5, 100} {
		mem := memfs.New(memfs.Options{})
		fs := &replacingFS{FS: mem}
		w := newWorldOf(t, mem, fs, 0)
		w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
		for i := range n {
			w.mk(vfs.RootIno, fmt.Sprint("new", i), vfs.TypeFile, 0o666, 0)
		}
		c := w.connect("c", 1)
		fs.left.Store(n)
		for _, share := range []uint32{rd, wr} {
			tries := 0
			for {
				res := c.do(ops(root(), open("o", share, 0, nil, named("file")), getAttr(nfsv4.FATTR4_SIZE))...)
				if res.Status == nfsv4.NFS4_OK {
					break
				}
				if tries++; n < 16 {
					t.Errorf("%d replacements: %s", n, nfsv4.Nfsstat4_name[res.Status])
				}
				c.want(res, nfsv4.NFS4ERR_DELAY)
			}
		}
	}
}
