package bench

import (
	"context"
	"fmt"

	"github.com/rackfs/rackfs/vfs"
)

// hotBytes is what streams read again, all together: it fits into the cache of a gateway.
const hotBytes = 64 << 20

// streams writes and reads one file for each worker. Where files cannot be opened they go as wholes.
func streams(e *Env) []Phase {
	files, written := make([]File, e.Workers), make([]int64, e.Workers)
	whole := false
	size := e.Options.StreamSize
	name := func(w int) string { return fmt.Sprintf("stream-%04d", w) }
	get := func(ctx context.Context, w int) (Work, error) {
		err := e.FS.Get(ctx, e.Dir, name(w), written[w], e.buf(w), func(p []byte, off int64) error { return e.Pattern.Check(p, fileID(w, 0), off, 0) })
		return Work{Bytes: written[w]}, err
	}
	read := func(ctx context.Context, w, i int, of int64) (Work, error) {
		off := int64(i) * pieceSize % of
		p := e.buf(w)
		if err := files[w].Read(ctx, p, off); err != nil {
			return Work{}, err
		}
		return Work{Bytes: pieceSize}, e.Pattern.Check(p, fileID(w, 0), off, 0)
	}
	pieces := func(w int) int {
		switch {
		case written[w] == 0:
			return 0
		case whole:
			return 1
		}
		return int(written[w] / pieceSize)
	}
	return []Phase{{
		Name: "write", Unit: "piece",
		Before: func(ctx context.Context) error {
			for w := range files {
				f, err := e.FS.Open(ctx, e.Dir, name(w), true)
				if vfs.KindOf(err) == vfs.KindNotSupported {
					whole = true
					return nil
				}
				if err != nil {
					return err
				}
				files[w] = f
				e.later(f.Close)
			}
			return nil
		},
		Count: func(int) int {
			if whole {
				return 1
			}
			return int(size / pieceSize)
		},
		Op: func(ctx context.Context, w, i int) (Work, error) {
			p, off := e.buf(w), int64(i)*pieceSize
			if whole {
				err := e.FS.Put(ctx, e.Dir, name(w), size, p, true, func(p []byte, off int64) { e.Pattern.Fill(p, fileID(w, 0), off, 0) })
				if err == nil {
					written[w] = size
				}
				return Work{Bytes: size}, err
			}
			e.Pattern.Fill(p, fileID(w, 0), off, 0)
			err := files[w].Write(ctx, p, off, false)
			if err == nil {
				written[w] = off + pieceSize
			}
			return Work{Bytes: pieceSize}, err
		},
		Finish: func(ctx context.Context, w int) error {
			if whole {
				return nil
			}
			return files[w].Sync(ctx)
		},
	}, {
		Name: "read", Unit: "piece", Cold: true, Whole: true, Count: pieces,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			if whole {
				return get(ctx, w)
			}
			return read(ctx, w, i, written[w])
		},
	}, {
		Name: "read-again", Unit: "piece",
		Before: func(ctx context.Context) error { // into the cache
			if whole {
				return vfs.KindNotSupported.Err("bench.streams")
			}
			return parallel(ctx, e.Workers, e.Workers, func(ctx context.Context, w int) error {
				for i := range int(hotWindow(e.Workers, written[w]) / pieceSize) {
					if _, err := read(ctx, w, i, written[w]); err != nil {
						return err
					}
				}
				return nil
			})
		},
		Op: func(ctx context.Context, w, i int) (Work, error) {
			hot := hotWindow(e.Workers, written[w])
			if hot == 0 {
				return Work{}, nil
			}
			return read(ctx, w, i, hot)
		},
	}}
}

// hotWindow is what one of several streams reads again of what it has.
func hotWindow(workers int, written int64) int64 {
	return min(written, max(1, hotBytes/pieceSize/int64(workers))*pieceSize)
}

// random works on pages of one file that all have open together. Each page belongs to one worker, which knows how often it was written.
func random(e *Env) []Phase {
	const file = 1
	pages := int(e.Options.RandomSize / PageSize)
	generation := make([]uint32, pages)
	var f File
	at := func(w, i int) (page int, off int64) {
		page = randomPage(e.Options.Seed, w, e.Workers, i, pages)
		return page, int64(page) * PageSize
	}
	write := func(durable bool) func(ctx context.Context, w, i int) (Work, error) {
		return func(ctx context.Context, w, i int) (Work, error) {
			page, off := at(w, i)
			p := e.buf(w)[:PageSize]
			generation[page]++
			e.Pattern.Fill(p, file, off, generation[page])
			return Work{Bytes: PageSize}, f.Write(ctx, p, off, durable)
		}
	}
	verify := func(ctx context.Context) error {
		return parallel(ctx, e.Workers, e.Workers, func(ctx context.Context, w int) error {
			p := e.buf(w)
			for off := int64(w) * pieceSize; off < e.Options.RandomSize; off += int64(e.Workers) * pieceSize {
				if err := f.Read(ctx, p, off); err != nil {
					return err
				}
				for at := int64(0); at < pieceSize; at += PageSize {
					if err := e.Pattern.Check(p[at:at+PageSize], file, off+at, generation[(off+at)/PageSize]); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return []Phase{{
		Name: "read", Unit: "page", Cold: true,
		Before: func(ctx context.Context) (err error) {
			if f, err = e.FS.Open(ctx, e.Dir, "random", true); err != nil {
				return err
			}
			e.later(f.Close)
			p := e.buf(0)
			for off := int64(0); off < e.Options.RandomSize; off += pieceSize {
				e.Pattern.Fill(p, file, off, 0)
				if err := f.Write(ctx, p, off, false); err != nil {
					return err
				}
			}
			return f.Sync(ctx)
		},
		Op: func(ctx context.Context, w, i int) (Work, error) {
			_, off := at(w, i)
			p := e.buf(w)[:PageSize]
			if err := f.Read(ctx, p, off); err != nil {
				return Work{}, err
			}
			return Work{Bytes: PageSize}, e.Pattern.Check(p, file, off, 0)
		},
	}, {
		Name: "write", Unit: "page",
		Op:     write(false),
		Finish: func(ctx context.Context, _ int) error { return f.Sync(ctx) },
		After:  verify,
	}, {
		Name: "write-fsync", Unit: "page",
		Op:    write(true),
		After: verify,
	}}
}

// tree copies a planned tree in and works with it. Directories are made and removed by one worker, as their order demands.
func tree(e *Env) []Phase {
	plan := planTree(e.Options.Seed, e.Options.TreeFiles)
	var dirs, files []int
	for i := range plan {
		if plan[i].dir {
			dirs = append(dirs, i)
		} else {
			files = append(files, i)
		}
	}
	handles := map[int]Dir{-1: e.Dir} // written by phase mkdir only
	first := func(n int) func(w int) int {
		return func(w int) int {
			if w > 0 {
				return 0
			}
			return n
		}
	}
	each := func(w int) int { return share(len(files), w, e.Workers) }
	of := func(w, i int) (id int, n *node) { id = files[w+i*e.Workers]; return id, &plan[id] }
	children := map[int]map[string]int{}
	for i := range plan {
		if children[plan[i].parent] == nil {
			children[plan[i].parent] = map[string]int{}
		}
		children[plan[i].parent][plan[i].name] = i
	}
	return []Phase{{
		Name: "mkdir", Unit: "directory", Whole: true, Count: first(len(dirs)),
		Op: func(ctx context.Context, _, i int) (Work, error) {
			n := &plan[dirs[i]]
			dir, err := e.FS.Mkdir(ctx, handles[n.parent], n.name)
			handles[dirs[i]] = dir
			return Work{}, err
		},
	}, {
		Name: "copy", Unit: "file", Whole: true, Count: each,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			id, n := of(w, i)
			return Work{Bytes: n.size}, e.FS.Put(ctx, handles[n.parent], n.name, n.size, e.buf(w), false, func(p []byte, off int64) { e.Pattern.Fill(p, uint64(id), off, 0) })
		},
	}, {
		Name: "walk", Unit: "entry", Cold: true, Whole: true,
		Count: func(w int) int { return share(len(dirs)+1, w, e.Workers) },
		Op: func(ctx context.Context, w, i int) (Work, error) {
			id := -1
			if at := w + i*e.Workers; at > 0 {
				id = dirs[at-1]
			}
			seen := int64(0)
			err := e.FS.List(ctx, handles[id], func(x Entry) error {
				seen++
				k, ok := children[id][x.Name]
				if !ok || plan[k].dir != x.Dir || !x.Dir && plan[k].size != x.Size {
					return wrong("%s is not in the tree as it is listed: directory %v, %d bytes", x.Name, x.Dir, x.Size)
				}
				return nil
			})
			if err == nil && int(seen) != len(children[id]) {
				err = wrong("a directory of %d entries is listed with %d", len(children[id]), seen)
			}
			return Work{Ops: seen}, err
		},
	}, {
		Name: "read", Unit: "file", Whole: true, Count: each,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			id, n := of(w, i)
			return Work{Bytes: n.size}, e.FS.Get(ctx, handles[n.parent], n.name, n.size, e.buf(w), func(p []byte, off int64) error { return e.Pattern.Check(p, uint64(id), off, 0) })
		},
	}, {
		Name: "remove", Unit: "file", Whole: true, Count: each,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			_, n := of(w, i)
			return Work{}, e.FS.Remove(ctx, handles[n.parent], n.name)
		},
	}, {
		Name: "rmdir", Unit: "directory", Whole: true, Count: first(len(dirs)),
		Op: func(ctx context.Context, _, i int) (Work, error) {
			n := &plan[dirs[len(dirs)-1-i]]
			return Work{}, e.FS.Rmdir(ctx, handles[n.parent], n.name)
		},
		After: func(ctx context.Context) error {
			return e.FS.List(ctx, e.Dir, func(x Entry) error { return wrong("%s was removed and is listed", x.Name) })
		},
	}}
}

// epochs are shuffles of 0..n-1, one after another, dealt to workers in turn.
type epochs struct {
	seed    uint64
	n       int
	epoch   int
	current []int
}

// at is the ith of a worker.
func (x *epochs) at(worker, workers, i int) int {
	p := worker + i*workers
	if x.current == nil || p/x.n != x.epoch {
		x.epoch = p / x.n
		x.current = shuffled(x.seed, x.epoch, x.n)
	}
	return x.current[p%x.n]
}

// training reads shards of records. By shards: a worker takes the next shard of the epoch and reads its records in order. By records: it takes
// the next record of all.
func training(e *Env) []Phase {
	o := &e.Options
	records := int(o.ShardSize / o.RecordSize)
	open := make([][]File, e.Workers) // each worker's shards
	byShard, byRecord := make([]epochs, e.Workers), make([]epochs, e.Workers)
	for w := range e.Workers {
		open[w] = make([]File, o.Shards)
		byShard[w] = epochs{seed: o.Seed, n: o.Shards}
		byRecord[w] = epochs{seed: o.Seed, n: o.Shards * records}
	}
	name := func(s int) string { return fmt.Sprintf("shard-%05d", s) }
	read := func(ctx context.Context, w, shard, record int) (Work, error) {
		p, off := e.buf(w)[:o.RecordSize], int64(record)*o.RecordSize
		if err := open[w][shard].Read(ctx, p, off); err != nil {
			return Work{}, err
		}
		return Work{Bytes: o.RecordSize}, e.Pattern.Check(p, uint64(shard), off, 0)
	}
	return []Phase{{
		Name: "by-shard", Unit: "record", Cold: true,
		Before: func(ctx context.Context) error {
			err := parallel(ctx, e.Workers, e.Workers, func(ctx context.Context, w int) error {
				for s := w; s < o.Shards; s += e.Workers {
					err := e.FS.Put(ctx, e.Dir, name(s), o.ShardSize, e.buf(w), true, func(p []byte, off int64) { e.Pattern.Fill(p, uint64(s), off, 0) })
					if err != nil {
						return err
					}
				}
				return nil
			})
			for w := range open {
				for s := 0; s < o.Shards && err == nil; s++ {
					if open[w][s], err = e.FS.Open(ctx, e.Dir, name(s), false); err == nil {
						e.later(open[w][s].Close)
					}
				}
			}
			return err
		},
		Op: func(ctx context.Context, w, i int) (Work, error) {
			return read(ctx, w, byShard[w].at(w, e.Workers, i/records), i%records)
		},
	}, {
		Name: "by-record", Unit: "record", Cold: true,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			k := byRecord[w].at(w, e.Workers, i)
			return read(ctx, w, k/records, k%records)
		},
	}}
}
