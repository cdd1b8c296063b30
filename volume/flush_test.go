package volume_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

var ctx = context.Background()

// tb is what helpers need of a testing.TB or a rapid.T.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func create(t tb, fs vfs.FS, name string) vfs.Ino {
	t.Helper()
	mode := uint32(0o644)
	r, err := fs.Create(ctx, &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: vfs.SetAttr{Mode: &mode}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Attr.Ino
}

func write(t tb, fs vfs.FS, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) vfs.Verifier {
	t.Helper()
	_, v, err := fs.Write(ctx, &vfs.Root, ino, off, p, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// asked repeats what answers that it should come again, as an NFS client does: in tests with a short StallTimeout a slow machine may be told so.
func asked(f func() error) error {
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) {
		if err := f(); vfs.KindOf(err) != vfs.KindUnavailable || time.Now().After(end) {
			return err
		}
	}
}

func commit(t tb, fs vfs.FS, ino vfs.Ino) (v vfs.Verifier) {
	t.Helper()
	if err := asked(func() (err error) { v, err = fs.Commit(ctx, ino, 0, 0); return err }); err != nil {
		t.Fatal(err)
	}
	return v
}

func read(t tb, fs vfs.FS, ino vfs.Ino, off uint64, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if err := asked(func() (err error) { n, _, err = fs.Read(ctx, ino, off, p); return err }); err != nil {
		t.Fatal(err)
	}
	return p[:n]
}

func want(t tb, k vfs.Kind, err error) {
	t.Helper()
	if vfs.KindOf(err) != k {
		t.Fatalf("got %v, want %v", err, k)
	}
}

func fill(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }

// eventually polls until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// setFailWrite makes block writes fail from now on; nil ends it.
func (b *blocks) setFailWrite(f func(id uint64, n int) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failWrite = f
}

func (b *blocks) setFailRead(f func(id uint64) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failRead = f
}

func (b *blocks) counts() (writes, readBytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writes, b.readBytes
}

func TestLossIsToldOnce(t *testing.T) {
	c := newCrashing(t, volume.Config{FullTimeout: time.Nanosecond})
	f := create(t, c, "f")
	v0 := write(t, c, f, 0, fill(100, 1), vfs.FileSync)
	before, err := c.GetAttr(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	c.blocks.setFailWrite(func(uint64, int) error { return vfs.KindNoSpace.Err("blocks") })
	write(t, c, f, 0, fill(50_000, 2), vfs.Unstable)
	shown, err := c.GetAttr(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Commit(ctx, f, 0, 0)
	want(t, vfs.KindNoSpace, err)
	if v := commit(t, c, f); v == v0 {
		t.Fatal("bytes were lost and the verifier is the same")
	}
	a, err := c.GetAttr(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	if a.Size != before.Size || a.Change <= shown.Change {
		t.Fatalf("after the loss: %+v; durable was %+v, shown %+v", a, before, shown)
	}
	if got := read(t, c, f, 0, 1000); !bytes.Equal(got, fill(100, 1)) {
		t.Fatalf("%d bytes are not what was durable", len(got))
	}
	// A stable write says so itself.
	_, _, err = c.Write(ctx, &vfs.Root, f, 0, fill(50_000, 3), vfs.FileSync)
	want(t, vfs.KindNoSpace, err)
	c.blocks.setFailWrite(nil)
	write(t, c, f, 10, fill(50_000, 4), vfs.FileSync)
	if got := read(t, c, f, 9, 2); !bytes.Equal(got, []byte{1, 4}) {
		t.Fatalf("%v", got)
	}
}

// TestCommitDuringTruncate: nothing above a size is flushed while the file is cut
// to it. Who waits for such bytes goes on as soon as that is over, whether they were
// cut off or are still there.
func TestCommitDuringTruncate(t *testing.T) {
	for what, fails := range map[string]error{"cut": nil, "kept": vfs.KindPerm.Err("meta")} {
		t.Run(what, func(t *testing.T) {
			c := newCrashing(t, volume.Config{StallTimeout: time.Hour})
			f := create(t, c, "f")
			write(t, c, f, 8192, fill(100, 1), vfs.Unstable)
			committed := make(chan error, 1)
			c.meta.fail = func(cmd *metapb.Command) error {
				if cmd.GetSetAttr() == nil {
					return nil
				}
				go func() {
					_, err := c.Commit(ctx, f, 0, 0)
					committed <- err
				}()
				// Long enough for Commit to find that it has to wait. If it does
				// not come so far, the test sees nothing, but it does not fail.
				time.Sleep(50 * time.Millisecond)
				return fails
			}
			size := uint64(0)
			_, err := c.SetAttr(ctx, &vfs.Root, f, vfs.SetAttr{Size: &size}, false)
			want(t, vfs.KindOf(fails), err)
			select {
			case err := <-committed:
				want(t, vfs.KindOK, err)
			case <-time.After(5 * time.Minute):
				t.Fatal("Commit still waits after the truncation")
			}
		})
	}
}

// A flush waits for a full pool, since room may be made; when that took too long its bytes are lost and the
// writer is told. The next one is told without waiting as long again, and when there is room all goes on.
func TestFullPool(t *testing.T) {
	var now atomic.Int64 // seconds
	c := newCrashing(t, volume.Config{FullTimeout: 30 * time.Second, FlushAge: time.Hour, Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	f := create(t, c, "f")
	v0 := write(t, c, f, 0, fill(50_000, 1), vfs.FileSync)
	var tries atomic.Int32
	full := func(passes int64) func(uint64, int) error {
		return func(uint64, int) error {
			tries.Add(1)
			now.Add(passes)
			return vfs.KindNoSpace.Err("blocks")
		}
	}
	var id uint64
	refuse := full(5)
	c.blocks.setFailWrite(func(b uint64, n int) error {
		if id == 0 {
			id = b
		}
		if id != b {
			t.Errorf("a try used block %d after %d", b, id)
		}
		if tries.Load() == 3 {
			return nil
		}
		return refuse(b, n)
	})
	write(t, c, f, 0, fill(50_000, 2), vfs.Unstable)
	if commit(t, c, f) != v0 || tries.Load() != 3 {
		t.Fatalf("bytes were lost though there was room after 15 s (%d tries)", tries.Load())
	}
	tries.Store(0)
	c.blocks.setFailWrite(full(5))
	_, _, err := c.Write(ctx, &vfs.Root, f, 0, fill(50_000, 3), vfs.FileSync)
	want(t, vfs.KindNoSpace, err)
	if n := tries.Load(); n != 7 {
		t.Fatalf("%d tries 5 s apart, want 7 within 30 s", n)
	}
	v1 := commit(t, c, f) // the loss was told
	if v1 == v0 {
		t.Fatal("bytes were lost and the verifier is the same")
	}
	tries.Store(0)
	_, _, err = c.Write(ctx, &vfs.Root, f, 0, fill(50_000, 4), vfs.FileSync)
	want(t, vfs.KindNoSpace, err)
	if n := tries.Load(); n != 1 {
		t.Fatalf("%d tries in a pool that is known to be full", n)
	}
	if got := read(t, c, f, 0, 50_000); !bytes.Equal(got, fill(50_000, 2)) {
		t.Fatal("the file is not what was durable")
	}
	c.blocks.setFailWrite(nil)
	write(t, c, f, 0, fill(50_000, 5), vfs.FileSync)
	if got := read(t, c, f, 0, 50_000); !bytes.Equal(got, fill(50_000, 5)) {
		t.Fatal("not what was written when there was room again")
	}
}

func TestFlushTriesAgain(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f := create(t, c, "f")
	var tries atomic.Int32
	c.blocks.setFailWrite(func(uint64, int) error {
		if tries.Add(1) <= 3 {
			return vfs.KindUnavailable.Err("blocks")
		}
		return nil
	})
	v := write(t, c, f, 0, fill(50_000, 2), vfs.Unstable)
	if commit(t, c, f) != v {
		t.Fatal("nothing was lost and the verifier changed")
	}
	if tries.Load() < 4 {
		t.Fatalf("%d tries", tries.Load())
	}
	c.Crash()
	if got := read(t, c, f, 0, 60_000); !bytes.Equal(got, fill(50_000, 2)) {
		t.Fatal("what was committed is gone")
	}
}

// TestStall: while no block can be written, callers are told to come again and
// buffers stay within the limit; nothing is lost.
func TestStall(t *testing.T) {
	const limit = 1 << 20
	c := newCrashing(t, volume.Config{DirtyLimitBytes: limit, StallTimeout: 50 * time.Millisecond})
	f := create(t, c, "f")
	c.blocks.setFailWrite(func(uint64, int) error { return vfs.KindUnavailable.Err("blocks") })
	v := write(t, c, f, 0, fill(50_000, 1), vfs.Unstable)
	_, err := c.Commit(ctx, f, 0, 0)
	want(t, vfs.KindUnavailable, err)
	n := 0
	for ; n < 1000; n++ {
		_, _, err = c.Write(ctx, &vfs.Root, f, uint64(50_000+n*10_000), fill(10_000, 2), vfs.Unstable)
		if err != nil {
			break
		}
	}
	want(t, vfs.KindUnavailable, err)
	if n*10_000 > 2*limit {
		t.Fatalf("%d bytes were buffered, the limit is %d", n*10_000, limit)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, _, err = c.Write(canceled, &vfs.Root, f, 0, fill(10_000, 2), vfs.Unstable)
	want(t, vfs.KindCanceled, err)
	c.blocks.setFailWrite(nil)
	eventually(t, "commit works again", func() bool {
		got, err := c.Commit(ctx, f, 0, 0)
		return err == nil && got == v
	})
	if got := read(t, c, f, 0, 60_000); !bytes.Equal(got, append(fill(50_000, 1), fill(10_000, 2)...)) {
		t.Fatal("bytes differ")
	}
}

// TestSupersededGateway: a gateway that was replaced cannot change anything,
// says so, and does not keep its bytes for later.
func TestSupersededGateway(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f := create(t, c, "f")
	old := c.volume()
	defer old.Abandon()
	v := write(t, old, f, 0, fill(100, 1), vfs.Unstable)
	c.start()
	write(t, c, f, 0, fill(100, 2), vfs.FileSync)
	_, err := old.Commit(ctx, f, 0, 0)
	if err == nil {
		t.Fatal("a superseded gateway committed")
	}
	if k := vfs.KindOf(err); k != vfs.KindFenced && k != vfs.KindUnknownOrigin {
		t.Fatal(err)
	}
	if got, err := old.Commit(ctx, f, 0, 0); err == nil && got == v {
		t.Fatal("the verifier is the same")
	}
	if got := read(t, c, f, 0, 200); !bytes.Equal(got, fill(100, 2)) {
		t.Fatal("the newer bytes are gone")
	}
}

// TestTwoGateways: the one without the lease cannot write, and reads what the
// other made durable, never from an old picture.
func TestTwoGateways(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	g := c.meta.gateway(t, "other")
	b := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: g, Blocks: c.blocks, Incarnation: g.incarnation})
	defer b.Abandon()
	f := create(t, c, "f")
	for i := byte(1); i < 10; i++ {
		write(t, c, f, 0, fill(int(i)*10_000, i), vfs.FileSync)
		for range 2 {
			if got := read(t, b, f, 0, 100_000); !bytes.Equal(got, fill(int(i)*10_000, i)) {
				t.Fatalf("round %d: %d bytes", i, len(got))
			}
		}
		_, _, err := b.Write(ctx, &vfs.Root, f, 0, fill(10, 99), vfs.Unstable)
		want(t, vfs.KindUnavailable, err)
		size := uint64(5)
		_, err = b.SetAttr(ctx, &vfs.Root, f, vfs.SetAttr{Size: &size}, false)
		want(t, vfs.KindUnavailable, err)
	}
	// Nor can it change anything else of the file, of which the holder answers from memory.
	mode := uint32(0o600)
	write(t, c, f, 0, fill(10, 50), vfs.Unstable)
	_, err := b.SetAttr(ctx, &vfs.Root, f, vfs.SetAttr{Mode: &mode}, false)
	want(t, vfs.KindUnavailable, err)
	if err := c.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	a, err := b.GetAttr(ctx, f)
	if err != nil || a.Mode == mode || a.Size != 90_000 {
		t.Fatalf("%+v %v", a, err)
	}
	write(t, b, f, 0, fill(10, 99), vfs.FileSync) // the lease was given back
	c.start()
}

func TestSmallDataIsInline(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f := create(t, c, "f")
	write(t, c, f, 100, fill(3000, 1), vfs.FileSync)
	write(t, c, f, 4000, fill(200, 2), vfs.FileSync) // over the edge of a page
	if n, _ := c.blocks.counts(); n != 0 {
		t.Fatalf("%d blocks", n)
	}
	write(t, c, f, 10_000, fill(5000, 3), vfs.FileSync)
	if n, _ := c.blocks.counts(); n != 1 {
		t.Fatalf("%d blocks", n)
	}
	c.Crash()
	model := make([]byte, 15_000)
	copy(model[100:], fill(3000, 1))
	copy(model[4000:], fill(200, 2))
	copy(model[10_000:], fill(5000, 3))
	if !bytes.Equal(read(t, c, f, 0, 20_000), model) {
		t.Fatal("bytes differ")
	}
}

// TestTooManyForOneCommand: commands that the metadata finds too large are
// split, down to parts of one block.
func TestTooManyForOneCommand(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	var refused int
	c.meta.fail = func(cmd *metapb.Command) error {
		cd := cmd.GetCommitData()
		if cd == nil {
			return nil
		}
		if len(cd.Extents) > 3 || cd.Extents[0].Length > 100_000 {
			refused++
			return vfs.KindTooMany.Err("commit")
		}
		return nil
	}
	f := create(t, c, "f")
	model := make([]byte, 500_000)
	for i := range 20 {
		copy(model[i*10_000:], fill(5000, byte(i+1)))
		write(t, c, f, uint64(i*10_000), fill(5000, byte(i+1)), vfs.Unstable)
	}
	copy(model[250_001:], fill(249_999, 77))
	write(t, c, f, 250_001, fill(249_999, 77), vfs.Unstable)
	commit(t, c, f)
	if refused == 0 {
		t.Fatal("nothing was refused")
	}
	c.Crash()
	if !bytes.Equal(read(t, c, f, 0, 600_000), model) {
		t.Fatal("bytes differ")
	}
}

func TestShutdownFlushes(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	var inodes []vfs.Ino
	for i := range 20 {
		f := create(t, c, string(rune('a'+i)))
		write(t, c, f, 0, fill(1+i*1000, byte(i+1)), vfs.Unstable)
		inodes = append(inodes, f)
	}
	last, err := c.GetAttr(ctx, inodes[19])
	if err != nil {
		t.Fatal(err)
	}
	if err := c.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	c.start()
	for i, f := range inodes {
		if got := read(t, c, f, 0, 100_000); !bytes.Equal(got, fill(1+i*1000, byte(i+1))) {
			t.Fatalf("file %d: %d bytes", i, len(got))
		}
	}
	a, err := c.GetAttr(ctx, inodes[19])
	if err != nil || a.Change != last.Change || !a.Mtime.Equal(last.Mtime) {
		t.Fatalf("%+v %v, was %+v", a, err, last)
	}
	if _, _, err := c.Write(ctx, &vfs.Root, inodes[0], 0, fill(1, 1), vfs.FileSync); err != nil {
		t.Fatal(err)
	}
	c.volume().Abandon()
	_, _, err = c.Write(ctx, &vfs.Root, inodes[0], 0, fill(1, 1), vfs.FileSync)
	want(t, vfs.KindUnavailable, err)
}

// TestDirtyAndDeleted: what was buffered for a deleted file is never written.
func TestDirtyAndDeleted(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f := create(t, c, "f")
	write(t, c, f, 0, fill(50_000, 1), vfs.Unstable)
	if _, err := c.Remove(ctx, &vfs.Root, vfs.RootIno, "f", vfs.RemoveFile); err != nil {
		t.Fatal(err)
	}
	_, err := c.Commit(ctx, f, 0, 0)
	want(t, vfs.KindStale, err)
	if err := c.volume().Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if n, _ := c.blocks.counts(); n != 0 {
		t.Fatalf("%d blocks were written for a deleted file", n)
	}
	c.start()
}

// TestOpenDuringRemove: a removal under way did not name the file that is
// opened now, so the open must not succeed while the file goes.
func TestOpenDuringRemove(t *testing.T) {
	for _, how := range []string{"open", "create"} {
		c := newCrashing(t, volume.Config{})
		f := create(t, c, "f")
		// The removal reads what is open, then waits; it is applied once the open
		// was answered by the metadata.
		asked, opened := make(chan struct{}), make(chan struct{})
		g := &slowRemove{Meta: c.meta.gateway(t, "slow"), asked: asked, opened: opened}
		v := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: g, Blocks: c.blocks})
		removed := make(chan error, 1)
		go func() {
			_, err := v.Remove(ctx, &vfs.Root, vfs.RootIno, "f", vfs.RemoveFile)
			removed <- err
		}()
		<-asked
		var err error
		if how == "open" {
			_, err = v.Open(ctx, &vfs.Root, f, vfs.OpenRead, false)
		} else {
			_, err = v.Create(ctx, &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Open: vfs.OpenRead})
		}
		want(t, vfs.KindStale, err)
		if err := <-removed; err != nil {
			t.Fatal(err)
		}
		v.Abandon()
	}
}

// slowRemove holds a Remove until an open was answered.
type slowRemove struct {
	volume.Meta
	asked, opened chan struct{}
}

func (s *slowRemove) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if cmd.GetRemove() != nil {
		close(s.asked)
		<-s.opened
	}
	r, err := s.Meta.Apply(ctx, shard, cmd)
	if cmd.GetCreate() != nil {
		close(s.opened)
	}
	return r, err
}

func (s *slowRemove) Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	r, err := s.Meta.Query(ctx, shard, q)
	if q.GetGetAttr().GetOpen() != 0 {
		close(s.opened)
	}
	return r, err
}

// TestAbandonedTruncate: a caller gives up while its truncate is under way. It
// happens all the same, and what is known of the file follows.
func TestAbandonedTruncate(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f := create(t, c, "f")
	write(t, c, f, 0, fill(50_000, 1), vfs.FileSync)
	applied, answer := make(chan struct{}), make(chan struct{})
	g := &heldAnswer{Meta: c.meta.gateway(t, "gw"), applied: applied, answer: answer}
	c.volume().Abandon()
	v := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: g, Blocks: c.blocks})
	defer v.Abandon()
	write(t, v, f, 0, fill(10, 2), vfs.FileSync)
	canceled, cancel := context.WithCancel(ctx)
	go func() {
		<-applied
		cancel()
	}()
	size := uint64(5)
	_, err := v.SetAttr(canceled, &vfs.Root, f, vfs.SetAttr{Size: &size}, false)
	want(t, vfs.KindUnknown, err)
	close(answer)
	// A write waits for its end.
	write(t, v, f, 7, fill(1, 3), vfs.FileSync)
	if got := read(t, v, f, 0, 100); !bytes.Equal(got, []byte{2, 2, 2, 2, 2, 0, 0, 3}) {
		t.Fatal(got)
	}
}

// heldAnswer holds back the answer of a SetAttr until it may come or the
// caller gives up, as a client does that lost its connection.
type heldAnswer struct {
	volume.Meta
	applied, answer chan struct{}
}

func (h *heldAnswer) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	r, err := h.Meta.Apply(ctx, shard, cmd)
	if cmd.GetSetAttr() != nil {
		close(h.applied)
		select {
		case <-h.answer:
		case <-ctx.Done():
			return nil, vfs.Errorf(vfs.KindUnknown, "meta", "%w", ctx.Err())
		}
	}
	return r, err
}

// TestAbandonedRemove: a caller gives up while its remove of an open file is
// under way. The file must still go with its last close.
func TestAbandonedRemove(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f := create(t, c, "f")
	if _, err := c.Open(ctx, &vfs.Root, f, vfs.OpenRead, false); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(ctx)
	c.meta.mu.Lock()
	c.meta.applied = func(cmd *metapb.Command, r *metapb.Result) {
		if cmd.GetRemove() != nil {
			cancel()
		}
	}
	c.meta.mu.Unlock()
	if _, err := c.Remove(canceled, &vfs.Root, vfs.RootIno, "f", vfs.RemoveFile); err != nil {
		want(t, vfs.KindUnknown, err)
	}
	eventually(t, "the name is gone", func() bool {
		_, err := c.Lookup(ctx, &vfs.Root, vfs.RootIno, "f")
		return vfs.KindOf(err) == vfs.KindNotFound
	})
	if err := c.volume().Close(ctx, f, vfs.OpenRead); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the inode is gone", func() bool {
		s, err := c.StatFS(ctx, vfs.RootIno)
		return err == nil && s.UsedFiles == 1
	})
}

// slowTruncate lets the flusher work between a change of a size and its answer.
type slowTruncate struct{ *gateway }

func (s slowTruncate) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	r, err := s.gateway.Apply(ctx, shard, cmd)
	if cmd.GetSetAttr().GetSet().GetSize() != 0 {
		time.Sleep(50 * time.Millisecond)
	}
	return r, err
}

// What is cut off in the chunk in which the file then ends is not flushed while the command is under way, by age or pressure:
// it would come back.
func TestFlusherDuringTruncate(t *testing.T) {
	m, b := newMetadata(t), newBlocks()
	g := m.gateway(t, "gw")
	v := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: slowTruncate{g}, Blocks: b, Incarnation: g.incarnation, FlushAge: 5 * time.Millisecond})
	defer v.Abandon()
	f := create(t, v, "f")
	write(t, v, f, 0, fill(20_000, 1), vfs.FileSync)
	write(t, v, f, 30_000, fill(8_000, 2), vfs.Unstable)
	size := uint64(10_000)
	a, err := v.SetAttr(ctx, &vfs.Root, f, vfs.SetAttr{Size: &size}, false)
	if err != nil || a.Size != size {
		t.Fatalf("size %d, %v", a.Size, err)
	}
	write(t, v, f, 50_000, fill(10, 3), vfs.FileSync)
	want := append(append(fill(10_000, 1), make([]byte, 40_000)...), fill(10, 3)...)
	if !bytes.Equal(read(t, v, f, 0, 60_000), want) {
		t.Fatal("what was cut off came back")
	}
}
