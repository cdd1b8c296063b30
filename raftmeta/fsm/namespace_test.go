package fsm

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// spaceModel runs the same operations on a machine and on memfs. Both number
// inodes in the order of their creation, so numbers are equal too.
type spaceModel struct {
	*rig
	rt   *rapid.T
	mem  *memfs.FS
	inos []vfs.Ino // ever made
}

var (
	modelNames  = []string{"a", "b", "c", "dir", "e", "with space", "\xff\x00"[:1], "zz"}
	modelXattrs = []string{"a", "b", "a/b", strings.Repeat("n", 255), strings.Repeat("n", 256), "", "\x00"}
	modelCreds  = []vfs.Cred{vfs.Root, {UID: 1000, GID: 100}, {UID: 1001, GID: 200, Groups: []uint32{100}}, {UID: 1002, GID: 300}}
)

func draw[T any](s *spaceModel, from []T, label string) T {
	return rapid.SampledFrom(from).Draw(s.rt, label)
}

func (s *spaceModel) ino() vfs.Ino { return draw(s, s.inos, "ino") }
func (s *spaceModel) name() string { return draw(s, modelNames, "name") }
func (s *spaceModel) mode() uint32 {
	return draw(s, []uint32{0o777, 0o755, 0o700, 0o1777, 0o2775, 0o6755, 0o644, 0}, "mode")
}

func (s *spaceModel) now() time.Time { return time.Unix(s.clock+1, 0) }

// both compares the kinds of both outcomes and says whether they succeeded.
func (s *spaceModel) both(err error, r *metapb.Result) bool {
	if got, want := vfs.Kind(r.Kind), vfs.KindOf(err); got != want {
		s.rt.Fatalf("%s (%s), memfs: %s (%v)", got, r.Text, want, err)
	}
	return err == nil
}

func (s *spaceModel) sameAttr(got *metapb.Attr, want *vfs.Attr) {
	w := *want
	w.Change, w.Used = got.Change, got.Used
	if g, m := toWire(&w).String(), got.String(); !sameMessage(g, m) {
		s.rt.Fatalf("attributes %s, memfs %s", m, g)
	}
}

// sameMessage compares texts of messages, whose spacing varies.
func sameMessage(a, b string) bool { return squeeze(a) == squeeze(b) }

func squeeze(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] != ' ' {
			out = append(out, s[i])
		}
	}
	return string(out)
}

func (s *spaceModel) run(c *vfs.Cred, cmd *metapb.Command) *metapb.Result {
	cmd.Cred = &metapb.Cred{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
	return s.one(cmd)
}

// moved compares the change of a directory: it moved here if it moved there.
func (s *spaceModel) moved(got *metapb.DirChange, want vfs.DirChange) {
	if (got.Before == got.After) != (want.Before == want.After) || got.After < got.Before {
		s.rt.Fatalf("directory changed from %d to %d, memfs from %d to %d", got.Before, got.After, want.Before, want.After)
	}
}

func (s *spaceModel) create() {
	c, dir, name, mode := draw(s, modelCreds, "cred"), s.ino(), s.name(), s.mode()
	a := vfs.CreateArgs{Exclusive: draw(s, []vfs.Exclusive{vfs.Unchecked, vfs.Guarded, vfs.ByVerifier}, "how")}
	a.Verifier[0] = byte(rapid.IntRange(1, 3).Draw(s.rt, "verifier"))
	a.Attr.Mode = &mode
	if rapid.Bool().Draw(s.rt, "truncate") {
		a.Attr.Size = new(uint64)
	}
	want, err := s.mem.Create(context.Background(), &c, dir, name, a)
	res := s.run(&c, &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: uint64(dir), Name: []byte(name), Type: uint32(vfs.TypeFile), Exclusive: uint32(a.Exclusive), Verifier: a.Verifier[:],
		Attr: &metapb.AttrSet{Mode: a.Attr.Mode, Size: a.Attr.Size},
	}}})
	s.made(err, res, &want)
}

func (s *spaceModel) made(err error, res *metapb.Result, want *vfs.Created) {
	if !s.both(err, res) {
		return
	}
	got := res.GetCreate()
	if got.Created != want.New {
		s.rt.Fatalf("created %v, memfs %v", got.Created, want.New)
	}
	s.sameAttr(got.Attr, &want.Attr)
	s.moved(got.Dir, want.Dir)
	if want.New {
		s.inos = append(s.inos, want.Attr.Ino)
	}
}

func (s *spaceModel) makeNode() {
	c, dir, name, mode := draw(s, modelCreds, "cred"), s.ino(), s.name(), s.mode()
	a := vfs.NodeArgs{Type: draw(s, []vfs.Type{vfs.TypeDir, vfs.TypeDir, vfs.TypeDir, vfs.TypeSymlink, vfs.TypeFIFO, vfs.TypeChar}, "type")}
	a.Attr.Mode = &mode
	switch a.Type {
	case vfs.TypeSymlink:
		a.Target = draw(s, []string{"", "target", "/abs"}, "target")
	case vfs.TypeChar:
		a.Dev = vfs.Dev{Major: 1, Minor: 3}
	}
	want, err := s.mem.MakeNode(context.Background(), &c, dir, name, a)
	res := s.run(&c, &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: uint64(dir), Name: []byte(name), Type: uint32(a.Type), Target: []byte(a.Target),
		DevMajor: a.Dev.Major, DevMinor: a.Dev.Minor, Attr: &metapb.AttrSet{Mode: a.Attr.Mode},
	}}})
	s.made(err, res, &want)
}

func (s *spaceModel) link() {
	c, ino, dir, name := draw(s, modelCreds, "cred"), s.ino(), s.ino(), s.name()
	attr, change, err := s.mem.Link(context.Background(), &c, ino, dir, name)
	res := s.run(&c, &metapb.Command{Op: &metapb.Command_Link{Link: &metapb.Link{Ino: uint64(ino), Parent: uint64(dir), Name: []byte(name)}}})
	if s.both(err, res) {
		s.sameAttr(res.GetLink().Attr, &attr)
		s.moved(res.GetLink().Dir, change)
	}
}

func (s *spaceModel) remove() {
	c, dir, name := draw(s, modelCreds, "cred"), s.ino(), s.name()
	what := draw(s, []vfs.RemoveKind{vfs.RemoveAny, vfs.RemoveFile, vfs.RemoveDir}, "what")
	change, err := s.mem.Remove(context.Background(), &c, dir, name, what)
	res := s.run(&c, &metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: uint64(dir), Name: []byte(name), What: uint32(what)}}})
	if s.both(err, res) {
		s.moved(res.GetRemove().Dir, change)
	}
}

func (s *spaceModel) rename() {
	c, fd, from, td, to := draw(s, modelCreds, "cred"), s.ino(), s.name(), s.ino(), s.name()
	if rapid.Bool().Draw(s.rt, "same directory") {
		td = fd
	}
	fc, tc, err := s.mem.Rename(context.Background(), &c, fd, from, td, to)
	res := s.run(&c, &metapb.Command{Op: &metapb.Command_Rename{Rename: &metapb.Rename{
		FromParent: uint64(fd), FromName: []byte(from), ToParent: uint64(td), ToName: []byte(to),
	}}})
	if s.both(err, res) {
		s.moved(res.GetRename().From, fc)
		s.moved(res.GetRename().To, tc)
	}
}

func (s *spaceModel) setAttr() {
	c, ino := draw(s, modelCreds, "cred"), s.ino()
	var a vfs.SetAttr
	w := new(metapb.AttrSet)
	if rapid.Bool().Draw(s.rt, "chmod") {
		mode := s.mode()
		a.Mode, w.Mode = &mode, &mode
	}
	if rapid.Bool().Draw(s.rt, "chown") {
		id := draw(s, []uint32{0, 1000, 1001}, "uid")
		a.UID, w.Uid = &id, &id
	}
	if rapid.Bool().Draw(s.rt, "chgrp") {
		id := draw(s, []uint32{100, 200, 300}, "gid")
		a.GID, w.Gid = &id, &id
	}
	if rapid.Bool().Draw(s.rt, "resize") {
		size := draw(s, []uint64{0, 1, 100, 1 << 40, vfs.MaxSize, vfs.MaxSize + 1}, "size")
		a.Size, w.Size = &size, &size
	}
	a.AtimeSet = draw(s, []vfs.TimeSet{vfs.TimeKeep, vfs.TimeServer, vfs.TimeClient}, "atime")
	a.MtimeSet = draw(s, []vfs.TimeSet{vfs.TimeKeep, vfs.TimeServer, vfs.TimeClient}, "mtime")
	w.AtimeSet, w.MtimeSet = uint32(a.AtimeSet), uint32(a.MtimeSet)
	a.Atime, a.Mtime = time.Unix(-5, 7), time.Unix(77, 0)
	w.Atime, w.Mtime = &metapb.Time{Sec: -5, Nsec: 7}, &metapb.Time{Sec: 77}
	opened := rapid.Bool().Draw(s.rt, "opened")
	want, err := s.mem.SetAttr(context.Background(), &c, ino, a, opened)
	res := s.run(&c, &metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: uint64(ino), Set: w, Opened: opened}}})
	if s.both(err, res) {
		s.sameAttr(res.GetAttr().Attr, &want)
	}
}

// setXattr and the like act on few names, with values large enough to meet the limit of their sum.
func (s *spaceModel) setXattr() {
	c, ino, name := draw(s, modelCreds, "cred"), s.ino(), draw(s, modelXattrs, "xattr")
	how := draw(s, []vfs.XattrHow{vfs.XattrEither, vfs.XattrEither, vfs.XattrCreate, vfs.XattrReplace}, "how")
	value := make([]byte, draw(s, []int{0, 3, 1000, vfs.XattrValueMax, vfs.XattrValueMax + 1}, "size"))
	change, err := s.mem.SetXattr(context.Background(), &c, ino, name, value, how)
	s.xattrChanged(err, change, s.run(&c, &metapb.Command{Op: &metapb.Command_SetXattr{SetXattr: &metapb.SetXattr{
		Ino: uint64(ino), Name: []byte(name), Value: value, How: uint32(how),
	}}}))
}

func (s *spaceModel) removeXattr() {
	c, ino, name := draw(s, modelCreds, "cred"), s.ino(), draw(s, modelXattrs, "xattr")
	change, err := s.mem.RemoveXattr(context.Background(), &c, ino, name)
	s.xattrChanged(err, change, s.run(&c, &metapb.Command{Op: &metapb.Command_RemoveXattr{RemoveXattr: &metapb.RemoveXattr{Ino: uint64(ino), Name: []byte(name)}}}))
}

func (s *spaceModel) xattrChanged(err error, change vfs.DirChange, r *metapb.Result) {
	if !s.both(err, r) {
		return
	}
	s.moved(r.GetXattr().Change, change)
	ino := vfs.Ino(r.GetXattr().Attr.Ino)
	want, err := s.mem.GetAttr(context.Background(), ino)
	if err != nil {
		s.rt.Fatal(err)
	}
	s.sameAttr(r.GetXattr().Attr, &want)
}

// readXattrs compares values, and a listing in pages of random size.
func (s *spaceModel) readXattrs() {
	c, ino := draw(s, modelCreds, "cred"), s.ino()
	cred := &metapb.Cred{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
	for _, name := range modelXattrs {
		want, err := s.mem.GetXattr(context.Background(), &c, ino, name)
		got := s.query(&metapb.Query{Cred: cred, Q: &metapb.Query_GetXattr{GetXattr: &metapb.GetXattrQ{Ino: uint64(ino), Name: []byte(name)}}})
		if vfs.Kind(got.Kind) != vfs.KindOf(err) || len(got.GetGetXattr().GetValue()) != len(want) {
			s.rt.Fatalf("attribute %.20q: %s, %d bytes, memfs: %d bytes, %v", name, vfs.Kind(got.Kind), len(got.GetGetXattr().GetValue()), len(want), err)
		}
	}
	for cookie, eof := uint64(0), false; !eof; {
		size := rapid.IntRange(1, 600).Draw(s.rt, "page")
		want, err := s.mem.ListXattrs(context.Background(), &c, ino, cookie, size)
		got := s.query(&metapb.Query{Cred: cred, Q: &metapb.Query_ListXattrs{ListXattrs: &metapb.ListXattrsQ{Ino: uint64(ino), Cookie: cookie, MaxBytes: uint32(size)}}})
		list := got.GetListXattrs()
		if vfs.Kind(got.Kind) != vfs.KindOf(err) || len(list.GetNames()) != len(want.Names) || list.GetEof() != want.EOF {
			s.rt.Fatalf("list: %v, memfs: %v %v", got, want, err)
		}
		for i, n := range want.Names {
			if string(list.Names[i]) != n.Name || list.Cookies[i] != n.Cookie || n.Cookie <= cookie {
				s.rt.Fatalf("entry %d of %v, memfs: %v", i, list, want)
			}
			cookie = n.Cookie
		}
		eof = want.EOF || err != nil
	}
}

// lookup compares the queries that ask for permission.
func (s *spaceModel) lookup() {
	c, dir, name := draw(s, modelCreds, "cred"), s.ino(), s.name()
	cred := &metapb.Cred{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
	for what, q := range map[string]struct {
		q    *metapb.Query
		want func() (vfs.Attr, error)
	}{
		"lookup": {&metapb.Query{Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: uint64(dir), Name: []byte(name)}}},
			func() (vfs.Attr, error) { return s.mem.Lookup(context.Background(), &c, dir, name) }},
		"parent": {&metapb.Query{Q: &metapb.Query_Parent{Parent: &metapb.ParentQ{Dir: uint64(dir)}}},
			func() (vfs.Attr, error) { return s.mem.Parent(context.Background(), &c, dir) }},
		"getattr": {&metapb.Query{Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: uint64(dir)}}},
			func() (vfs.Attr, error) { return s.mem.GetAttr(context.Background(), dir) }},
	} {
		want, err := q.want()
		q.q.Cred = cred
		got := s.query(q.q)
		if vfs.Kind(got.Kind) != vfs.KindOf(err) {
			s.rt.Fatalf("%s: %s (%s), memfs: %v", what, vfs.Kind(got.Kind), got.Text, err)
		}
		if err == nil {
			s.sameAttr(got.GetAttr().Attr, &want)
		}
	}
	link, err := s.mem.ReadLink(context.Background(), dir)
	got := s.query(&metapb.Query{Q: &metapb.Query_ReadLink{ReadLink: &metapb.ReadLinkQ{Ino: uint64(dir)}}})
	if vfs.Kind(got.Kind) != vfs.KindOf(err) || string(got.GetReadLink().GetTarget()) != link {
		s.rt.Fatalf("readlink: %v, memfs: %q %v", got, link, err)
	}
}

// list compares a whole listing, read in pages of random size.
func (s *spaceModel) list(rt *rapid.T) {
	s.rt = rt
	s.check()
	for _, dir := range s.inos {
		page, err := s.mem.ReadDir(context.Background(), &vfs.Root, dir, 0, 1000, true)
		want := map[string]*vfs.Attr{}
		for _, e := range page.Entries {
			want[e.Name] = e.Attr
		}
		for cookie, last := uint64(0), uint64(0); ; {
			res := s.query(&metapb.Query{Cred: &metapb.Cred{}, Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{
				Dir: uint64(dir), Cookie: cookie, MaxEntries: uint32(rapid.IntRange(1, 5).Draw(rt, "page")), Attrs: true,
			}}})
			if vfs.Kind(res.Kind) != vfs.KindOf(err) {
				rt.Fatalf("readdir %d: %s, memfs: %v", dir, vfs.Kind(res.Kind), err)
			}
			if err != nil {
				break
			}
			for _, e := range res.GetReadDir().Entries {
				if e.Cookie <= last || e.Cookie < 3 || want[string(e.Name)] == nil {
					rt.Fatalf("entry %v after cookie %d", e, last)
				}
				s.sameAttr(e.Attr, want[string(e.Name)])
				delete(want, string(e.Name))
				last, cookie = e.Cookie, e.Cookie
			}
			if res.GetReadDir().Eof {
				if len(want) > 0 {
					rt.Fatalf("entries missing of directory %d: %v", dir, want)
				}
				break
			}
		}
	}
}

// TestNamespaceModel compares random operations of random callers with memfs,
// with a hash under which many names collide, so that slots are found, left
// and filled.
func TestNamespaceModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := Options{hash: func(_, _ uint64, name []byte) uint64 { return uint64(name[0]) % 2 }}
		if rapid.Bool().Draw(rt, "cached") {
			o.Cache = NewCache(1 << 16)
		}
		s := &spaceModel{rig: newNamespaceRig(t, o), rt: rt, inos: []vfs.Ino{vfs.RootIno}}
		s.raise()
		s.mem = memfs.New(memfs.Options{NoAtime: true, Now: s.now, RootMode: 0o777})
		// The roots were born at different times.
		when := vfs.SetAttr{AtimeSet: vfs.TimeServer, MtimeSet: vfs.TimeServer, Btime: new(time.Time)}
		*when.Btime = time.Unix(1, 0)
		if _, err := s.mem.SetAttr(context.Background(), &vfs.Root, 1, when, false); err != nil {
			rt.Fatal(err)
		}
		s.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: 1, Set: &metapb.AttrSet{
			AtimeSet: uint32(vfs.TimeServer), MtimeSet: uint32(vfs.TimeServer), Btime: &metapb.Time{Sec: 1},
		}}}})
		act := func(fn func()) func(*rapid.T) {
			return func(rt *rapid.T) { s.rt = rt; fn() }
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create": act(s.create), "create2": act(s.create),
			"makenode": act(s.makeNode), "makenode2": act(s.makeNode),
			"link": act(s.link), "remove": act(s.remove), "rename": act(s.rename), "rename2": act(s.rename),
			"setattr": act(s.setAttr), "lookup": act(s.lookup),
			"setxattr": act(s.setXattr), "setxattr2": act(s.setXattr), "removexattr": act(s.removeXattr), "readxattrs": act(s.readXattrs),
			"flush": act(s.flush), "reopen": act(s.reopen),
			"": s.list,
		})
	})
}

// TestFullBucket fills every slot of one hash.
func TestFullBucket(t *testing.T) {
	for _, hash := range []uint64{0, 1, 1<<hashBits - 1} {
		t.Run(fmt.Sprint(hash), func(t *testing.T) {
			r := newNamespaceRig(t, Options{hash: func(_, _ uint64, _ []byte) uint64 { return hash }})
			room := slotsMax
			if hash == 0 {
				room -= firstSlotOf0
			}
			for i := range room {
				r.ok(createCmd(1, fmt.Sprint("n", i)))
			}
			r.fails(vfs.KindNoSpace, createCmd(1, "one more"))
			r.check()
			remove := func(name string) {
				r.ok(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: []byte(name)}}})
			}
			remove("n7")
			r.fails(vfs.KindExists, &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
				Parent: 1, Name: []byte("n200"), Type: uint32(vfs.TypeFile), Exclusive: uint32(vfs.Guarded),
			}}})
			r.ok(createCmd(1, "one more"))
			r.check()
			for j := range room {
				if i := j * 97 % room; i == 7 { // every slot once, as 97 divides neither
					remove("one more")
				} else {
					remove(fmt.Sprint("n", i))
				}
				r.check()
			}
			if b, ok, _ := r.store.Get(appendDirent(nil, 1, 1, max(hash<<slotBits, firstSlotOf0))); ok {
				t.Fatalf("left behind: %q", b)
			}
		})
	}
}
