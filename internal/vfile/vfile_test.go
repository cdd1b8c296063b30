package vfile

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
)

// both runs f against the real file system and the one in memory: a store
// must not be able to tell them apart.
func both(t *testing.T, f func(t *testing.T, fs FS, dir string)) {
	t.Run("os", func(t *testing.T) { f(t, OS{}, t.TempDir()) })
	t.Run("mem", func(t *testing.T) {
		m := NewMem(-1)
		if err := m.MkdirAll("/d"); err != nil {
			t.Fatal(err)
		}
		f(t, m, "/d")
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func allocate(t *testing.T, f File, size int64) {
	t.Helper()
	_, err := f.Allocate(size)
	must(t, err)
}

func TestFileSystem(t *testing.T) {
	both(t, func(t *testing.T, fs FS, dir string) {
		f, err := fs.Create(dir + "/a")
		must(t, err)
		if _, err := fs.Create(dir + "/a"); err == nil {
			t.Fatal("Create of an existing name succeeded")
		}
		allocate(t, f, 3*PageSize)
		bufs := [][]byte{{1, 2, 3}, nil, bytes.Repeat([]byte{7}, PageSize), {9}}
		must(t, f.WriteVec(bufs, PageSize-2))
		if len(bufs[0]) != 3 || len(bufs[2]) != PageSize {
			t.Fatal("WriteVec modified its buffers")
		}
		got := make([]byte, PageSize+6)
		_, err = f.ReadAt(got, PageSize-3)
		must(t, err)
		want := append([]byte{0, 1, 2, 3}, bytes.Repeat([]byte{7}, PageSize)...)
		want = append(want, 9, 0)
		if !bytes.Equal(got, want) {
			t.Fatal("read differs from what was written")
		}
		if n, err := f.ReadAt(got, 3*PageSize-1); n != 1 || err == nil {
			t.Fatalf("read over the end: n=%d err=%v, want 1 and EOF", n, err)
		}
		must(t, f.Zero(PageSize, 2*PageSize+1<<20))
		got = bytes.Repeat([]byte{5}, 3*PageSize+1<<20)
		n, err := f.ReadAt(got, 0)
		must(t, err)
		if n != len(got) || !bytes.Equal(got[PageSize-2:], append([]byte{1, 2}, make([]byte, 2*PageSize+1<<20)...)) {
			t.Fatal("Zero did not zero, or zeroed too much")
		}
		must(t, f.SyncData())
		must(t, f.DropCache())
		must(t, f.DropRange(0, PageSize))
		must(t, fs.SyncDir(dir))
		must(t, fs.Rename(dir+"/a", dir+"/b"))
		names, err := fs.List(dir)
		must(t, err)
		if len(names) != 1 || names[0] != "b" {
			t.Fatalf("names %v, want [b]", names)
		}
		if _, err := fs.Open(dir + "/a"); !IsNotExist(err) {
			t.Fatalf("open of a renamed name: %v", err)
		}
		must(t, f.Close())

		must(t, WriteFileAtomic(fs, dir, "s", []byte("one")))
		must(t, WriteFileAtomic(fs, dir, "s", []byte("two")))
		p, err := ReadFile(fs, dir+"/s", 100)
		must(t, err)
		if string(p) != "two" {
			t.Fatalf("got %q", p)
		}

		l, err := fs.Lock(dir + "/LOCK")
		must(t, err)
		if _, err := fs.Lock(dir + "/LOCK"); !errors.Is(err, ErrLocked) {
			t.Fatalf("second lock: %v, want ErrLocked", err)
		}
		must(t, l.Close())
		l, err = fs.Lock(dir + "/LOCK")
		must(t, err)
		must(t, l.Close())
	})
}

func TestCrashClone(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var sawOld, sawNew, sawTorn, sawName bool
	for range 200 {
		m := NewMem(-1)
		must(t, MkdirAllSync(m, "/d"))
		f, err := m.Create("/d/kept")
		must(t, err)
		old, new := bytes.Repeat([]byte{1}, 2*PageSize), bytes.Repeat([]byte{2}, PageSize)
		_, err = f.WriteAt(old, 0)
		must(t, err)
		must(t, f.SyncData())
		must(t, m.SyncDir("/d"))
		_, err = f.WriteAt(new, 0)
		must(t, err)
		_, err = m.Create("/d/unsynced")
		must(t, err)

		c := m.CrashClone(rng, 0.5, nil)
		_, err = f.WriteAt(bytes.Repeat([]byte{3}, 2*PageSize), 0)
		must(t, err)
		must(t, f.Sync())
		got, err := ReadFile(c, "/d/kept", 1<<20)
		must(t, err)
		if !bytes.Equal(got[PageSize:], old[PageSize:]) {
			t.Fatal("a synced page changed in the clone")
		}
		switch p := got[:PageSize]; {
		case bytes.Equal(p, old[:PageSize]):
			sawOld = true
		case bytes.Equal(p, new):
			sawNew = true
		default:
			sawTorn = true
			for s := 0; s < PageSize; s += sectorSize {
				if x := p[s]; x != 1 && x != 2 || !bytes.Equal(p[s:s+sectorSize], bytes.Repeat([]byte{x}, sectorSize)) {
					t.Fatal("a sector is neither old nor new")
				}
			}
		}
		if _, err := c.Open("/d/unsynced"); err == nil {
			sawName = true
		}
		// The clone is a file system of its own and can crash again.
		cf, err := c.Open("/d/kept")
		must(t, err)
		_, err = cf.WriteAt([]byte{9}, 0)
		must(t, err)
		c2 := c.CrashClone(rng, 0, nil)
		again, err := ReadFile(c2, "/d/kept", 1<<20)
		must(t, err)
		if !bytes.Equal(again, got) {
			t.Fatal("what one crash left changed in the next")
		}
	}
	if !sawOld || !sawNew || !sawTorn || !sawName {
		t.Fatalf("crashes are too tame: old %v new %v torn %v name %v", sawOld, sawNew, sawTorn, sawName)
	}
}

func TestMemFull(t *testing.T) {
	m := NewMem(2 * PageSize)
	must(t, m.MkdirAll("/d"))
	f, err := m.Create("/d/a")
	must(t, err)
	allocate(t, f, 2*PageSize)
	if _, err := f.WriteAt([]byte{1}, 2*PageSize); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write over capacity: %v, want ENOSPC", err)
	}
	must(t, m.Remove("/d/a"))
	if n, _ := m.Free("/d"); n != 2*PageSize {
		t.Fatalf("free %d after remove", n)
	}
}
