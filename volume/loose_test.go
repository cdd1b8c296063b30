package volume_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// noTicks has opens for reading recorded only when the test says so.
var noTicks = volume.Config{Keep: true, KeepAge: 24 * time.Hour}

// reader opens a file for reading.
func (c *crashing) reader(ino vfs.Ino, n int) vfs.Share {
	c.t.Helper()
	s := vfs.Share{Client: 3, State: vfs.StateID{2, byte(n >> 8), byte(n)}, Owner: []byte("reader"), Access: vfs.OpenRead}
	if _, err := c.volume().OpenShared(c.t.Context(), &vfs.Root, ino, vfs.OpenRead, false, s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *crashing) unread(ino vfs.Ino, s vfs.Share) {
	c.t.Helper()
	if err := c.volume().Unshare(c.t.Context(), ino, vfs.Closing{Share: s}); err != nil {
		c.t.Fatal(err)
	}
	if err := c.volume().Close(c.t.Context(), ino, vfs.OpenRead); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crashing) file(name, content string) vfs.Ino {
	c.t.Helper()
	mode := uint32(0o644)
	made, err := c.Create(c.t.Context(), &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, _, err := c.volume().Write(c.t.Context(), &vfs.Root, made.Attr.Ino, 0, []byte(content), vfs.FileSync); err != nil {
		c.t.Fatal(err)
	}
	return made.Attr.Ino
}

// commands counts the commands that are applied from now on.
func (c *crashing) commands() map[string]int {
	n := map[string]int{}
	c.meta.mu.Lock()
	defer c.meta.mu.Unlock()
	c.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) { n[fmt.Sprintf("%T", cmd.Op)[len("*metapb.Command_"):]]++ }
	return n
}

// TestOldOpensAreRecorded shows that opens for reading that go on are recorded, many by one command, and that those that end before that cost none.
func TestOldOpensAreRecorded(t *testing.T) {
	const opens = 600
	c := newCrashing(t, noTicks)
	var inos []vfs.Ino
	for i := range 3 {
		inos = append(inos, c.file(fmt.Sprint("f", i), "content"))
	}
	n := c.commands()
	for i := range opens {
		c.reader(inos[i%3], i)
	}
	c.volume().KeepOld()
	for i := range 100 {
		s := c.reader(inos[0], opens+i)
		if i%2 == 0 {
			c.unread(inos[0], s)
		}
	}
	if len(n) != 0 {
		t.Fatalf("opens for reading that are younger than a tick cost %v", n)
	}
	c.volume().KeepOld()
	if n["KeepOpens"] != 3 || len(n) != 1 {
		t.Fatalf("%d opens for reading that went on cost %v", opens, n)
	}
	if left := c.volume().Loose(); left != 50 {
		t.Fatalf("%d opens are not recorded, want the 50 new ones", left)
	}
	c.volume().KeepOld()
	c.volume().KeepOld()
	c.volume().KeepOld()
	if n["KeepOpens"] != 4 || len(n) != 1 {
		t.Fatalf("50 more and nothing after that cost %v", n)
	}
	c.Crash()
	kept, _, err := c.volume().Resume(t.Context(), 3)
	if err != nil || len(kept) != opens+50 {
		t.Fatalf("%d opens are kept, %v", len(kept), err)
	}
}

// TestOldOpensOfALowerLevel shows that where opens for reading are not recorded their ends cost nothing either.
func TestOldOpensOfALowerLevel(t *testing.T) {
	c := newCrashingAt(t, noTicks, 9)
	ino := c.file("f", "content")
	s := c.reader(ino, 1)
	n := c.commands()
	c.volume().KeepOld()
	c.volume().KeepOld()
	c.unread(ino, s)
	c.settled()
	if n["CloseFiles"] != 0 {
		t.Fatalf("an open that was not recorded cost %v", n)
	}
}

// TestOldOpenKeepsFile shows that a file that a client has had open for reading stays when it is removed after the gateway died, and before its client is heard of again.
func TestOldOpenKeepsFile(t *testing.T) {
	c := newCrashing(t, noTicks)
	ino := c.file("f", "content")
	s := c.reader(ino, 1)
	c.volume().KeepOld()
	c.volume().KeepOld()
	c.Crash()
	if _, err := c.Remove(t.Context(), &vfs.Root, vfs.RootIno, "f", vfs.RemoveAny); err != nil {
		t.Fatal(err)
	}
	kept, _, err := c.volume().Resume(t.Context(), 3)
	if err != nil || len(kept) != 1 || kept[0].Ino != ino || kept[0].Access != vfs.OpenRead || string(kept[0].Owner) != "reader" {
		t.Fatalf("kept %+v, %v", kept, err)
	}
	buf := make([]byte, 10)
	if n, _, err := c.volume().Read(t.Context(), ino, 0, buf); err != nil || string(buf[:n]) != "content" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	c.unread(ino, s)
	c.settled()
	if r, err := c.gw.Query(t.Context(), testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: uint64(ino)}}}); vfs.KindOf(err) != vfs.KindStale {
		t.Fatalf("after the last close: %v, %v", r, err)
	}
}

// TestOldOpenEnds shows that of an open that ends before, while or after it is recorded nothing stays, and that it is recorded later if it could not be.
func TestOldOpenEnds(t *testing.T) {
	c := newCrashing(t, noTicks)
	ino := c.file("f", "content")
	during, failed, after, denied := c.reader(ino, 1), c.reader(ino, 2), c.reader(ino, 3), c.reader(ino, 4)
	c.volume().KeepOld()
	fails := 0
	c.meta.setFail(func(cmd *metapb.Command) error {
		if cmd.GetKeepOpens() != nil {
			if fails++; fails == 1 {
				c.unread(ino, during)
				time.Sleep(200 * time.Millisecond) // its end is told first
				return nil
			}
			if fails == 2 {
				return vfs.KindUnavailable.Err("meta")
			}
		}
		return nil
	})
	c.volume().KeepOld()
	states := func() (out []string) {
		for _, o := range c.kept(ino) {
			out = append(out, fmt.Sprint(o.Stateid[2]))
		}
		return out
	}
	c.volume().Settle(t.Context())
	if got := fmt.Sprint(states()); got != "[2 3 4]" {
		t.Fatalf("after one ended while it was recorded the shard keeps %v", got)
	}
	c.unread(ino, after)
	c.unread(ino, denied)
	again := c.reader(ino, 5)
	for range 2 {
		c.volume().KeepOld()
	}
	if fails != 2 || c.volume().Loose() != 1 {
		t.Fatalf("%d commands, %d opens that are not recorded", fails, c.volume().Loose())
	}
	for range 3 {
		c.volume().KeepOld()
	}
	c.volume().Settle(t.Context())
	if got := fmt.Sprint(states()); got != "[2 5]" {
		t.Fatalf("the shard keeps %v", got)
	}
	c.unread(ino, again)
	c.unread(ino, failed)
	c.settled()
	if got := states(); len(got) != 0 {
		t.Fatalf("the shard keeps %v", got)
	}
}

// TestOldOpenDowngraded shows that an open which was recorded for reading stays so whatever its owner does with it between.
func TestOldOpenDowngraded(t *testing.T) {
	c := newCrashing(t, noTicks)
	ino := c.file("f", "content")
	s := c.reader(ino, 1)
	c.volume().KeepOld()
	c.volume().KeepOld()
	n := c.commands()
	if err := c.volume().Share(t.Context(), ino, s); err != nil {
		t.Fatal(err)
	}
	if _, err := c.volume().OpenShared(t.Context(), &vfs.Root, ino, vfs.OpenRead, false, s); err != nil {
		t.Fatal(err)
	}
	if len(n) != 0 {
		t.Fatalf("what is recorded already cost %v", n)
	}
	both := s
	both.Access |= vfs.OpenWrite
	if _, err := c.volume().OpenShared(t.Context(), &vfs.Root, ino, vfs.OpenWrite, false, both); err != nil {
		t.Fatal(err)
	}
	if err := c.volume().Share(t.Context(), ino, s); err != nil {
		t.Fatal(err)
	}
	if got := c.kept(ino); len(got) != 1 || got[0].Access != 1 {
		t.Fatalf("the shard keeps %v", got)
	}
}

// TestOldOpenGoneElsewhere shows that nothing is recorded for a client that another gateway has by now.
func TestOldOpenGoneElsewhere(t *testing.T) {
	cfg := noTicks
	here := true
	cfg.Serves = func(uint64) (bool, error) { return here, nil }
	c := newCrashing(t, cfg)
	ino := c.file("f", "content")
	c.reader(ino, 1)
	here = false
	for range 5 {
		c.volume().KeepOld()
	}
	if got := c.kept(ino); len(got) != 0 {
		t.Fatalf("the shard keeps %v", got)
	}
	here = true
	for range 3 {
		c.volume().KeepOld()
	}
	if got := c.kept(ino); len(got) != 1 {
		t.Fatalf("the shard keeps %v", got)
	}
}

// TestPresentedOpenIsRecorded shows that a client that comes with an open for reading of a file without a name, which is there because a gateway was ended, gets the record at once: the file
// stays when nothing is held for that gateway any more. Who comes later finds that it is gone.
func TestPresentedOpenIsRecorded(t *testing.T) {
	for _, inTime := range []bool{true, false} {
		c := newCrashing(t, noTicks)
		ino := c.file("f", "content")
		dead := c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
			Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "dead", Incarnation: make([]byte, 16), Leased: true,
		}}}).GetOrigin().GetOrigin()
		expire := func(left bool) {
			c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: dead, Left: left}}})
			for c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: 1000}}}).GetPurge().GetMore() {
			}
		}
		expire(false)
		if _, err := c.Remove(t.Context(), &vfs.Root, vfs.RootIno, "f", vfs.RemoveAny); err != nil {
			t.Fatal(err)
		}
		s := vfs.Share{Client: 3, State: vfs.StateID{9}, Access: vfs.OpenRead} // its owner is not known
		present := func() error {
			_, err := c.volume().OpenShared(t.Context(), &vfs.Root, ino, vfs.OpenRead, true, s)
			return err
		}
		if inTime {
			if err := present(); err != nil {
				t.Fatal(err)
			}
		}
		expire(true)
		if !inTime {
			if err := present(); vfs.KindOf(err) != vfs.KindStale {
				t.Fatalf("what nobody presented in time: %v", err)
			}
			continue
		}
		buf := make([]byte, 10)
		if n, _, err := c.volume().Read(t.Context(), ino, 0, buf); err != nil || string(buf[:n]) != "content" {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
		c.unread(ino, s)
		if err := c.volume().Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.GetAttr(t.Context(), ino); vfs.KindOf(err) != vfs.KindStale {
			t.Fatalf("after the last close: %v", err)
		}
	}
}

// BenchmarkOpenReadClose is a file that is opened, read and closed; and one whose open goes on until it is recorded.
func BenchmarkOpenReadClose(b *testing.B) {
	for _, long := range []bool{false, true} {
		b.Run(map[bool]string{false: "short", true: "recorded"}[long], func(b *testing.B) {
			c := newCrashing(b, noTicks)
			const batch = 256
			var inos [batch]vfs.Ino
			for i := range inos {
				inos[i] = c.file(fmt.Sprint(i), "content")
			}
			buf := make([]byte, 10)
			share := func(i int) vfs.Share {
				return vfs.Share{Client: 3, State: vfs.StateID{2, byte(i >> 8), byte(i)}, Owner: []byte("reader"), Access: vfs.OpenRead}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += batch {
				open := min(batch, b.N-n)
				for i := range open {
					if _, err := c.volume().OpenShared(b.Context(), &vfs.Root, inos[i], vfs.OpenRead, false, share(i)); err != nil {
						b.Fatal(err)
					}
					if _, _, err := c.volume().Read(b.Context(), inos[i], 0, buf); err != nil {
						b.Fatal(err)
					}
				}
				if long {
					c.volume().KeepOld()
					c.volume().KeepOld()
				}
				for i := range open {
					if err := c.volume().Unshare(b.Context(), inos[i], vfs.Closing{Share: share(i)}); err != nil {
						b.Fatal(err)
					}
					if err := c.volume().Close(b.Context(), inos[i], vfs.OpenRead); err != nil {
						b.Fatal(err)
					}
				}
				if long {
					if err := c.volume().Settle(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
