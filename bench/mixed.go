package bench

import (
	"context"
	"encoding/binary"
	"fmt"
)

const (
	mixedStream = 8 << 20 // of each worker's stream
	// mixedLeast is how many operations each worker does in any case, so that a short run does some of all kinds.
	mixedLeast = 100
)

// kind is a kind of operation of the mixed workload.
type kind int

const (
	mixStat kind = iota
	mixRead
	mixList
	mixCreate
	mixWrite
	mixRename
	mixRemove
	mixPageRead
	mixPageWrite
	mixStreamWrite
	mixStreamRead
	mixLock
	mixCount
)

// mixture is how many of a thousand operations are of each kind. Those that make files and those that remove them are equally many, so that what
// is there at the end is as much as at the begin.
var mixture = [...]struct {
	kind  kind
	share int
}{
	{mixStat, 270}, {mixRead, 130}, {mixList, 30}, {mixCreate, 90}, {mixWrite, 90}, {mixRename, 70}, {mixRemove, 180},
	{mixPageRead, 50}, {mixPageWrite, 40}, {mixStreamWrite, 5}, {mixStreamRead, 5}, {mixLock, 20}, {mixCount, 20},
}

// mixedKind is the kind of operation that a number stands for.
func mixedKind(r uint64) kind {
	at := int(r % 1000)
	for _, m := range mixture {
		if at -= m.share; at < 0 {
			return m.kind
		}
	}
	return mixStat // not reached: shares are a thousand
}

// mixedFile is a file of a worker, as it must be.
type mixedFile struct {
	name   string
	shared bool // in the directory of all, else in the worker's own
	size   int64
	id     uint64
}

// mixedWorker is what a worker has. It works alone on its files, beside others in the shared directory, the file of pages and the locks.
type mixedWorker struct {
	own     Dir
	files   []mixedFile
	made    int
	streams uint32 // how often its stream was written
	locks   File
}

// mixed does all kinds of operations in turn, in shares that are fixed, on a number of files that stays between half of Options.Files and all of them
// for each worker: whatever of the servers grows meanwhile grows for good.
func mixed(e *Env) []Phase {
	m := &mixedLoad{Env: e, workers: make([]mixedWorker, e.Workers), generation: make([]uint32, e.Options.RandomSize/PageSize), counter: newHolder()}
	return []Phase{{
		Name: "mixed", Unit: "operation", Least: mixedLeast, Before: m.prepare, After: m.verify,
		Op: func(ctx context.Context, w, i int) (Work, error) {
			r := mix(mix(e.Options.Seed, uint64(w)), uint64(i))
			n, err := m.do(ctx, w, mixedKind(r), mix(r, 1))
			return Work{Bytes: n}, err
		},
	}}
}

type mixedLoad struct {
	*Env
	shared     Dir
	workers    []mixedWorker
	pages      File
	generation []uint32 // of each page, which belongs to one worker
	counter    *holder  // of the lock that all want
	counted    uint64   // guarded by counter
}

const pagesID = 1 << 63 // no file of a worker has it

func streamID(w int) uint64 { return pagesID + 1 + uint64(w) }

func streamName(w int) string { return fmt.Sprintf("stream-%04d", w) }

func (m *mixedLoad) prepare(ctx context.Context) (err error) {
	if m.shared, err = m.FS.Mkdir(ctx, m.Dir, "shared"); err != nil {
		return err
	}
	if m.pages, err = m.FS.Open(ctx, m.Dir, "pages", true); err != nil {
		return err
	}
	m.later(m.pages.Close)
	for off := int64(0); off < m.Options.RandomSize; off += pieceSize {
		m.Pattern.Fill(m.buf(0), pagesID, off, 0)
		if err := m.pages.Write(ctx, m.buf(0), off, false); err != nil {
			return err
		}
	}
	if err := m.pages.Sync(ctx); err != nil {
		return err
	}
	for w := range m.workers {
		x := &m.workers[w]
		if x.own, err = m.FS.Mkdir(ctx, m.Dir, dirName(w)); err != nil {
			return err
		}
		if x.locks, err = m.FS.Open(ctx, m.Dir, "locks", true); err != nil {
			return err
		}
		m.later(x.locks.Close)
	}
	if err := m.workers[0].locks.Write(ctx, make([]byte, counterSize), 0, false); err != nil {
		return err
	}
	return parallel(ctx, m.Workers, m.Workers, func(ctx context.Context, w int) error {
		for i := range (3*m.Options.Files + 3) / 4 { // the middle of its bounds, so that there are not more as time goes by
			if _, err := m.do(ctx, w, mixCreate+kind(i%2), uint64(i/2)); err != nil {
				return err
			}
		}
		_, err := m.do(ctx, w, mixStreamWrite, 0)
		return err
	})
}

// do does one operation of a worker; r chooses what on.
func (m *mixedLoad) do(ctx context.Context, w int, k kind, r uint64) (bytes int64, err error) {
	x := &m.workers[w]
	switch { // keeps the number of files in its bounds
	case (k == mixCreate || k == mixWrite) && len(x.files) >= max(m.Options.Files, 2):
		k = mixRemove
	case (k == mixRemove || k == mixRename || k == mixStat || k == mixRead) && len(x.files) <= m.Options.Files/2:
		k = mixCreate + kind(r%2)
	}
	switch k {
	case mixCreate, mixWrite:
		return m.create(ctx, w, k == mixWrite, r)
	case mixList:
		return 0, m.list(ctx, w, r%2 == 0)
	case mixPageRead, mixPageWrite:
		return PageSize, m.page(ctx, w, k == mixPageWrite, r)
	case mixStreamWrite:
		gen := x.streams + 1
		err := m.FS.Put(ctx, m.Dir, streamName(w), mixedStream, m.buf(w), true, func(p []byte, off int64) { m.Pattern.Fill(p, streamID(w), off, gen) })
		if err == nil {
			x.streams = gen
		}
		return mixedStream, err
	case mixStreamRead:
		return mixedStream, m.FS.Get(ctx, m.Dir, streamName(w), mixedStream, m.buf(w), func(p []byte, off int64) error {
			return m.Pattern.Check(p, streamID(w), off, x.streams)
		})
	case mixLock:
		own := int64(w+1) * PageSize
		if err := x.locks.Lock(ctx, own, PageSize); err != nil {
			return 0, err
		}
		return 0, x.locks.Unlock(ctx, own, PageSize)
	case mixCount:
		return 0, m.count(ctx, w)
	}
	at := int(r % uint64(len(x.files)))
	f := &x.files[at]
	switch k {
	case mixRename:
		to := mixedFile{name: m.newName(w), shared: r>>32%2 == 0}
		if err := m.FS.Rename(ctx, m.dir(w, f.shared), f.name, m.dir(w, to.shared), to.name); err != nil {
			return 0, err
		}
		f.name, f.shared = to.name, to.shared
		return 0, nil
	case mixRemove:
		if err := m.FS.Remove(ctx, m.dir(w, f.shared), f.name); err != nil {
			return 0, err
		}
		last := len(x.files) - 1
		x.files[at] = x.files[last]
		x.files = x.files[:last]
		return 0, nil
	case mixRead:
		return f.size, m.read(ctx, w, f)
	}
	got, err := m.FS.Stat(ctx, m.dir(w, f.shared), f.name)
	if err == nil && (got.Dir || got.Size != f.size) {
		err = wrong("%s is a file of %d bytes, stat says directory %v, %d bytes", f.name, f.size, got.Dir, got.Size)
	}
	return 0, err
}

func (m *mixedLoad) dir(w int, shared bool) Dir {
	if shared {
		return m.shared
	}
	return m.workers[w].own
}

func (m *mixedLoad) newName(w int) string {
	x := &m.workers[w]
	x.made++
	return fileName(w, x.made)
}

func (m *mixedLoad) create(ctx context.Context, w int, content bool, r uint64) (int64, error) {
	f := mixedFile{name: m.newName(w), shared: r%2 == 0}
	f.id = fileID(w, m.workers[w].made)
	var err error
	if content {
		f.size = m.Options.FileSize
		err = m.FS.Put(ctx, m.dir(w, f.shared), f.name, f.size, m.buf(w), true, func(p []byte, off int64) { m.Pattern.Fill(p, f.id, off, 0) })
	} else {
		err = m.FS.Create(ctx, m.dir(w, f.shared), f.name)
	}
	if err == nil {
		m.workers[w].files = append(m.workers[w].files, f)
	}
	return f.size, err
}

func (m *mixedLoad) read(ctx context.Context, w int, f *mixedFile) error {
	return m.FS.Get(ctx, m.dir(w, f.shared), f.name, f.size, m.buf(w), func(p []byte, off int64) error { return m.Pattern.Check(p, f.id, off, 0) })
}

// list lists a directory. Others change the shared one meanwhile: of theirs nothing is known, the worker's own are there, each once.
func (m *mixedLoad) list(ctx context.Context, w int, shared bool) error {
	left := map[string]int64{}
	for _, f := range m.workers[w].files {
		if f.shared == shared {
			left[f.name] = f.size
		}
	}
	mine := fileName(w, 0)[:len("file-0000")]
	err := m.FS.List(ctx, m.dir(w, shared), func(x Entry) error {
		size, ok := left[x.Name]
		switch {
		case !ok && (!shared || len(x.Name) > len(mine) && x.Name[:len(mine)] == mine):
			return wrong("%s is listed twice, or is not there", x.Name)
		case ok && (x.Dir || x.Size != size):
			return wrong("%s is listed as directory %v with %d bytes, it is a file with %d", x.Name, x.Dir, x.Size, size)
		}
		delete(left, x.Name)
		return nil
	})
	for name := range left {
		if err == nil {
			err = wrong("%s and %d more are missing in a listing", name, len(left)-1)
		}
	}
	return err
}

func (m *mixedLoad) page(ctx context.Context, w int, write bool, r uint64) error {
	page := randomPage(m.Options.Seed, w, m.Workers, int(r>>1), len(m.generation))
	off, p := int64(page)*PageSize, m.buf(w)[:PageSize]
	if write {
		m.generation[page]++
		m.Pattern.Fill(p, pagesID, off, m.generation[page])
		return m.pages.Write(ctx, p, off, true)
	}
	if err := m.pages.Read(ctx, p, off); err != nil {
		return err
	}
	return m.Pattern.Check(p, pagesID, off, m.generation[page])
}

// count counts up, under a lock, a number that is in the file of locks.
func (m *mixedLoad) count(ctx context.Context, w int) error {
	f, p := m.workers[w].locks, m.buf(w)[:counterSize]
	if err := f.Lock(ctx, 0, PageSize); err != nil {
		return err
	}
	return unlocked(ctx, f, m.counter.held(w, func() error {
		err := f.Read(ctx, p, 0)
		if n := binary.LittleEndian.Uint64(p); err == nil && n != m.counted {
			err = wrong("a counter that was counted up %d times under a lock is %d", m.counted, n)
		}
		if err == nil {
			err = f.Write(ctx, binary.LittleEndian.AppendUint64(p[:0], m.counted+1), 0, false)
		}
		if err == nil {
			m.counted++
		}
		return err
	}))
}

// verify reads all that must be there.
func (m *mixedLoad) verify(ctx context.Context) error {
	return parallel(ctx, m.Workers, m.Workers, func(ctx context.Context, w int) error {
		x := &m.workers[w]
		for i := range x.files {
			if err := m.read(ctx, w, &x.files[i]); err != nil {
				return err
			}
		}
		for _, shared := range []bool{false, true} {
			if err := m.list(ctx, w, shared); err != nil {
				return err
			}
		}
		if _, err := m.do(ctx, w, mixStreamRead, 0); err != nil {
			return err
		}
		for page := w; page < len(m.generation); page += m.Workers {
			off, p := int64(page)*PageSize, m.buf(w)[:PageSize]
			if err := m.pages.Read(ctx, p, off); err != nil {
				return err
			}
			if err := m.Pattern.Check(p, pagesID, off, m.generation[page]); err != nil {
				return err
			}
		}
		return nil
	})
}
