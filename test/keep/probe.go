//go:build linux

package keep

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// prober wants what the holder has.
type prober struct {
	*rounds
	locked, flocked, ranges, open *os.File
	seen                          uint64 // newest record
}

func probe(r *rounds, in io.Reader) (err error) {
	p := &prober{rounds: r}
	for name, f := range map[string]**os.File{lockedFile: &p.locked, flockedFile: &p.flocked, rangesFile: &p.ranges, openFile: &p.open} {
		flags := os.O_RDWR
		if name == openFile {
			flags |= p.past
		}
		if *f, err = os.OpenFile(r.path(name), flags, 0); err != nil {
			return err
		}
		defer (*f).Close()
	}
	if err := unix.Unlink(r.path(leftFile)); err != nil {
		return err
	}
	return r.run(in, p.round)
}

// refused takes away the error that says that another one has it.
func refused(err error, by ...unix.Errno) error {
	for _, e := range by {
		if errors.Is(err, e) {
			return nil
		}
	}
	if err == nil {
		return errors.New("it is free, although the holder has it")
	}
	return err
}

// removeRead removes what the holder has open only for reading: what it opened newly, and sometimes one of those that are open since the beginning.
func (p *prober) removeRead(i int) error {
	names, err := os.ReadDir(p.path(readDir))
	if err != nil {
		return err
	}
	for _, n := range names {
		if idle := fmt.Sprint("idle-", i/idleRounds); strings.HasPrefix(n.Name(), "fresh-") || n.Name() == idle {
			if err := unix.Unlink(p.path(readDir, n.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *prober) round(i int) error {
	for _, step := range []struct {
		kind string
		call func() error
	}{
		{"fcntl lock that another one has", func() error {
			return refused(lockRange(p.locked, unix.F_WRLCK, 0, 0), unix.EAGAIN, unix.EACCES)
		}},
		{"flock that another one has", func() error {
			return refused(unix.Flock(int(p.flocked.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		}},
		{"lock behind the other one's", func() error {
			return errors.Join(lockRange(p.ranges, unix.F_WRLCK, 1000, 10), lockRange(p.ranges, unix.F_UNLCK, 1000, 10))
		}},
		{"exclusive create of a name that is there", func() error {
			f, err := os.OpenFile(p.path(lockedFile), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
			if err == nil {
				f.Close()
			}
			return refused(err, unix.EEXIST)
		}},
		{"read of what another one writes", p.read},
		{"list and remove what another one has open only for reading", func() error { return p.removeRead(i) }},
	} {
		if err := p.answered(step.kind, step.call); err != nil {
			return err
		}
	}
	return nil
}

// read finds the newest record or a newer one than before, and whole.
func (p *prober) read() error {
	b := make([]byte, recordBytes+1)
	n, err := p.open.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	i, err := number(b[:n])
	if err != nil {
		return err
	}
	if i < p.seen {
		return fmt.Errorf("record %d after %d: what was read is undone", i, p.seen)
	}
	p.seen = i
	return nil
}
