//go:build linux

package posix

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RandomIO are the options of the random-I/O verifier: a few files are read, written, truncated, mapped, punched,
// allocated, cloned and copied at random, and every byte that comes back is compared with a copy in memory. What the
// file system says it cannot do is not asked again.
type RandomIO struct {
	Dir        string
	Ops        int
	Files      int // 3 if 0
	Seed       uint64
	DropCaches bool // the kernel's, now and then
	// Before is called before each operation; tests damage a file in it, to see that it is found.
	Before func(op int, files []string)
}

const (
	randomIOMaxSize = 9<<20 + 4321 // of a file: three chunks of 4 MiB, the last one short
	randomIOTrace   = 40           // operations told when one fails
	randomIOPage    = 4096
)

// errUnsupported ends an operation that the file system refuses to know.
var errUnsupported = errors.New("not supported")

type randomIOFile struct {
	path string
	f    *os.File
	ref  []byte // what the file must contain
}

type randomIO struct {
	RandomIO
	rng     *rand.Rand
	files   []*randomIOFile
	op      int
	count   map[string]int
	refused map[string]bool
	trace   []string
	buf     []byte
}

type randomIOOp struct {
	name   string
	weight int
	run    func(*randomIO, *randomIOFile) error
}

var randomIOOps = []randomIOOp{
	{"write", 24, (*randomIO).write},
	{"append", 4, (*randomIO).append},
	{"direct-write", 4, (*randomIO).directWrite},
	{"read", 24, (*randomIO).read},
	{"direct-read", 4, (*randomIO).directRead},
	{"truncate", 6, (*randomIO).truncate},
	{"mmap-write", 6, (*randomIO).mmapWrite},
	{"mmap-read", 4, (*randomIO).mmapRead},
	{"punch", 6, (*randomIO).punch},
	{"fallocate", 3, (*randomIO).allocate},
	{"seek", 4, (*randomIO).seek},
	{"clone-range", 4, (*randomIO).cloneRange},
	{"clone", 1, (*randomIO).clone},
	{"copy-range", 4, (*randomIO).copyRange},
	{"fsync", 3, (*randomIO).fsync},
	{"stat", 3, (*randomIO).stat},
	{"reopen", 2, (*randomIO).reopen},
	{"drop-caches", 1, (*randomIO).dropCaches},
}

// Run does the operations and returns how often each was done. The error of a difference names the seed, the
// operation, and what was done just before.
func (o RandomIO) Run() (count map[string]int, refused []string, err error) {
	if o.Files == 0 {
		o.Files = 3
	}
	v := &randomIO{RandomIO: o, rng: rand.New(rand.NewPCG(o.Seed, 1)), count: map[string]int{}, refused: map[string]bool{}, buf: make([]byte, randomIOMaxSize)}
	defer func() {
		for _, f := range v.files {
			f.f.Close()
		}
	}()
	var paths []string
	for i := range o.Files {
		p := filepath.Join(o.Dir, fmt.Sprintf("random-%d", i))
		f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return nil, nil, err
		}
		v.files = append(v.files, &randomIOFile{path: p, f: f})
		paths = append(paths, p)
	}
	total := 0
	for _, op := range randomIOOps {
		total += op.weight
	}
	for v.op = range o.Ops {
		if o.Before != nil {
			o.Before(v.op, paths)
		}
		if err := v.step(total); err != nil {
			return v.count, v.names(), v.failure(err)
		}
	}
	for _, f := range v.files { // the last word has what is stored, not what is cached
		err := v.reopen(f)
		if err == nil {
			err = v.dropCaches(f)
		}
		if err == nil {
			err = v.compare(f, 0, len(f.ref))
		}
		if err != nil {
			return v.count, v.names(), v.failure(fmt.Errorf("at the end: %w", err))
		}
	}
	return v.count, v.names(), nil
}

func (v *randomIO) names() (refused []string) {
	for n := range v.refused {
		refused = append(refused, n)
	}
	slices.Sort(refused)
	return refused
}

func (v *randomIO) failure(err error) error {
	return fmt.Errorf("seed %d, operation %d: %w; before it:\n  %s", v.Seed, v.op, err, strings.Join(v.trace, "\n  "))
}

func (v *randomIO) step(total int) error {
	n := v.rng.IntN(total)
	for _, op := range randomIOOps {
		if n -= op.weight; n >= 0 {
			continue
		}
		if v.refused[op.name] {
			return nil
		}
		f := v.files[v.rng.IntN(len(v.files))]
		err := op.run(v, f)
		if errors.Is(err, errUnsupported) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
			v.refused[op.name] = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s of %s: %w", op.name, filepath.Base(f.path), err)
		}
		v.count[op.name]++
		return nil
	}
	return nil
}

// note remembers what is about to be done, for the message of a failure.
func (v *randomIO) note(f *randomIOFile, format string, args ...any) {
	if len(v.trace) == randomIOTrace {
		v.trace = slices.Delete(v.trace, 0, 1)
	}
	v.trace = append(v.trace, fmt.Sprintf("%d: %s (%d bytes): ", v.op, filepath.Base(f.path), len(f.ref))+fmt.Sprintf(format, args...))
}

// span is a random range below limit: mostly short, now and then long, half of them on pages.
func (v *randomIO) span(limit int) (off, n int) {
	if limit == 0 {
		return 0, 0
	}
	sizes := [...]int{16, 600, 5000, 40_000, 300_000, 3 << 20}
	n = 1 + v.rng.IntN(sizes[v.rng.IntN(len(sizes))])
	off = v.rng.IntN(limit)
	if v.rng.IntN(2) == 0 {
		off -= off % randomIOPage
		n = (n + randomIOPage - 1) / randomIOPage * randomIOPage
	}
	return off, min(n, limit-off)
}

// content is n bytes that no other operation writes.
func (v *randomIO) content(n int) []byte {
	b := v.buf[:n]
	word := uint64(v.op+1)<<24 | 1
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, word)
		word++
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(word) + byte(i)
	}
	return v.buf[:n]
}

// wrote is what a successful write does to the reference.
func (f *randomIOFile) wrote(off int, b []byte) {
	f.resize(max(len(f.ref), off+len(b)))
	copy(f.ref[off:], b)
}

func (f *randomIOFile) resize(n int) {
	if n <= len(f.ref) {
		f.ref = f.ref[:n]
		return
	}
	old := len(f.ref)
	f.ref = slices.Grow(f.ref, n-old)[:n]
	clear(f.ref[old:])
}

// zeroed is a punched range; it never changes the size.
func (f *randomIOFile) zeroed(off, n int) {
	if off < len(f.ref) {
		clear(f.ref[off:min(off+n, len(f.ref))])
	}
}

func mainRandomIO(args []string) error {
	f := flag.NewFlagSet("random-io", flag.ContinueOnError)
	var o RandomIO
	f.StringVar(&o.Dir, "dir", "", "directory on the mount under test")
	f.IntVar(&o.Ops, "ops", 10_000, "operations")
	f.IntVar(&o.Files, "files", 3, "files")
	f.Uint64Var(&o.Seed, "seed", 0, "seed; 0 takes one from the clock")
	f.BoolVar(&o.DropCaches, "drop-caches", false, "drop the kernel's caches now and then")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.Dir == "" {
		return errors.New("-dir is missing")
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	begin := time.Now()
	count, refused, err := o.Run()
	if err != nil {
		return err
	}
	done := 0
	var each []string
	for _, op := range randomIOOps {
		if n := count[op.name]; n > 0 {
			done += n
			each = append(each, fmt.Sprintf("%s %d", op.name, n))
		}
	}
	fmt.Printf("seed %d: %d operations in %.1f s: %s; not supported: %v\n", o.Seed, done, time.Since(begin).Seconds(), strings.Join(each, ", "), refused)
	return nil
}
