//go:build linux

package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxNames     = 40       // of a worker at a time
	maxDirs      = 8        // of these: what is in them keeps them there, and no room would be left for files in the end
	maxSmall     = 64 << 10 // end of the small writes
	openFileName = "held-open"
	// Every so many acknowledgements of a worker comes a large write; the rest are many small changes of every kind.
	largeEvery = 60
)

// header is the journal's first line.
type header struct {
	Seed    uint64 `json:"seed"`
	Workers int    `json:"workers"`
}

// WriterOptions of a run.
type WriterOptions struct {
	Dir, Journal string
	Seed         uint64
	Workers      int
	LargeMiB     int // of a large write; 0 for none
	// ExactlyOnce: a call that a crash made the client repeat must not be answered as already done.
	ExactlyOnce bool
	// Pause of each worker between two changes.
	Pause time.Duration
}

// writer owns the journal and the gate that its workers pass before each change.
type writer struct {
	o   WriterOptions
	out io.Writer // answers

	mu      sync.Mutex
	changed *sync.Cond
	paused  bool          // protected by mu
	quit    bool          // protected by mu
	busy    int           // workers inside a change; protected by mu
	acked   int           // protected by mu
	crashes int           // of the server, as told; protected by mu
	repeats int           // calls that a crash made the client repeat, answered as already done; protected by mu
	alarm   int           // acknowledgements until the alarm, 0 for none; protected by mu
	failed  error         // the first failure; protected by mu
	times   *Times        // of acknowledged changes; protected by mu
	file    *os.File      // the journal; protected by mu
	buf     *bufio.Writer // protected by mu
}

// Write changes o.Dir until the input says quit or ends, or a change fails.
func Write(o WriterOptions, in io.Reader, out io.Writer) error {
	f, err := os.OpenFile(o.Journal, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &writer{o: o, out: out, paused: true, file: f, buf: bufio.NewWriter(f), times: NewTimes(time.Now())}
	w.changed = sync.NewCond(&w.mu)
	if err := json.NewEncoder(w.buf).Encode(header{Seed: o.Seed, Workers: o.Workers}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for i := range o.Workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := newWorker(w, i).run(); err != nil {
				w.fail(fmt.Errorf("worker %d: %w", i, err))
			}
		}()
	}
	go w.obey(in) // it ends with the input, which the process's end closes at the latest
	wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.failed, w.buf.Flush(), w.file.Sync())
}

// obey executes the commands of the input.
func (w *writer) obey(in io.Reader) {
	s := bufio.NewScanner(in)
	for s.Scan() {
		var n int
		switch line := s.Text(); {
		case line == "resume":
			w.mu.Lock()
			w.paused = false
			w.changed.Broadcast()
			w.mu.Unlock()
		case line == "crashed":
			w.mu.Lock()
			w.crashes++
			w.mu.Unlock()
		case line == "pause":
			w.pause()
		case line == "mark":
			w.mark()
		case line == "quit":
			w.pause()
			w.stop()
			return
		default:
			if _, err := fmt.Sscanf(line, "alarm %d", &n); err != nil || n < 1 {
				w.fail(fmt.Errorf("unknown command %q", line))
				return
			}
			w.mu.Lock()
			w.alarm = n
			w.mu.Unlock()
		}
	}
	w.stop()
}

func (w *writer) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quit = true
	w.changed.Broadcast()
}

func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = errors.Join(w.failed, err)
	w.quit = true
	w.changed.Broadcast()
}

// pause lets all workers finish the change they are in.
func (w *writer) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = true
	for w.busy > 0 && w.failed == nil {
		w.changed.Wait()
	}
	if err := errors.Join(w.failed, w.buf.Flush(), w.file.Sync()); err != nil {
		return // the writer's end reports it
	}
	fmt.Fprintf(w.out, "paused %d %d\n", w.acked, w.repeats)
}

// mark says how long changes took since the last mark.
func (w *writer) mark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := json.Marshal(w.times.Mark(time.Now()))
	if err == nil {
		_, err = fmt.Fprintf(w.out, "times %s\n", b)
	}
	if err != nil { // the other side has gone
		w.failed, w.quit = errors.Join(w.failed, err), true
		w.changed.Broadcast()
	}
}

// enter waits for permission to make a change; false: there will be none. It returns how often the server crashed.
func (w *writer) enter() (crashes int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.paused && !w.quit {
		w.changed.Wait()
	}
	if w.quit {
		return 0, false
	}
	w.busy++
	return w.crashes, true
}

// leave journals an acknowledged change that began then. crashes is what enter said.
func (w *writer) leave(r Record, crashes int, began time.Time, err error) error {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy--
	defer w.changed.Broadcast()
	if err = w.excuse(r.Op, crashes, err); err != nil {
		return fmt.Errorf("%+v: %w", r, err)
	}
	w.times.Answered(kindOf(r), now.Sub(began), now)
	w.acked++
	if w.alarm > 0 {
		if w.alarm--; w.alarm == 0 {
			fmt.Fprintln(w.out, "alarm")
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.buf.Write(append(b, '\n'))
	return err
}

// kindOf is what a change is among those whose times are comparable.
func kindOf(r Record) string {
	switch {
	case r.Op != opWrite:
		return r.Op
	case r.Len > 1<<20:
		return "large write, " + r.Sync
	}
	return "write, " + r.Sync
}

// excuse takes away the error of a change that was made before a crash and repeated by the client after it. w.mu is held.
func (w *writer) excuse(op string, crashes int, err error) error {
	if err == nil || w.crashes == crashes || w.o.ExactlyOnce || !alreadyDone(op, err) {
		return err
	}
	w.repeats++
	return nil
}

// alreadyDone says whether an error is the one that a change gets that was made before.
func alreadyDone(op string, err error) bool {
	switch op {
	case opCreate, opMkdir, opSymlink, opLink:
		return errors.Is(err, unix.EEXIST)
	case opUnlink, opRmdir, opRename:
		return errors.Is(err, unix.ENOENT)
	}
	return false
}

// worker makes changes in its own directory.
type worker struct {
	w     *writer
	id    int
	dir   string
	rng   *rand.Rand
	model *Model
	n     int
	names int      // ever used, so that names are new
	held  *os.File // the file that is open all the time
}

func newWorker(w *writer, id int) *worker {
	return &worker{w: w, id: id, dir: workerDir(w.o.Dir, id), rng: rand.New(rand.NewPCG(w.o.Seed, uint64(id))), model: NewModel()}
}

func workerDir(dir string, id int) string { return filepath.Join(dir, fmt.Sprintf("w%d", id)) }

func (k *worker) run() error {
	defer func() {
		if k.held != nil {
			k.held.Close() // everything in it is synced
		}
	}()
	for first := true; ; first = false {
		time.Sleep(k.w.o.Pause)
		crashes, ok := k.w.enter()
		if !ok {
			return nil
		}
		if first {
			// No change of its own, so not in the journal: part of the first one. Other workers may have
			// acknowledgements already, so a crash may come here too.
			if err := k.makeDir(crashes); err != nil {
				return err
			}
		}
		k.n++
		r := k.choose()
		r.Worker, r.N = k.id, k.n
		began := time.Now()
		err := k.perform(r)
		if err := k.w.leave(r, crashes, began, err); err != nil {
			return err
		}
		if err := k.model.Apply(k.w.o.Seed, r); err != nil {
			return err
		}
	}
}

func (k *worker) makeDir(crashes int) error {
	err := os.Mkdir(k.dir, 0o755)
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if err = k.w.excuse(opMkdir, crashes, err); err != nil {
		k.w.busy--
		k.w.changed.Broadcast()
		return fmt.Errorf("directory of a worker: %w", err)
	}
	return nil
}

func (k *worker) freshName(kind string) string {
	k.names++
	dir := "."
	if dirs := k.model.list("d"); len(dirs) > 0 && k.rng.IntN(2) == 0 {
		dir = dirs[k.rng.IntN(len(dirs))]
	}
	return path.Join(dir, fmt.Sprintf("%s%d", kind, k.names))
}

// choose picks the next change among those that are possible.
func (k *worker) choose() Record {
	pick := func(kinds string) string {
		names := k.model.list(kinds)
		for i, n := range names {
			if n == openFileName { // it is only appended to
				names = append(names[:i], names[i+1:]...)
				break
			}
		}
		if len(names) == 0 {
			return ""
		}
		return names[k.rng.IntN(len(names))]
	}
	mode := uint32(0o600 | k.rng.IntN(0o100))
	switch {
	case k.n == 1:
		return Record{Op: opCreate, Path: openFileName, Mode: mode}
	case k.n%largeEvery == 30 && k.w.o.LargeMiB > 0 && pick("f") != "":
		// Across the border of a 4 MiB block, from an odd place.
		return Record{Op: opWrite, Path: pick("f"), Offset: k.rng.Int64N(1 << 20), Len: k.w.o.LargeMiB<<20 + k.rng.IntN(1<<20), Sync: "fsync"}
	case len(k.model.names) > maxNames:
		if name := pick("fl"); name != "" {
			return Record{Op: opUnlink, Path: name}
		}
	}
	for {
		file, dir, any := pick("f"), pick("d"), pick("fdl")
		switch c := k.rng.IntN(100); {
		case c < 14 || file == "":
			return Record{Op: opCreate, Path: k.freshName("f"), Mode: mode}
		case c < 24:
			return Record{Op: opWrite, Path: openFileName, Offset: int64(len(k.model.names[openFileName].data)), Len: 1 + k.rng.IntN(900), Sync: "held"}
		case c < 44: // of every order of magnitude: inline, and block
			length := 1 + k.rng.IntN(1<<(3+k.rng.IntN(13)))
			return Record{Op: opWrite, Path: file, Offset: k.rng.Int64N(maxSmall), Len: length, Sync: []string{"fsync", "osync"}[k.rng.IntN(2)]}
		case c < 52:
			if size := len(k.model.names[file].data); size > 0 {
				return Record{Op: opTruncate, Path: file, Offset: k.rng.Int64N(int64(min(size+5000, 2*maxSmall)))}
			}
		case c < 57:
			if len(k.model.list("d")) >= maxDirs {
				continue
			}
			return Record{Op: opMkdir, Path: k.freshName("d"), Mode: 0o700 | mode&0o77}
		case c < 61:
			return Record{Op: opSymlink, Path: k.freshName("s"), To: fmt.Sprintf("target-%d", k.n)}
		case c < 66:
			return Record{Op: opLink, Path: file, To: k.freshName("h")}
		case c < 78:
			if to := k.freshName("r"); !strings.HasPrefix(to, any+"/") {
				return Record{Op: opRename, Path: any, To: to}
			}
		case c < 83: // over another file; two names of one file would make it a different operation
			if to := pick("f"); k.model.names[to] != k.model.names[file] {
				return Record{Op: opRename, Path: file, To: to}
			}
		case c < 92:
			if name := pick("fl"); name != "" {
				return Record{Op: opUnlink, Path: name}
			}
		case c < 95:
			if dir != "" && k.model.empty(dir) {
				return Record{Op: opRmdir, Path: dir}
			}
		default:
			return Record{Op: opChmod, Path: file, Mode: mode}
		}
	}
}

// perform makes a change and returns when the system says that it is durable.
func (k *worker) perform(r Record) error {
	p := filepath.Join(k.dir, r.Path)
	to := filepath.Join(k.dir, r.To)
	switch r.Op {
	case opCreate:
		f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, os.FileMode(r.Mode))
		if err != nil {
			return err
		}
		if r.Path == openFileName {
			k.held = f
			return nil
		}
		return f.Close()
	case opMkdir:
		return os.Mkdir(p, os.FileMode(r.Mode))
	case opSymlink:
		return os.Symlink(r.To, p)
	case opLink:
		return os.Link(p, to)
	case opUnlink:
		return unix.Unlink(p)
	case opRmdir:
		return unix.Rmdir(p)
	case opRename:
		return unix.Rename(p, to)
	case opChmod:
		return unix.Chmod(p, r.Mode)
	case opTruncate:
		return os.Truncate(p, r.Offset)
	case opWrite:
		return k.write(p, r)
	}
	return errors.New("unknown operation")
}

func (k *worker) write(p string, r Record) error {
	b := bytesOf(k.w.o.Seed, r)
	if r.Sync == "held" {
		if _, err := k.held.Write(b); err != nil {
			return err
		}
		return k.held.Sync()
	}
	flags := os.O_WRONLY
	if r.Sync == "osync" {
		flags |= unix.O_SYNC
	}
	f, err := os.OpenFile(p, flags, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, r.Offset)
	if err == nil && r.Sync != "osync" {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
