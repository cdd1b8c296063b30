package vfstest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// RunLong checks limits that take many operations to reach.
func RunLong(t *testing.T, fs vfs.FS) {
	t.Run("LinkMax", func(t *testing.T) { testLinkMax(newEnv(t, fs)) })
	t.Run("BigDirectory", func(t *testing.T) { testBigDirectory(newEnv(t, fs)) })
}

// each calls f for 0 <= i < n from several goroutines.
func each(n int, f func(i int) error) error {
	const workers = 64
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				if err := f(i); err != nil {
					errs <- fmt.Errorf("%d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func testLinkMax(e *env) {
	f := e.create(root, "f", 0o600)
	e.ok(each(vfs.LinkMax-1, func(i int) error {
		_, _, err := e.fs.Link(e.ctx, root, f.Ino, e.dir, fmt.Sprint(i))
		return err
	}))
	if a := e.attr(f.Ino); a.Nlink != vfs.LinkMax {
		e.Fatalf("%d links", a.Nlink)
	}
	_, _, err := e.fs.Link(e.ctx, root, f.Ino, e.dir, "one more")
	e.want(vfs.KindTooManyLinks, err)
}

func testBigDirectory(e *env) {
	const n = 10_000
	e.ok(each(n, func(i int) error {
		_, err := e.fs.Create(e.ctx, root, e.dir, fmt.Sprintf("file-%d", i), vfs.CreateArgs{Exclusive: vfs.Guarded})
		return err
	}))
	seen := map[string]bool{}
	for _, ent := range e.list(e.dir, 300) {
		seen[ent.Name] = true
	}
	if len(seen) != n {
		e.Fatalf("%d of %d entries listed", len(seen), n)
	}
	e.ok(each(n, func(i int) error {
		_, err := e.fs.Remove(e.ctx, root, e.dir, fmt.Sprintf("file-%d", i), vfs.RemoveFile)
		return err
	}))
	if left := e.list(e.dir, 10); len(left) != 0 {
		e.Fatalf("%d entries left", len(left))
	}
}
