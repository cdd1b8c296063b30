package blockstore

import (
	"testing"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
	"pgregory.net/rapid"
)

func TestShapeTable(t *testing.T) {
	const kib, mib = 1 << 10, 1 << 20
	for _, c := range []struct{ n, k, m, data, shard int }{
		{1, 4, 2, 1, 4 * kib},
		{16 * kib, 4, 2, 1, 16 * kib}, // 16 KiB costs 1+m shards of 16 KiB
		{32*kib - 1, 4, 2, 1, 32 * kib},
		{32 * kib, 4, 2, 1, 32 * kib},
		{32*kib + 1, 4, 2, 2, 20 * kib},
		{128 * kib, 4, 2, 4, 32 * kib}, // from k x 32 KiB on it costs (k+m)/k
		{128*kib + 1, 4, 2, 4, 36 * kib},
		{mib, 4, 2, 4, 256 * kib},
		{4*mib - 1, 4, 2, 4, mib},
		{4 * mib, 4, 2, 4, mib},
		{4 * mib, 1, 0, 1, 4 * mib},
		{4 * mib, 1, 8, 1, 4 * mib},
		{4 * mib, 3, 2, 3, 1400832},              // 4 MiB / 3 = 1398101.3
		{16*32*kib + 1, 16, 4, 16, 32*kib + 512}, // 36 KiB would leave the 16th empty
	} {
		s, err := ShapeOf(c.n, c.k, c.m)
		if err != nil || s.Data != c.data || s.ShardLen != c.shard {
			t.Errorf("%d bytes, %d+%d: %d shards of %d, want %d of %d (%v)", c.n, c.k, c.m, s.Data, s.ShardLen, c.data, c.shard, err)
		}
	}
	for _, c := range [][3]int{{0, 4, 2}, {-1, 4, 2}, {MaxBlock + 1, 4, 2}, {1, 0, 2}, {1, 17, 2}, {1, 4, 9}, {1, 4, -1}} {
		if _, err := ShapeOf(c[0], c[1], c[2]); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestShapeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(1, placement.MaxData).Draw(t, "k")
		m := rapid.IntRange(0, placement.MaxParity).Draw(t, "m")
		n := rapid.OneOf(rapid.IntRange(1, MaxBlock), rapid.IntRange(1, 600<<10),
			rapid.Map(rapid.IntRange(1, 17), func(i int) int { return i*MinShard - 1 }),
			rapid.Map(rapid.IntRange(1, 17), func(i int) int { return i*MinShard + 1 })).Draw(t, "n")
		s, err := ShapeOf(n, k, m)
		if err != nil {
			t.Fatal(err)
		}
		if want := min(k, (n+MinShard-1)/MinShard); s.Data != want {
			t.Fatalf("%d data shards, want %d", s.Data, want)
		}
		if s.ShardLen%512 != 0 || s.PaddedLen() < n || s.PaddedLen()-n > MaxPadding {
			t.Fatalf("%d shards of %d for %d bytes", s.Data, s.ShardLen, n)
		}
		if (s.Data-1)*s.ShardLen >= n {
			t.Fatal("the last data shard is empty")
		}
		if k < 10 && s.ShardLen%4096 != 0 {
			t.Fatal("shards are not whole pages")
		}
		if s.Data < k && s.ShardLen > MinShard {
			t.Fatal("a block with zero shards has long ones: the zeros a reader needs are unbounded")
		}
		stored := 0
		for i := range k + m + 3 {
			if s.Stored(i) {
				stored++
			}
		}
		if stored != s.StoredShards() || stored > k+m {
			t.Fatalf("%d shards stored, want %d", stored, s.StoredShards())
		}
	})
}
