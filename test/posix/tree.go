//go:build linux

package posix

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// mainCopy copies a tree: directories, files, symlinks, with modes, owners and times.
func mainCopy(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: copy SOURCE TARGET")
	}
	begin := time.Now()
	files, size, err := copyTree(args[0], args[1])
	if err != nil {
		return err
	}
	s := time.Since(begin).Seconds()
	fmt.Printf("copied %d files, %.1f MB in %.2f s: %.0f files/s, %.2f MB/s\n", files, float64(size)/1e6, s, float64(files)/s, float64(size)/1e6/s)
	return nil
}

func copyTree(from, to string) (files int, size int64, err error) {
	var dirs []string // times of directories are set last, as filling them changes those
	err = filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch d.Type() {
		case fs.ModeDir:
			dirs = append(dirs, rel)
			return os.MkdirAll(target, 0o755)
		case fs.ModeSymlink:
			link, err := os.Readlink(p)
			if err != nil {
				return err
			}
			if err := os.Symlink(link, target); err != nil {
				return err
			}
		case 0:
			n, err := copyFile(p, target)
			if err != nil {
				return err
			}
			files, size = files+1, size+n
		default:
			return nil // devices and sockets are not part of a source tree
		}
		return copyMeta(p, target)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = copyMeta(filepath.Join(from, dirs[i]), filepath.Join(to, dirs[i]))
	}
	return files, size, err
}

func copyFile(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	// Plain reads and writes: io.Copy would ask the kernel for copy_file_range, another check's matter.
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 256<<10))
	return n, errors.Join(err, out.Close())
}

func copyMeta(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// mainCompare compares two trees and prints every difference.
func mainCompare(args []string) error {
	f := flag.NewFlagSet("compare", flag.ContinueOnError)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 2 {
		return errors.New("usage: compare SOURCE COPY")
	}
	begin := time.Now()
	files, size, differences, err := compareTrees(f.Arg(0), f.Arg(1))
	if err != nil {
		return err
	}
	for _, d := range differences {
		fmt.Println("differs:", d)
	}
	if len(differences) > 0 {
		return fmt.Errorf("%d differences", len(differences))
	}
	s := time.Since(begin).Seconds()
	fmt.Printf("compared %d files, %.1f MB in %.2f s: %.0f files/s, %.2f MB/s\n", files, float64(size)/1e6, s, float64(files)/s, float64(size)/1e6/s)
	return nil
}

func compareTrees(a, b string) (files int, size int64, differences []string, err error) {
	differ := func(rel, format string, args ...any) {
		differences = append(differences, rel+": "+fmt.Sprintf(format, args...))
	}
	seen := map[string]bool{}
	err = filepath.WalkDir(a, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 {
			return nil
		}
		rel, err := filepath.Rel(a, p)
		if err != nil {
			return err
		}
		seen[rel] = true
		var want, got unix.Stat_t
		if err := unix.Lstat(p, &want); err != nil {
			return err
		}
		q := filepath.Join(b, rel)
		if err := unix.Lstat(q, &got); err != nil {
			differ(rel, "%v", err)
			return nil
		}
		if got.Mode != want.Mode || got.Uid != want.Uid || got.Gid != want.Gid {
			differ(rel, "mode %o owner %d:%d, want %o %d:%d", got.Mode, got.Uid, got.Gid, want.Mode, want.Uid, want.Gid)
		}
		if got.Mtim != want.Mtim {
			differ(rel, "mtime %v, want %v", got.Mtim, want.Mtim)
		}
		switch d.Type() {
		case fs.ModeSymlink:
			x, e1 := os.Readlink(p)
			y, e2 := os.Readlink(q)
			if x != y || e1 != nil || e2 != nil {
				differ(rel, "target %q, want %q (%v, %v)", y, x, e2, e1)
			}
		case 0:
			if got.Size != want.Size {
				differ(rel, "size %d, want %d", got.Size, want.Size)
			}
			x, err := checksum(p)
			if err != nil {
				return err
			}
			if y, err := checksum(q); err != nil || !bytes.Equal(x, y) {
				differ(rel, "checksum %x, want %x (%v)", y, x, err)
			}
			files, size = files+1, size+want.Size
		}
		return nil
	})
	if err != nil {
		return files, size, differences, err
	}
	err = filepath.WalkDir(b, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if rel, err := filepath.Rel(b, p); err != nil || !seen[rel] {
			differ(rel, "not in the source (%v)", err)
		}
		return nil
	})
	return files, size, differences, err
}

func checksum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// mainFill writes one large file, fsyncs it, and reads it back after the kernel forgot it.
func mainFill(args []string) error {
	f := flag.NewFlagSet("fill", flag.ContinueOnError)
	path := f.String("file", "", "file to write")
	mib := f.Int("mib", 256, "size")
	forget := f.Bool("drop-caches", false, "drop the kernel's caches before reading back")
	if err := f.Parse(args); err != nil {
		return err
	}
	out, err := os.Create(*path)
	if err != nil {
		return err
	}
	defer out.Close()
	const chunk = 1 << 20
	// Every chunk differs from the others in its salt; the pattern is made once, as it costs more than the write.
	block := pattern(make([]byte, chunk), 0, 0)
	begin := time.Now()
	for i := range *mib {
		block[0], block[1] = byte(i), byte(i>>8)
		if _, err := out.Write(block); err != nil {
			return err
		}
	}
	if err := out.Sync(); err != nil {
		return err
	}
	wrote := time.Since(begin)
	if *forget {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			return err
		}
	}
	in, err := os.Open(*path)
	if err != nil {
		return err
	}
	defer in.Close()
	got := make([]byte, chunk)
	begin = time.Now()
	for i := range *mib {
		if _, err := io.ReadFull(in, got); err != nil {
			return err
		}
		block[0], block[1] = byte(i), byte(i>>8)
		if !bytes.Equal(got, block) {
			return fmt.Errorf("MiB %d reads back different", i)
		}
	}
	read := time.Since(begin)
	mb := float64(*mib) * chunk / 1e6
	fmt.Printf("wrote %.0f MB with fsync at %.1f MB/s, read it at %.1f MB/s\n", mb, mb/wrote.Seconds(), mb/read.Seconds())
	return nil
}

// mainCreate creates many empty files in a new directory, one after the other.
func mainCreate(args []string) error {
	f := flag.NewFlagSet("create", flag.ContinueOnError)
	dir := f.String("dir", "", "directory to make")
	n := f.Int("n", 1000, "files")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := os.Mkdir(*dir, 0o755); err != nil {
		return err
	}
	begin := time.Now()
	for i := range *n {
		file, err := os.OpenFile(filepath.Join(*dir, fmt.Sprint("file-", i)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	fmt.Printf("created %d files at %.0f/s\n", *n, float64(*n)/time.Since(begin).Seconds())
	return nil
}
