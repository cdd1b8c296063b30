package cloudimport

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// tries is how often something is tried at an endpoint that fails in a way that may pass.
	tries = 4
	// defaultPause is before the second try; it doubles before each that follows, up to pauseMax.
	defaultPause = 200 * time.Millisecond
	pauseMax     = 10 * time.Second
	// patientAfter is how many bytes have to come for an object that broke off to be tried anew.
	patientAfter = 64 << 20
	// rateBurst is how many bytes a limit of the rate lets through at once: what is read at once.
	rateBurst = 1 << 20
)

// pause waits after try n, and reports whether ctx goes on.
func (e *Engine) pause(ctx context.Context, n int) bool {
	select {
	case <-time.After(min(e.o.Pause<<min(n-1, 10), pauseMax)):
		return true
	case <-ctx.Done():
		return false
	}
}

// reading is the content of one object as a reader. What breaks off goes on where it was; at its end it is verified, and io.EOF means that it is good.
type reading struct {
	ctx   context.Context
	b     *bucket
	o     *Object
	etag  bool // compare it with the content
	limit *rate.Limiter
	pause func(ctx context.Context, n int) bool
	tell  func(n int) // bytes that came

	body     io.ReadCloser
	digest   *digest
	verified bool // by more than its size
	off      uint64
	since    uint64 // off when it broke off first
	broke    int
	end      error // what every Read after the last answers
}

// Close ends the call that is under way.
func (r *reading) Close() {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
}

// Read implements io.Reader.
func (r *reading) Read(p []byte) (int, error) {
	for r.end == nil {
		if r.body == nil {
			if err := r.open(); err != nil {
				r.fail(err)
				continue
			}
		}
		if len(p) > rateBurst {
			p = p[:rateBurst]
		}
		n, err := r.body.Read(p)
		r.digest.write(p[:n])
		r.off += uint64(n)
		if n > 0 {
			r.tell(n)
			if werr := r.limit.WaitN(r.ctx, n); werr != nil && err == nil {
				err = werr
			}
		}
		switch {
		case r.off > r.o.Size:
			r.end = &fault{err: vfs.Errorf(vfs.KindChanged, "import", "%s is another object than was listed: it has more than the %d bytes that were listed", Shown(r.o.Key), r.o.Size)}
		case errors.Is(err, io.EOF) && r.off == r.o.Size:
			r.end = io.EOF
			if verr := r.digest.verify(r.o); verr != nil {
				r.end = verr
			}
		case errors.Is(err, io.EOF):
			r.fail(&fault{err: vfs.Errorf(vfs.KindIO, "import", "%s was cut off: %d bytes came, %d were listed", Shown(r.o.Key), r.off, r.o.Size), passing: true})
		case err != nil:
			r.fail(r.b.fault("read "+Shown(r.o.Key), err))
		}
		if r.end != nil {
			r.Close()
		}
		if n > 0 && (r.end == nil || r.end == io.EOF) {
			return n, r.end
		}
	}
	return 0, r.end
}

// fail notes that it broke off: it goes on after a while, or ends.
func (r *reading) fail(err error) {
	r.Close()
	var f *fault
	if r.off >= r.since+patientAfter {
		r.broke, r.since = 0, r.off
	}
	if r.broke++; !errors.As(err, &f) || !f.passing || r.broke >= tries {
		r.end = err
		return
	}
	if !r.pause(r.ctx, r.broke) {
		r.end = vfs.Wrap("import", context.Cause(r.ctx))
	}
}

// open opens the object where it is, and at its beginning learns what it is to be verified by.
func (r *reading) open() error {
	body, h, err := r.b.content(r.ctx, r.o, r.off)
	if err != nil {
		return err
	}
	r.body = body
	if r.digest != nil {
		return nil
	}
	checks, err := checksOf(r.o, h, r.etag)
	if err != nil {
		return &fault{err: err.(*vfs.Error)}
	}
	good := checks[:0]
	for _, c := range checks {
		if c.parts > 0 {
			first := r.b.part(r.ctx, r.o, 1)
			last := first
			if c.parts > 1 && first > 0 {
				last = r.b.part(r.ctx, r.o, c.parts)
			}
			if c.part = partSize(r.o.Size, c.parts, first, last); c.part == 0 {
				continue
			}
		}
		good = append(good, c)
	}
	r.digest, r.verified = newDigest(good), len(good) > 0
	return nil
}
