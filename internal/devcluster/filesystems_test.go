package devcluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/vfs"
)

// exported is the export with a path, nil if there is none.
func (c *Cluster) exported(path string) *export.Export {
	for _, e := range c.gateway.Exports() {
		if e.Path == path {
			return &e
		}
	}
	return nil
}

// TestFileSystems creates file systems in a running cluster, deletes one with data that is not flushed, brings it back, and ends it: nobody has
// to restart anything, what was written is there, and in the end the stores are as empty as before.
func TestFileSystems(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	c := startQuick(t, cfg)
	stop := func() { c.mustStop(t) }
	defer func() { stop() }()
	admin := api.Dial(c.dir.sub(api.SocketName))
	defer admin.Close()
	ctx := t.Context()
	served := func(path string, want bool) {
		t.Helper()
		await(t, func() string {
			if got := c.exported(path) != nil; got != want {
				return fmt.Sprintf("%s is exported: %v", path, got)
			}
			return ""
		})
	}
	empty := c.used()
	if _, err := admin.CreateFileSystem(ctx, api.NewFileSystem{Name: "images", Workspace: "research"}); vfs.KindOf(err) != vfs.KindNotFound || !strings.Contains(err.Error(), "rackfs workspace create") {
		t.Errorf("in a workspace that there is not: %v", err)
	}
	if _, err := admin.CreateWorkspace(ctx, api.NewWorkspace{Name: "research"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []api.NewFileSystem{{Name: "scratch"}, {Name: "images", Workspace: "research", FileSystemSettings: api.FileSystemSettings{QuotaBytes: 1 << 20, Allow: []string{"10.1.0.0/16"}, ReadOnly: true}}} {
		if _, err := admin.CreateFileSystem(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	served("/scratch", true)
	served("/research/images", true)
	// The networks of a workspace limit who sees its file systems.
	if _, err := admin.ChangeWorkspace(ctx, "research", api.WorkspaceChange{Networks: &[]string{"192.0.2.0/24"}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() string {
		if w := c.exported("/research/images").Within; len(w) != 1 || w[0].String() != "192.0.2.0/24" {
			return fmt.Sprintf("it is for %v", w)
		}
		return ""
	})
	if w := c.exported("/scratch").Within; len(w) != 0 {
		t.Errorf("another workspace's is for %v", w)
	}
	images := c.exported("/research/images")
	if len(images.Rules) != 1 || images.Rules[0].Clients.String() != "10.1.0.0/16" || images.Rules[0].Access != export.ReadOnly {
		t.Errorf("rules of images: %+v", images.Rules)
	}
	err := func() error {
		a, err := images.FS.Create(ctx, &vfs.Root, vfs.RootIno, "big", vfs.CreateArgs{Open: vfs.OpenWrite})
		if err == nil {
			_, _, err = images.FS.Write(ctx, &vfs.Root, a.Attr.Ino, 0, make([]byte, 2<<20), vfs.FileSync)
		}
		return err
	}()
	if vfs.KindOf(err) != vfs.KindQuota {
		t.Errorf("more than the quota: %v", err)
	}

	fs := c.exported("/scratch").FS
	for i := range 6 {
		writeFile(t, fs, fmt.Sprintf("f%d", i), fileContent(i))
	}
	open, err := fs.Create(ctx, &vfs.Root, vfs.RootIno, "open", vfs.CreateArgs{Open: vfs.OpenWrite})
	if err != nil {
		t.Fatal(err)
	}
	buffered := fileContent(7)
	_, before, err := fs.Write(ctx, &vfs.Root, open.Attr.Ino, 0, buffered, vfs.Unstable)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteFileSystem(ctx, "", "scratch", time.Hour); err != nil {
		t.Fatal(err)
	}
	served("/scratch", false)
	if _, err := fs.GetAttr(ctx, vfs.RootIno); vfs.KindOf(err) != vfs.KindStale {
		t.Errorf("a deleted file system: %v", err)
	}
	if _, err := admin.CreateFileSystem(ctx, api.NewFileSystem{Name: "scratch"}); vfs.KindOf(err) != vfs.KindExists {
		t.Errorf("its name: %v", err)
	}
	if _, err := admin.UndeleteFileSystem(ctx, "", "scratch"); err != nil {
		t.Fatal(err)
	}
	served("/scratch", true)
	fs = c.exported("/scratch").FS
	for i := range 6 {
		checkFile(t, fs, fmt.Sprintf("f%d", i), fileContent(i))
	}
	checkFile(t, fs, "open", buffered)
	// A client that commits now writes again: it cannot know that nothing was lost.
	if after, err := fs.Commit(ctx, open.Attr.Ino, 0, 0); err != nil || after == before {
		t.Errorf("commit: %v, the verifier is %x, was %x", err, after, before)
	}

	// A restart changes nothing of all that.
	admin.Close()
	stop()
	c = startQuick(t, cfg)
	fs = c.exported("/scratch").FS
	checkFile(t, fs, "f3", fileContent(3))
	if _, err := admin.DeleteFileSystem(ctx, "", "scratch", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteFileSystem(ctx, "research", "images", 0); err != nil {
		t.Fatal(err)
	}
	await(t, func() string {
		all, err := admin.FileSystems(ctx)
		if err != nil || len(all) != 1 {
			return fmt.Sprintf("%v %v", all, err)
		}
		return ""
	})
	if _, err := fs.GetAttr(ctx, vfs.RootIno); vfs.KindOf(err) != vfs.KindStale {
		t.Errorf("a file system that is gone: %v", err)
	}
	await(t, func() string {
		if n := c.used(); n > empty {
			return fmt.Sprintf("%d bytes are on the stores, there were %d", n, empty)
		}
		return ""
	})
	again, err := admin.CreateFileSystem(ctx, api.NewFileSystem{Name: "scratch"})
	if err != nil || again.ID <= 3 {
		t.Errorf("%+v %v, want an id that was never used", again, err)
	}
	writeFile(t, c.fs(), "default", fileContent(1)) // and the others are served as before
	checkFile(t, c.fs(), "default", fileContent(1))
}
