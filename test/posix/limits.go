//go:build linux

package posix

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func limitChecks() []Check {
	return []Check{
		{"time-of-access", timeOfAccess},
		{"times-64-bit", times64},
		{"sparse-8-eib", sparse8EiB},
		{"symlink-limits", symlinkLimits},
		{"path-max", pathMax},
		{"text-busy", textBusy},
		{"mapped-by-two", mappedByTwo},
		{"listing-during-changes", listingDuringChanges},
	}
}

// timeOfAccess is relatime: the first read after a change moves atime, the next one does not, and nothing else moves.
func timeOfAccess(t *T) {
	var fs unix.Statfs_t
	t.Must(unix.Statfs(t.Dir, &fs), "statfs")
	if fs.Flags&unix.ST_NOATIME != 0 {
		t.Skipf("mounted with noatime")
	}
	p := t.Make("f", "content")
	read := func() unix.Stat_t {
		time.Sleep(20 * time.Millisecond) // more than the clock's grain
		t.Forget()
		t.Content(p, "content")
		return t.Stat(p)
	}
	old := unix.Timespec{Sec: 1000}
	t.Must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{old, old}, 0), "utimensat")
	Equal(t, "atime as set", t.Stat(p).Atim, old)
	first := read()
	if first.Atim.Nano() < first.Ctim.Nano() {
		t.Fatalf("atime %v after a read, ctime %v", first.Atim, first.Ctim)
	}
	Equal(t, "mtime after a read", first.Mtim, old)
	Equal(t, "atime after another read", read().Atim, first.Atim)
	t.Must(os.WriteFile(p, []byte("content"), 0), "write")
	if again := read(); again.Atim.Nano() <= first.Atim.Nano() {
		t.Fatalf("atime stays %v when a changed file is read", again.Atim)
	}
}

// times64 are times that do not fit 32 bits, or lie before 1970.
func times64(t *T) {
	p := t.Make("f", "x")
	for _, ts := range []unix.Timespec{{Sec: -86_400, Nsec: 5}, {Sec: -1, Nsec: 999_999_999}, {Sec: 1 << 31}, {Sec: 1<<32 + 1, Nsec: 1}, {Sec: 1<<33 + 12345}} {
		t.Must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, 0), fmt.Sprint("utimensat of ", ts.Sec))
		t.Forget()
		st := t.Stat(p)
		Equal(t, "mtime", st.Mtim, ts)
		Equal(t, "atime", st.Atim, ts)
	}
}

// sparse8EiB uses the last bytes that a file may have.
func sparse8EiB(t *T) {
	const last = 1<<63 - 2 // offset of the last byte of a file of 2^63 - 1 bytes
	f, err := os.Create(t.Path("f"))
	t.Must(err, "create")
	defer f.Close()
	// Linux' page cache cannot map the last page of all; the one before is the last that every kernel writes.
	const at = (last &^ 0xffff) - 1<<16
	_, err = f.WriteAt([]byte("end"), at)
	if errors.Is(err, unix.EFBIG) {
		t.Skipf("the file system has a smaller limit: %v", err)
	}
	t.Must(err, "write near 8 EiB")
	if err := f.Sync(); t.opt.LocalLimits && errors.Is(err, unix.EFBIG) {
		t.Skipf("the file system has a smaller limit: %v", err)
	} else {
		t.Must(err, "fsync")
	}
	t.Forget()
	Equal(t, "size", t.Stat(t.Path("f")).Size, int64(at+3))
	b := make([]byte, 10)
	n, err := f.ReadAt(b, at-5)
	if err != io.EOF {
		t.Fatalf("read to the end: %v", err)
	}
	t.sameBytes("the end", b[:n], []byte("\x00\x00\x00\x00\x00end"))
	if used := t.Stat(t.Path("f")).Blocks; used > 1<<11 {
		t.Fatalf("%d blocks are allocated for three bytes", used)
	}
	t.Must(f.Truncate(1<<62), "truncate to 4 EiB")
	Equal(t, "size", t.Stat(t.Path("f")).Size, int64(1<<62))
	t.Want(f.Truncate(-1), "truncate to less than nothing", unix.EINVAL)
	t.Must(f.Truncate(0), "truncate to nothing")
}

func symlinkLimits(t *T) {
	longest := strings.Repeat("a/", 2047) // 4094 bytes
	p := t.Path("longest")
	t.Must(os.Symlink(longest, p), "symlink of 4094 bytes")
	t.Forget()
	got, err := os.Readlink(p)
	t.Must(err, "readlink")
	Equal(t, "length of the target", len(got), len(longest))
	t.Want(unix.Symlink(strings.Repeat("a", 4096), t.Path("too-long")), "symlink of 4096 bytes", unix.ENAMETOOLONG)
	t.Want(unix.Symlink("", t.Path("empty")), "symlink to nothing", unix.ENOENT)
	t.Make("target", "found")
	at := "target"
	for i := range 40 {
		name := fmt.Sprint("link", i)
		t.Must(os.Symlink(at, t.Path(name)), "symlink")
		at = name
	}
	t.Content(t.Path(at), "found")
	t.Must(os.Symlink(at, t.Path("one-too-many")), "symlink")
	_, err = os.Open(t.Path("one-too-many"))
	t.Want(err, "open through 41 symlinks", unix.ELOOP)
}

// pathMax makes the deepest tree that one path can name, and a deeper one by relative names.
func pathMax(t *T) {
	name := strings.Repeat("d", 200)
	fd, err := unix.Open(t.Dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	t.Must(err, "open")
	path := t.Dir
	for len(path) < 6000 {
		t.Must(unix.Mkdirat(fd, name, 0o755), fmt.Sprintf("mkdir below %d bytes of path", len(path)))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
		t.Must(err, "openat")
		unix.Close(fd)
		fd, path = next, path+"/"+name
		_, err = os.Lstat(path)
		if len(path) < 4096 {
			t.Must(err, fmt.Sprintf("lstat of %d bytes", len(path)))
		} else {
			t.Want(err, fmt.Sprintf("lstat of %d bytes", len(path)), unix.ENAMETOOLONG)
		}
	}
	f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o644)
	t.Must(err, "create below 6000 bytes of path")
	unix.Close(f)
	unix.Close(fd)
	t.Must(os.RemoveAll(t.Path(name)), "remove the tree")
}

// textBusy: what runs is not written, what is written does not run.
func textBusy(t *T) {
	src, err := os.ReadFile("/bin/sleep")
	t.Must(err, "read a program")
	p := t.Path("program")
	t.Must(os.WriteFile(p, src, 0o755), "copy a program")
	w, err := os.OpenFile(p, os.O_WRONLY, 0)
	t.Must(err, "open for writing")
	t.Want(exec.Command(p, "0").Run(), "execution of what is open for writing", unix.ETXTBSY)
	t.Must(w.Close(), "close")
	c := exec.Command(p, "600")
	t.Must(c.Start(), "execution")
	defer c.Wait()
	defer c.Process.Kill()
	_, err = os.OpenFile(p, os.O_WRONLY, 0)
	t.Want(err, "open for writing of what runs", unix.ETXTBSY)
	t.Must(os.Remove(p), "unlink of what runs")
}

// mappedByTwo: what one mapping writes, another one and read(2) see.
func mappedByTwo(t *T) {
	const size = 3*4096 + 100
	p := t.Make("f", strings.Repeat("x", size))
	mapping := func() []byte {
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		t.Must(err, "open")
		defer f.Close() // the mapping stays
		m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		t.Must(err, "mmap")
		return m
	}
	a, b := mapping(), mapping()
	for i := 0; i < size; i += 1000 {
		a[i] = byte('0' + i/1000%10)
		Equal(t, "byte in the other mapping", b[i], a[i])
	}
	got, err := os.ReadFile(p)
	t.Must(err, "read")
	t.sameBytes("the file", got, a)
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	t.Must(err, "open")
	_, err = f.WriteAt([]byte("written"), 5000)
	t.Must(err, "write")
	t.sameBytes("a mapping after a write", a[5000:5007], []byte("written"))
	want := bytes.Clone(a)
	t.Must(f.Close(), "close")
	t.Must(unix.Msync(a, unix.MS_SYNC), "msync")
	t.Must(unix.Munmap(a), "munmap")
	t.Must(unix.Munmap(b), "munmap")
	t.Forget()
	got, err = os.ReadFile(p)
	t.Must(err, "read")
	t.sameBytes("the file afterwards", got, want)
}

// listingDuringChanges: what is there all the while is listed exactly once, whatever comes and goes.
func listingDuringChanges(t *T) {
	const stay, rounds = 300, 25
	d := t.Mkdir("d")
	for i := range stay {
		t.Must(os.WriteFile(fmt.Sprintf("%s/stay-%d", d, i), nil, 0o644), "create")
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			name := fmt.Sprintf("%s/come-%d", d, i)
			err := os.WriteFile(name, nil, 0o644)
			if err == nil && i%2 == 0 {
				err = os.Rename(name, fmt.Sprintf("%s/moved-%d", d, i))
			}
			if err == nil && i >= 20 {
				err = errors.Join(os.RemoveAll(fmt.Sprintf("%s/come-%d", d, i-20)), os.RemoveAll(fmt.Sprintf("%s/moved-%d", d, i-20)))
			}
			if err != nil {
				stopped <- err
				return
			}
		}
	}()
	problem := ""
	for range rounds {
		f, err := os.Open(d)
		if err != nil {
			problem = err.Error()
			break
		}
		seen := map[string]int{}
		for {
			names, err := f.Readdirnames(37)
			for _, n := range names {
				seen[n]++
			}
			if err != nil {
				if err != io.EOF {
					problem = err.Error()
				}
				break
			}
		}
		f.Close()
		for i := range stay {
			if n := seen[fmt.Sprint("stay-", i)]; n != 1 {
				problem = fmt.Sprintf("stay-%d is listed %d times", i, n)
			}
		}
		if problem != "" {
			break
		}
	}
	close(stop)
	t.Must(<-stopped, "changes beside the listings")
	if problem != "" {
		t.Fatalf("%s", problem)
	}
}
