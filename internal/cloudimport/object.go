package cloudimport

import (
	"context"
	"errors"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/vfs"
)

// one does what there is to do about an object. An error is one that ends the run.
func (r *run) one(ctx context.Context, w work) error {
	if ctx.Err() != nil {
		return nil
	}
	for n := 1; ; n++ {
		err := r.try(ctx, w)
		if err == nil || ctx.Err() != nil || !vfs.KindOf(err).Retryable() || n == tries || !r.e.pause(ctx, n) {
			return r.outcome(ctx, w, err)
		}
	}
}

func (r *run) try(ctx context.Context, w work) error {
	old, err := r.existing(ctx, &w.item)
	if err == nil {
		switch v, why := decide(r.spec.Conflict, &w.item, old); v {
		case refuse:
			r.refuse(ctx, w, why)
			return nil
		case leave:
			r.finish(ctx, w, false, func(c *Report) {
				if w.item.Dir {
					c.Directories++
					return
				}
				c.Skipped, c.SkippedBytes = c.Skipped+1, c.SkippedBytes+w.item.Size
			})
			return nil
		}
		if w.item.Dir {
			return r.directory(ctx, w)
		}
		return r.file(ctx, w)
	}
	return err
}

// refuse counts an object of which nothing can come.
func (r *run) refuse(ctx context.Context, w work, why string) {
	r.finish(ctx, w, false, func(c *Report) {
		c.miss(w.item.Key, Refused, why)
		if r.first == "" {
			r.first = Shown(w.item.Key) + ": " + why
		}
	})
}

// existing is what there is at the path of an item; nil: nothing.
func (r *run) existing(ctx context.Context, it *Item) (*vfs.Attr, error) {
	if it.Refuse != "" {
		return nil, nil
	}
	n, err := r.t.Tree.Walk(ctx, it.Path, "import")
	switch vfs.KindOf(err) {
	case vfs.KindOK:
		return &n.Attr, nil
	case vfs.KindNotFound:
		return nil, nil
	}
	return nil, err
}

func (r *run) directory(ctx context.Context, w work) error {
	if !r.spec.DryRun {
		if _, err := r.t.Tree.Mkdir(ctx, w.item.Path, true, 0o755); err != nil {
			return err
		}
	}
	r.finish(ctx, w, false, func(c *Report) { c.Directories++ })
	return nil
}

// file imports the content of an object.
func (r *run) file(ctx context.Context, w work) error {
	it := &w.item
	if r.spec.DryRun {
		r.finish(ctx, w, false, func(c *Report) { c.Imported, c.ImportedBytes = c.Imported+1, c.ImportedBytes+it.Size })
		return nil
	}
	select {
	case r.e.room <- struct{}{}:
	case <-ctx.Done():
		return vfs.Wrap("import", context.Cause(ctx))
	}
	defer func() { <-r.e.room }()
	origin := r.t.Origin()
	if origin == 0 {
		return vfs.Errorf(vfs.KindUnavailable, "import", "this gateway's lease ended")
	}
	r.mu.Lock()
	r.at = Shown(it.Key)
	r.mu.Unlock()
	var came uint64
	in := &reading{ctx: ctx, b: r.b, o: &it.Object, etag: !r.spec.NoETagCheck, limit: r.e.limit, pause: r.e.pause, tell: func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		came += uint64(n)
		r.reading += uint64(n)
	}}
	defer in.Close()
	_, err := r.t.Tree.Write(ctx, in, files.Put{
		Path: it.Path, Length: int64(it.Size), Parents: true, Keep: r.spec.Conflict == Skip, Mtime: it.Modified, Origin: origin,
	})
	r.mu.Lock()
	r.reading -= came
	r.mu.Unlock()
	if in.end != nil && !isEOF(in.end) {
		err = in.end // why it broke off, in the words of who knows
	}
	if r.spec.Conflict == Skip && vfs.KindOf(err) == vfs.KindExists && isEOF(in.end) {
		// Somebody made one meanwhile.
		r.finish(ctx, w, true, func(c *Report) { c.Skipped, c.SkippedBytes = c.Skipped+1, c.SkippedBytes+it.Size })
		return nil
	}
	if err != nil {
		return err
	}
	r.finish(ctx, w, true, func(c *Report) {
		c.Imported, c.ImportedBytes = c.Imported+1, c.ImportedBytes+it.Size
		if in.verified {
			c.Verified++
		} else {
			c.BySizeOnly++
		}
		r.row = 0
	})
	return nil
}

func isEOF(err error) bool { return err != nil && err.Error() == "EOF" }

// outcome decides whether an error is one object's, or the end of the run.
func (r *run) outcome(ctx context.Context, w work, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	var f *fault
	atSource := errors.As(err, &f)
	switch k := vfs.KindOf(err); {
	case atSource && f.all:
		return f.err
	case atSource:
	case k == vfs.KindQuota || k == vfs.KindNoSpace:
		return vfs.Errorf(k, "import", "%s does not fit: what came before it stays; make room and import again: what is there is skipped (%s)", w.item.Path.Shown(), words(err))
	case k == vfs.KindReadOnly:
		return err
	case k.Retryable():
		return err // the job begins again, from here
	case k == vfs.KindUnknownOrigin || k == vfs.KindFenced || k == vfs.KindStale:
		return vfs.Errorf(vfs.KindUnavailable, "import", "%w", err)
	case k == vfs.KindNotDir:
		r.refuse(ctx, w, "there is a file, or a symbolic link, where a directory of its path is to be")
		return nil
	case k == vfs.KindIsDir:
		r.refuse(ctx, w, "there is a directory of that name")
		return nil
	}
	why := words(err)
	row := 0
	r.finish(ctx, w, true, func(c *Report) {
		c.miss(w.item.Key, Failed, why)
		if r.first == "" || c.Failed == 1 {
			r.first = clip(why)
		}
		if atSource && f.passing {
			r.row++
			row = r.row
		}
	})
	if row >= giveUpAfter {
		return vfs.Errorf(vfs.KindIO, "import", "given up after %d objects in a row that could not be read, the last: %s: import again when the endpoint works: what is there is skipped", row, why)
	}
	return nil
}

// words is what an error says, without the operation before it.
func words(err error) string {
	var f *fault
	if errors.As(err, &f) {
		return f.err.Text + kindWords(f.err.Kind)
	}
	return err.Error()
}

func kindWords(k vfs.Kind) string {
	if k == vfs.KindIO || k == vfs.KindChanged || k == vfs.KindInvalid {
		return ""
	}
	return ": " + k.String()
}
