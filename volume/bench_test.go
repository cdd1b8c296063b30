package volume_test

import (
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// The benchmarks measure what this package costs: the state machine runs
// without replicas, and blocks are copied in memory.

// BenchmarkWrite1M writes a stream of 1 MiB writes and commits it every 64 MiB.
func BenchmarkWrite1M(b *testing.B) { benchWrite(b, 0, 0) }

// BenchmarkWrite1MLimited does the same where there is a limit, far away.
func BenchmarkWrite1MLimited(b *testing.B) { benchWrite(b, 1<<50, 0) }

// BenchmarkWrite1MCalled does it for a client's calls in 16 slots by turns: a commit names those whose slots have had no other since.
func BenchmarkWrite1MCalled(b *testing.B) { benchWrite(b, 0, 16) }

func benchWrite(b *testing.B, limit uint64, slots int) {
	c := newCrashing(b, volume.Config{Keep: slots > 0})
	if limit > 0 {
		_, err := c.gw.Apply(ctx, testShard, &metapb.Command{Fs: testFS, Op: &metapb.Command_SetQuota{SetQuota: &metapb.SetQuota{Bytes: limit}}})
		if err != nil {
			b.Fatal(err)
		}
	}
	c.blocks.forget = true
	f := create(b, c, "f")
	p := fill(1<<20, 1)
	last := make([]*caller, slots)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if slots == 0 {
			write(b, c, f, uint64(i%1024)<<20, p, vfs.Unstable)
		} else {
			call := calling(uint64(i/slots+1), false)
			call.Slot = uint32(i % slots)
			if i >= slots {
				last[i%slots].answered.Store(true)
			}
			last[i%slots] = call.By.(*caller)
			if _, _, err := c.Write(vfs.WithCall(ctx, call), &vfs.Root, f, uint64(i%1024)<<20, p, vfs.Unstable); err != nil {
				b.Fatal(err)
			}
		}
		if i%64 == 63 {
			commit(b, c, f)
		}
	}
	commit(b, c, f)
}

// BenchmarkRead1M reads a file of 64 MiB in order, with more of it than the
// cache holds.
func BenchmarkRead1M(b *testing.B) {
	c := newCrashing(b, volume.Config{CacheLimitBytes: 32 << 20})
	f, _ := bigFile(b, c, 64<<20)
	p := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, _, err := c.Read(ctx, f, uint64(i%64)<<20, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead4KRandom reads 4 KiB at a time from anywhere, without a lease.
func BenchmarkRead4KRandom(b *testing.B) {
	c := newCrashing(b, volume.Config{CacheLimitBytes: 8 << 20})
	f, _ := bigFile(b, c, 64<<20)
	p := make([]byte, 4<<10)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		off := uint64(i*7919) % (64 << 8) << 12
		if _, _, err := c.Read(ctx, f, off, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSmallFile creates, writes 2 KiB, commits and closes a file.
func BenchmarkSmallFile(b *testing.B) {
	c := newCrashing(b, volume.Config{})
	p := fill(2<<10, 1)
	mode := uint32(0o644)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r, err := c.Create(ctx, &vfs.Root, vfs.RootIno, fmt.Sprint(i), vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
		if err != nil {
			b.Fatal(err)
		}
		write(b, c, r.Attr.Ino, 0, p, vfs.Unstable)
		commit(b, c, r.Attr.Ino)
		if err := c.volume().Close(ctx, r.Attr.Ino, vfs.OpenWrite); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGetAttrLeased asks for what this gateway knows.
func BenchmarkGetAttrLeased(b *testing.B) {
	c := newCrashing(b, volume.Config{})
	f := create(b, c, "f")
	write(b, c, f, 0, fill(100, 1), vfs.Unstable)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.GetAttr(ctx, f); err != nil {
			b.Fatal(err)
		}
	}
}
