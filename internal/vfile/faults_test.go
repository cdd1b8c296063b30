package vfile

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
)

// once is a plan that fails the nth operation of a kind on a name.
func once(op Op, name string, nth int, x Fault) func(Call) *Fault {
	return func(c Call) *Fault {
		if c.Op == op && c.Name == name && c.Nth == nth {
			return &x
		}
		return nil
	}
}

func TestFaults(t *testing.T) {
	both(t, func(t *testing.T, fs FS, dir string) {
		a := dir + "/a"
		wantEIO := func(err error) {
			t.Helper()
			if !errors.Is(err, syscall.EIO) {
				t.Fatalf("got %v, want EIO", err)
			}
		}
		eio := Fault{Err: syscall.EIO}
		_, err := NewFaults(fs, once(OpCreate, a, 1, eio)).Create(a)
		wantEIO(err)
		if _, err := fs.Open(a); !IsNotExist(err) {
			t.Fatalf("a create that failed made a file: %v", err)
		}
		// Failed only in its report.
		_, err = NewFaults(fs, once(OpCreate, a, 1, Fault{Err: syscall.EIO, Keep: 1})).Create(a)
		wantEIO(err)

		// The third write keeps five bytes of two buffers; the others are whole.
		f, err := NewFaults(fs, once(OpWrite, a, 3, Fault{Err: syscall.ENOSPC, Keep: 5})).Open(a)
		must(t, err)
		allocate(t, f, 2*PageSize)
		_, err = f.WriteAt([]byte("0123456789"), 0)
		must(t, err)
		must(t, f.WriteVec([][]byte{[]byte("ab")}, 0))
		if err := f.WriteVec([][]byte{[]byte("xyz"), []byte("uvw")}, 2); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("torn write: %v", err)
		}
		_, err = f.WriteAt([]byte("!"), 9)
		must(t, err)
		got := make([]byte, 10)
		_, err = f.ReadAt(got, 0)
		must(t, err)
		if string(got) != "abxyzuv78!" {
			t.Fatalf("a torn write left %q", got)
		}
		must(t, f.Close())
		f, err = NewFaults(fs, once(OpRead, a, 2, eio)).Open(a)
		must(t, err)
		_, err = f.ReadAt(got, 0)
		must(t, err)
		_, err = f.ReadAt(got, 0)
		wantEIO(err)
		must(t, f.Close())
		wantEIO(NewFaults(fs, once(OpRename, a, 1, eio)).Rename(a, dir+"/b"))
		wantEIO(NewFaults(fs, once(OpSyncDir, dir, 1, eio)).SyncDir(dir))
		if _, err := fs.Open(a); err != nil {
			t.Fatalf("a rename that failed moved the file: %v", err)
		}
	})
}

// What a sync failed to make durable is lost for good, though it reads back and later syncs succeed.
func TestFailedSyncLoses(t *testing.T) {
	m := NewMem(-1)
	must(t, MkdirAllSync(m, "/d"))
	f, err := NewFaults(m, once(OpSyncData, "/d/a", 2, Fault{Err: syscall.EIO})).Create("/d/a")
	must(t, err)
	must(t, m.SyncDir("/d"))
	page := func(b byte) []byte { return bytes.Repeat([]byte{b}, PageSize) }
	read := func(fs FS, off int64) byte {
		t.Helper()
		p, err := ReadFile(fs, "/d/a", 1<<20)
		must(t, err)
		return p[off]
	}
	_, err = f.WriteAt(append(page(1), page(1)...), 0)
	must(t, err)
	must(t, f.SyncData())
	_, err = f.WriteAt(page(2), 0)
	must(t, err)
	if err := f.SyncData(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	_, err = f.WriteAt(page(3), PageSize)
	must(t, err)
	must(t, f.SyncData())
	if read(m, 0) != 2 || read(m, PageSize) != 3 {
		t.Fatal("the cache does not show what was written")
	}
	c := m.CrashClone(rand.New(rand.NewPCG(1, 1)), 1, nil)
	if read(c, 0) != 1 || read(c, PageSize) != 3 {
		t.Fatalf("a power cut left %d %d, want 1 3", read(c, 0), read(c, PageSize))
	}
	must(t, f.DropCache())
	if read(m, 0) != 1 || read(m, PageSize) != 3 {
		t.Fatalf("without the cache: %d %d, want 1 3", read(m, 0), read(m, PageSize))
	}
	// A page that is written again is durable again.
	_, err = f.WriteAt(page(4), 0)
	must(t, err)
	must(t, f.SyncData())
	if c := m.CrashClone(rand.New(rand.NewPCG(1, 1)), 0, nil); read(c, 0) != 4 {
		t.Fatal("the page is not written any more")
	}
}
