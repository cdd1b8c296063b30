package devcluster

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/backup"
	"github.com/rackfs/rackfs/internal/clustercheck"
	"github.com/rackfs/rackfs/vfs"
)

// TestRestore: a backup, then a thousand more files, then the metadata is lost and restored. The older state serves, nothing is
// deleted until that is allowed, the check lists what is orphaned, and then exactly that goes.
func TestRestore(t *testing.T) {
	t.Parallel()
	const later = 1000
	cfg := quick(t)
	cfg.GCGrace = time.Hour // nothing dies meanwhile
	c := startQuick(t, cfg)
	contents := func(i int) []byte { return fileContent(i) }
	for i := range 8 {
		writeFile(t, c.fs(), fmt.Sprintf("before-%d", i), contents(i))
	}
	path := filepath.Join(t.TempDir(), "backup")
	client := api.Dial(c.dir.sub(api.SocketName))
	defer client.Close()
	head, _, err := backup.Save(path, func(w io.Writer) error { return client.Backup(t.Context(), w) })
	if err != nil {
		t.Fatal(err)
	}
	if head.Cluster != c.dir.shape.Cluster {
		t.Fatalf("head %+v", head)
	}
	live := func() map[uint64]bool {
		ids := map[uint64]bool{}
		for _, b := range c.liveBlocks(t) {
			ids[b] = true
		}
		return ids
	}
	then := live()
	makeFiles(t, c.fs(), "after", later)
	writeFile(t, c.fs(), "before-0", contents(3)) // an older file is overwritten: the backup has what it was
	if _, err := c.fs().Remove(t.Context(), &vfs.Root, vfs.RootIno, "before-1", vfs.RemoveFile); err != nil {
		t.Fatal(err)
	}
	orphans := map[uint64]bool{}
	for id := range live() {
		if !then[id] {
			orphans[id] = true
		}
	}
	if len(orphans) < later {
		t.Fatalf("%d blocks since the backup", len(orphans))
	}
	used := c.used()
	c.mustStop(t)

	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	quiet := slog.New(slog.DiscardHandler)
	if _, err := Restore(cfg.DataDir, f, quiet); vfs.KindOf(err) != vfs.KindExists {
		t.Fatalf("over metadata that is there: %v", err)
	}
	for i := range c.dir.shape.Voters {
		if err := os.RemoveAll(c.dir.sub(voterName(i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Restore(cfg.DataDir, f, quiet); err != nil {
		t.Fatal(err)
	}

	c = startQuick(t, cfg)
	defer func() { c.mustStop(t) }()
	serves := func() {
		t.Helper()
		for i := range 8 {
			checkFile(t, c.fs(), fmt.Sprintf("before-%d", i), contents(i))
		}
		if _, err := c.fs().Lookup(t.Context(), &vfs.Root, vfs.RootIno, "after-0"); vfs.KindOf(err) != vfs.KindNotFound {
			t.Fatalf("a file that was made after the backup: %v", err)
		}
	}
	serves()
	writeFile(t, c.fs(), "new", contents(2))
	for id := range live() {
		if orphans[id] {
			t.Fatalf("block id %#x was given out twice", id)
		}
	}

	// When a store was slow, attempts that were given up left shards of more blocks, or of the same in other groups.
	r, now := c.check(t), live()
	if r.Deletion != clustercheck.DeletionStopped || r.Errors != r.Stopped || r.Orphans.Blocks < uint64(len(orphans)) || r.Counts[clustercheck.KindDeletion] != 1 {
		t.Fatalf("%d orphans: %+v%s", len(orphans), r, told(r))
	}
	t.Logf("checked %d inodes, %d blocks and %d shards in %v", r.Inodes, r.Blocks, r.Shards, r.TookNanos)
	for _, f := range r.Findings {
		if f.Kind == clustercheck.KindOrphan {
			var store, shard int
			var block uint64
			if _, err := fmt.Sscanf(f.Text, "store %d has shard %d of block %v", &store, &shard, &block); err != nil || now[block] {
				t.Fatalf("%s: %v", f.Text, err)
			}
		}
	}
	// Collectors look, again and again, and delete nothing.
	passes, last := make([]int, len(c.stores)), make([]time.Time, len(c.stores))
	await(t, func() (lacks string) {
		for i, n := range c.stores {
			st := n.keeper.Load().Status().Collect
			if !st.Began.Equal(last[i]) && strings.Contains(st.Error, "until an operator allows it") {
				last[i] = st.Began
				passes[i]++
			}
			if passes[i] < 3 {
				lacks = fmt.Sprintf("%s: %d passes of the collector, the last says %q", n.name, passes[i], st.Error)
			}
		}
		return lacks
	})
	if now := c.used(); now < used {
		t.Fatalf("%d bytes used, %d before the restore: something was deleted", now, used)
	}
	if err := client.AllowDeletion(t.Context(), r.Metadata-1); vfs.KindOf(err) != vfs.KindChanged {
		t.Fatalf("allowed for another incarnation: %v", err)
	}
	if r := c.check(t); r.Orphans.Blocks < uint64(len(orphans)) {
		t.Fatalf("orphans %+v, want %d blocks", r.Orphans, len(orphans))
	}

	if err := client.AllowDeletion(t.Context(), r.Metadata); err != nil {
		t.Fatal(err)
	}
	await(t, func() string {
		r := c.check(t)
		if r.Errors > 0 || r.Deletion != clustercheck.DeletionOn || r.Orphans.Shards > 0 {
			return fmt.Sprintf("everything that is orphaned to be collected: %d errors, %+v", r.Errors, r.Orphans)
		}
		return ""
	})
	serves()
	checkFile(t, c.fs(), "new", contents(2))

	// The next start finds the stores as they are.
	c.mustStop(t)
	c = startQuick(t, cfg)
	serves()
	if r := c.check(t); r.Errors > 0 || r.Deletion != clustercheck.DeletionOn {
		t.Fatalf("%+v%s", r, told(r))
	}
}

// makeFiles makes files of one block each, several at a time.
func makeFiles(t *testing.T, fs vfs.FS, prefix string, n int) {
	t.Helper()
	const atOnce = 16
	errs := make(chan error, atOnce)
	for w := range atOnce {
		go func() {
			for i := w; i < n; i += atOnce {
				f, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, fmt.Sprintf("%s-%d", prefix, i), vfs.CreateArgs{Open: vfs.OpenWrite})
				if err == nil {
					_, _, err = fs.Write(t.Context(), &vfs.Root, f.Attr.Ino, 0, make([]byte, 8<<10), vfs.FileSync)
				}
				if err == nil {
					err = fs.Close(t.Context(), f.Attr.Ino, vfs.OpenWrite)
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range atOnce {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}
