package filesystem

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// registered is a cluster whose commands have an identity where they need one, as those of the real client.
type registered struct {
	*cluster
	origin, seq [2]uint64
}

func (c *registered) EnsureRegistered(ctx context.Context, shard uint16, name string) error {
	if c.origin[shard] != 0 {
		return nil
	}
	r, err := c.cluster.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_ADMIN, Name: name, Incarnation: []byte("0123456789abcdef"),
	}}})
	c.origin[shard] = r.GetOrigin().GetOrigin()
	return err
}

func (c *registered) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	switch cmd.Op.(type) {
	case *metapb.Command_Create, *metapb.Command_SetProject, *metapb.Command_SetQuota:
		c.seq[shard]++
		cmd.Id = &metapb.Identity{Origin: c.origin[shard], Seq: c.seq[shard]}
	}
	return c.cluster.Apply(ctx, shard, cmd)
}

func TestExports(t *testing.T) {
	c := &registered{cluster: newCluster(t)}
	ctx := t.Context()
	if _, err := Create(ctx, c, fixedPool(1), Request{Name: "a"}, begin); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateExport(ctx, c, "x", "", "a", NewExport{Path: "/team/a", Allow: []string{"10.1.2.3/8", "10.0.0.0/8"}, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		n    NewExport
		want vfs.Kind
	}{
		{NewExport{Path: "/team/a"}, vfs.KindExists},
		{NewExport{Path: "/team"}, vfs.KindNotEmpty}, // it has the directory a
		{NewExport{Path: "/"}, vfs.KindInvalid},
		{NewExport{Path: "team"}, vfs.KindInvalid},
		{NewExport{Path: "/team//b"}, vfs.KindInvalid},
		{NewExport{Path: "/team/../b"}, vfs.KindInvalid},
		{NewExport{Path: "/b", Allow: []string{"x"}}, vfs.KindInvalid},
		{NewExport{Path: "/a", Allow: []string{"192.0.2.1"}}, vfs.KindOK},
		{NewExport{Path: "/team/a/deep"}, vfs.KindOK},
	} {
		if _, err := CreateExport(ctx, c, "x", "", "a", x.n); vfs.KindOf(err) != x.want {
			t.Errorf("%+v: %v", x.n, err)
		}
	}
	if _, err := CreateExport(ctx, c, "x", "", "none", NewExport{Path: "/a"}); vfs.KindOf(err) != vfs.KindNotFound {
		t.Errorf("of no file system: %v", err)
	}
	show := func() string {
		fs, err := Find(ctx, c, "", "a")
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range fs.Exports {
			out = append(out, fmt.Sprintf("%s %d %v %v", e.Path, e.Project, e.Allow, e.ReadOnly))
		}
		return strings.Join(out, "; ")
	}
	if got, want := show(), "/a 2 [192.0.2.1/32] false; /team/a 1 [10.0.0.0/8] true; /team/a/deep 3 [] false"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if err := DeleteExport(ctx, c, "", "a", "/team/a"); err != nil {
		t.Error(err)
	}
	if err := DeleteExport(ctx, c, "", "a", "/team/a"); vfs.KindOf(err) != vfs.KindNotFound {
		t.Errorf("twice: %v", err)
	}
	// Its directory stays a project's, with files in it.
	if e, err := CreateExport(ctx, c, "x", "", "a", NewExport{Path: "/team/a"}); err != nil || e.Project != 1 {
		t.Errorf("again: %v, %v", e, err)
	}
	// The rest of the record is as it was, and other settings keep the exports.
	if _, err := Change(ctx, c, "", "a", func(s *Settings) error { s.Squash, s.Groups = "default", []uint32{9, 5, 9}; return nil }); err != nil {
		t.Error(err)
	}
	fs, err := Find(ctx, c, "", "a")
	if err != nil || len(fs.Exports) != 3 || !slices.Equal(fs.Groups, []uint32{5, 9}) {
		t.Errorf("%v, %v", fs, err)
	}
	if _, err := Change(ctx, c, "", "a", func(s *Settings) error { s.Squash = "some"; return nil }); vfs.KindOf(err) != vfs.KindInvalid {
		t.Errorf("an odd squash: %v", err)
	}
	c.check()
}

func TestProjects(t *testing.T) {
	c := &registered{cluster: newCluster(t)}
	ctx := t.Context()
	fs, err := Create(ctx, c, fixedPool(1), Request{Name: "a"}, begin)
	if err != nil {
		t.Fatal(err)
	}
	for path, l := range map[string]raftmeta.Limits{"/x/y": {Bytes: 100}, "/z": {Inodes: 7}} {
		if p, err := LimitProject(ctx, c, "x", fs, path, l); err != nil || p.Quota.GetLimitBytes() != l.Bytes || p.Quota.GetLimitInodes() != l.Inodes {
			t.Errorf("%s: %+v, %v", path, p, err)
		}
	}
	if _, err := LimitProject(ctx, c, "x", fs, "/z", raftmeta.Limits{Inodes: 1 << 63}); vfs.KindOf(err) != vfs.KindInvalid {
		t.Errorf("a large limit: %v", err)
	}
	list, err := Projects(ctx, c, fs)
	var paths []string
	for _, p := range list {
		paths = append(paths, fmt.Sprintf("%s %d %d", p.Path, p.Quota.LimitBytes, p.Quota.LimitInodes))
	}
	slices.Sort(paths)
	if want := []string{"/ 0 0", "/x/y 100 0", "/z 0 7"}; err != nil || !slices.Equal(paths, want) {
		t.Errorf("%v, %v, want %v", paths, err, want)
	}
	for path, want := range map[string]vfs.Kind{"": vfs.KindOK, "/": vfs.KindOK, "/x": vfs.KindOK, "/x/y": vfs.KindOK, "/x/q": vfs.KindNotFound, "x": vfs.KindInvalid, "/x/./y": vfs.KindInvalid} {
		if _, err := FindDir(ctx, c, fs, path); vfs.KindOf(err) != want {
			t.Errorf("%q: %v", path, err)
		}
	}
	c.check()
}

// Below level 5 a record says nothing about exports, and is told so.
func TestExportsBelowTheirLevel(t *testing.T) {
	c := &registered{cluster: clusterAt(t, 4)}
	if _, err := Create(t.Context(), c, fixedPool(1), Request{Name: "a"}, begin); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateExport(t.Context(), c, "x", "", "a", NewExport{Path: "/b"}); vfs.KindOf(err) != vfs.KindNotSupported || !strings.Contains(err.Error(), "feature level 5") {
		t.Errorf("an export at level 4: %v", err)
	}
	if _, err := Change(t.Context(), c, "", "a", func(s *Settings) error { s.Squash = SquashAll; return nil }); vfs.KindOf(err) != vfs.KindNotSupported {
		t.Errorf("squash at level 4: %v", err)
	}
	if _, err := Change(t.Context(), c, "", "a", func(s *Settings) error { s.ReadOnly = true; return nil }); err != nil {
		t.Errorf("what level 4 has: %v", err)
	}
}
