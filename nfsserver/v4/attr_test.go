package v4_test

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// Every supported attribute of one file, against what the file system says.
func TestAllAttributes(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o4755, 1000)
	size := uint64(12345)
	at, mt := time.Unix(111, 222), time.Unix(-333, 444)
	a, err := w.fs.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: &size, AtimeSet: vfs.TimeClient, Atime: at, MtimeSet: vfs.TimeClient, Mtime: mt}, false)
	if err != nil {
		t.Fatal(err)
	}
	stat, _ := w.fs.StatFS(ctx, ino)
	for _, minor := range []uint32{1, 2} {
		c := w.connect([]string{"", "one", "two"}[minor], minor)
		supported := attrsOK(t, last(c.ok(ops(root(), getAttr(0))...)))[0].([]uint32)
		var want []int
		for n := range 96 {
			if n/32 < len(supported) && supported[n/32]&(1<<(n%32)) != 0 && n != nfsv4.FATTR4_TIME_ACCESS_SET && n != nfsv4.FATTR4_TIME_MODIFY_SET {
				want = append(want, n)
			}
		}
		fh := c.handleOf("f")
		got := attrsOK(t, last(c.ok(putFH(fh), getAttr(want...))))
		expect := map[int]any{
			0: supported, 1: uint32(nfsv4.NF4REG), 2: uint32(0), 3: a.Change, 4: size, 5: true, 6: true, 7: false, 9: false,
			10: uint32(30), 11: uint32(0), 13: uint32(0), 15: true, 16: false, 17: true, 18: true, 19: string(fh), 20: uint64(ino),
			21: stat.FreeFiles, 22: stat.FreeFiles, 23: stat.TotalFiles, 26: true, 27: uint64(vfs.MaxSize), 28: uint32(vfs.LinkMax), 29: uint32(255),
			30: uint64(1 << 20), 31: uint64(1 << 20), 33: uint32(0o755), 34: true, 35: uint32(1), 36: "1000", 37: "1000",
			38: stat.AvailBytes, 39: stat.AvailBytes, 40: stat.UsedBytes, 41: [2]uint32{}, 42: stat.AvailBytes, 43: stat.FreeBytes, 44: stat.TotalBytes, 45: a.Used,
			47: at, 50: a.Btime, 51: time.Unix(0, 1), 52: a.Ctime, 53: mt, 55: uint64(ino), 75: got[75],
			86: [5][]uint32{{0b1110}, {0b1111}, {0b111000}, {0b110111}, {0b1111}},
		}
		expect[33] = a.Mode
		expect[8] = got[8] // compared where it matters, in TestPseudoFileSystem
		if minor == 2 {
			expect[77] = uint32(4096)
			expect[79], expect[82] = uint32(nfsv4.NFS4_CHANGE_TYPE_IS_MONOTONIC_INCR), true
		}
		for n, v := range expect {
			if tm, ok := v.(time.Time); ok {
				if g, _ := got[n].(time.Time); !g.Equal(tm) {
					t.Errorf("minor %d: attribute %d is %v, want %v", minor, n, got[n], v)
				}
			} else if !reflect.DeepEqual(got[n], v) {
				t.Errorf("minor %d: attribute %d is %v, want %v", minor, n, got[n], v)
			}
		}
		if len(got) != len(expect) {
			t.Errorf("minor %d: %d attributes, want %d", minor, len(got), len(expect))
		}
		// RFC 8881, 5.8.1: what every server must have.
		for _, n := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 19, 75} {
			if _, ok := got[n]; !ok {
				t.Errorf("minor %d: required attribute %d is missing", minor, n)
			}
		}
		if _, has := got[79]; has != (minor == 2) {
			t.Errorf("minor %d: change_attr_type", minor)
		}
		// Unknown attributes are left out, write-only ones refused.
		if got := attrsOK(t, last(c.ok(putFH(fh), getAttr(1, 12, 46, 60)))); len(got) != 1 {
			t.Errorf("unsupported attributes: %v", got)
		}
		c.fails(nfsv4.NFS4ERR_INVAL, putFH(fh), getAttr(1, nfsv4.FATTR4_TIME_MODIFY_SET))
	}
}

func TestTypes(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 1)
	for name, want := range map[string]struct {
		t vfs.Type
		n nfsv4.NfsFtype4
	}{
		"f": {vfs.TypeFile, nfsv4.NF4REG}, "d": {vfs.TypeDir, nfsv4.NF4DIR}, "l": {vfs.TypeSymlink, nfsv4.NF4LNK}, "b": {vfs.TypeBlock, nfsv4.NF4BLK},
		"c": {vfs.TypeChar, nfsv4.NF4CHR}, "p": {vfs.TypeFIFO, nfsv4.NF4FIFO}, "s": {vfs.TypeSocket, nfsv4.NF4SOCK},
	} {
		w.mk(vfs.RootIno, name, want.t, 0o644, 0)
		if got := attrsOK(t, last(c.ok(ops(at(name), getAttr(1))...))); got[1] != uint32(want.n) {
			t.Errorf("%s: type %v, want %v", name, got[1], want.n)
		}
	}
}

func TestSetAttr(t *testing.T) {
	w := newWorld(t)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 1000)
	w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 1000)
	superuser := w.connect("a", 1)
	user := superuser.as(1000, 1000, 50)
	other := superuser.as(2000, 2000)
	tm := time.Unix(1_600_000_000, 123456789)
	now := []byte{0, 0, 0, 0} // SET_TO_SERVER_TIME4
	const size, mode, own, group, atime, mtime, btime = nfsv4.FATTR4_SIZE, nfsv4.FATTR4_MODE, nfsv4.FATTR4_OWNER, nfsv4.FATTR4_OWNER_GROUP,
		nfsv4.FATTR4_TIME_ACCESS_SET, nfsv4.FATTR4_TIME_MODIFY_SET, nfsv4.FATTR4_TIME_CREATE
	for _, c := range []struct {
		name string
		who  *client
		path string
		f    nfsv4.Fattr4
		want nfsv4.Nfsstat4
	}{
		{"mode by the owner", user, "f", attrs(mode, uint32(0o600)), nfsv4.NFS4_OK},
		{"mode by another", other, "f", attrs(mode, uint32(0o600)), nfsv4.NFS4ERR_PERM},
		{"mode with unknown bits", user, "f", attrs(mode, uint32(0o10000)), nfsv4.NFS4ERR_INVAL},
		{"owner by the owner", user, "f", attrs(own, owner(7)), nfsv4.NFS4ERR_PERM},
		{"owner by root", superuser, "f", attrs(own, owner(1000), group, owner(1000)), nfsv4.NFS4_OK},
		{"group the owner is in", user, "f", attrs(group, owner(50)), nfsv4.NFS4_OK},
		{"group the owner is not in", user, "f", attrs(group, owner(51)), nfsv4.NFS4ERR_PERM},
		{"owner by name", superuser, "f", attrs(own, "root"), nfsv4.NFS4ERR_BADOWNER},
		{"owner with domain", superuser, "f", attrs(own, "1000@localdomain"), nfsv4.NFS4ERR_BADOWNER},
		{"size by the owner", user, "f", attrs(size, uint64(10)), nfsv4.NFS4_OK},
		{"size by another", other, "f", attrs(size, uint64(0)), nfsv4.NFS4ERR_ACCESS},
		{"size of a directory", superuser, "d", attrs(size, uint64(0)), nfsv4.NFS4ERR_ISDIR},
		{"size beyond the largest", user, "f", attrs(size, uint64(1)<<63), nfsv4.NFS4ERR_FBIG},
		{"times", user, "f", attrs(atime, tm, mtime, tm.Add(time.Second)), nfsv4.NFS4_OK},
		{"times by another", other, "f", attrs(mtime, tm), nfsv4.NFS4ERR_PERM},
		{"server time by another", other, "f", attrs(mtime, nil), nfsv4.NFS4ERR_ACCESS},
		{"birth time", user, "f", attrs(btime, append([]byte{0, 0, 0, 0, 0, 0, 1, 0}, 0, 0, 0, 5)), nfsv4.NFS4_OK},
		{"2^30 nanoseconds", user, "f", attrs(mtime, []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0}), nfsv4.NFS4ERR_INVAL},
		{"a third way to set a time", user, "f", attrs(mtime, []byte{0, 0, 0, 2}), nfsv4.NFS4ERR_BADXDR},
		{"nothing", user, "f", attrs(), nfsv4.NFS4_OK},
		{"a read-only attribute", user, "f", attrs(nfsv4.FATTR4_FILEID, uint64(3)), nfsv4.NFS4ERR_INVAL},
		{"an unsupported attribute", user, "f", attrs(nfsv4.FATTR4_HIDDEN, uint32(1)), nfsv4.NFS4ERR_ATTRNOTSUPP},
		{"values that end early", user, "f", nfsv4.Fattr4{Attrmask: mask(size), AttrVals: []byte{0, 0, 0, 0}}, nfsv4.NFS4ERR_BADXDR},
		{"values that go on", user, "f", attrs(atime, now, mtime, append(now, 1, 2, 3, 4)), nfsv4.NFS4ERR_BADXDR},
	} {
		res := c.who.do(ops(at(c.path), setAttr(anonymous, c.f))...)
		if res.Status != c.want {
			t.Errorf("%s: %v, want %v", c.name, nfsv4.Nfsstat4_name[res.Status], nfsv4.Nfsstat4_name[c.want])
			continue
		}
		set := last(res.Resarray).(*nfsv4.NfsResop4_OP_SETATTR).Opsetattr.Attrsset
		bits := uint32(0)
		for _, w := range set {
			bits |= w
		}
		asked := uint32(0)
		for _, w := range c.f.Attrmask {
			asked |= w
		}
		if (bits != 0) != (c.want == nfsv4.NFS4_OK && asked != 0) {
			t.Errorf("%s: attrsset %v", c.name, set)
		}
	}
	a, err := w.fs.GetAttr(context.Background(), ino)
	if err != nil {
		t.Fatal(err)
	}
	if a.Mode != 0o600 || a.Size != 10 || a.UID != 1000 || a.GID != 50 || !a.Atime.Equal(tm) || !a.Mtime.Equal(tm.Add(time.Second)) || !a.Btime.Equal(time.Unix(256, 5)) {
		t.Errorf("in the end: %+v", a)
	}
}

// GETATTR behind SETATTR in one COMPOUND shows what it did.
func TestAttributesAreFreshWithinACompound(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.connect("a", 1)
	get := getAttr(nfsv4.FATTR4_SIZE, nfsv4.FATTR4_MODE, nfsv4.FATTR4_NUMLINKS, nfsv4.FATTR4_CHANGE)
	res := c.ok(ops(at("f"), get, setAttr(anonymous, attrs(nfsv4.FATTR4_MODE, uint32(0o600))), get, write(anonymous, 0, nfsv4.FILE_SYNC4, []byte("12345")), get)...)
	n := len(res)
	before, mode, size := attrsOK(t, res[n-5]), attrsOK(t, res[n-3]), attrsOK(t, res[n-1])
	if mode[33] != uint32(0o600) || size[4] != uint64(5) || !(before[3].(uint64) < mode[3].(uint64) && mode[3].(uint64) < size[3].(uint64)) {
		t.Errorf("%v, %v, %v", before, mode, size)
	}
	save, restore := &nfsv4.NfsArgop4_OP_SAVEFH{}, &nfsv4.NfsArgop4_OP_RESTOREFH{}
	res = c.ok(ops(at("f"), get, save, root(), get, link("g"), get, restore, get)...)
	n = len(res)
	if attrsOK(t, res[n-1])[35] != uint32(2) {
		t.Error("LINK did not show in the saved filehandle's attributes")
	}
	if attrsOK(t, res[n-3])[3] == attrsOK(t, res[n-5])[3] {
		t.Error("LINK did not show in the directory's attributes")
	}
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 1000)
	c := w.connect("a", 1)
	verify := func(f nfsv4.Fattr4) nfsv4.NfsArgop4 {
		return &nfsv4.NfsArgop4_OP_VERIFY{Opverify: nfsv4.Verify4args{ObjAttributes: f}}
	}
	nverify := func(f nfsv4.Fattr4) nfsv4.NfsArgop4 {
		return &nfsv4.NfsArgop4_OP_NVERIFY{Opnverify: nfsv4.Nverify4args{ObjAttributes: f}}
	}
	same := attrs(nfsv4.FATTR4_SIZE, uint64(0), nfsv4.FATTR4_MODE, uint32(0o644), nfsv4.FATTR4_OWNER, "1000")
	differs := attrs(nfsv4.FATTR4_SIZE, uint64(0), nfsv4.FATTR4_MODE, uint32(0o600), nfsv4.FATTR4_OWNER, "1000")
	c.ok(ops(at("f"), verify(same))...)
	c.fails(nfsv4.NFS4ERR_NOT_SAME, ops(at("f"), verify(differs))...)
	c.ok(ops(at("f"), nverify(differs))...)
	c.fails(nfsv4.NFS4ERR_SAME, ops(at("f"), nverify(same))...)
	for _, f := range []func(nfsv4.Fattr4) nfsv4.NfsArgop4{verify, nverify} {
		c.fails(nfsv4.NFS4ERR_ATTRNOTSUPP, ops(at("f"), f(attrs(nfsv4.FATTR4_HIDDEN, uint32(0))))...)
		c.fails(nfsv4.NFS4ERR_INVAL, ops(at("f"), f(attrs(nfsv4.FATTR4_RDATTR_ERROR, uint32(0))))...)
		c.fails(nfsv4.NFS4ERR_INVAL, ops(at("f"), f(attrs(nfsv4.FATTR4_TIME_MODIFY_SET, nil)))...)
	}
}
