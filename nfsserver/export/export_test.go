package export_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/vfs"
)

// someFS stands for a file system that is never asked anything here.
type someFS struct{ vfs.FS }

func (someFS) GetAttr(context.Context, vfs.Ino) (vfs.Attr, error) {
	return vfs.Attr{}, vfs.KindInternal.Err("not used")
}

var (
	lab    = netip.MustParseAddr("10.1.2.3")
	lab6   = netip.MustParseAddr("::ffff:10.1.2.3") // as a dual-stack listener reports it
	public = netip.MustParseAddr("192.0.2.9")
)

func rules(prefix string, a export.Access, s export.Squash) []export.Rule {
	return []export.Rule{{Clients: netip.MustParsePrefix(prefix), Access: a, Squash: s, AnonUID: 99, AnonGID: 98}}
}

func table(t *testing.T, ex ...export.Export) *export.Table {
	t.Helper()
	for i := range ex {
		ex[i].FS = someFS{}
		if ex[i].FSID == 0 {
			ex[i].FSID = ex[i].ID
		}
	}
	tab, err := export.NewTable(ex, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func names(ns []*export.Node) (out []string) {
	for _, n := range ns {
		out = append(out, n.Name)
	}
	slices.Sort(out)
	return out
}

func TestVisibility(t *testing.T) {
	tab := table(t,
		export.Export{ID: 1, Path: "/default", Rules: export.Everyone(export.ReadWrite, export.SquashRoot)},
		export.Export{ID: 2, Path: "/research/images", Rules: rules("10.0.0.0/8", export.ReadOnly, export.SquashAll)},
		export.Export{ID: 3, Path: "/research/secret", Rules: rules("10.9.0.0/16", export.ReadOnly, export.SquashAll)},
		export.Export{ID: 4, Path: "/none"},
	)
	for _, c := range []struct {
		who  netip.Addr
		root []string
	}{{lab, []string{"default", "research"}}, {lab6, []string{"default", "research"}}, {public, []string{"default"}}} {
		if got := names(tab.Root().Children(0, c.who)); !slices.Equal(got, c.root) {
			t.Errorf("%v sees %v, want %v", c.who, got, c.root)
		}
	}
	r := tab.Root().Lookup("research", lab)
	if got := names(r.Children(0, lab)); !slices.Equal(got, []string{"images"}) {
		t.Errorf("below research: %v", got)
	}
	if tab.Root().Lookup("research", public) != nil || r.Lookup("secret", lab) != nil || tab.Root().Lookup("none", lab) != nil {
		t.Error("found what is not visible")
	}
	if n := tab.ByExport(2); n.Name != "images" || n.Parent != r || n.Parent.Parent != tab.Root() || tab.Root().Parent != tab.Root() {
		t.Error("the tree is not connected")
	}
	if tab.Node(r.ID) != r || tab.Node(12345) != nil || tab.ByExport(9) != nil {
		t.Error("finding by id")
	}
}

// A secured export below another one is for those who may not use that.
func TestSecuredBelow(t *testing.T) {
	tab := table(t,
		export.Export{ID: 1, Path: "/default", Rules: rules("10.0.0.0/8", export.ReadOnly, export.SquashAll)},
		export.Export{ID: 2, FSID: 1, Path: "/default/a/team", Root: 9, Project: 3, Rules: export.Everyone(export.ReadWrite, export.SquashRoot)},
	)
	top := tab.Root().Lookup("default", public)
	if top == nil || top.Covered(public) != nil || top.Covered(lab).ID != 1 {
		t.Fatal("who is in /default")
	}
	team := top.Lookup("a", public).Lookup("team", public)
	if team.Covered(public).ID != 2 || tab.ByExport(2) != team {
		t.Error("the way to the secured export")
	}
	for _, bad := range []export.Export{
		{ID: 2, FSID: 1, Path: "/default/x", Root: 9, Rules: nil},           // not secured
		{ID: 2, FSID: 2, Path: "/default/x", Root: 9, Project: 3},           // of another file system
		{ID: 2, FSID: 1, Path: "/other", Project: 3},                        // of the root
		{ID: 2, FSID: 1, Path: "/default", Root: 9, Project: 3, Rules: nil}, // the same path
	} {
		bad.FS = someFS{}
		whole := export.Export{ID: 1, FSID: 1, Path: "/default", FS: bad.FS}
		if _, err := export.NewTable([]export.Export{whole, bad}, time.Time{}); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// A listing continues after an id even when the table changed meanwhile.
func TestIDsAreStable(t *testing.T) {
	all := export.Everyone(export.ReadOnly, export.SquashAll)
	a := table(t, export.Export{ID: 1, Path: "/a/x", Rules: all}, export.Export{ID: 2, Path: "/b", Rules: all})
	b := table(t, export.Export{ID: 2, Path: "/b", Rules: all}, export.Export{ID: 3, Path: "/c", Rules: all})
	if a.ByExport(2).ID != b.ByExport(2).ID {
		t.Error("the id of /b changed with its neighbours")
	}
	if a.Attr(a.Root()).Change == b.Attr(b.Root()).Change {
		t.Error("the root's change attribute did not change")
	}
	first := a.Root().Children(0, lab)
	if got := a.Root().Children(first[0].ID, lab); len(got) != 1 || got[0] != first[1] {
		t.Errorf("continued with %v", names(got))
	}
	for _, n := range first {
		if n.ID <= 2 || n.ID >= 1<<63 {
			t.Errorf("id %#x cannot be a cookie", n.ID)
		}
	}
}

func TestFirstRuleDecides(t *testing.T) {
	e := export.Export{Rules: append(rules("10.1.0.0/16", export.ReadWrite, export.SquashNone), rules("10.0.0.0/8", export.ReadOnly, export.SquashAll)...)}
	if r := e.Rule(lab); r == nil || r.Access != export.ReadWrite {
		t.Errorf("lab: %+v", r)
	}
	if r := e.Rule(netip.MustParseAddr("10.2.0.1")); r == nil || r.Access != export.ReadOnly {
		t.Errorf("10/8: %+v", r)
	}
	if r := e.Rule(public); r != nil {
		t.Errorf("public: %+v", r)
	}
}

func TestSquash(t *testing.T) {
	user := vfs.Cred{UID: 1000, GID: 100, Groups: []uint32{4, 5}}
	wheel := vfs.Cred{UID: 1000, GID: 0, Groups: []uint32{4, 0, 5}}
	root := vfs.Cred{UID: 0, GID: 0, Groups: []uint32{0, 4}}
	anon := vfs.Cred{UID: 99, GID: 98}
	for _, c := range []struct {
		squash   export.Squash
		in, want vfs.Cred
	}{
		{export.SquashNone, root, root},
		{export.SquashNone, user, user},
		{export.SquashRoot, user, user},
		{export.SquashRoot, root, anon},
		{export.SquashRoot, wheel, vfs.Cred{UID: 1000, GID: 98, Groups: []uint32{4, 5}}},
		{export.SquashAll, user, anon},
		{export.SquashAll, root, anon},
	} {
		r := export.Rule{Squash: c.squash, AnonUID: 99, AnonGID: 98}
		in := vfs.Cred{UID: c.in.UID, GID: c.in.GID, Groups: slices.Clone(c.in.Groups)}
		got := r.Cred(&in)
		if got.UID != c.want.UID || got.GID != c.want.GID || !slices.Equal(got.Groups, c.want.Groups) {
			t.Errorf("squash %d of %+v: %+v, want %+v", c.squash, c.in, got, c.want)
		}
		if !slices.Equal(in.Groups, c.in.Groups) {
			t.Errorf("squash %d changed the caller's groups", c.squash)
		}
	}
}

func TestTableRefuses(t *testing.T) {
	ok := export.Export{ID: 1, FSID: 1, Path: "/a/b", FS: someFS{}}
	with := func(f func(*export.Export)) export.Export {
		e := ok
		e.ID = 2
		f(&e)
		return e
	}
	for name, ex := range map[string]export.Export{
		"relative":      with(func(e *export.Export) { e.Path = "a" }),
		"empty":         with(func(e *export.Export) { e.Path = "" }),
		"root":          with(func(e *export.Export) { e.Path = "/" }),
		"trailing":      with(func(e *export.Export) { e.Path = "/c/" }),
		"dotdot":        with(func(e *export.Export) { e.Path = "/c/.." }),
		"same path":     with(func(e *export.Export) {}),
		"nested":        with(func(e *export.Export) { e.Path = "/a/b/c" }),
		"above":         with(func(e *export.Export) { e.Path = "/a" }),
		"no id":         with(func(e *export.Export) { e.ID = 0; e.Path = "/c" }),
		"id twice":      with(func(e *export.Export) { e.ID = 1; e.Path = "/c" }),
		"no fsid":       with(func(e *export.Export) { e.FSID = 0; e.Path = "/c" }),
		"no fs":         with(func(e *export.Export) { e.FS = nil; e.Path = "/c" }),
		"invalid rule":  with(func(e *export.Export) { e.Rules = []export.Rule{{}}; e.Path = "/c" }),
		"unknown right": with(func(e *export.Export) { e.Rules = rules("::/0", 7, 0); e.Path = "/c" }),
	} {
		if _, err := export.NewTable([]export.Export{ok, ex}, time.Time{}); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := export.NewTable([]export.Export{ok}, time.Time{}); err != nil {
		t.Error(err)
	}
}

func TestReplace(t *testing.T) {
	s := export.NewSet(table(t))
	if s.Table().ByExport(1) != nil {
		t.Fatal("an empty table has an export")
	}
	s.Replace(table(t, export.Export{ID: 1, Path: "/a"}))
	if s.Table().ByExport(1) == nil {
		t.Fatal("the new table is not current")
	}
}

// Within limits whatever the rules say, also of secured exports and in what clients see.
func TestWithin(t *testing.T) {
	inside := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	everyone := export.Everyone(export.ReadWrite, export.SquashRoot)
	tab := table(t,
		export.Export{ID: 1, Path: "/team/a", Rules: everyone, Within: inside},
		export.Export{ID: 2, FSID: 1, Path: "/team/a/sub", Root: 9, Project: 3, Rules: everyone, Within: inside},
		export.Export{ID: 3, Path: "/open", Rules: everyone},
	)
	if got := names(tab.Root().Children(0, public)); !slices.Equal(got, []string{"open"}) {
		t.Errorf("outside one sees %v", got)
	}
	if tab.ByExport(1).Export.Rule(public) != nil || tab.ByExport(2).Export.Rule(public) != nil {
		t.Error("a rule beyond the limit")
	}
	mapped := netip.AddrFrom16(lab.As16())
	if tab.Root().Lookup("team", lab) == nil || tab.ByExport(1).Export.Rule(mapped) == nil {
		t.Error("no rule within the limit")
	}
}

func TestAdmits(t *testing.T) {
	none, squashed := export.Rule{Squash: export.SquashNone}, export.Rule{Squash: export.SquashRoot}
	e := export.Export{Groups: []uint32{5, 70, 900}}
	for _, c := range []struct {
		what string
		e    *export.Export
		r    *export.Rule
		cred vfs.Cred
		want export.Admission
	}{
		{"no groups", &export.Export{}, &squashed, vfs.Cred{UID: 1, GID: 1}, export.Admitted},
		{"by its group", &e, &squashed, vfs.Cred{UID: 1, GID: 70}, export.Admitted},
		{"by another group", &e, &squashed, vfs.Cred{UID: 1, GID: 1, Groups: []uint32{2, 900}}, export.Admitted},
		{"no member", &e, &none, vfs.Cred{UID: 5, GID: 6, Groups: []uint32{4, 71}}, export.Refused},
		{"root of the group 0", &e, &squashed, vfs.Cred{Groups: []uint32{1}}, export.Mounting},
		{"root in a group", &e, &squashed, vfs.Cred{Groups: []uint32{5}}, export.Admitted},
		{"root as itself", &e, &none, vfs.Cred{}, export.Admitted},
	} {
		if got := c.e.Admits(c.r, &c.cred); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	if _, err := export.NewTable([]export.Export{{ID: 1, FSID: 1, Path: "/a", FS: someFS{}, Groups: []uint32{2, 1}}}, time.Time{}); vfs.KindOf(err) != vfs.KindInvalid {
		t.Errorf("groups out of order: %v", err)
	}
}
