//go:build linux

package posix

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

func lockChecks() []Check {
	return []Check{
		{"fcntl-conflict", fcntlConflict},
		{"fcntl-ranges", fcntlRanges},
		{"fcntl-wait", fcntlWait},
		{"fcntl-dies-with-holder", fcntlDiesWithHolder},
		{"flock-conflict", flockConflict},
		{"flock-wait", flockWait},
	}
}

// holder is another process that holds a lock.
type holder struct {
	t   *T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// hold starts a process that takes a lock. It has the lock when its first line has come: "held", or what the error was.
func (t *T) hold(path string, args ...string) *holder {
	h := &holder{t: t, cmd: t.Self(append([]string{"hold", "-file", path}, args...)...)}
	var err error
	h.in, err = h.cmd.StdinPipe()
	t.Must(err, "pipe")
	out, err := h.cmd.StdoutPipe()
	t.Must(err, "pipe")
	h.out = bufio.NewReader(out)
	t.Must(h.cmd.Start(), "start a second process")
	return h
}

func (h *holder) line() string {
	s, err := h.out.ReadString('\n')
	if err != nil {
		h.t.Fatalf("second process: %q, %v", s, err)
	}
	return s[:len(s)-1]
}

func (h *holder) release() {
	h.in.Close()
	h.t.Must(h.cmd.Wait(), "second process")
}

// mainHold is the second process.
func mainHold(args []string) error {
	f := flag.NewFlagSet("hold", flag.ContinueOnError)
	path := f.String("file", "", "file to lock")
	kind := f.String("kind", "fcntl", "fcntl or flock")
	shared := f.Bool("shared", false, "shared (read) lock")
	wait := f.Bool("wait", false, "wait for the lock")
	start := f.Int64("start", 0, "first byte (fcntl)")
	length := f.Int64("len", 0, "bytes; 0 to the end (fcntl)")
	if err := f.Parse(args); err != nil {
		return err
	}
	file, err := os.OpenFile(*path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if *wait {
		fmt.Println("waiting")
	}
	if *kind == "flock" {
		how := unix.LOCK_EX
		if *shared {
			how = unix.LOCK_SH
		}
		if !*wait {
			how |= unix.LOCK_NB
		}
		err = retryInterrupted(func() error { return unix.Flock(int(file.Fd()), how) })
	} else {
		typ := int16(unix.F_WRLCK)
		if *shared {
			typ = unix.F_RDLCK
		}
		err = setLock(file, *wait, typ, *start, *length)
	}
	if err != nil {
		fmt.Println(err)
		return err
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// retryInterrupted repeats a system call that a signal of the Go runtime interrupted.
func retryInterrupted(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func setLock(f *os.File, wait bool, typ int16, start, length int64) error {
	cmd := unix.F_SETLK
	if wait {
		cmd = unix.F_SETLKW
	}
	return retryInterrupted(func() error {
		return unix.FcntlFlock(f.Fd(), cmd, &unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: start, Len: length})
	})
}

// conflicting asks which lock would refuse ours; F_UNLCK: none.
func (t *T) conflicting(f *os.File, typ int16, start, length int64) unix.Flock_t {
	l := unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: start, Len: length}
	t.Must(retryInterrupted(func() error { return unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l) }), "F_GETLK")
	return l
}

func (t *T) lockFile() (string, *os.File) {
	p := t.Make("lock", "0123456789")
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	t.Must(err, "open")
	return p, f
}

func fcntlConflict(t *T) {
	p, f := t.lockFile()
	defer f.Close()
	h := t.hold(p, "-start", "10", "-len", "10")
	Equal(t, "second process", h.line(), "held")
	t.Want(setLock(f, false, unix.F_WRLCK, 0, 0), "write lock over a write lock", unix.EAGAIN, unix.EACCES)
	t.Want(setLock(f, false, unix.F_RDLCK, 19, 1), "read lock over a write lock", unix.EAGAIN, unix.EACCES)
	l := t.conflicting(f, unix.F_RDLCK, 0, 0)
	Equal(t, "type of the conflicting lock", l.Type, unix.F_WRLCK)
	Equal(t, "start of the conflicting lock", l.Start, 10)
	Equal(t, "length of the conflicting lock", l.Len, 10)
	t.Must(setLock(f, false, unix.F_WRLCK, 0, 10), "lock before it")
	t.Must(setLock(f, false, unix.F_WRLCK, 20, 0), "lock behind it")
	h.release()
	t.Must(eventually(func() error { return setLock(f, false, unix.F_WRLCK, 0, 0) }), "lock after the release")

	// Read locks share; a write lock does not get in between.
	t.Must(setLock(f, false, unix.F_RDLCK, 0, 0), "downgrade")
	r := t.hold(p, "-shared")
	Equal(t, "shared lock of a second process", r.line(), "held")
	t.Want(setLock(f, false, unix.F_WRLCK, 5, 1), "upgrade while another reads", unix.EAGAIN, unix.EACCES)
	r.release()
	t.Must(eventually(func() error { return setLock(f, false, unix.F_WRLCK, 5, 1) }), "upgrade alone")
	ro, err := os.Open(p)
	t.Must(err, "open")
	defer ro.Close()
	t.Want(setLock(ro, false, unix.F_WRLCK, 100, 1), "write lock through a descriptor open for reading", unix.EBADF)
}

func fcntlRanges(t *T) {
	p, f := t.lockFile()
	defer f.Close()
	try := func(what string, want string, args ...string) {
		h := t.hold(p, args...)
		got := h.line()
		h.in.Close()
		err := h.cmd.Wait()
		if got != want {
			t.Fatalf("%s: second process says %q (%v), want %q", what, got, err, want)
		}
	}
	busy := unix.EAGAIN.Error()
	t.Must(setLock(f, false, unix.F_WRLCK, 0, 100), "lock 0-99")
	t.Must(setLock(f, false, unix.F_UNLCK, 40, 20), "unlock 40-59: the lock splits")
	try("in the gap", "held", "-start", "40", "-len", "20")
	try("before the gap", busy, "-start", "39", "-len", "1")
	try("behind the gap", busy, "-start", "60", "-len", "1")
	try("across", busy, "-start", "30", "-len", "50")
	t.Must(setLock(f, false, unix.F_RDLCK, 60, 10), "downgrade of a part")
	try("read lock there", "held", "-start", "60", "-len", "10", "-shared")
	try("read lock behind", busy, "-start", "60", "-len", "11", "-shared")
	const far = 1 << 62
	t.Must(setLock(f, false, unix.F_WRLCK, far, 0), "lock at the far end")
	try("far end", busy, "-start", fmt.Sprint(int64(far+5)), "-len", "1")
	t.Must(setLock(f, false, unix.F_UNLCK, 0, 0), "unlock all")
	try("everything", "held")
	// POSIX: closing any descriptor of the file drops the process's locks.
	t.Must(setLock(f, false, unix.F_WRLCK, 0, 0), "lock all")
	try("locked", busy)
	g, err := os.Open(p)
	t.Must(err, "open")
	t.Must(g.Close(), "close")
	try("after a close", "held")
}

func fcntlWait(t *T) {
	p, f := t.lockFile()
	defer f.Close()
	t.Must(setLock(f, false, unix.F_WRLCK, 0, 0), "lock")
	h := t.hold(p, "-wait")
	Equal(t, "second process", h.line(), "waiting")
	time.Sleep(50 * time.Millisecond) // it most likely waits inside the kernel now; the check holds if not
	_, err := f.WriteAt([]byte("handed"), 0)
	t.Must(err, "write under the lock")
	t.Must(setLock(f, false, unix.F_UNLCK, 0, 0), "unlock")
	Equal(t, "second process", h.line(), "held")
	t.Want(setLock(f, false, unix.F_WRLCK, 0, 0), "lock that was handed over", unix.EAGAIN, unix.EACCES)
	h.release()
}

func fcntlDiesWithHolder(t *T) {
	p, f := t.lockFile()
	defer f.Close()
	for _, kind := range []string{"fcntl", "flock"} {
		h := t.hold(p, "-kind", kind)
		Equal(t, "second process", h.line(), "held")
		t.Must(h.cmd.Process.Kill(), "kill")
		_ = h.cmd.Wait() // reports the signal
		t.Must(eventually(func() error {
			if kind == "flock" {
				return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.Flock(int(f.Fd()), unix.LOCK_UN))
			}
			return errors.Join(setLock(f, false, unix.F_WRLCK, 0, 0), setLock(f, false, unix.F_UNLCK, 0, 0))
		}), kind+" lock after its holder was killed")
	}
}

func flockConflict(t *T) {
	p, f := t.lockFile()
	defer f.Close()
	lock := func(f *os.File, how int) error {
		return retryInterrupted(func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) })
	}
	h := t.hold(p, "-kind", "flock")
	Equal(t, "second process", h.line(), "held")
	t.Want(lock(f, unix.LOCK_EX), "exclusive over exclusive", unix.EWOULDBLOCK)
	t.Want(lock(f, unix.LOCK_SH), "shared over exclusive", unix.EWOULDBLOCK)
	h.release()
	t.Must(eventually(func() error { return lock(f, unix.LOCK_SH) }), "shared after the release")
	h = t.hold(p, "-kind", "flock", "-shared")
	Equal(t, "shared lock of a second process", h.line(), "held")
	t.Want(lock(f, unix.LOCK_EX), "exclusive while another reads", unix.EWOULDBLOCK)
	h.release()
	t.Must(eventually(func() error { return lock(f, unix.LOCK_EX) }), "exclusive alone")
	// flock belongs to the open file: a second one conflicts within the process, a close of it releases nothing.
	g, err := os.OpenFile(p, os.O_RDWR, 0)
	t.Must(err, "open")
	t.Must(g.Close(), "close")
	h = t.hold(p, "-kind", "flock", "-wait")
	Equal(t, "second process", h.line(), "waiting")
	t.Must(lock(f, unix.LOCK_UN), "unlock")
	Equal(t, "second process", h.line(), "held")
	h.release()
}

func flockWait(t *T) {
	p, f := t.lockFile()
	t.Must(unix.Flock(int(f.Fd()), unix.LOCK_EX), "lock")
	h := t.hold(p, "-kind", "flock", "-wait")
	Equal(t, "second process", h.line(), "waiting")
	time.Sleep(50 * time.Millisecond) // as in fcntlWait
	t.Must(f.Close(), "close, which releases")
	Equal(t, "second process", h.line(), "held")
	h.release()
}
