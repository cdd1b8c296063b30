package snapstore

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
)

// boundaries are the offsets in a stream at which a header, a name, a content or a checksum begins or ends, and the middle of each content.
func boundaries(s []byte) []int {
	at := []int{0, 8, streamHeader}
	n := be.Uint32(s[24:])
	o := streamHeader
	for range n {
		name := int(be.Uint16(s[o:]))
		size := int(be.Uint64(s[o+2+name:]))
		content := o + 2 + name + 8
		at = append(at, o+2, content, content+size/2, content+size, content+size+4)
		o = content + size + 4
	}
	return at
}

// A receiver that is killed at any boundary of the stream, or in any step of finishing it, comes back with the snapshot it had before
// and nothing else, and takes the stream when it is sent again.
func TestReceiverIsKilled(t *testing.T) {
	a := open(t, 1)
	good := stream(t, a, take(t, a, 50))
	cuts := boundaries(good)
	if cuts[len(cuts)-1] != len(good) {
		t.Fatalf("boundaries %v of a stream of %d bytes", cuts, len(good))
	}
	restart := func(image string) {
		t.Helper()
		s, err := Open(vfile.OS{}, image, 1, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.List()
		if err != nil || len(l) != 1 || l[0].Index != 20 {
			t.Fatalf("after the restart: %v, %v", l, err)
		}
		if es, _ := os.ReadDir(image); len(es) != 1 {
			t.Fatalf("left behind: %v", es)
		}
		id, err := receive(s, good)
		if err != nil {
			t.Fatalf("sent again: %v", err)
		}
		if !bytes.Equal(stream(t, s, id), good) {
			t.Fatal("the copy streams differently")
		}
		if l, err := s.List(); err != nil || len(l) != 1 || l[0].Index != 50 {
			t.Fatalf("after it was sent again: %v, %v", l, err)
		}
	}
	for _, cut := range cuts {
		b := open(t, 1)
		take(t, b, 20)
		k, err := b.Create(1, 50, 3, conf, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Write(good[:cut]); err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(t.TempDir(), "s")
		if err := os.CopyFS(image, os.DirFS(b.dir)); err != nil { // what a killed process leaves
			t.Fatal(err)
		}
		k.Cancel()
		restart(image)
	}
	// All arrived and the record is written, but the directory is not renamed.
	b := open(t, 2)
	take(t, b, 20)
	id, err := receive(b, good)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(b.dir, id), filepath.Join(b.dir, id+tmpSuffix)); err != nil {
		t.Fatal(err)
	}
	restart(b.dir)
}

// endless is a stream of one file of size zeros.
func endless(size int64) io.Reader {
	h := append([]byte(nil), streamMagic...)
	h = be.AppendUint32(h, streamVersion)
	h = be.AppendUint32(h, streamKind)
	h = be.AppendUint64(h, 1)
	h = be.AppendUint32(h, 1)
	h = be.AppendUint32(h, crc32.Checksum(h, castagnoli))
	f := binary.BigEndian.AppendUint16(nil, 3)
	f = append(f, "sst"...)
	f = be.AppendUint64(f, uint64(size))
	return io.MultiReader(bytes.NewReader(h), bytes.NewReader(f), io.LimitReader(zeros{}, size))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Sender and receiver of a snapshot use a fixed amount of memory, whatever its size.
func TestStreamMemory(t *testing.T) {
	const size, limit = 64 << 20, 4 << 20
	allocated := func(fn func()) uint64 {
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		fn()
		runtime.ReadMemStats(&b)
		return b.TotalAlloc - a.TotalAlloc
	}
	if n := allocated(func() {
		// All of it but the checksum at the end.
		if _, _, err := unpack(vfile.OS{}, endless(size), filepath.Join(t.TempDir(), "d")); err == nil {
			t.Error("a stream without its end was accepted")
		}
	}); n > limit {
		t.Errorf("receiving %d MiB allocated %d KiB", size>>20, n>>10)
	}
	// A size that is a lie takes no more.
	if n := allocated(func() {
		if _, _, err := unpack(vfile.OS{}, io.LimitReader(endless(1<<62), 1<<20), filepath.Join(t.TempDir(), "d")); err == nil {
			t.Error("a stream without its end was accepted")
		}
	}); n > limit {
		t.Errorf("receiving a lie allocated %d KiB", n>>10)
	}
	s := open(t, 1)
	k, err := s.Create(1, 50, 3, conf, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.(*Sink).Checkpoint(1, func(dir string) error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, "big"))
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Truncate(size)
	}); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	_, r, err := s.Open(k.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := allocated(func() {
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 32<<10)); err != nil || n < size {
			t.Errorf("sent %d bytes: %v", n, err)
		}
	}); n > limit {
		t.Errorf("sending %d MiB allocated %d KiB", size>>20, n>>10)
	}
}
