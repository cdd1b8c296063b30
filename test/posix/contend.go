//go:build linux

package posix

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Contender is one of several programs, on machines of their own, that work in one directory at the same time. What
// each did is in its output or in the directory; whoever starts them checks that it fits together.
type Contender struct {
	Dir, Name string
	N         int
	Kind      string // of lock: fcntl or flock
	Wait      bool   // in the kernel for a lock; else try again and again
}

// The files contenders share.
const (
	CounterFile = "counter"
	AppendFile  = "appended"
)

// withLock runs f under a lock of the whole file.
func (c *Contender) withLock(file *os.File, f func() error) error {
	var err error
	for {
		if c.Kind == "flock" {
			how := unix.LOCK_EX
			if !c.Wait {
				how |= unix.LOCK_NB
			}
			err = retryInterrupted(func() error { return unix.Flock(int(file.Fd()), how) })
		} else {
			err = setLock(file, c.Wait, unix.F_WRLCK, 0, 0)
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			break
		}
		time.Sleep(time.Duration(rand.Int64N(int64(4 * time.Millisecond))))
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if err := f(); err != nil {
		return err
	}
	if c.Kind == "flock" {
		err = unix.Flock(int(file.Fd()), unix.LOCK_UN)
	} else {
		err = setLock(file, false, unix.F_UNLCK, 0, 0)
	}
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// count adds 1 to the number in the counter file, N times, each time under the lock.
func (c *Contender) count() error {
	f, err := os.OpenFile(filepath.Join(c.Dir, CounterFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for range c.N {
		err := c.withLock(f, func() error {
			var b [32]byte
			n, err := f.ReadAt(b[:], 0)
			if n == 0 {
				return fmt.Errorf("read the counter: %w", err)
			}
			v, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
			if err != nil {
				return err
			}
			_, err = f.WriteAt(fmt.Appendf(nil, "%-20d\n", v+1), 0)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// AppendLine is the i-th line that a contender appends; they differ in length.
func AppendLine(name string, i int) string {
	return fmt.Sprintf("%s %d %s\n", name, i, strings.Repeat(name, i%700))
}

// append adds N lines to the end of a file, each under the lock.
func (c *Contender) append() error {
	f, err := os.OpenFile(filepath.Join(c.Dir, AppendFile), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for i := range c.N {
		err := c.withLock(f, func() error {
			_, err := f.WriteString(AppendLine(c.Name, i))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// exclusive tries to make N files that the others try to make too, in an order of its own, and prints which it made.
func (c *Contender) exclusive() error {
	for _, i := range rand.Perm(c.N) {
		f, err := os.OpenFile(filepath.Join(c.Dir, fmt.Sprintf("exclusive-%d", i)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		fmt.Println("made", i)
		if _, err := f.WriteString(c.Name); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// rename tries to take N files away that the others want too, and prints which it took.
func (c *Contender) rename() error {
	for _, i := range rand.Perm(c.N) {
		err := os.Rename(filepath.Join(c.Dir, fmt.Sprintf("source-%d", i)), filepath.Join(c.Dir, fmt.Sprintf("taken-%s-%d", c.Name, i)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		fmt.Println("took", i)
	}
	return nil
}

// replace puts a new file over one that all replace, N times, and reads it each time: it must be whole, whoever's it is.
func (c *Contender) replace() error {
	target := filepath.Join(c.Dir, "replaced")
	for i := range c.N {
		mine := filepath.Join(c.Dir, "new-"+c.Name)
		if err := os.WriteFile(mine, bytes.Repeat([]byte(c.Name), 1000+i%5000), 0o644); err != nil {
			return err
		}
		if err := os.Rename(mine, target); err != nil {
			return err
		}
		// The file may be replaced, and so be gone for NFS, between its lookup and its open; the kernel tries again itself.
		b, err := os.ReadFile(target)
		if err != nil {
			return fmt.Errorf("read what was put in place: %w", err)
		}
		if len(b) < 1000 || strings.Trim(string(b), string(b[:1])) != "" {
			return fmt.Errorf("round %d: %d bytes that are not one writer's", i, len(b))
		}
	}
	return nil
}

func mainContend(args []string) error {
	f := flag.NewFlagSet("contend", flag.ContinueOnError)
	var c Contender
	f.StringVar(&c.Dir, "dir", "", "directory that all contenders share")
	f.StringVar(&c.Name, "name", "", "this contender, a letter")
	f.IntVar(&c.N, "n", 100, "how often, or how many files")
	f.StringVar(&c.Kind, "kind", "fcntl", "of lock: fcntl or flock")
	f.BoolVar(&c.Wait, "wait", false, "wait for locks in the kernel")
	what := f.String("for", "", "count, append, exclusive, rename or replace")
	if err := f.Parse(args); err != nil {
		return err
	}
	run := map[string]func() error{"count": c.count, "append": c.append, "exclusive": c.exclusive, "rename": c.rename, "replace": c.replace}[*what]
	if run == nil || c.Dir == "" || c.Name == "" {
		return errors.New("-for, -dir and -name are needed")
	}
	return run()
}
