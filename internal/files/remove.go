package files

import (
	"context"
	"sync"

	"github.com/rackfs/rackfs/vfs"
)

// removers is how many names of a directory are dropped at once.
const removers = 16

// Removal counts what was removed.
type Removal struct {
	Removed, Failed uint64
	First           error // of those that failed
}

// RemoveAll removes a directory and all that is in it, or a file, if it is still inode ino. What is not there any more is no error, so that it can be done again. What
// may not be removed stays, with the directories above it, and is counted. tell is told now and then how far it is, from one goroutine.
func (t *Tree) RemoveAll(ctx context.Context, p Path, ino vfs.Ino, tell func(Removal, Path)) (Removal, error) {
	const op = "remove"
	r := &removing{t: t, tell: tell}
	n, err := t.Walk(ctx, p, op)
	if vfs.KindOf(err) == vfs.KindNotFound {
		return r.sum, nil
	}
	if err != nil {
		return r.sum, err
	}
	if n.Attr.Ino != ino {
		return r.sum, vfs.Errorf(vfs.KindChanged, op, "%s is another one by now: it stays", p.Shown())
	}
	if n.Name == "" {
		return r.sum, vfs.Errorf(vfs.KindBusy, op, "/ stays: end the file system with `rackfs fs delete`")
	}
	err = r.one(ctx, n.Dir, n.Name, n.Path, &n.Attr, 0)
	if err == nil && r.sum.Failed > 0 {
		err = vfs.Errorf(vfs.KindOf(r.sum.First), op, "%d were not removed, the first: %w", r.sum.Failed, r.sum.First)
	}
	if err != nil {
		return r.sum, err
	}
	// All may have looked gone because the file system is not served here any more.
	if _, err := t.Walk(ctx, p, op); err != nil && vfs.KindOf(err) != vfs.KindNotFound {
		return r.sum, err
	}
	return r.sum, nil
}

type removing struct {
	t    *Tree
	tell func(Removal, Path)

	mu  sync.Mutex // guards sum
	sum Removal
}

// note counts the outcome of one name; the error is one that ends all.
func (r *removing) note(err error, p Path) error {
	k := vfs.KindOf(err)
	if k.Retryable() || k == vfs.KindCanceled {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch k {
	case vfs.KindOK:
		r.sum.Removed++
	case vfs.KindNotFound, vfs.KindStale: // somebody else has removed it, or what it was in
	default:
		if r.sum.Failed++; r.sum.First == nil {
			r.sum.First = about(err, "remove", p)
		}
	}
	return nil
}

func (r *removing) one(ctx context.Context, dir vfs.Ino, name string, p Path, a *vfs.Attr, depth int) error {
	what := vfs.RemoveFile
	if a.IsDir() {
		what = vfs.RemoveDir
		if err := r.inside(ctx, a.Ino, p, depth); err != nil {
			return err
		}
	}
	_, err := r.t.FS.Remove(ctx, &r.t.Cred, dir, name, what)
	return r.note(err, p)
}

// inside removes what is in a directory.
func (r *removing) inside(ctx context.Context, dir vfs.Ino, p Path, depth int) error {
	if depth > maxDepth {
		return r.note(vfs.Errorf(vfs.KindTooMany, "remove", "more than %d directories deep", maxDepth), p)
	}
	for cookie := uint64(0); ; {
		page, err := r.t.FS.ReadDir(ctx, &r.t.Cred, dir, cookie, listEntries, true)
		if vfs.KindOf(err) == vfs.KindStale {
			return nil // somebody else has removed it
		}
		if err != nil {
			return r.note(err, p)
		}
		var wg sync.WaitGroup
		var failed error
		var once sync.Once
		room := make(chan struct{}, removers)
		for _, e := range page.Entries {
			cookie = e.Cookie
			switch {
			case e.Attr == nil:
			case e.Attr.IsDir():
				if err := r.one(ctx, dir, e.Name, p.Join(e.Name), e.Attr, depth+1); err != nil {
					once.Do(func() { failed = err })
				}
			default:
				room <- struct{}{}
				wg.Go(func() {
					defer func() { <-room }()
					if err := r.one(ctx, dir, e.Name, p.Join(e.Name), e.Attr, depth+1); err != nil {
						once.Do(func() { failed = err })
					}
				})
			}
			if ctx.Err() != nil {
				break
			}
		}
		wg.Wait()
		if ctx.Err() != nil {
			return vfs.Wrap("remove", context.Cause(ctx))
		}
		if failed != nil {
			return failed
		}
		r.mu.Lock()
		sum := r.sum
		r.mu.Unlock()
		r.tell(sum, p)
		if page.EOF || len(page.Entries) == 0 {
			return nil
		}
	}
}
