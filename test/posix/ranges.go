//go:build linux

package posix

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func rangeChecks() []Check {
	return []Check{
		{"allocate", allocate},
		{"punch-hole", punchHole},
		{"seek-data-hole", seekDataHole},
		{"clone", cloneFile},
		{"clone-range", cloneRange},
		{"copy-range", copyRange},
		{"copy-range-over-itself", copyRangeOverItself},
		{"copy-range-large", copyRangeLarge},
	}
}

// nfsVersion is the version of the mount that dir lies on; empty if that is not NFS.
func nfsVersion(t *T) string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	t.Must(err, "read mountinfo")
	at, version := "", ""
	for line := range strings.Lines(string(b)) {
		// id parent device root mountpoint options [optional]... - type source super-options
		head, tail, ok := strings.Cut(strings.TrimSpace(line), " - ")
		h, f := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 5 || len(f) < 3 || !strings.HasPrefix(t.Dir+"/", strings.TrimSuffix(h[4], "/")+"/") || len(h[4]) < len(at) {
			continue
		}
		at, version = h[4], ""
		if f[0] != "nfs4" {
			continue
		}
		for o := range strings.SplitSeq(f[2], ",") {
			if v, ok := strings.CutPrefix(o, "vers="); ok {
				version = v
			}
		}
	}
	return version
}

// ranges ends the check when err says that there is no such operation: as it must be before NFSv4.2, as it may be on local file
// systems, and as it must not be with NFSv4.2.
func (t *T) ranges(err error, what string) {
	none := errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS)
	switch v := nfsVersion(t); {
	case v != "" && v != "4.2" && !none:
		t.Fatalf("%s over NFSv%s: %v, want that there is none", what, v, err)
	case none && (v != "4.2" || strings.HasPrefix(what, "cloning") && t.opt.LocalLimits):
		t.Skipf("no %s here", what)
	}
	t.Must(err, what)
}

func (t *T) create(name string) *os.File {
	f, err := os.Create(t.Path(name))
	t.Must(err, "create "+name)
	return f
}

func (t *T) writeAt(f *os.File, p []byte, at int64) {
	_, err := f.WriteAt(p, at)
	t.Must(err, "write")
}

// holds compares a file with want now, and after the kernel forgot it.
func (t *T) holds(f *os.File, what string, want []byte) {
	for range 2 {
		got, err := os.ReadFile(f.Name())
		t.Must(err, "read")
		t.sameBytes(what, got, want)
		t.Must(f.Sync(), "fsync")
		t.Forget()
	}
}

const keepHole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE

func allocate(t *T) {
	f := t.create("f")
	defer f.Close()
	want := pattern(make([]byte, 10_000), 0, 1)
	t.writeAt(f, want, 0)
	t.Must(f.Sync(), "fsync")
	t.ranges(unix.Fallocate(int(f.Fd()), 0, 5000, 1<<20), "fallocate")
	want = append(want, make([]byte, 5000+1<<20-len(want))...)
	t.holds(f, "allocated file", want)
	st := t.Stat(f.Name())
	if Equal(t, "size", st.Size, int64(len(want))); st.Blocks*512 < 1<<20 {
		t.Fatalf("%d blocks of 512 bytes for 1 MiB", st.Blocks)
	}
	// What is written into it takes no more space, and is not taken away by allocating again.
	t.writeAt(f, pattern(want[300_000:700_000], 300_000, 2), 300_000)
	t.Must(f.Sync(), "fsync")
	t.Must(unix.Fallocate(int(f.Fd()), 0, 0, 900_000), "fallocate what is there")
	t.holds(f, "written file", want)
	if now := t.Stat(f.Name()).Blocks; nfsVersion(t) != "" && now > st.Blocks+8 {
		t.Fatalf("%d blocks after a write into %d", now, st.Blocks)
	}
	// Far beyond what there is.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<60); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EFBIG) {
		t.Fatalf("fallocate 1 EiB: %v, want %v", err, unix.ENOSPC)
	}
	t.holds(f, "file after a refused fallocate", want)
	r, err := os.Open(f.Name())
	t.Must(err, "open")
	defer r.Close()
	t.Want(unix.Fallocate(int(r.Fd()), 0, 0, 1), "fallocate of a file that is open for reading", unix.EBADF)
}

func punchHole(t *T) {
	f := t.create("f")
	defer f.Close()
	want := pattern(make([]byte, 9<<20), 0, 3)
	t.writeAt(f, want, 0)
	t.Must(f.Sync(), "fsync")
	before := t.Stat(f.Name())
	for i, c := range []struct{ at, n int64 }{{0, 1}, {4096, 4096}, {5000, 100_000}, {4<<20 - 5, 10}, {1 << 20, 3 << 20}, {9<<20 - 100, 4096}, {6 << 20, 2<<20 + 1}} {
		if i%2 == 0 { // over what is only in the client's memory
			t.writeAt(f, pattern(want[c.at:min(c.at+500, 9<<20)], c.at, byte(i)), c.at)
		}
		t.ranges(unix.Fallocate(int(f.Fd()), keepHole, c.at, c.n), "punching of holes")
		clear(want[c.at:min(c.at+c.n, 9<<20)])
		t.holds(f, "punched file", want)
	}
	after := t.Stat(f.Name())
	Equal(t, "size", after.Size, before.Size)
	if after.Blocks*512 > 5<<20 {
		t.Fatalf("%d bytes used, 5 MiB of 9 are holes", after.Blocks*512)
	}
	if after.Mtim.Nano() <= before.Mtim.Nano() || after.Ctim.Nano() <= before.Ctim.Nano() {
		t.Fatalf("mtime and ctime stay")
	}
	t.Must(unix.Fallocate(int(f.Fd()), keepHole, 1<<40, 1<<40), "punch a hole behind the end")
	Equal(t, "size", t.Stat(f.Name()).Size, before.Size)
}

func seekDataHole(t *T) {
	f := t.create("f")
	defer f.Close()
	const page = 65536 // of any file system
	t.writeAt(f, pattern(make([]byte, 2*page), 0, 4), 0)
	t.writeAt(f, pattern(make([]byte, page), 0, 4), 100*page)
	t.Must(f.Truncate(1<<30), "truncate")
	t.Must(f.Sync(), "fsync")
	t.Forget()
	const size = 1 << 30
	version := nfsVersion(t)
	for _, c := range []struct{ from, data, hole int64 }{
		{0, 0, 2 * page}, {page + 5, page + 5, 2 * page}, {2 * page, 100 * page, 2 * page}, {50 * page, 100 * page, 50 * page},
		{100 * page, 100 * page, 101 * page}, {101 * page, -1, 101 * page}, {size - 1, -1, size - 1}, {size, -1, -1}, {size + 1, -1, -1},
	} {
		for whence, want := range map[int]int64{unix.SEEK_DATA: c.data, unix.SEEK_HOLE: c.hole} {
			if version != "" && version != "4.2" { // all is data, up to the end
				switch {
				case c.from >= size:
					want = -1
				case whence == unix.SEEK_DATA:
					want = c.from
				default:
					want = size
				}
			}
			got, err := unix.Seek(int(f.Fd()), c.from, whence)
			if want < 0 {
				if !errors.Is(err, unix.ENXIO) {
					t.Fatalf("whence %d from %d: %d, %v; want %v", whence, c.from, got, err, unix.ENXIO)
				}
				continue
			}
			if err != nil || got != want {
				t.Fatalf("whence %d from %d: %d, %v; want %d", whence, c.from, got, err, want)
			}
		}
	}
}

func cloneFile(t *T) {
	src, dst := t.create("src"), t.create("dst")
	defer src.Close()
	defer dst.Close()
	data := pattern(make([]byte, 9<<20+123), 0, 5)
	t.writeAt(src, data, 0)
	t.writeAt(dst, []byte("what was there"), 0)
	t.ranges(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), "cloning")
	t.holds(dst, "clone", data)
	// Each is its own.
	t.writeAt(src, []byte("source"), 1<<20)
	t.writeAt(dst, []byte("clone"), 2<<20)
	inSrc, inDst := bytes.Clone(data), bytes.Clone(data)
	copy(inSrc[1<<20:], "source")
	copy(inDst[2<<20:], "clone")
	t.holds(src, "source", inSrc)
	t.holds(dst, "clone", inDst)
	t.Must(os.Remove(src.Name()), "remove the source")
	t.Must(src.Close(), "close the source")
	t.Forget()
	t.holds(dst, "clone without its source", inDst)
	Equal(t, "size", t.Stat(dst.Name()).Size, int64(len(inDst)))
}

func cloneRange(t *T) {
	f, g := t.create("f"), t.create("g")
	defer f.Close()
	defer g.Close()
	const page = 4096
	in, want := pattern(make([]byte, 5<<20+77), 0, 6), pattern(make([]byte, 2<<20), 0, 7)
	t.writeAt(f, in, 0)
	t.writeAt(g, want, 0)
	do := func(from *os.File, at, n, to int) error {
		return unix.IoctlFileCloneRange(int(g.Fd()), &unix.FileCloneRange{Src_fd: int64(from.Fd()), Src_offset: uint64(at), Src_length: uint64(n), Dest_offset: uint64(to)})
	}
	t.ranges(do(f, page, 1<<20, 2*page), "cloning of ranges")
	copy(want[2*page:], in[page:page+1<<20])
	t.holds(g, "a range in the middle", want)
	t.Must(do(f, 5<<20, 0, 4<<20), "clone the end")
	want = append(want, make([]byte, 4<<20-len(want))...)
	want = append(want, in[5<<20:]...)
	t.holds(g, "the end behind a hole", want)
	t.Must(do(g, 0, 8*page, 8<<20), "clone within a file")
	want = append(want, make([]byte, 8<<20-len(want))...)
	want = append(want, want[:8*page]...)
	t.holds(g, "a range of the same file", want)
	t.Want(do(f, 1, page, 0), "clone from where no page begins", unix.EINVAL)
	t.Want(do(f, 0, page, 1), "clone to where no page begins", unix.EINVAL)
	t.Want(do(f, 0, page+1, 0), "clone a page and a byte", unix.EINVAL)
	t.Want(do(g, 0, 2*page, page), "clone over itself", unix.EINVAL)
	t.holds(g, "after refusals", want)
}

// copyAll copies with copy_file_range as often as it takes.
func (t *T) copyAll(src, dst *os.File, from, to int64, n int) (calls int) {
	for ; n > 0; calls++ {
		k, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, n, 0)
		t.Must(err, "copy_file_range")
		if k == 0 {
			t.Fatalf("copy_file_range ends %d bytes early", n)
		}
		n -= k
	}
	return calls
}

func copyRange(t *T) {
	f, g := t.create("f"), t.create("g")
	defer f.Close()
	defer g.Close()
	in, want := pattern(make([]byte, 20<<20+9), 0, 8), pattern(make([]byte, 3<<20), 0, 9)
	t.writeAt(f, in, 0)
	t.writeAt(g, want, 0)
	for _, c := range []struct{ from, to, n int }{
		{0, 0, 100}, {4096, 8192, 1 << 20}, {100, 4096 + 100, 1 << 20}, {5, 1 << 20, 3 << 20}, {0, 8 << 20, len(in)}, {len(in) - 10, 50, 10},
	} {
		t.copyAll(f, g, int64(c.from), int64(c.to), c.n)
		want = append(want, make([]byte, max(0, c.to+c.n-len(want)))...)
		copy(want[c.to:], in[c.from:c.from+c.n])
		t.holds(g, "copy", want)
	}
	// At the end nothing is left to copy.
	from, to := int64(len(in)), int64(0)
	n, err := unix.CopyFileRange(int(f.Fd()), &from, int(g.Fd()), &to, 100, 0)
	if n != 0 || err != nil {
		t.Fatalf("copy_file_range at the end: %d, %v", n, err)
	}
}

func copyRangeOverItself(t *T) {
	f := t.create("f")
	defer f.Close()
	want := pattern(make([]byte, 6<<20), 0, 10)
	t.writeAt(f, want, 0)
	t.copyAll(f, f, 0, 3<<20, 2<<20)
	copy(want[3<<20:], want[:2<<20])
	t.holds(f, "copy within a file", want)
	from, to := int64(0), int64(4096)
	_, err := unix.CopyFileRange(int(f.Fd()), &from, int(f.Fd()), &to, 8192, 0)
	t.Want(err, "copy over itself", unix.EINVAL)
}

// copyRangeLarge moves so many bytes, no page of which lies alike in both files, that the server goes on in the background and calls the
// client when it is done.
func copyRangeLarge(t *T) {
	const mib = 96
	f, g := t.create("f"), t.create("g")
	defer f.Close()
	defer g.Close()
	buf := make([]byte, 1<<20)
	for i := range int64(mib) {
		t.writeAt(f, pattern(buf, i<<20, 11), i<<20)
	}
	calls := t.copyAll(f, g, 1, 0, mib<<20-1)
	if t.detail = fmt.Sprintf("%d calls", calls); nfsVersion(t) == "4.2" && calls != 1 {
		t.Fatalf("%d calls of copy_file_range", calls)
	}
	t.Must(g.Sync(), "fsync")
	t.Forget()
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < mib<<20-1; at += 1 << 20 {
		n := min(1<<20, mib<<20-1-at)
		_, err := g.ReadAt(got[:n], at)
		t.Must(err, "read")
		t.sameBytes(fmt.Sprintf("copy from %d on", at), got[:n], pattern(want[:n], at+1, 11))
	}
	Equal(t, "size", t.Stat(g.Name()).Size, mib<<20-1)
}
