package backup

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A backup is made of a cluster that goes on writing. Restored on one node, and joined by the others, the metadata is what it was: all that was
// acknowledged before the backup, nothing that came after it, and nobody of before goes on.
func TestBackupAndRestore(t *testing.T) {
	c := newCluster(t, 3)
	c.form()
	c.raise()
	gw := c.gateway("gw")
	ctx := c.ctx()
	for i := range 200 {
		_, err := gw.Apply(ctx, 1, create(fmt.Sprintf("before-%d", i), 0))
		c.must(err)
	}
	before, err := info(ctx, gw, 1)
	c.must(err)
	during := make(chan int) // how many files were made meanwhile
	stop := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				during <- i
				return
			default:
			}
			if _, err := gw.Apply(ctx, 1, create(fmt.Sprintf("during-%d", i), 0)); err != nil {
				t.Errorf("while the backup is made: %v", err)
			}
		}
	}()
	path := filepath.Join(t.TempDir(), "backup")
	follower := 0
	for i, s := range c.servers {
		for _, st := range s.Status() {
			if st.Shard == 1 && !st.Serving {
				follower = i // a voter that may be behind
			}
		}
	}
	head, _, err := Save(path, func(w io.Writer) error {
		_, _, err := Write(ctx, c.options(gw, follower), w)
		return err
	})
	close(stop)
	made := <-during
	c.must(err)
	if head.Incarnation != raftmeta.FirstIncarnation || len(head.Shards) != 2 || head.Shards[1] != 0 {
		t.Fatalf("head %+v", head)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", fi.Mode(), err)
	}
	for i := range 100 {
		_, err := gw.Apply(ctx, 1, create(fmt.Sprintf("after-%d", i), 0))
		c.must(err)
	}
	if _, _, err := Save(path, func(io.Writer) error { return nil }); vfs.KindOf(err) != vfs.KindExists {
		t.Fatalf("over an older backup: %v", err)
	}
	c.close()

	n := newCluster(t, 3)
	f, err := os.Open(path)
	c.must(err)
	defer f.Close()
	ro := RestoreOptions{Targets: []Target{{n.path(0), n.names[0]}}, Cluster: clusterID, Log: raftmeta.WAL, Now: time.Now(), Logger: quiet}
	restored, err := Restore(ro, f)
	c.must(err)
	if _, err := Restore(ro, f); vfs.KindOf(err) != vfs.KindExists {
		t.Fatalf("over metadata: %v", err)
	}
	for i := 1; i < 3; i++ { // they join anew
		_, err := raftmeta.Format(raftmeta.FormatOptions{Dir: n.path(i), Cluster: clusterID, Node: n.names[i]})
		c.must(err)
	}
	for i := range 3 {
		n.start(i)
	}
	cl := n.client()
	for i := range 200 {
		if ok, err := has(ctx, cl, fmt.Sprintf("before-%d", i)); !ok {
			t.Fatalf("file before-%d: %v", i, err)
		}
	}
	gap := false
	for i := range made { // those of the first copies, in order
		ok, err := has(ctx, cl, fmt.Sprintf("during-%d", i))
		c.must(err)
		if ok && gap {
			t.Fatalf("file during-%d is there, and an earlier one is not", i)
		}
		gap = !ok
	}
	for i := range 100 {
		if ok, err := has(ctx, cl, fmt.Sprintf("after-%d", i)); ok || err != nil {
			t.Fatalf("file after-%d: %v, %v", i, ok, err)
		}
	}
	for _, shard := range shards {
		i, err := info(ctx, cl, shard)
		c.must(err)
		if i.Incarnation != restored.Now || i.Incarnation <= raftmeta.FirstIncarnation || i.DeletionIncarnation != 0 {
			t.Fatalf("shard %d: %v", shard, i)
		}
		if shard == 1 && i.NextBlock <= before.NextBlock+1<<30 {
			t.Fatalf("block ids go on at %#x, the backup had come to %#x", i.NextBlock, before.NextBlock)
		}
		n.eventually("three voters with one state", func() bool {
			digests := map[string]int{}
			for _, s := range n.servers {
				for _, st := range s.Status() {
					if st.Shard == shard && st.Member == raftmeta.Voter {
						digests[fmt.Sprintf("%d %s", st.State, st.Digest)]++
					}
				}
			}
			for _, k := range digests {
				return k == 3
			}
			return false
		})
	}
	again := n.gateway("gw")
	if _, err := again.Apply(ctx, 1, create("new", 0)); err != nil {
		t.Fatal(err)
	}

	// The same backup once more: another incarnation, for stores may have accepted the first one.
	ro.Targets[0].Dir = filepath.Join(t.TempDir(), "again")
	second, err := Restore(ro, f)
	c.must(err)
	if second.Now == restored.Now {
		t.Fatalf("incarnation %d was used twice", second.Now)
	}
	ro.Targets[0].Dir, ro.Cluster = filepath.Join(t.TempDir(), "other"), []byte("another cluster!")
	if _, err := Restore(ro, f); vfs.KindOf(err) != vfs.KindIncompatible {
		t.Fatalf("in another cluster: %v", err)
	}
}

// Voters whose directories of before the restore were left see that the metadata was restored, and join it.
func TestVotersOfBefore(t *testing.T) {
	c := newCluster(t, 3)
	c.form()
	c.raise()
	gw := c.gateway("gw")
	ctx := c.ctx()
	_, err := gw.Apply(ctx, 1, create("before", 0))
	c.must(err)
	var file bytes.Buffer
	_, _, err = Write(ctx, c.options(gw, 0), &file)
	c.must(err)
	_, err = gw.Apply(ctx, 1, create("after", 0))
	c.must(err)
	c.close()
	c.must(os.RemoveAll(c.path(0)))
	restored, err := Restore(RestoreOptions{Targets: []Target{{c.path(0), c.names[0]}}, Cluster: clusterID, Log: raftmeta.WAL, Now: time.Now(), Logger: quiet}, bytes.NewReader(file.Bytes()))
	c.must(err)
	for i := range 3 {
		c.start(i)
	}
	for _, shard := range shards {
		c.eventually("all to be voters of what was restored", func() bool {
			voters := map[string]int{}
			for _, s := range c.servers {
				for _, st := range s.Status() {
					if st.Shard == shard && st.Member == raftmeta.Voter && st.Err == "" {
						voters[fmt.Sprint(st.Voters)]++
					}
				}
			}
			for _, n := range voters {
				return n == 3
			}
			return false
		})
		i, err := info(ctx, c.client(), shard)
		c.must(err)
		if i.Incarnation != restored.Now {
			t.Fatalf("shard %d is of incarnation %d, restored was %d", shard, i.Incarnation, restored.Now)
		}
	}
	cl := c.client()
	if ok, err := has(ctx, cl, "before"); !ok {
		t.Fatal(err)
	}
	if ok, err := has(ctx, cl, "after"); ok || err != nil {
		t.Fatalf("a file that came after the backup: %v, %v", ok, err)
	}
}

// between calls a function after the first copy was made.
type between struct {
	Source
	fn func()
}

func (b *between) OpenState(ctx context.Context, shard uint16, applied uint64) (*raftmeta.State, error) {
	s, err := b.Source.OpenState(ctx, shard, applied)
	if b.fn != nil {
		b.fn()
		b.fn = nil
	}
	return s, err
}

// What a namespace names in shard 0 is in the backup's shard 0, also if both are made between the copies of the two.
func TestOrderOfShards(t *testing.T) {
	c := newCluster(t, 1)
	c.form()
	c.raise()
	gw := c.gateway("gw")
	ctx := c.ctx()
	for id := uint32(1); id <= 3; id++ {
		_, err := gw.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{Id: id, Node: "n", Uuid: []byte{byte(id)}}}}})
		c.must(err)
	}
	o := c.options(gw, 0)
	o.Source = &between{o.Source, func() {
		pg := &metapb.PlacementGroup{Id: 1, Epoch: 1, Slots: []*metapb.Slot{{Store: 1}, {Store: 2}, {Store: 3}}}
		_, err := gw.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{Pool: 1, Changes: []*metapb.PGChange{{Pg: pg}}}}})
		c.must(err)
		r, err := gw.Apply(ctx, 1, create("f", uint32(vfs.OpenWrite)))
		c.must(err)
		file := r.GetCreate()
		r, err = gw.Apply(ctx, 1, &metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 8}}})
		c.must(err)
		_, err = gw.Apply(ctx, 1, &metapb.Command{Fs: 1, Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
			Ino: file.Attr.Ino, Epoch: file.Lease.Epoch, Size: 100, Extents: []*metapb.NewExtent{{Length: 100, Block: r.GetBlocks().First, Pg: 1, ProfileK: 2, ProfileM: 1}},
		}}})
		c.must(err)
	}}
	var file bytes.Buffer
	_, _, err := Write(ctx, o, &file)
	c.must(err)
	c.close()

	n := newCluster(t, 1)
	_, err = Restore(RestoreOptions{Targets: []Target{{n.path(0), n.names[0]}}, Cluster: clusterID, Log: raftmeta.WAL, Now: time.Now(), Logger: quiet}, bytes.NewReader(file.Bytes()))
	c.must(err)
	n.start(0)
	cl := n.client()
	r, err := cl.Query(ctx, 0, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	c.must(err)
	groups := map[uint32]bool{}
	for _, g := range r.GetClusterMap().Pools[0].Pgs {
		groups[g.Id] = true
	}
	r, err = cl.Query(ctx, 1, &metapb.Query{Q: &metapb.Query_LiveBlocks{LiveBlocks: &metapb.LiveBlocksQ{}}})
	c.must(err)
	for _, b := range r.GetBlocks().Blocks {
		if !groups[b.Pg] {
			t.Fatalf("block %#x is in placement group %d, which the restored map does not have", b.Id, b.Pg)
		}
	}
	if !groups[1] {
		t.Fatal("the group that was made between the copies is not in the later copy")
	}
}

// Copies that were not made within a grace do not belong together.
func TestSlowCopies(t *testing.T) {
	c := newCluster(t, 1)
	c.form()
	gw := c.gateway("gw")
	o := c.options(gw, 0)
	now := time.Unix(1_700_000_000, 0)
	o.Now = func() time.Time { return now }
	o.Source = &between{o.Source, func() { now = now.Add(2 * o.Grace) }}
	if _, _, err := Write(c.ctx(), o, io.Discard); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("copies made two graces apart: %v", err)
	}
	// The copies are gone, and the next backup is made.
	o.Source = c.servers[0]
	_, _, err := Write(c.ctx(), o, io.Discard)
	c.must(err)
	left, err := filepath.Glob(filepath.Join(c.path(0), "shard-*", "backup"))
	c.must(err)
	if len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

// A damaged or incomplete file is noticed, whatever is wrong with it, before anything is made of it.
func TestDamage(t *testing.T) {
	c := newCluster(t, 1)
	c.form()
	gw := c.gateway("gw")
	var file bytes.Buffer
	_, _, err := Write(c.ctx(), c.options(gw, 0), &file)
	c.must(err)
	good := file.Bytes()
	_, _, err = Verify(bytes.NewReader(good))
	c.must(err)
	for i := 0; i < len(good); i += 1 + i/64 {
		bad := bytes.Clone(good)
		bad[i] ^= 4
		if _, _, err := Verify(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d was changed, and nobody noticed", i)
		}
	}
	for n := 0; n < len(good); n += 1 + n/8 {
		if _, _, err := Verify(bytes.NewReader(good[:n])); err == nil {
			t.Fatalf("cut after %d bytes, and nobody noticed", n)
		}
	}
	if _, _, err := Verify(bytes.NewReader(append(bytes.Clone(good), 0))); err == nil {
		t.Fatal("bytes behind the end")
	}
	newer := bytes.Clone(good)
	newer[len(magic)+3]++
	if _, _, err := Verify(bytes.NewReader(newer)); vfs.KindOf(err) != vfs.KindIncompatible {
		t.Fatalf("a newer format: %v", err)
	}
	dir := t.TempDir()
	_, err = Restore(RestoreOptions{Targets: []Target{{filepath.Join(dir, "meta"), "m0"}}, Cluster: clusterID, Log: raftmeta.WAL, Now: time.Now(), Logger: quiet}, bytes.NewReader(good[:len(good)-1]))
	if vfs.KindOf(err) != vfs.KindCorrupt {
		t.Fatalf("restore of an incomplete file: %v", err)
	}
	if es, _ := os.ReadDir(dir); len(es) > 0 {
		t.Fatalf("it left %v", es)
	}
	path := filepath.Join(dir, "b")
	if _, _, err := Save(path, func(w io.Writer) error { _, err := w.Write(good[:len(good)/2]); return err }); vfs.KindOf(err) != vfs.KindCorrupt {
		t.Fatalf("half a file is saved: %v", err)
	}
	if es, _ := os.ReadDir(dir); len(es) > 0 {
		t.Fatalf("it left %v", es)
	}
}

// FuzzVerify: no file makes the reader panic or take memory for what it only says.
func FuzzVerify(f *testing.F) {
	var b bytes.Buffer
	w := writer{&b}
	_ = w.begin()
	_ = w.json(kindHead, Head{Shards: []uint16{0}})
	_ = w.json(kindShard, Shard{Bytes: 3})
	_ = w.section(kindState, 3, bytes.NewReader([]byte("abc")))
	_ = w.json(kindEnd, End{Shards: 1})
	if _, _, err := Verify(bytes.NewReader(b.Bytes())); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, shards, err := Verify(bytes.NewReader(b))
		if err == nil && len(shards) == 0 {
			t.Fatal("nothing was accepted")
		}
	})
}
