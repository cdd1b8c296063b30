//go:build linux

package keep

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// holder has files open: each twice, for reads past the kernel's cache.
type holder struct {
	*rounds
	open, gone, left, ranges *os.File
	openDirect, goneDirect   *os.File
	all                      []*os.File
	idle                     []*os.File // open only for reading, and not read before the end
	fresh                    []*os.File // likewise, one for each of the last rounds
}

const (
	// idleFiles are opened in the beginning; the prober removes one each idleRounds of its rounds.
	idleFiles  = 64
	idleRounds = 20
	// freshRounds is after how many rounds a file that was open only for reading is read, without a name by then.
	freshRounds = 50
)

func content(name string) []byte { return []byte("content of " + name) }

// reading opens a new file only for reading, before it has the name by which the prober finds it.
func (h *holder) reading(name string) (*os.File, error) {
	hidden := h.path(readDir, "."+name)
	if err := os.WriteFile(hidden, content(name), 0o644); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(hidden, os.O_RDONLY|h.past, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Rename(hidden, h.path(readDir, name)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// readFresh opens a file only for reading, and reads one that it opened some rounds ago.
func (h *holder) readFresh(i int) error {
	f, err := h.reading(fmt.Sprint("fresh-", i))
	if err != nil {
		return err
	}
	if h.fresh = append(h.fresh, f); len(h.fresh) <= freshRounds {
		return nil
	}
	f, h.fresh = h.fresh[0], h.fresh[1:]
	return errors.Join(reads(f, content(fmt.Sprint("fresh-", i-freshRounds))), f.Close())
}

// readIdle reads what was open all the time and not read.
func (h *holder) readIdle() (err error) {
	for i, f := range h.idle {
		if e := reads(f, content(fmt.Sprint("idle-", i))); e != nil {
			err = errors.Join(err, fmt.Errorf("read of the idle file %d: %w", i, e))
		}
	}
	return err
}

func hold(r *rounds, in io.Reader) (err error) {
	h := &holder{rounds: r}
	defer func() {
		for _, f := range slices.Concat(h.all, h.idle, h.fresh) {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := h.begin(); err != nil {
		return err
	}
	return errors.Join(r.run(in, h.round), h.readIdle())
}

// file opens a file, and makes it if flags say so.
func (h *holder) file(name string, flags int) (*os.File, error) {
	f, err := os.OpenFile(h.path(name), os.O_RDWR|flags, 0o644)
	if err == nil {
		h.all = append(h.all, f)
	}
	return f, err
}

// begin makes what is to be kept.
func (h *holder) begin() error {
	made := map[string]*os.File{}
	for _, name := range []string{lockedFile, flockedFile, rangesFile, openFile, goneFile, leftFile} {
		f, err := h.file(name, os.O_CREATE|os.O_EXCL)
		if err != nil {
			return err
		}
		made[name] = f
	}
	h.open, h.gone, h.ranges = made[openFile], made[goneFile], made[rangesFile]
	var err error
	if h.openDirect, err = h.file(openFile, h.past); err != nil {
		return err
	}
	if h.goneDirect, err = h.file(goneFile, h.past); err != nil {
		return err
	}
	if h.left, err = h.file(leftFile, h.past); err != nil {
		return err
	}
	if err := write(h.open, record(0)); err != nil {
		return err
	}
	if err := write(h.gone, record(0)); err != nil {
		return err
	}
	if err := write(made[leftFile], []byte(leftContent)); err != nil {
		return err
	}
	if err := os.Mkdir(h.path(readDir), 0o755); err != nil {
		return err
	}
	for i := range idleFiles {
		f, err := h.reading(fmt.Sprint("idle-", i))
		if err != nil {
			return err
		}
		h.idle = append(h.idle, f)
	}
	return errors.Join(
		unix.Unlink(h.path(goneFile)),
		lockRange(made[lockedFile], unix.F_WRLCK, 0, 0),
		unix.Flock(int(made[flockedFile].Fd()), unix.LOCK_EX|unix.LOCK_NB),
		os.Mkdir(h.path(scratchDir), 0o755),
		os.WriteFile(h.path(scratchDir, "name-0"), nil, 0o644))
}

// write makes it durable.
func write(f *os.File, p []byte) error {
	if _, err := f.WriteAt(p, 0); err != nil {
		return err
	}
	return f.Sync()
}

// reads fails unless the file has this content.
func reads(f *os.File, want []byte) error {
	p := make([]byte, len(want)+1)
	n, err := f.ReadAt(p, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(p[:n]) != string(want) {
		return fmt.Errorf("read %d bytes, %.20q, want %d, %.20q", n, p[:n], len(want), want)
	}
	return nil
}

// round does each thing once. Of each call there is one right outcome.
func (h *holder) round(i int) error {
	r := record(uint64(i + 1))
	names := h.path(scratchDir)
	name := func(kind string, i int) string { return fmt.Sprintf("%s/%s-%d", names, kind, i) }
	for _, step := range []struct {
		kind string
		call func() error
	}{
		{"write, fsync", func() error { return write(h.open, r) }},
		{"read", func() error { return reads(h.openDirect, r) }},
		{"write, fsync of a removed file", func() error { return write(h.gone, r) }},
		{"read of a removed file", func() error { return reads(h.goneDirect, r) }},
		{"read of a file that another one removes", func() error { return reads(h.left, []byte(leftContent)) }},
		{"open only for reading, read of another one without a name", func() error { return h.readFresh(i) }},
		{"lock", func() error { return lockRange(h.ranges, unix.F_WRLCK, int64(i%100), 10) }},
		{"rename", func() error { return unix.Rename(name("name", i), name("name", i+1)) }},
		{"exclusive create", func() error {
			f, err := os.OpenFile(name("made", i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}},
		{"link", func() error { return unix.Link(name("made", i), name("link", i)) }},
		{"remove", func() error { return unix.Unlink(name("made", i)) }},
		{"rename over", func() error { return unix.Rename(name("link", i), name("name", i+1)) }},
		{"mkdir", func() error { return unix.Mkdir(name("dir", i), 0o755) }},
		{"rmdir", func() error { return unix.Rmdir(name("dir", i)) }},
		{"unlock", func() error { return lockRange(h.ranges, unix.F_UNLCK, int64(i%100), 10) }},
	} {
		if err := h.answered(step.kind, step.call); err != nil {
			return err
		}
	}
	return nil
}
