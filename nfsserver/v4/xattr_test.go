package v4_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/vfs"
)

// Operations and errors of RFC 8276, which the generated types do not know.
const (
	opGetXattr    = 72
	opSetXattr    = 73
	opListXattrs  = 74
	opRemoveXattr = 75

	errNoXattr   nfsv4.Nfsstat4 = 10095
	errXattr2Big nfsv4.Nfsstat4 = 10096
)

func getXattr(name string) []byte { return xdr.AppendString(u32(opGetXattr), name) }

func setXattr(option uint32, name, value string) []byte {
	return xdr.AppendString(xdr.AppendString(u32(opSetXattr, option), name), value)
}

func listXattrs(cookie uint64, maxcount uint32) []byte {
	return xdr.AppendUint32(xdr.AppendUint64(u32(opListXattrs), cookie), maxcount)
}

func removeXattr(name string) []byte { return xdr.AppendString(u32(opRemoveXattr), name) }

// xattr sends an operation of RFC 8276 behind others, which succeed, and returns its status and the rest of the reply.
func (c *client) xattr(before []nfsv4.NfsArgop4, op []byte) (nfsv4.Nfsstat4, xdr.Decoder) {
	c.t.Helper()
	parts := [][]byte{encodeOp(c.t, c.sequence())}
	for _, o := range before {
		parts = append(parts, encodeOp(c.t, o))
	}
	body, err := c.send(rawOps(c.minor, len(parts)+1, append(parts, op)...))
	if err != nil {
		c.t.Fatal(err)
	}
	d := xdr.NewDecoder(body)
	top := nfsv4.Nfsstat4(d.Uint32())
	d.Opaque(100)
	if n := int(d.Uint32()); n != len(parts)+1 {
		c.t.Fatalf("%d results for %d operations, status %d", n, len(parts)+1, top)
	}
	for range parts {
		if _, _, err := nfsv4.ReadNfsResop4(&d); err != nil {
			c.t.Fatal(err)
		}
	}
	d.Uint32()
	st := nfsv4.Nfsstat4(d.Uint32())
	if st != top {
		c.t.Fatalf("status %d at the top, %d below", top, st)
	}
	if st != nfsv4.NFS4_OK && d.Len() != 0 {
		c.t.Fatalf("%d bytes behind status %d", d.Len(), st)
	}
	return st, d
}

// illegal is the status of a COMPOUND that ends with op, whatever operation that is answered as.
func (c *client) illegal(before []nfsv4.NfsArgop4, op []byte) nfsv4.Nfsstat4 {
	c.t.Helper()
	body, err := c.send(rawOps(c.minor, len(before)+2, encodeOp(c.t, c.sequence()), encodeOps(c.t, before), op))
	if err != nil {
		c.t.Fatal(err)
	}
	d := xdr.NewDecoder(body)
	return nfsv4.Nfsstat4(d.Uint32())
}

// xattrIs sends one that must end with st.
func (c *client) xattrIs(st nfsv4.Nfsstat4, before []nfsv4.NfsArgop4, op []byte) xdr.Decoder {
	c.t.Helper()
	got, d := c.xattr(before, op)
	if got != st {
		c.t.Fatalf("operation %d: status %d, want %d", op[3], got, st)
	}
	return d
}

// xattrChanges sends one that changes attributes and compares its change_info4 with the attribute change around it.
func (c *client) xattrChanges(before []nfsv4.NfsArgop4, op []byte) {
	c.t.Helper()
	change := func() uint64 { return attrsOK(c.t, last(c.ok(ops(before, getAttr(3))...)))[3].(uint64) }
	was := change()
	d := c.xattrIs(nfsv4.NFS4_OK, before, op)
	atomic, from, to := d.Bool(), d.Uint64(), d.Uint64()
	if is := change(); !atomic || from != was || to != is || d.Len() != 0 || d.Err() != nil {
		c.t.Fatalf("change went from %d to %d, told %v %d %d, %d bytes behind", was, is, atomic, from, to, d.Len())
	}
}

func (c *client) xattrNames(before []nfsv4.NfsArgop4, cookie uint64, maxcount uint32) (names []string, next uint64, eof bool) {
	c.t.Helper()
	d := c.xattrIs(nfsv4.NFS4_OK, before, listXattrs(cookie, maxcount))
	size := d.Len()
	next = d.Uint64()
	for range d.Uint32() {
		names = append(names, d.String(1000))
	}
	eof = d.Bool()
	if d.Err() != nil || d.Len() != 0 || size > int(maxcount) {
		c.t.Fatalf("%v, %d bytes behind a list of %d, at most %d", d.Err(), d.Len(), size, maxcount)
	}
	return names, next, eof
}

func TestXattrs(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	c := w.connect("a", 2)
	for _, name := range []string{"f", "d"} {
		at := at(name)
		c.xattrIs(errNoXattr, at, getXattr("user"))
		c.xattrIs(errNoXattr, at, removeXattr("user"))
		c.xattrIs(errNoXattr, at, setXattr(2, "a", "1"))
		c.xattrChanges(at, setXattr(1, "a", "1"))
		c.xattrIs(nfsv4.NFS4ERR_EXIST, at, setXattr(1, "a", "2"))
		c.xattrChanges(at, setXattr(2, "a", "22"))
		c.xattrChanges(at, setXattr(0, "empty", ""))
		large := strings.Repeat("\x00\xff", vfs.XattrValueMax/2)
		c.xattrChanges(at, setXattr(0, "large/\xff", large))
		for name, want := range map[string]string{"a": "22", "empty": "", "large/\xff": large} {
			d := c.xattrIs(nfsv4.NFS4_OK, at, getXattr(name))
			if got := string(d.Opaque(1 << 20)); got != want || d.Len() != 0 {
				t.Fatalf("%s: %d bytes, want %d; %d behind", name, len(got), len(want), d.Len())
			}
		}
		names, _, eof := c.xattrNames(at, 0, 1<<20)
		if !slices.Equal(names, []string{"a", "empty", "large/\xff"}) || !eof {
			t.Fatalf("%q, eof %v", names, eof)
		}
		c.xattrChanges(at, removeXattr("empty"))
		c.xattrIs(errNoXattr, at, removeXattr("empty"))
		if got := attrsOK(t, last(c.ok(ops(at, getAttr(82))...)))[82]; got != true {
			t.Fatalf("xattr_support %v", got)
		}
	}
	f := at("f")
	long := strings.Repeat("n", vfs.XattrNameMax)
	c.xattrChanges(f, setXattr(0, long, "1"))
	for what, c2 := range map[string]struct {
		op []byte
		st nfsv4.Nfsstat4
	}{
		"an empty name":           {getXattr(""), nfsv4.NFS4ERR_INVAL},
		"a long name":             {getXattr(long + "n"), nfsv4.NFS4ERR_NAMETOOLONG},
		"a NUL":                   {removeXattr("a\x00"), nfsv4.NFS4ERR_BADCHAR},
		"a NUL to set":            {setXattr(0, "a\x00", ""), nfsv4.NFS4ERR_BADCHAR},
		"an option":               {setXattr(3, "a", ""), nfsv4.NFS4ERR_INVAL},
		"a large value":           {setXattr(0, "a", strings.Repeat("x", vfs.XattrValueMax+1)), errXattr2Big},
		"no value":                {setXattr(0, "a", "")[:16], nfsv4.NFS4ERR_BADXDR},
		"half a name":             {getXattr("abcdefgh")[:12], nfsv4.NFS4ERR_BADXDR},
		"half a list":             {listXattrs(0, 1)[:12], nfsv4.NFS4ERR_BADXDR},
		"a list in no room":       {listXattrs(0, 0), nfsv4.NFS4ERR_TOOSMALL},
		"a list without a name":   {listXattrs(0, 16), nfsv4.NFS4ERR_TOOSMALL},
		"a list with little room": {listXattrs(0, 23), nfsv4.NFS4ERR_TOOSMALL},
	} {
		if st, _ := c.xattr(f, c2.op); st != c2.st {
			t.Errorf("%s: status %d, want %d", what, st, c2.st)
		}
	}
	// What does not fit the file any more.
	var st nfsv4.Nfsstat4
	for i := 0; i < 20 && st == nfsv4.NFS4_OK; i++ {
		st, _ = c.xattr(f, setXattr(1, fmt.Sprint("fill", i), strings.Repeat("x", vfs.XattrValueMax)))
	}
	if st != nfsv4.NFS4ERR_NOSPC {
		t.Errorf("a full file: status %d", st)
	}
	one := w.connect("one", 1)
	for _, op := range [][]byte{getXattr("a"), setXattr(0, "a", ""), listXattrs(0, 100), removeXattr("a")} {
		c.xattrIs(nfsv4.NFS4ERR_NOFILEHANDLE, nil, op)
		// The pseudo file system has none.
		c.xattrIs(nfsv4.NFS4ERR_NOTSUPP, []nfsv4.NfsArgop4{&nfsv4.NfsArgop4_OP_PUTROOTFH{}}, op)
		if st := one.illegal(f, op); st != nfsv4.NFS4ERR_OP_ILLEGAL {
			t.Errorf("minor version 1: status %d", st)
		}
	}
	if got := attrsOK(t, last(c.ok(&nfsv4.NfsArgop4_OP_PUTROOTFH{}, getAttr(82))))[82]; got != false {
		t.Errorf("xattr_support of the pseudo file system: %v", got)
	}
}

// TestXattrListing: pages of any size, with names that go and come meanwhile.
func TestXattrListing(t *testing.T) {
	w := newWorld(t)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.connect("a", 2)
	var want []string
	for i := range 50 {
		name := fmt.Sprintf("n%d", i) + strings.Repeat("x", i%7)
		want = append(want, name)
		if _, err := w.fs.SetXattr(context.Background(), &vfs.Root, ino, name, nil, vfs.XattrCreate); err != nil {
			t.Fatal(err)
		}
	}
	for _, maxcount := range []uint32{32, 40, 100, 1000, 1 << 31} {
		var all []string
		for cookie, eof := uint64(0), false; !eof; {
			var names []string
			names, cookie, eof = c.xattrNames(at("f"), cookie, maxcount)
			if len(names) == 0 && !eof {
				t.Fatalf("maxcount %d: a page without names", maxcount)
			}
			all = append(all, names...)
		}
		if !slices.Equal(all, want) {
			t.Fatalf("maxcount %d: %q", maxcount, all)
		}
	}
	_, cookie, _ := c.xattrNames(at("f"), 0, 200)
	c.xattrChanges(at("f"), removeXattr(want[0]))
	c.xattrChanges(at("f"), setXattr(0, "new", ""))
	before, _, _ := c.xattrNames(at("f"), 0, 200-12) // without the first
	rest, last, eof := c.xattrNames(at("f"), cookie, 1<<20)
	if got := append(before[:len(before):len(before)], rest...); !slices.Equal(got, append(want[1:], "new")) || !eof {
		t.Fatalf("%q", got)
	}
	if names, next, eof := c.xattrNames(at("f"), last, 16); len(names) != 0 || next != last || !eof {
		t.Fatalf("behind the end: %q %d %v", names, next, eof)
	}
	// The session's limits come before the caller's.
	c.cache = true
	for i := range 50 {
		name := fmt.Sprintf("%0200d", i)
		if _, err := w.fs.SetXattr(context.Background(), &vfs.Root, ino, name, nil, vfs.XattrCreate); err != nil {
			t.Fatal(err)
		}
	}
	if names, _, eof := c.xattrNames(at("f"), last, 1<<20); len(names) == 0 || eof {
		t.Fatalf("%d names in the reply cache, eof %v", len(names), eof)
	}
	c.xattrChanges(at("f"), setXattr(0, "large", strings.Repeat("x", 10_000)))
	c.xattrIs(nfsv4.NFS4ERR_REP_TOO_BIG_TO_CACHE, at("f"), getXattr("large"))
}

func TestXattrAccess(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o640, 1000)
	w.mk(vfs.RootIno, "sticky", vfs.TypeDir, 0o1777, 1000)
	w.mk(vfs.RootIno, "l", vfs.TypeSymlink, 0o777, 1000)
	root := w.connect("a", 2)
	root.xattrIs(nfsv4.NFS4_OK, at("f"), setXattr(0, "a", "1"))
	owner, member, other := root.as(1000, 1000), root.as(1001, 1000), root.as(1002, 1002)
	const read, write, list = 0x40, 0x80, 0x100
	for _, tc := range []struct {
		who                *client
		name               string
		supported, granted uint32
		get, set           nfsv4.Nfsstat4
	}{
		{owner, "f", read | write | list, read | write | list, nfsv4.NFS4_OK, nfsv4.NFS4_OK},
		{member, "f", read | write | list, read | list, nfsv4.NFS4_OK, nfsv4.NFS4ERR_ACCESS},
		{other, "f", read | write | list, 0, nfsv4.NFS4ERR_ACCESS, nfsv4.NFS4ERR_ACCESS},
		{owner, "sticky", read | write | list, read | write | list, errNoXattr, nfsv4.NFS4_OK},
		{other, "sticky", read | write | list, read | list, nfsv4.NFS4_OK, nfsv4.NFS4ERR_PERM},
		{owner, "l", 0, 0, errNoXattr, nfsv4.NFS4ERR_PERM},
	} {
		acc := last(tc.who.ok(ops(at(tc.name), access(read|write|list))...)).(*nfsv4.NfsResop4_OP_ACCESS).Opaccess.(*nfsv4.Access4res_NFS4_OK).Resok4
		if acc.Supported != tc.supported || acc.Access != tc.granted {
			t.Errorf("%s by %d: supported %#x, granted %#x; want %#x, %#x", tc.name, tc.who.cred.UID, acc.Supported, acc.Access, tc.supported, tc.granted)
		}
		if st, _ := tc.who.xattr(at(tc.name), getXattr("a")); st != tc.get {
			t.Errorf("%s by %d: get %d, want %d", tc.name, tc.who.cred.UID, st, tc.get)
		}
		if st, _ := tc.who.xattr(at(tc.name), setXattr(0, "a", "2")); st != tc.set {
			t.Errorf("%s by %d: set %d, want %d", tc.name, tc.who.cred.UID, st, tc.set)
		}
	}
	one := w.connect("one", 1)
	if acc := last(one.ok(ops(at("f"), access(read|write|list))...)).(*nfsv4.NfsResop4_OP_ACCESS).Opaccess.(*nfsv4.Access4res_NFS4_OK).Resok4; acc.Supported != 0 {
		t.Errorf("minor version 1 knows %#x", acc.Supported)
	}
	// A read-only export, and a file system without extended attributes.
	w.exports.Replace(w.table(exportOf(1, "/default", w.fs, export.ReadOnly, export.SquashNone)))
	root.xattrIs(nfsv4.NFS4ERR_ROFS, at("f"), setXattr(0, "a", "3"))
	root.xattrIs(nfsv4.NFS4ERR_ROFS, at("f"), removeXattr("a"))
	root.xattrIs(nfsv4.NFS4_OK, at("f"), getXattr("a"))
	if acc := last(root.ok(ops(at("f"), access(read|write|list))...)).(*nfsv4.NfsResop4_OP_ACCESS).Opaccess.(*nfsv4.Access4res_NFS4_OK).Resok4; acc.Access != read|list {
		t.Errorf("granted %#x in a read-only export", acc.Access)
	}
	w.exports.Replace(w.table(exportOf(1, "/default", plain{memfs.New(memfs.Options{})}, export.ReadWrite, export.SquashNone)))
	for _, op := range [][]byte{getXattr("a"), setXattr(0, "a", ""), listXattrs(0, 100), removeXattr("a")} {
		root.xattrIs(nfsv4.NFS4ERR_NOTSUPP, at(), op)
	}
	if got := attrsOK(t, last(root.ok(ops(at(), getAttr(82))...)))[82]; got != false {
		t.Errorf("xattr_support %v", got)
	}
}

// plain is a file system without optional abilities.
type plain struct{ vfs.FS }
