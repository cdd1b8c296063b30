package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/rackfs/rackfs/vfs"
)

// Workloads are all that there are, in the order in which they run.
func Workloads() []Workload {
	return []Workload{
		{"metadata-private", "create, stat, list, rename and unlink empty files, a directory for each worker", []int{1, 64}, func(e *Env) []Phase { return metadata(e, false) }},
		{"metadata-shared", "the same in one directory for all", []int{64}, func(e *Env) []Phase { return metadata(e, true) }},
		{"small-files", "16 KiB files: create, write, fsync, close; then read", []int{1, 64}, smallFiles},
		{"streams", "write files in pieces of 1 MiB, durable at the end; read them; read again what fits into a cache", []int{1, 4}, streams},
		{"random", "4 KiB pages at random in one file: read, write, write and fsync", []int{16}, random},
		{"tree", "a source tree: copy in, walk, read, remove", []int{1, 8}, tree},
		{"large-directory", "fill one directory, list it with attributes, look up at random, empty it", []int{16}, largeDirectory},
		{"locks", "byte-range locks: each its own; all the same one; a counter that all count up under one", []int{16}, locks},
		{"training", "read records of shards, shuffled by shard and by record, epoch after epoch", []int{8}, training},
		{"mixed", "all kinds of operations in fixed shares on a number of files that stays: for long runs and for what servers hold", []int{16}, mixed},
		{"checkpoint", "each rank saves a large file durably in place of the one before; then all restore", []int{4}, checkpoint},
	}
}

// WorkloadsNamed are some of Workloads; of none: all.
func WorkloadsNamed(names []string) ([]Workload, error) {
	all := Workloads()
	if len(names) == 0 {
		return all, nil
	}
	var out []Workload
	for _, name := range names {
		i := slices.IndexFunc(all, func(w Workload) bool { return w.Name == name })
		if i < 0 {
			var known []string
			for _, w := range all {
				known = append(known, w.Name)
			}
			return nil, vfs.Errorf(vfs.KindNotFound, "bench.workloads", "there is no workload %q, only %v", name, known)
		}
		out = append(out, all[i])
	}
	return out, nil
}

func wrong(format string, args ...any) error {
	return vfs.Errorf(vfs.KindCorrupt, "bench.verify", format, args...)
}

// names checks a listing: of files of size bytes that must be there, each once, and nothing else.
type names struct {
	size int64
	left map[string]bool
}

func (n *names) see(e Entry) error {
	if e.Dir || e.Size != n.size {
		return wrong("%s is listed as directory %v with %d bytes, it is a file with %d", e.Name, e.Dir, e.Size, n.size)
	}
	if !n.left[e.Name] {
		return wrong("%s is listed twice, or is not there", e.Name)
	}
	delete(n.left, e.Name)
	return nil
}

func (n *names) done() error {
	for name := range n.left {
		return wrong("%s and %d more are missing in a listing", name, len(n.left)-1)
	}
	return nil
}

// metadata is what mdtest does. Worker w makes files and worker w-1 works with them, so that no worker finds its own in a cache.
func metadata(e *Env, shared bool) []Phase {
	dirs, made := make([]Dir, e.Workers), make([]int, e.Workers)
	name := fileName
	of := func(w int) int { return (w + 1) % e.Workers } // whose files w works with
	count := func(w int) int { return made[of(w)] }
	renamed := func(w, i int) string { return "new-" + name(w, i) }
	present := func(w int, name func(w, i int) string) *names { // in w's directory
		n := names{left: map[string]bool{}}
		for x := range e.Workers {
			for i := 0; i < made[x] && (shared || x == w); i++ {
				n.left[name(x, i)] = true
			}
		}
		return &n
	}
	list := func(ctx context.Context, w int, want *names) (n int64, err error) {
		err = e.FS.List(ctx, dirs[w], func(x Entry) error { n++; return want.see(x) })
		if err == nil {
			err = want.done()
		}
		return n, err
	}
	wanted := make([]*names, e.Workers) // by each worker's listing
	lists := func(w int) int {          // how many listings a worker makes
		if shared && w > 0 {
			return 0
		}
		return 1
	}
	return []Phase{{
		Name: "create", Unit: "file",
		Before: func(ctx context.Context) error {
			for w := range dirs {
				if shared && w > 0 {
					dirs[w] = dirs[0]
					continue
				}
				var err error
				if dirs[w], err = e.FS.Mkdir(ctx, e.Dir, dirName(w)); err != nil {
					return err
				}
			}
			return nil
		},
		Count: func(int) int { return e.Options.Files },
		Op: func(ctx context.Context, w, i int) (Work, error) {
			err := e.FS.Create(ctx, dirs[w], name(w, i))
			if err == nil {
				made[w]++
			}
			return Work{}, err
		},
	}, {
		Name: "stat", Unit: "file", Cold: true,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			x := of(w)
			i = int(mix(mix(e.Options.Seed, uint64(w)), uint64(i)) % uint64(made[x]))
			got, err := e.FS.Stat(ctx, dirs[x], name(x, i))
			if err == nil && (got.Dir || got.Size != 0) {
				err = wrong("%s is an empty file, stat says directory %v, %d bytes", name(x, i), got.Dir, got.Size)
			}
			return Work{}, err
		},
	}, {
		Name: "list", Unit: "entry", Cold: true, Count: lists, Whole: true,
		Before: func(context.Context) error {
			for w := range wanted {
				if lists(w) > 0 {
					wanted[w] = present(of(w), name)
				}
			}
			return nil
		},
		Op: func(ctx context.Context, w, _ int) (Work, error) {
			n, err := list(ctx, of(w), wanted[w])
			return Work{Ops: n}, err
		},
	}, {
		Name: "rename", Unit: "file", Count: count, Whole: true,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			x := of(w)
			return Work{}, e.FS.Rename(ctx, dirs[x], name(x, i), dirs[x], renamed(x, i))
		},
		After: func(ctx context.Context) error {
			for w := range e.Workers {
				if lists(w) == 0 {
					continue
				}
				if _, err := list(ctx, w, present(w, renamed)); err != nil {
					return err
				}
			}
			return nil
		},
	}, {
		Name: "unlink", Unit: "file", Count: count, Whole: true,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			x := of(w)
			return Work{}, e.FS.Remove(ctx, dirs[x], renamed(x, i))
		},
		After: func(ctx context.Context) error {
			for _, dir := range dirs {
				if err := e.FS.List(ctx, dir, func(x Entry) error { return wrong("%s was removed and is listed", x.Name) }); err != nil {
					return err
				}
			}
			return nil
		},
	}}
}

func smallFiles(e *Env) []Phase {
	dirs, made := make([]Dir, e.Workers), make([]int, e.Workers)
	size := e.Options.FileSize
	of := func(w int) int { return (w + 1) % e.Workers }
	return []Phase{{
		Name: "write", Unit: "file",
		Before: func(ctx context.Context) (err error) {
			for w := 0; w < e.Workers && err == nil; w++ {
				dirs[w], err = e.FS.Mkdir(ctx, e.Dir, dirName(w))
			}
			return err
		},
		Count: func(int) int { return e.Options.Files },
		Op: func(ctx context.Context, w, i int) (Work, error) {
			err := e.FS.Put(ctx, dirs[w], fileName(w, i), size, e.buf(w), true, func(p []byte, off int64) { e.Pattern.Fill(p, fileID(w, i), off, 0) })
			if err == nil {
				made[w]++
			}
			return Work{Bytes: size}, err
		},
	}, {
		Name: "read", Unit: "file", Cold: true, Count: func(w int) int { return made[of(w)] },
		Op: func(ctx context.Context, w, i int) (Work, error) {
			x := of(w)
			err := e.FS.Get(ctx, dirs[x], fileName(x, i), size, e.buf(w), func(p []byte, off int64) error { return e.Pattern.Check(p, fileID(x, i), off, 0) })
			return Work{Bytes: size}, err
		},
	}}
}

func largeDirectory(e *Env) []Phase {
	n := e.Options.Entries
	var dir Dir
	// Worker w has the entries w, w+W, w+2W, ...
	count := func(w int) int { return share(n, w, e.Workers) }
	name := func(i int) string { return fileName(0, i) }
	var want names
	check := func(ctx context.Context) (k int64, err error) {
		err = e.FS.List(ctx, dir, func(x Entry) error { k++; return want.see(x) })
		if err == nil {
			err = want.done()
		}
		return k, err
	}
	return []Phase{{
		Name: "fill", Unit: "file", Count: count, Whole: true,
		Before: func(ctx context.Context) (err error) { dir, err = e.FS.Mkdir(ctx, e.Dir, "large"); return err },
		Op: func(ctx context.Context, w, i int) (Work, error) {
			return Work{}, e.FS.Create(ctx, dir, name(w+i*e.Workers))
		},
	}, {
		Name: "list", Unit: "entry", Cold: true, Whole: true, Count: func(w int) int {
			if w > 0 {
				return 0
			}
			return 1
		},
		Before: func(context.Context) error {
			want = names{left: make(map[string]bool, n)}
			for i := range n {
				want.left[name(i)] = true
			}
			return nil
		},
		Op: func(ctx context.Context, _, _ int) (Work, error) {
			k, err := check(ctx)
			return Work{Ops: k}, err
		},
	}, {
		Name: "lookup", Unit: "file",
		Op: func(ctx context.Context, w, i int) (Work, error) {
			x := name(int(mix(mix(e.Options.Seed, uint64(w)), uint64(i)) % uint64(n)))
			got, err := e.FS.Stat(ctx, dir, x)
			if err == nil && (got.Dir || got.Size != 0) {
				err = wrong("%s is an empty file, stat says directory %v, %d bytes", x, got.Dir, got.Size)
			}
			return Work{}, err
		},
	}, {
		Name: "empty", Unit: "file", Count: count, Whole: true,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			return Work{}, e.FS.Remove(ctx, dir, name(w+i*e.Workers))
		},
		After: func(ctx context.Context) error {
			return e.FS.List(ctx, dir, func(x Entry) error { return wrong("%s was removed and is listed", x.Name) })
		},
	}}
}

// holder knows who has the lock that only one may have.
type holder struct{ ch chan struct{} }

// counterSize is that of a number that is counted up under a lock.
const counterSize = 8

func newHolder() *holder { return &holder{make(chan struct{}, 1)} }

func (h *holder) take(w int) error {
	select {
	case h.ch <- struct{}{}:
		return nil
	default:
		return wrong("worker %d was given a lock that another holds", w)
	}
}

func (h *holder) give() { <-h.ch }

// held does what, if it is anything, as the one who has the lock.
func (h *holder) held(w int, what func() error) error {
	if err := h.take(w); err != nil {
		return err
	}
	defer h.give()
	if what == nil {
		return nil
	}
	return what()
}

// unlocked gives the lock of the first page back, whatever happened under it: who waits for it in a system call hears of nothing else.
func unlocked(ctx context.Context, f File, err error) error {
	if uerr := f.Unlock(ctx, 0, PageSize); err == nil {
		err = uerr
	}
	return err
}

func locks(e *Env) []Phase {
	files, holders := make([]File, e.Workers), make([]*holder, e.Workers)
	// use opens files that one or several workers share, with a lock each.
	use := func(name func(w int) string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			known := map[string]*holder{}
			for w := range files {
				f, err := e.FS.Open(ctx, e.Dir, name(w), true)
				if err != nil {
					return err
				}
				files[w] = f
				e.later(f.Close)
				if known[name(w)] == nil {
					known[name(w)] = newHolder()
				}
				holders[w] = known[name(w)]
			}
			return nil
		}
	}
	locked := func(ctx context.Context, w int, what func() error) error {
		if err := files[w].Lock(ctx, 0, PageSize); err != nil {
			return err
		}
		return unlocked(ctx, files[w], holders[w].held(w, what))
	}
	counted := make([]uint64, e.Workers)
	value := func(ctx context.Context, w int) (uint64, error) {
		p := e.buf(w)[:counterSize]
		err := files[w].Read(ctx, p, 0)
		return binary.LittleEndian.Uint64(p), err
	}
	set := func(ctx context.Context, w int, v uint64) error {
		return files[w].Write(ctx, binary.LittleEndian.AppendUint64(e.buf(w)[:0], v), 0, false)
	}
	return []Phase{{
		Name: "own", Unit: "lock",
		Before: use(func(w int) string { return fileName(w, 0) }),
		Op:     func(ctx context.Context, w, _ int) (Work, error) { return Work{}, locked(ctx, w, nil) },
	}, {
		Name: "contended", Unit: "lock",
		Before: use(func(int) string { return "lock" }),
		Op:     func(ctx context.Context, w, _ int) (Work, error) { return Work{}, locked(ctx, w, nil) },
	}, {
		Name: "counter", Unit: "increment",
		Before: func(ctx context.Context) error {
			err := use(func(int) string { return "counter" })(ctx)
			if err == nil {
				err = set(ctx, 0, 0)
			}
			return err
		},
		Op: func(ctx context.Context, w, _ int) (Work, error) {
			return Work{}, locked(ctx, w, func() error {
				v, err := value(ctx, w)
				if err == nil {
					err = set(ctx, w, v+1)
				}
				counted[w]++
				return err
			})
		},
		After: func(ctx context.Context) error {
			total := uint64(0)
			for _, n := range counted {
				total += n
			}
			v, err := value(ctx, 0)
			if err == nil && v != total {
				err = wrong("a counter that was counted up %d times under a lock is %d", total, v)
			}
			return err
		},
	}}
}

func checkpoint(e *Env) []Phase {
	size := e.Options.CheckpointSize
	saved := make([]int, e.Workers) // how many times
	name := func(w int) string { return fmt.Sprintf("rank-%04d.ckpt", w) }
	return []Phase{{
		Name: "save", Unit: "checkpoint", Count: func(int) int { return checkpoints },
		Op: func(ctx context.Context, w, i int) (Work, error) {
			tmp := name(w) + ".tmp"
			err := e.FS.Put(ctx, e.Dir, tmp, size, e.buf(w), true, func(p []byte, off int64) { e.Pattern.Fill(p, fileID(w, 0), off, uint32(i)) })
			if err == nil {
				err = e.FS.Rename(ctx, e.Dir, tmp, e.Dir, name(w))
			}
			if err == nil {
				saved[w]++
			}
			return Work{Bytes: size}, err
		},
	}, {
		Name: "restore", Unit: "checkpoint", Cold: true, Whole: true, Count: func(w int) int { return min(1, saved[w]) },
		Op: func(ctx context.Context, w, _ int) (Work, error) {
			err := e.FS.Get(ctx, e.Dir, name(w), size, e.buf(w), func(p []byte, off int64) error {
				return e.Pattern.Check(p, fileID(w, 0), off, uint32(saved[w]-1))
			})
			return Work{Bytes: size}, err
		},
	}}
}

// checkpoints that a rank saves at most.
const checkpoints = 3
