package store

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// TestFlippedBitsInIndex flips one bit anywhere in the files of the index: a
// store that opens answers with the right bytes or an error, never with other bytes or
// "not there"; and at the latest the start after such an error has an index that is made anew and whole.
func TestFlippedBitsInIndex(t *testing.T) {
	flips := 25
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		flips = 2000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	o := diskOptions(t)
	s := mustOpen(t, o)
	const shards = 150
	for b := range uint64(shards) {
		mustPut(t, s, key(1, b, 0))
	}
	gone := key(1, shards/2, 0)
	if _, err := s.Delete(context.Background(), []segment.Key{gone}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	index := filepath.Join(o.Dir, "index")
	saved := filepath.Join(t.TempDir(), "index")
	if err := os.CopyFS(saved, os.DirFS(index)); err != nil {
		t.Fatal(err)
	}
	// whole reports the first error of reading everything; other answers fail the test.
	whole := func(s *Store) (first error) {
		for b := range uint64(shards) {
			k := key(1, b, 0)
			want := shardPut(k, 1).Data
			r, err := s.Get(context.Background(), k, 0, len(want))
			switch {
			case k == gone:
				if err == nil {
					t.Fatal("a deleted shard is back")
				}
				if vfs.KindOf(err) != vfs.KindNotFound && first == nil {
					first = err
				}
				continue
			case vfs.KindOf(err) == vfs.KindNotFound:
				t.Fatalf("shard %v is said not to be there", k)
			case err != nil:
				if first == nil {
					first = err
				}
				continue
			case !bytes.Equal(r.Bytes, want):
				t.Fatalf("shard %v has other content", k)
			}
			r.Release()
		}
		return first
	}
	for i := range uint64(flips) {
		if err := os.RemoveAll(index); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(index, os.DirFS(saved)); err != nil {
			t.Fatal(err)
		}
		file, off, bit := flipIn(t, rng, index)
		s := mustOpen(t, o)
		err := whole(s)
		if cerr := s.Close(); cerr != nil && err == nil {
			err = cerr
		}
		if err == nil {
			continue
		}
		s = mustOpen(t, o)
		if err := whole(s); err != nil {
			t.Fatalf("%s, byte %d, bit %d: after another start: %v", file, off, bit, err)
		}
		if got := listAll(t, s, 1, 50); len(got) != shards-1 {
			t.Fatalf("%s, byte %d, bit %d: %d shards are listed, want %d", file, off, bit, len(got), shards-1)
		}
		mustPut(t, s, key(2, i, 0)) // and it takes writes
		mustClose(t, s)
	}
}

// flipIn flips a bit of a file in dir, larger files more often.
func flipIn(t *testing.T, rng *rand.Rand, dir string) (file string, off int64, bit int) {
	t.Helper()
	var files []string
	var sizes []int64
	total := int64(0)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		files, sizes, total = append(files, p), append(sizes, info.Size()), total+info.Size()
		return nil
	})
	if err != nil || total == 0 {
		t.Fatal(total, err)
	}
	at := rng.Int64N(total)
	for i, n := range sizes {
		if at < n {
			file, off = files[i], at
			break
		}
		at -= n
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bit = rng.IntN(8)
	b[off] ^= 1 << bit
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, off, bit
}
