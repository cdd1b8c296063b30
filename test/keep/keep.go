//go:build linux

package keep

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/test/journal"
)

// roundPause leaves the processors to the servers under test.
const roundPause = 20 * time.Millisecond

// What is in the directory.
const (
	lockedFile  = "locked"  // with fcntl
	flockedFile = "flocked" // with flock
	rangesFile  = "ranges"  // of which the holder locks and frees ranges
	openFile    = "open"    // records, written by the holder and read by the prober
	goneFile    = "gone"    // removed by the holder, which has it open
	leftFile    = "left"    // removed by the prober while the holder has it open
	scratchDir  = "holder"  // names that the holder makes, renames and removes
	readDir     = "read"    // files that the holder has open only for reading, and the prober removes
	leftContent = "still here although its name is gone"
)

// rounds is what both programs do until they are told to end.
type rounds struct {
	dir string
	out io.Writer
	// past is a flag of open, O_DIRECT where reads are to go past the kernel's cache.
	past int

	mu    sync.Mutex // guards the following
	times *journal.Times
	done  int
	alarm int // rounds until the alarm, 0 for none
	quit  bool
}

// answered runs a call that must succeed, and counts it.
func (r *rounds) answered(kind string, call func() error) error {
	began := time.Now()
	err := call()
	now := time.Now()
	if err != nil {
		return fmt.Errorf("%s, after %v: %w", kind, now.Sub(began), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times.Answered(kind, now.Sub(began), now)
	return nil
}

// run does rounds until the input says quit, or ends.
func (r *rounds) run(in io.Reader, round func(i int) error) error {
	if _, err := fmt.Fprintln(r.out, "ready"); err != nil {
		return err
	}
	go r.obey(in) // it ends with the input, which the process's end closes at the latest
	for i := 0; ; i++ {
		if err := round(i); err != nil {
			return fmt.Errorf("round %d: %w", i, err)
		}
		if r.ended() {
			return nil
		}
		time.Sleep(roundPause)
	}
}

// ended counts a round and says whether there is to be no other one.
func (r *rounds) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	if r.alarm > 0 {
		if r.alarm--; r.alarm == 0 {
			fmt.Fprintln(r.out, "alarm")
		}
	}
	return r.quit
}

func (r *rounds) obey(in io.Reader) {
	for s := bufio.NewScanner(in); s.Scan(); {
		r.command(s.Text())
	}
	r.command("quit")
}

func (r *rounds) command(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n int
	switch {
	case line == "quit":
		r.quit = true
	case line == "mark":
		if b, err := json.Marshal(r.times.Mark(time.Now())); err == nil {
			fmt.Fprintf(r.out, "times %s\n", b)
		}
	default:
		if _, err := fmt.Sscanf(line, "alarm %d", &n); err != nil || n < 1 {
			fmt.Fprintf(r.out, "unknown command %q\n", line)
			return
		}
		r.alarm = n
	}
}

func (r *rounds) path(names ...string) string {
	return filepath.Join(append([]string{r.dir}, names...)...)
}

// lockRange takes or frees an fcntl lock, without waiting for one.
func lockRange(f *os.File, kind int16, start, length int64) error {
	return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: kind, Start: start, Len: length})
}

// Main has the subcommands of the package comment.
func Main(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: hold|probe -dir DIR")
		return 2
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	dir := f.String("dir", "", "the directory that both machines share")
	cached := f.Bool("cached", false, "read from the kernel's cache, too: for a directory that is not on NFS")
	if f.Parse(args[1:]) != nil {
		return 2
	}
	r := &rounds{dir: *dir, out: os.Stdout, times: journal.NewTimes(time.Now()), past: unix.O_DIRECT}
	if *cached {
		r.past = 0
	}
	run := map[string]func(*rounds, io.Reader) error{"hold": hold, "probe": probe}[args[0]]
	err := errors.New("hold or probe, and -dir, are needed")
	if run != nil && *dir != "" {
		err = run(r, os.Stdin)
	}
	if err != nil {
		fmt.Printf("error: %v\n", err)
		return 1
	}
	fmt.Printf("ended %d\n", r.done)
	return 0
}
