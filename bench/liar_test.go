package bench

import (
	"context"
	"sync"
)

// liar is a file system that does one thing wrong, each time.
type liar struct {
	FS
	lie string

	mu    sync.Mutex
	pairs chan struct{} // of the lie about locks: two that read under a lock wait for one another
}

const (
	flips      = "a bit of what is read is flipped"
	loses      = "writes are answered and not done"
	stale      = "only the first write to a place is done"
	forgets    = "listings lack a name"
	repeats    = "listings have a name twice"
	inflates   = "sizes are one too large"
	keeps      = "removing does nothing"
	stays      = "renaming does nothing"
	overlocks  = "locks are given to everybody"
	truncates  = "files end one byte early"
	nothingBad = "it is honest"
)

func (l *liar) List(ctx context.Context, dir Dir, each func(Entry) error) error {
	first := true
	return l.FS.List(ctx, dir, func(e Entry) error {
		was := first
		first = false
		switch {
		case l.lie == forgets && was:
			return nil
		case l.lie == repeats && was:
			if err := each(e); err != nil {
				return err
			}
		case l.lie == inflates:
			e.Size++
		}
		return each(e)
	})
}

func (l *liar) Stat(ctx context.Context, dir Dir, name string) (Entry, error) {
	e, err := l.FS.Stat(ctx, dir, name)
	if l.lie == inflates {
		e.Size++
	}
	return e, err
}

func (l *liar) Remove(ctx context.Context, dir Dir, name string) error {
	if l.lie == keeps {
		return nil
	}
	return l.FS.Remove(ctx, dir, name)
}

func (l *liar) Rename(ctx context.Context, dir Dir, name string, to Dir, newName string) error {
	if l.lie == stays {
		return nil
	}
	return l.FS.Rename(ctx, dir, name, to, newName)
}

func (l *liar) Put(ctx context.Context, dir Dir, name string, size int64, buf []byte, durable bool, fill func(p []byte, off int64)) error {
	if l.lie == truncates {
		size--
	}
	return l.FS.Put(ctx, dir, name, size, buf, durable, func(p []byte, off int64) {
		fill(p, off)
		if l.lie == loses {
			clear(p)
		}
	})
}

func (l *liar) Get(ctx context.Context, dir Dir, name string, size int64, buf []byte, each func(p []byte, off int64) error) error {
	return l.FS.Get(ctx, dir, name, size, buf, func(p []byte, off int64) error {
		l.flip(p)
		return each(p, off)
	})
}

func (l *liar) flip(p []byte) {
	if l.lie == flips {
		p[len(p)/2] ^= 1
	}
}

func (l *liar) Open(ctx context.Context, dir Dir, name string, create bool) (File, error) {
	f, err := l.FS.Open(ctx, dir, name, create)
	return &liarFile{File: f, l: l, written: map[int64]bool{}}, err
}

type liarFile struct {
	File
	l       *liar
	written map[int64]bool // guarded by l.mu
}

func (f *liarFile) Write(ctx context.Context, p []byte, off int64, durable bool) error {
	f.l.mu.Lock()
	again := false
	for at := int64(0); at < int64(len(p)); at += PageSize {
		again = again || f.written[off+at]
		f.written[off+at] = true
	}
	f.l.mu.Unlock()
	if f.l.lie == loses {
		p = make([]byte, len(p))
	}
	if f.l.lie == stale && again {
		return nil
	}
	return f.File.Write(ctx, p, off, durable)
}

func (f *liarFile) Read(ctx context.Context, p []byte, off int64) error {
	if f.l.lie == overlocks {
		// Who reads under such a lock goes on when another does so too: both have the lock then.
		select {
		case f.l.pairs <- struct{}{}:
		case <-f.l.pairs:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := f.File.Read(ctx, p, off)
	f.l.flip(p)
	return err
}

func (f *liarFile) Lock(ctx context.Context, off, n int64) error {
	if f.l.lie == overlocks {
		return nil
	}
	return f.File.Lock(ctx, off, n)
}

func (f *liarFile) Unlock(ctx context.Context, off, n int64) error {
	if f.l.lie == overlocks {
		return nil
	}
	return f.File.Unlock(ctx, off, n)
}
