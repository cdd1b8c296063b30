//go:build linux

package posix

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// Check is one named property of a file system.
type Check struct {
	Name string
	Run  func(*T)
}

// Options of a run.
type Options struct {
	Dir        string // on the mount under test
	Scratch    string // on a file system known to be good, for references
	Filter     string // regular expression on names
	DropCaches bool
	Seed       uint64
	Entries    int      // of the large directory
	Also       []string // Dir again, through other mounts of the same export
	// KeepsUnlinked: the mount leaves no placeholder for a file that was unlinked while it was open.
	KeepsUnlinked bool
	// LocalLimits: sizes of files and attributes, and whether files can be cloned, are those of a local file system at the server.
	LocalLimits bool
	Keep        bool // leave the checks' directories behind: removing them costs as much as making them
}

// T is what a check works with. Its methods that report a failure end the check.
type T struct {
	Dir string // empty, on the mount under test
	opt *Options
	rng *rand.Rand
	// detail goes behind PASS.
	detail string
}

// outcome is how a check ends before its last line.
type outcome struct {
	skip bool
	pass bool // well, and nothing is left to check
	text string
}

// Fatalf ends the check as failed. It may only be called in the check's own goroutine.
func (t *T) Fatalf(format string, args ...any) { panic(outcome{text: fmt.Sprintf(format, args...)}) }

// Skipf ends the check as not applicable.
func (t *T) Skipf(format string, args ...any) {
	panic(outcome{skip: true, text: fmt.Sprintf(format, args...)})
}

// Must fails the check unless err is nil.
func (t *T) Must(err error, what string) {
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Want fails the check unless err is one of these error numbers.
func (t *T) Want(err error, what string, want ...unix.Errno) {
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Fatalf("%s: got %v, want %v", what, err, want)
}

// Equal fails the check unless both are equal.
func Equal[V comparable](t *T, what string, got, want V) {
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// Path joins names below the check's directory.
func (t *T) Path(names ...string) string {
	return filepath.Join(append([]string{t.Dir}, names...)...)
}

// Make creates a file with content.
func (t *T) Make(name, content string) string {
	p := t.Path(name)
	t.Must(os.WriteFile(p, []byte(content), 0o644), "create "+name)
	return p
}

// Mkdir creates a directory.
func (t *T) Mkdir(name string) string {
	p := t.Path(name)
	t.Must(os.Mkdir(p, 0o755), "mkdir "+name)
	return p
}

// Content fails the check unless the file has this content.
func (t *T) Content(path, want string) {
	got, err := os.ReadFile(path)
	t.Must(err, "read "+filepath.Base(path))
	if string(got) != want {
		t.Fatalf("%s: content %s, want %s", filepath.Base(path), abbreviate(string(got)), abbreviate(want))
	}
}

func abbreviate(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%q... (%d bytes)", s[:60], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// Stat is lstat.
func (t *T) Stat(path string) unix.Stat_t {
	var st unix.Stat_t
	t.Must(unix.Lstat(path, &st), "lstat "+filepath.Base(path))
	return st
}

// Forget makes the kernel forget what it cached, when the run allows it. Dirty pages are written first.
func (t *T) Forget() {
	if t.opt.DropCaches {
		unix.Sync()
		t.Must(os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0), "drop caches")
	}
}

// User is an identity that a check takes.
type User struct {
	UID, GID int
	Groups   []int
}

// As calls f with another identity: in a thread of its own, which ends afterwards.
func (t *T) As(u User, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the identity must not leak into other goroutines
		done <- func() error {
			groups := make([]uint32, len(u.Groups)+1)
			for i, g := range u.Groups {
				groups[i] = uint32(g)
			}
			// The raw calls change this thread only; those of package syscall change the whole process.
			if err := rawSetgroups(groups[:len(u.Groups)]); err != nil {
				return fmt.Errorf("setgroups: %w", err)
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID), uintptr(u.GID)); e != 0 {
				return fmt.Errorf("setresgid: %w", e)
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID)); e != 0 {
				return fmt.Errorf("setresuid: %w", e)
			}
			return f()
		}()
	}()
	return <-done
}

// Self is this program again, with another subcommand.
func (t *T) Self(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Stderr = os.Stderr
	return c
}

// Checks returns all checks in the order they run.
func Checks() []Check {
	var all []Check
	for _, group := range [][]Check{nameChecks(), renameChecks(), dataChecks(), rangeChecks(), timeChecks(), limitChecks(), permissionChecks(), lockChecks(), directoryChecks(), xattrChecks(), toolChecks()} {
		all = append(all, group...)
	}
	return all
}

// Run runs the checks and prints one line for each; it returns how many failed.
func Run(out io.Writer, o Options) (failed int, err error) {
	filter, err := regexp.Compile(o.Filter)
	if err != nil {
		return 0, err
	}
	if os.Geteuid() != 0 {
		return 0, errors.New("the checks need root")
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	if err := os.Chmod(o.Dir, 0o755); err != nil { // other users walk through it
		return 0, err
	}
	for i, c := range Checks() {
		if !filter.MatchString(c.Name) {
			continue
		}
		dir := filepath.Join(o.Dir, fmt.Sprintf("%02d-%s", i, c.Name))
		begin := time.Now()
		verdict, text := runOne(c, dir, &o)
		if verdict == "FAIL" {
			failed++
		} else if !o.Keep {
			if err := os.RemoveAll(dir); err != nil {
				failed++
				verdict, text = "FAIL", fmt.Sprintf("remove the check's directory: %v", err)
			}
		}
		fmt.Fprintf(out, "%s %s (%.2fs) %s\n", verdict, c.Name, time.Since(begin).Seconds(), text)
	}
	return failed, nil
}

func runOne(c Check, dir string, o *Options) (verdict, text string) {
	t := &T{Dir: dir, opt: o, rng: rand.New(rand.NewPCG(o.Seed, 0))}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case outcome:
			verdict, text = "FAIL", r.text
			switch {
			case r.skip:
				verdict = "SKIP"
			case r.pass:
				verdict = "PASS"
			}
		default:
			verdict, text = "FAIL", fmt.Sprintf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	t.Must(os.Mkdir(dir, 0o755), "make the check's directory")
	c.Run(t)
	return "PASS", t.detail
}

// Main runs a subcommand; see the package comment.
func Main(args []string) int {
	commands := map[string]func([]string) error{"run": mainRun, "copy": mainCopy, "compare": mainCompare, "hold": mainHold, "fill": mainFill, "create": mainCreate, "random-io": mainRandomIO, "read-only": mainReadOnly, "contend": mainContend, "maildir": mainMaildir, "xattr": mainXattr}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "usage: run|copy|compare|hold|fill|create|random-io|read-only|contend|maildir|xattr [flags]")
		return 2
	}
	if err := commands[args[0]](args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return 1
	}
	return 0
}

func mainRun(args []string) error {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	var o Options
	f.StringVar(&o.Dir, "dir", "", "directory on the mount under test")
	f.StringVar(&o.Scratch, "scratch", os.TempDir(), "directory of a file system known to be good")
	f.StringVar(&o.Filter, "run", "", "regular expression on the names of the checks")
	f.BoolVar(&o.DropCaches, "drop-caches", false, "drop the kernel's caches before reading back")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of random operations; 0 takes one from the clock")
	f.BoolVar(&o.LocalLimits, "local-limits", false, "the server's limits are those of a local file system")
	f.BoolVar(&o.KeepsUnlinked, "keeps-unlinked", false, "a file that is unlinked while it is open leaves no placeholder")
	f.BoolVar(&o.Keep, "keep", false, "leave the checks' directories behind")
	f.Func("also", "the same directory through another mount of the same export, to fill the large directory faster; may be repeated", func(s string) error {
		o.Also = append(o.Also, s)
		return nil
	})
	f.IntVar(&o.Entries, "entries", 10_000, "entries of the large directory")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.Dir == "" {
		return errors.New("-dir is missing")
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	fmt.Printf("seed %d\n", o.Seed)
	failed, err := Run(os.Stdout, o)
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d checks failed", failed)
	}
	return err
}
