//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/test/journal"
)

const (
	stormWorkers = 4
	// stormPause of each worker between two operations leaves the processors to the cluster under test.
	stormPause = 30 * time.Millisecond
	// filesEach bounds the files of a worker; then it removes one before it makes the next.
	filesEach = 40
	writeMax  = 1 << 20
)

// storm is NFS clients that write, read back, rename and remove files, and know what was acknowledged. Every call that fails, and every
// byte that is not what was acknowledged, is an error of the test.
type storm struct {
	c    *cluster
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex // guards the following
	err     error
	began   time.Time
	last    time.Time // of the last completion
	times   *journal.Times
	seconds []int // completions in each second
	written int64
	workers []*worker
}

// worker is one client with a directory of its own.
type worker struct {
	s     *storm
	x     *nfsclient.Client
	dir   nfsclient.FH
	name  string
	r     *rand.Rand
	next  int
	asked time.Time          // when the call under way began
	files map[string][]piece // what was acknowledged
}

// piece of a file: bytes that follow from a seed.
type piece struct {
	off, n int
	seed   uint64
}

func (p piece) bytes() []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(p.seed >> (8 * i))
	}
	b := make([]byte, p.n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// content is what a file of these pieces holds; later ones are over earlier ones.
func content(pieces []piece) []byte {
	size := 0
	for _, p := range pieces {
		size = max(size, p.off+p.n)
	}
	b := make([]byte, size)
	for _, p := range pieces {
		copy(b[p.off:], p.bytes())
	}
	return b
}

// startStorm begins one. Its seed is in the log.
func (c *cluster) startStorm() *storm {
	c.t.Helper()
	seed := rand.Uint64()
	c.t.Logf("storm with seed %d", seed)
	s := &storm{c: c, stop: make(chan struct{})}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for i := range stormWorkers {
		x, root, err := c.client(ctx)
		if err != nil {
			c.t.Fatalf("mount: %v", err)
		}
		c.t.Cleanup(x.Disconnect)
		w := &worker{s: s, x: x, name: fmt.Sprintf("w%d-%d", i, seed), r: rand.New(rand.NewPCG(seed, uint64(i))), files: map[string][]piece{}}
		if w.dir, _, err = x.Mkdir(ctx, root, w.name, 0o755); err != nil {
			c.t.Fatalf("mkdir: %v", err)
		}
		s.workers = append(s.workers, w)
	}
	s.began = time.Now()
	s.last, s.times = s.began, journal.NewTimes(s.began)
	for _, w := range s.workers {
		s.done.Go(w.run)
	}
	c.t.Cleanup(func() { s.end() })
	return s
}

// completed counts a call that was answered.
func (w *worker) completed(what string) {
	s, now := w.s, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times.Answered(what, now.Sub(w.asked), now)
	s.last, w.asked = now, now
	i := int(now.Sub(s.began) / time.Second)
	for len(s.seconds) <= i {
		s.seconds = append(s.seconds, 0)
	}
	s.seconds[i]++
}

func (s *storm) count() (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.seconds {
		n += x
	}
	return n, s.err
}

// goesOn waits until n more calls were answered.
func (s *storm) goesOn(n int) {
	s.c.t.Helper()
	before, _ := s.count()
	s.c.all[0].await(fmt.Sprintf("%d more calls are answered", n), func() (bool, string) {
		now, err := s.count()
		if err != nil {
			s.c.t.Fatal(err)
		}
		return now-before >= n, fmt.Sprintf("%d so far", now-before)
	})
}

// mark begins the measurement anew. It returns what was measured until now.
func (s *storm) mark() journal.Measured {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times.Mark(time.Now())
}

// end stops the workers after the call each is in.
func (s *storm) end() {
	s.mu.Lock()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.mu.Unlock()
	s.done.Wait()
}

// finish ends the storm and reads everything back as clients that have nothing of it.
func (s *storm) finish() {
	t := s.c.t
	t.Helper()
	s.end()
	n, err := s.count()
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	idle := 0
	for _, x := range s.seconds {
		if x == 0 {
			idle++
		}
	}
	t.Logf("storm: %d calls, %d MiB in %v; %d seconds without an answer; calls per second %v", n, s.written>>20, s.last.Sub(s.began).Round(time.Second), idle, s.seconds)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	x, root, err := s.c.client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Disconnect()
	files, total := 0, 0
	for _, w := range s.workers {
		dir, _, err := x.Lookup(ctx, root, w.name)
		if err != nil {
			t.Fatalf("lookup %s: %v", w.name, err)
		}
		entries, err := x.Readdir(ctx, dir, nil)
		if err != nil {
			t.Fatalf("readdir %s: %v", w.name, err)
		}
		for _, e := range entries {
			if w.files[e.Name] == nil {
				t.Errorf("%s/%s is there, and was removed or renamed", w.name, e.Name)
			}
		}
		if len(entries) != len(w.files) {
			t.Errorf("%s has %d files, want %d", w.name, len(entries), len(w.files))
		}
		for name, pieces := range w.files {
			got, err := readAll(ctx, x, dir, name)
			want := content(pieces)
			if err != nil {
				t.Errorf("read %s/%s: %v", w.name, name, err)
			} else if !bytes.Equal(got, want) {
				t.Errorf("%s/%s has %d bytes that differ from the %d that were acknowledged, first at %d: %+v", w.name, name, len(got), len(want), differs(got, want), pieces)
			}
			files, total = files+1, total+len(want)
		}
	}
	t.Logf("storm: %d files, %d MiB read back", files, total>>20)
}

func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// user is an NFS client that reads.
type user interface {
	Open(ctx context.Context, dir nfsclient.FH, a nfsclient.OpenArgs) (*nfsclient.File, error)
	Read(ctx context.Context, f *nfsclient.File, off uint64, p []byte) (n int, eof bool, err error)
	CloseFile(ctx context.Context, f *nfsclient.File) error
}

func readAll(ctx context.Context, x user, dir nfsclient.FH, name string) ([]byte, error) {
	f, err := x.Open(ctx, dir, nfsclient.OpenArgs{Name: name, Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
	if err != nil {
		return nil, err
	}
	var all []byte
	p := make([]byte, writeMax)
	for {
		n, eof, err := x.Read(ctx, f, uint64(len(all)), p)
		if err != nil {
			return nil, err
		}
		all = append(all, p[:n]...)
		if eof {
			return all, x.CloseFile(ctx, f)
		}
	}
}

func (w *worker) run() {
	for {
		select {
		case <-w.s.stop:
			return
		case <-w.s.c.t.Context().Done():
			return
		case <-time.After(stormPause):
		}
		w.asked = time.Now()
		what, err := w.step()
		if err == nil {
			continue
		}
		w.s.mu.Lock()
		w.s.err = errors.Join(w.s.err, fmt.Errorf("%s, %v after the begin: %s: %w", w.name, time.Since(w.s.began).Round(time.Millisecond), what, err))
		w.s.mu.Unlock()
		return
	}
}

// step is one operation. Its calls have the patience of a hard mount.
func (w *worker) step() (what string, err error) {
	ctx, cancel := context.WithTimeout(w.s.c.t.Context(), 2*patience)
	defer cancel()
	var name string
	if len(w.files) > 0 {
		names := make([]string, 0, len(w.files))
		for n := range w.files {
			names = append(names, n)
		}
		slices.Sort(names)
		name = names[w.r.IntN(len(names))]
	}
	switch k := w.r.IntN(10); {
	case name == "" || k < 5 && len(w.files) < filesEach:
		w.next++
		name = fmt.Sprintf("f%d", w.next)
		sizes := []int{1 + w.r.IntN(4096), 1 + w.r.IntN(128<<10), 1 + w.r.IntN(3<<20)}
		return "write " + name, w.write(ctx, name, true, piece{0, sizes[w.r.IntN(3)], w.r.Uint64()})
	case k < 7:
		size := len(content(w.files[name]))
		return "overwrite " + name, w.write(ctx, name, false, piece{w.r.IntN(size + 1), 1 + w.r.IntN(200<<10), w.r.Uint64()})
	case k < 8:
		to := "r" + strings.TrimLeft(name, "r")
		if to == name {
			to = "r" + name
		}
		if err := w.x.Rename(ctx, w.dir, name, w.dir, to); err != nil {
			return "rename " + name, err
		}
		w.completed("rename")
		w.files[to] = w.files[name]
		delete(w.files, name)
		return "", nil
	case k < 9 && len(w.files) >= filesEach/2:
		if err := w.x.Remove(ctx, w.dir, name); err != nil {
			return "remove " + name, err
		}
		w.completed("remove")
		delete(w.files, name)
		return "", nil
	}
	got, err := readAll(ctx, w.x, w.dir, name)
	w.completed("open, read and close")
	if want := content(w.files[name]); err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d bytes that differ from the %d that were acknowledged, first at %d", len(got), len(want), differs(got, want))
	}
	return "read " + name, err
}

// write makes a piece of a file durable, as a kernel does: unstable writes, COMMIT, and all anew if the server began anew meanwhile.
func (w *worker) write(ctx context.Context, name string, create bool, p piece) error {
	var f *nfsclient.File
	var err error
	if create {
		f, err = w.x.Create(ctx, w.dir, name, 0o644)
	} else {
		f, err = w.x.Open(ctx, w.dir, nfsclient.OpenArgs{Name: name, Access: nfsv4.OPEN4_SHARE_ACCESS_BOTH})
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	w.completed("open for writing")
	data := p.bytes()
	for {
		var verifiers [][8]byte
		for off := 0; off < len(data); off += writeMax {
			part := data[off:min(off+writeMax, len(data))]
			r, err := w.x.Write(ctx, f, uint64(p.off+off), nfsv4.UNSTABLE4, part)
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			if int(r.Count) != len(part) {
				return fmt.Errorf("write: %d of %d bytes", r.Count, len(part))
			}
			w.completed("write")
			verifiers = append(verifiers, r.Verifier)
		}
		v, err := w.x.Commit(ctx, f.FH, 0, 0)
		if err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		w.completed("commit")
		if !slices.ContainsFunc(verifiers, func(x [8]byte) bool { return x != v }) {
			break
		}
	}
	w.files[name] = append(w.files[name], p)
	w.s.mu.Lock()
	w.s.written += int64(len(data))
	w.s.mu.Unlock()
	if err := w.x.CloseFile(ctx, f); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	w.completed("close")
	return nil
}

// short chooses a number for `make test` and one for the long run.
func short[T any](_ testing.TB, brief, thorough T) T {
	if long {
		return thorough
	}
	return brief
}
