package snapstore

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, retain int) *Store {
	t.Helper()
	s, err := Open(vfile.OS{}, filepath.Join(t.TempDir(), "s"), retain, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var conf = raft.Configuration{Servers: []raft.Server{{ID: "n1.x", Address: "n1.x"}}}

// take makes a snapshot with a few files, one of them empty.
func take(t testing.TB, s *Store, index uint64) string {
	t.Helper()
	k, err := s.Create(1, index, 3, conf, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.(*Sink).Checkpoint(index-1, func(dir string) error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		for name, n := range map[string]int{"000001.sst": 20_000, "MANIFEST-1": 17, "empty": 0} {
			if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), n), 0o600); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	return k.ID()
}

func stream(t testing.TB, s *Store, id string) []byte {
	t.Helper()
	meta, r, err := s.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != meta.Size {
		t.Fatalf("stream of %d bytes, announced %d", len(b), meta.Size)
	}
	return b
}

// receive writes b in pieces to a new sink of s.
func receive(s *Store, b []byte) (string, error) {
	k, err := s.Create(1, 50, 3, conf, 1, nil)
	if err != nil {
		return "", err
	}
	for len(b) > 0 {
		n := min(len(b), 10_007)
		if _, err := k.Write(b[:n]); err != nil {
			k.Cancel()
			return "", err
		}
		b = b[n:]
	}
	return k.ID(), k.Close()
}

func TestStreamRoundTrip(t *testing.T) {
	a, b := open(t, 1), open(t, 1)
	id := take(t, a, 50)
	id2, err := receive(b, stream(t, a, id))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stream(t, a, id), stream(t, b, id2)) {
		t.Fatal("the copy streams differently")
	}
	r, err := b.Newest()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Record.Applied != 49 || r.Record.Index != 50 || len(r.Record.Configuration.Servers) != 1 {
		t.Fatalf("record %+v", r.Record)
	}
}

// Any flipped byte and any truncation of a stream is noticed, and leaves nothing behind.
func TestDamagedStream(t *testing.T) {
	a, b := open(t, 1), open(t, 1)
	good := stream(t, a, take(t, a, 50))
	try := func(what string, bad []byte) {
		t.Helper()
		if _, err := receive(b, bad); err == nil {
			t.Errorf("%s was accepted", what)
		}
		if es, _ := os.ReadDir(b.dir); len(es) != 0 {
			t.Fatalf("%s left %v", what, es)
		}
	}
	for i := 0; i < len(good); i += 1 + i/16 { // dense at the headers, sparse in contents
		bad := bytes.Clone(good)
		bad[i] ^= 0x20
		try(fmt.Sprintf("byte %d changed", i), bad)
	}
	for _, n := range []int{1, 31, 32, 40, len(good) / 2, len(good) - 1} {
		try(fmt.Sprintf("first %d bytes", n), good[:n])
	}
	try("a longer stream", append(bytes.Clone(good), 0))
	if _, err := receive(b, good); err != nil {
		t.Fatal(err)
	}
}

func TestRetention(t *testing.T) {
	s := open(t, 2)
	first := take(t, s, 10)
	_, r, err := s.Open(first)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(20); i <= 50; i += 10 {
		take(t, s, i)
	}
	// The first is being read: it stays until that ends.
	if b, err := io.ReadAll(r); err != nil || len(b) == 0 {
		t.Fatalf("read of an old snapshot: %v", err)
	}
	r.Close()
	l, err := s.List()
	if err != nil || len(l) != 2 || l[0].Index != 50 || l[1].Index != 40 {
		t.Fatalf("kept %v, %v", l, err)
	}
	if es, _ := os.ReadDir(s.dir); len(es) != 2 {
		t.Fatalf("directories %v", es)
	}
}

func TestReopen(t *testing.T) {
	s := open(t, 3)
	take(t, s, 10)
	if err := os.MkdirAll(filepath.Join(s.dir, "20-3-9.tmp", "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	s2, err := Open(vfile.OS{}, s.dir, 3, s.log)
	if err != nil {
		t.Fatal(err)
	}
	take(t, s2, 10) // the same index again: another name
	l, err := s2.List()
	if err != nil || len(l) != 2 {
		t.Fatalf("%v %v", l, err)
	}
	path := filepath.Join(s.dir, l[0].ID, recordFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[10] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s2.List(); vfs.KindOf(err) != vfs.KindCorrupt {
		t.Fatalf("a damaged record: %v", err)
	}
}

func FuzzStream(f *testing.F) {
	s := open(f, 1)
	b := stream(f, s, take(f, s, 50))
	f.Add(b[:200])
	f.Add([]byte(streamMagic))
	// What a stream says of its files must not be believed before they came.
	const mayAllocate = 8 << 20
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := filepath.Join(t.TempDir(), "d")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		defer func() {
			if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > mayAllocate {
				t.Fatalf("%d bytes allocated for a stream of %d", after.TotalAlloc-before.TotalAlloc, len(b))
			}
		}()
		if _, files, err := unpack(vfile.OS{}, bytes.NewReader(b), dir); err == nil && len(files) == 0 {
			t.Fatal("nothing was accepted")
		}
	})
}
