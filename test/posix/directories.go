//go:build linux

package posix

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func directoryChecks() []Check {
	return []Check{
		{"empty-directory", emptyDirectory},
		{"large-directory", largeDirectory},
		{"remove-while-listing", removeWhileListing},
	}
}

// list reads a directory with a small buffer, so that a large one takes many calls, and calls between after each.
func list(dir string, bufferBytes int, between func()) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	buf := make([]byte, bufferBytes)
	for {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("getdents", err)
		}
		if n == 0 {
			return names, nil
		}
		direntNames(buf[:n], func(name string, _ byte) { names = append(names, name) })
		if between != nil {
			between()
		}
	}
}

func emptyDirectory(t *T) {
	names, err := list(t.Dir, 4096, nil)
	t.Must(err, "list")
	Equal(t, "entries of an empty directory", strings.Join(names, " "), ". ..")
	f, err := os.Open(t.Dir)
	t.Must(err, "open")
	defer f.Close()
	t.Make("a", "")
	t.Forget()
	got, err := f.Readdirnames(-1)
	t.Must(err, "readdir of a directory opened before")
	Equal(t, "entries", strings.Join(got, " "), "a")
	t.Must(os.Remove(t.Path("a")), "unlink")
	_, err = f.Seek(0, 0)
	t.Must(err, "rewind")
	got, err = f.Readdirnames(-1)
	t.Must(err, "readdir after rewind")
	Equal(t, "entries after rewind", len(got), 0)
}

// largeDirectory lists a large directory while other entries come and go: entries that exist throughout are listed
// exactly once, and nothing is listed that never was.
func largeDirectory(t *T) {
	const changeEvery = 50 // calls of getdents
	begin := time.Now()
	d := t.Mkdir("d")
	name := func(i int) string { return fmt.Sprintf("stable-%05d-%x", i, i*i%9973) }
	t.Must(os.WriteFile(d+"/"+name(0), nil, 0o644), "create")
	// A kernel makes one change of a directory at a time, so other mounts of the same export help.
	dirs := []string{d}
	for _, also := range t.opt.Also {
		dirs = append(dirs, filepath.Join(also, filepath.Base(t.Dir), "d"))
	}
	fillErrs := make(chan error, len(dirs))
	for k, dir := range dirs {
		go func() {
			for i := 1 + k; i < t.opt.Entries; i += len(dirs) {
				if err := fillEntry(dir, name(0), name(i), i); err != nil {
					fillErrs <- err
					return
				}
			}
			fillErrs <- nil
		}()
	}
	var fillErr error
	for range dirs {
		fillErr = errors.Join(fillErr, <-fillErrs)
	}
	t.Must(fillErr, "fill the directory")
	made := time.Since(begin)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var churnErr error
	churned := 0
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; churnErr == nil; i++ {
			select {
			case <-stop:
				return
			default:
			}
			p := fmt.Sprintf("%s/churn-%06d", d, i)
			churnErr = os.Symlink("x", p)
			if i%3 == 1 {
				churnErr = errors.Join(churnErr, os.Rename(p, p+"-renamed"))
				p += "-renamed"
			}
			if i%2 == 0 {
				churnErr = errors.Join(churnErr, os.Remove(p))
			}
			churned++
		}
	}()
	begin = time.Now()
	listings := 0
	for _, buffer := range []int{2048, 32 << 10, 512} {
		t.Forget()
		calls := 0
		names, err := list(d, buffer, func() { // and a change for certain between two calls, however slow the others are
			if calls++; calls%changeEvery == 1 {
				p := fmt.Sprintf("%s/churn-between-%d-%d", d, buffer, calls)
				t.Must(os.Symlink("x", p), "symlink")
				if calls%(2*changeEvery) == 1 {
					t.Must(os.Remove(p), "unlink")
				}
			}
		})
		t.Must(err, "list")
		times := make(map[string]int, len(names))
		for _, n := range names {
			times[n]++
			if !strings.HasPrefix(n, "stable-") && !strings.HasPrefix(n, "churn-") && n != "." && n != ".." {
				t.Fatalf("listed, but never made: %q", n)
			}
		}
		for i := range t.opt.Entries {
			if k := times[name(i)]; k != 1 {
				t.Fatalf("with a buffer of %d bytes, %s is listed %d times", buffer, name(i), k)
			}
		}
		Equal(t, "listed .", times["."], 1)
		Equal(t, "listed ..", times[".."], 1)
		listings++
	}
	listed := time.Since(begin)
	close(stop)
	wg.Wait()
	t.Must(churnErr, "entries that come and go")
	if churned == 0 {
		t.Fatalf("nothing came and went during %d listings", listings)
	}
	t.detail = fmt.Sprintf("%d entries at %.0f/s; %d listings at %.0f entries/s while %d came and went",
		t.opt.Entries, float64(t.opt.Entries)/made.Seconds(), listings, float64(listings*t.opt.Entries)/listed.Seconds(), churned)
}

// fillEntry makes an entry. Most are hard links and symlinks: one call each instead of open and close. Listing does not
// see the difference.
func fillEntry(dir, seed, name string, i int) error {
	p := dir + "/" + name
	switch i % 8 {
	case 0:
		return os.WriteFile(p, nil, 0o644)
	case 1, 2, 3:
		return os.Link(dir+"/"+seed, p)
	default:
		return os.Symlink("x", p)
	}
}

// removeWhileListing removes what each call of getdents gave before the next: every entry must still be found.
func removeWhileListing(t *T) {
	const entries = 1000
	d := t.Mkdir("d")
	for i := range entries {
		t.Must(os.Symlink("x", fmt.Sprintf("%s/e%d", d, i)), "symlink")
	}
	t.Forget()
	f, err := os.Open(d)
	t.Must(err, "open")
	defer f.Close()
	removed := 0
	for {
		names, err := f.Readdirnames(37)
		if len(names) == 0 {
			break
		}
		t.Must(err, "readdir")
		for _, n := range names {
			t.Must(os.Remove(d+"/"+n), "unlink of a listed entry")
			removed++
		}
	}
	Equal(t, "entries that were listed and removed", removed, entries)
	t.Must(os.Remove(d), "rmdir")
}
