package bench

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// Target is a place under test.
type Target struct {
	Name       string // in results
	Spec       string // KIND:PLACE, as it was asked for
	Durability Durability
	FS         FS
	CPU        Meter    // nil: nobody knows
	ClientCPU  Meter    // of processes that work for the client, such as the daemon of a FUSE mount; nil: there are none
	Options    *Options // nil: those of the run
}

// Dir is a directory as its FS knows it.
type Dir any

// Entry is what a listing or a stat tells.
type Entry struct {
	Name string
	Dir  bool
	Size int64
}

// FS is a file system as workloads use it. What one cannot do it answers with KindNotSupported, and the phase is left out of its results.
// All methods are called from many workers at once.
type FS interface {
	// Root is the directory that the target names.
	Root(ctx context.Context) (Dir, error)
	Mkdir(ctx context.Context, dir Dir, name string) (Dir, error)
	// Enter is a directory that exists.
	Enter(ctx context.Context, dir Dir, name string) (Dir, error)
	// Create makes an empty file; one of that name must not exist.
	Create(ctx context.Context, dir Dir, name string) error
	Stat(ctx context.Context, dir Dir, name string) (Entry, error)
	// List calls each with all entries, with their attributes, in any order.
	List(ctx context.Context, dir Dir, each func(Entry) error) error
	Rename(ctx context.Context, dir Dir, name string, to Dir, newName string) error
	Remove(ctx context.Context, dir Dir, name string) error // a file
	Rmdir(ctx context.Context, dir Dir, name string) error  // an empty one
	// Put makes a file of size bytes, which fill makes, in pieces of len(buf). durable: it is on disk when Put returns.
	Put(ctx context.Context, dir Dir, name string, size int64, buf []byte, durable bool, fill func(p []byte, off int64)) error
	// Get reads a whole file; each gets it in pieces of at most len(buf) in order, and Get fails if they are not size bytes.
	Get(ctx context.Context, dir Dir, name string, size int64, buf []byte, each func(p []byte, off int64) error) error
	// Open opens a file, to read and write; create makes it if it is not there.
	Open(ctx context.Context, dir Dir, name string, create bool) (File, error)
	Close(ctx context.Context) error
}

// File is an open file. Of one File only Read and Write are called at once by several.
type File interface {
	// Write writes p; durable: it is on disk when Write returns.
	Write(ctx context.Context, p []byte, off int64, durable bool) error
	// Read fills p.
	Read(ctx context.Context, p []byte, off int64) error
	// Sync makes all that was written durable.
	Sync(ctx context.Context) error
	// Lock waits for the lock of n bytes from off; the holder is this File.
	Lock(ctx context.Context, off, n int64) error
	Unlock(ctx context.Context, off, n int64) error
	Close(ctx context.Context) error
}

// short is the error of a file that ends too early or too late.
func short(name string, got, want int64) error {
	return vfs.Errorf(vfs.KindCorrupt, "bench.verify", "%s has %d bytes instead of %d", name, got, want)
}

// putFile is Put of a file system that can open files.
func putFile(ctx context.Context, f File, size int64, buf []byte, durable bool, fill func(p []byte, off int64)) error {
	err := func() error {
		for off := int64(0); off < size; off += int64(len(buf)) {
			p := buf[:min(int64(len(buf)), size-off)]
			fill(p, off)
			whole := off == 0 && int64(len(p)) == size
			if err := f.Write(ctx, p, off, durable && whole); err != nil {
				return err
			}
			if whole {
				return nil
			}
		}
		if durable {
			return f.Sync(ctx)
		}
		return nil
	}()
	if cerr := f.Close(ctx); err == nil {
		err = cerr
	}
	return err
}
