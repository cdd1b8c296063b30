//go:build linux

package posix

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

func dataChecks() []Check {
	return []Check{
		{"sizes", sizes},
		{"append", appendData},
		{"truncate", truncate},
		{"holes", holes},
		{"mmap", mmap},
		{"direct-io", directIO},
		{"sync-writes", syncWrites},
		{"sparse-5gib", sparse},
		{"random-overwrite", randomOverwrite},
		{"fallocate", fallocate},
		{"copy-file-range", copyFileRange},
	}
}

// pattern fills b with bytes that depend on the position in the file and on salt.
func pattern(b []byte, offset int64, salt byte) []byte {
	for i := range b {
		p := uint64(offset) + uint64(i)
		b[i] = byte(p) ^ byte(p>>8)*31 ^ byte(p>>16)*17 ^ salt
	}
	return b
}

// sameBytes fails with the first difference.
func (t *T) sameBytes(what string, got, want []byte) {
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	if bytes.Equal(got, want) {
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: first difference at %d of %d: %#x, want %#x", what, i, len(got), got[i], want[i])
		}
	}
}

// sizes are those where layouts change: inline data, pages, shards of 32 KiB, blocks of 4 MiB, and their neighbours.
func sizes(t *T) {
	list := []int{0, 1, 511, 4095, 4096, 4097, 8192, 32<<10 - 1, 32 << 10, 32<<10 + 1, 64 << 10, 128<<10 + 5, 1 << 20, 1<<20 + 3, 4<<20 - 1, 4 << 20, 4<<20 + 1, 9<<20 + 12345}
	for _, n := range list {
		f, err := os.Create(t.Path(fmt.Sprint(n)))
		t.Must(err, "create")
		_, err = f.Write(pattern(make([]byte, n), 0, byte(n)))
		t.Must(err, "write")
		if n%2 == 0 { // the others are written by close alone
			t.Must(f.Sync(), "fsync")
		}
		t.Must(f.Close(), "close")
	}
	t.Forget()
	for _, n := range list {
		p := t.Path(fmt.Sprint(n))
		Equal(t, "size", t.Stat(p).Size, int64(n))
		got, err := os.ReadFile(p)
		t.Must(err, "read")
		t.sameBytes(fmt.Sprintf("file of %d bytes", n), got, pattern(make([]byte, n), 0, byte(n)))
		f, err := os.Open(p)
		t.Must(err, "open")
		if _, err := f.ReadAt(make([]byte, 1), int64(n)); err != io.EOF {
			t.Fatalf("read at the end: %v", err)
		}
		f.Close()
	}
}

func appendData(t *T) {
	p := t.Path("log")
	var want bytes.Buffer
	a, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	t.Must(err, "open")
	b, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	t.Must(err, "open")
	for i := range 400 {
		line := fmt.Sprintf("%d%s\n", i, bytes.Repeat([]byte{'x'}, t.rng.IntN(300)))
		f := a
		if i%2 == 1 {
			f = b
		}
		_, err := f.WriteString(line)
		t.Must(err, "append")
		want.WriteString(line)
		if i%50 == 49 {
			t.Must(f.Sync(), "fsync")
		}
	}
	t.Must(a.Close(), "close")
	t.Must(b.Close(), "close")
	t.Forget()
	got, err := os.ReadFile(p)
	t.Must(err, "read")
	t.sameBytes("log", got, want.Bytes())
	c, err := os.OpenFile(p, os.O_RDWR|os.O_APPEND, 0)
	t.Must(err, "open")
	defer c.Close()
	t.Must(os.Truncate(p, 3), "truncate")
	_, err = c.WriteString("end")
	t.Must(err, "append after truncate")
	t.Content(p, "0"+want.String()[1:3]+"end")
}

func truncate(t *T) {
	const full = 300_000
	p := t.Path("f")
	want := pattern(make([]byte, full), 0, 1)
	t.Must(os.WriteFile(p, want, 0o644), "write")
	check := func(what string) {
		t.Forget()
		got, err := os.ReadFile(p)
		t.Must(err, "read")
		Equal(t, "size after "+what, t.Stat(p).Size, int64(len(want)))
		t.sameBytes("content after "+what, got, want)
	}
	resize := func(n int) {
		t.Must(os.Truncate(p, int64(n)), "truncate")
		if n <= len(want) {
			want = want[:n:n]
		} else {
			want = append(want, make([]byte, n-len(want))...)
		}
		check(fmt.Sprintf("truncate to %d", n))
	}
	// Shrunk and grown again, what was cut off must not come back.
	for _, n := range []int{250_001, 260_000, 131_072, 131_073, 400_000, 4096, 4097, 4095, 9000, 1, 5000, 0, 70_000} {
		resize(n)
	}
	// Truncate an open file with dirty pages on both sides of the cut.
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	t.Must(err, "open")
	defer f.Close()
	want = pattern(make([]byte, 200_000), 0, 2)
	_, err = f.WriteAt(want, 0)
	t.Must(err, "write")
	t.Must(f.Truncate(100_100), "ftruncate")
	_, err = f.WriteAt(want[:50], 150_000)
	t.Must(err, "write behind the end")
	want = append(append(want[:100_100:100_100], make([]byte, 49_900)...), want[:50]...)
	t.Must(f.Sync(), "fsync")
	check("ftruncate of dirty pages")
	t.Want(os.Truncate(t.Path("none"), 1), "truncate of nothing", unix.ENOENT)
	t.Want(os.Truncate(t.Dir, 1), "truncate of a directory", unix.EISDIR)
	if err := unix.Ftruncate(int(f.Fd()), -1); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("truncate to -1: %v", err)
	}
}

func holes(t *T) {
	p := t.Path("f")
	f, err := os.Create(p)
	t.Must(err, "create")
	defer f.Close()
	want := make([]byte, 11<<20+100)
	for _, at := range []int{5 << 20, 11 << 20, 4096*700 - 10, 33} {
		pattern(want[at:at+100], int64(at), 3)
		_, err = f.WriteAt(want[at:at+100], int64(at))
		t.Must(err, "write")
	}
	t.Must(f.Sync(), "fsync")
	t.Forget()
	got, err := os.ReadFile(p)
	t.Must(err, "read")
	t.sameBytes("file with holes", got, want)
	// SEEK_DATA and SEEK_HOLE may know nothing and call everything data, but must not call data a hole.
	at, err := f.Seek(0, unix.SEEK_DATA)
	t.Must(err, "SEEK_DATA")
	if at > 33 {
		t.Fatalf("SEEK_DATA skips data: %d", at)
	}
	at, err = f.Seek(5<<20, unix.SEEK_HOLE)
	t.Must(err, "SEEK_HOLE")
	if at < 5<<20+100 || at > int64(len(want)) {
		t.Fatalf("SEEK_HOLE: %d lies in data or behind the end", at)
	}
}

func mmap(t *T) {
	const size = 3*65536 + 100
	p := t.Path("f")
	want := pattern(make([]byte, size), 0, 4)
	t.Must(os.WriteFile(p, want, 0o644), "write")
	t.Forget()
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	t.Must(err, "open")
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	t.Must(err, "mmap")
	t.sameBytes("mapped bytes", m, want)
	for _, at := range []int{0, 4095, 65536, 100_000, size - 7} {
		copy(m[at:], "mapped!")
		copy(want[at:], "mapped!")
	}
	t.Must(unix.Msync(m, unix.MS_SYNC), "msync")
	t.Forget()
	got, err := os.ReadFile(p)
	t.Must(err, "read")
	t.sameBytes("bytes written through the mapping", got, want)
	_, err = f.WriteAt([]byte("written"), 8000)
	t.Must(err, "write")
	copy(want[8000:], "written")
	t.sameBytes("mapping after a write", m, want)
	copy(m[50_000:], "later")
	copy(want[50_000:], "later")
	t.Must(unix.Munmap(m), "munmap")
	t.Must(f.Sync(), "fsync")
	t.Forget()
	got, err = os.ReadFile(p)
	t.Must(err, "read")
	t.sameBytes("bytes written before munmap", got, want)
}

// aligned returns n bytes at a page boundary, as O_DIRECT wants.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & 4095)
	return b[skip : skip+n : skip+n]
}

func directIO(t *T) {
	const size = 1<<20 + 64<<10
	p := t.Path("f")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o644)
	if errors.Is(err, unix.EINVAL) {
		t.Skipf("no O_DIRECT here")
	}
	t.Must(err, "open")
	defer f.Close()
	buf := pattern(aligned(size), 0, 5)
	_, err = f.WriteAt(buf, 0)
	t.Must(err, "write")
	want := append([]byte(nil), buf...)
	_, err = f.WriteAt(pattern(aligned(8192), 0, 6), 65536)
	t.Must(err, "overwrite")
	copy(want[65536:], pattern(make([]byte, 8192), 0, 6))
	got := aligned(size)
	n, err := f.ReadAt(got, 0)
	t.Must(err, "read")
	t.sameBytes("direct read", got[:n], want)
	through, err := os.ReadFile(p)
	t.Must(err, "buffered read")
	t.sameBytes("buffered read of direct writes", through, want)
}

func syncWrites(t *T) {
	p := t.Path("f")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR|unix.O_SYNC, 0o644)
	t.Must(err, "open")
	defer f.Close()
	var want []byte
	for i := range 20 {
		b := pattern(make([]byte, 100+i*700), int64(len(want)), byte(i))
		_, err := f.Write(b)
		t.Must(err, "O_SYNC write")
		want = append(want, b...)
	}
	t.Forget()
	got, err := os.ReadFile(p)
	t.Must(err, "read")
	t.sameBytes("O_SYNC file", got, want)
}

func sparse(t *T) {
	const at = 5<<30 + 12345
	f, err := os.Create(t.Path("f"))
	t.Must(err, "create")
	defer f.Close()
	_, err = f.WriteAt([]byte("far out"), at)
	t.Must(err, "write at 5 GiB")
	t.Must(f.Sync(), "fsync")
	t.Forget()
	Equal(t, "size", t.Stat(t.Path("f")).Size, int64(at+7))
	b := make([]byte, 4096)
	n, err := f.ReadAt(b, at-100)
	if err != io.EOF {
		t.Fatalf("read to the end: %v", err)
	}
	t.sameBytes("end of the file", b[:n], append(make([]byte, 100), "far out"...))
	_, err = f.ReadAt(b, 3<<30)
	t.Must(err, "read in the hole")
	t.sameBytes("hole", b, make([]byte, 4096))
	t.Must(f.Truncate(4<<30+1), "truncate to 4 GiB and a byte")
	Equal(t, "size", t.Stat(t.Path("f")).Size, int64(4<<30+1))
}

// randomOverwrite does the same random operations to a file on the mount and to a local reference.
func randomOverwrite(t *T) {
	const operations, limit = 400, 6 << 20
	ref, err := os.Create(filepath.Join(t.opt.Scratch, fmt.Sprint("reference-", os.Getpid())))
	t.Must(err, "reference")
	defer os.Remove(ref.Name())
	defer ref.Close()
	p := t.Path("f")
	f, err := os.Create(p)
	t.Must(err, "create")
	defer func() { f.Close() }()
	for i := range operations {
		what := fmt.Sprintf("operation %d", i)
		at := t.rng.Int64N(limit)
		n := 1 + t.rng.IntN(1<<(4+t.rng.IntN(15))) // sizes of every order of magnitude, up to 256 KiB
		switch k := t.rng.IntN(100); {
		case k < 55:
			b := pattern(make([]byte, n), at, byte(i))
			_, e1 := f.WriteAt(b, at)
			_, e2 := ref.WriteAt(b, at)
			t.Must(errors.Join(e1, e2), what+": write")
		case k < 75:
			got, want := make([]byte, n), make([]byte, n)
			ng, e1 := f.ReadAt(got, at)
			nw, e2 := ref.ReadAt(want, at)
			if (e1 == nil) != (e2 == nil) {
				t.Fatalf("%s: read at %d: %v, want %v", what, at, e1, e2)
			}
			t.sameBytes(fmt.Sprintf("%s: read at %d", what, at), got[:ng], want[:nw])
		case k < 83:
			t.Must(errors.Join(f.Truncate(at), ref.Truncate(at)), what+": truncate")
		case k < 93:
			t.Must(f.Sync(), what+": fsync")
		case k < 97:
			t.Must(f.Close(), what+": close")
			f, err = os.OpenFile(p, os.O_RDWR, 0)
			t.Must(err, what+": open")
		default:
			t.Forget()
		}
	}
	t.Must(f.Sync(), "fsync")
	t.Forget()
	t.sameFiles(p, ref.Name())
}

func (t *T) sameFiles(got, want string) {
	g, err := os.ReadFile(got)
	t.Must(err, "read")
	w, err := os.ReadFile(want)
	t.Must(err, "read the reference")
	if sha256.Sum256(g) != sha256.Sum256(w) {
		t.sameBytes("file and reference", g, w)
	}
}

func fallocate(t *T) {
	f, err := os.Create(t.Path("f"))
	t.Must(err, "create")
	defer f.Close()
	want := pattern(make([]byte, 300_000), 0, 7)
	_, err = f.Write(want)
	t.Must(err, "write")
	err = unix.Fallocate(int(f.Fd()), 0, 0, 400_000)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("no fallocate here")
	}
	t.Must(err, "fallocate")
	want = append(want, make([]byte, 100_000)...)
	t.Must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5000, 100_000), "punch a hole")
	clear(want[5000:105_000])
	t.Must(f.Sync(), "fsync")
	t.Forget()
	got, err := os.ReadFile(t.Path("f"))
	t.Must(err, "read")
	t.sameBytes("file with a punched hole", got, want)
}

func copyFileRange(t *T) {
	want := pattern(make([]byte, 700_000), 0, 8)
	t.Must(os.WriteFile(t.Path("a"), want, 0o644), "write")
	a, err := os.Open(t.Path("a"))
	t.Must(err, "open")
	defer a.Close()
	b, err := os.Create(t.Path("b"))
	t.Must(err, "create")
	defer b.Close()
	from, to := int64(1000), int64(50)
	for from < int64(len(want)) {
		n, err := unix.CopyFileRange(int(a.Fd()), &from, int(b.Fd()), &to, len(want)-int(from), 0)
		t.Must(err, "copy_file_range")
		if n == 0 {
			t.Fatalf("copy_file_range ends at %d of %d", from, len(want))
		}
	}
	t.Must(b.Sync(), "fsync")
	t.Forget()
	got, err := os.ReadFile(t.Path("b"))
	t.Must(err, "read")
	t.sameBytes("copy", got, append(make([]byte, 50), want[1000:]...))
}
