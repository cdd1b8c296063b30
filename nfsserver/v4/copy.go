package v4

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// copyClone is how much is cloned at a time at most, copyBytes how much at most is read and written, copyPiece how much the file
	// system copies, so that a copy can be stopped and its progress told.
	copyClone = 1 << 30
	copyBytes = 1 << 20
	copyPiece = 16 << 20
)

// copyEnd is one end of a copy.
type copyEnd struct {
	fs  vfs.FS
	ino vfs.Ino
	off uint64
}

// copying copies a range of a file to another, of any file system here. What lies at the same place of pages of 4 KiB of one file system is
// cloned, the rest is copied by the file system if it can, else read and written through one buffer. It copies in ascending order; the source may change meanwhile.
type copying struct {
	src, dst copyEnd
	cred     vfs.Cred // who writes
	n        uint64   // bytes to copy
	done     uint64
	bytes    uint64 // of done, that were not cloned
	cloner   vfs.Cloner
	copier   vfs.Copier
	piece    uint64 // how much is cloned at a time

	wrote    bool         // something since the last commit
	verifier vfs.Verifier // of that
	durable  uint64       // of done

	own *ownCopy // of one that goes on in the background, if its end is remembered; nil: bytes are written as WRITE writes them
}

// ownCopy is what a copy is after its request was answered: it writes under a call of its own, in order and durably, so that whoever asks is told how far it came, and whoever ends it ends it for good.
type ownCopy struct {
	filler  vfs.Filler
	begin   uint64      // where it goes on from, in the destination
	before  uint64      // bytes that were copied by then
	call    *vfs.Call   // under which it copies
	fence   *vfs.Call   // that ends it
	filling vfs.Filling // of bytes that were read; nil: none is under way
}

func newCopying(src, dst copyEnd, sameFS bool, cred *vfs.Cred, n uint64) *copying {
	c := &copying{src: src, dst: dst, cred: *cred, n: n, piece: copyClone}
	if sameFS && (src.off-dst.off)%vfs.CloneAlign == 0 {
		c.cloner, _ = dst.fs.(vfs.Cloner)
	}
	if sameFS {
		c.copier, _ = dst.fs.(vfs.Copier)
	}
	return c
}

// step copies the next piece, through buf if bytes move. At the end of the source nothing is left to copy.
func (c *copying) step(ctx context.Context, buf []byte) error {
	src, dst := c.src.off+c.done, c.dst.off+c.done
	left := c.n - c.done
	if c.cloner != nil {
		switch into := src % vfs.CloneAlign; {
		case into != 0:
			left = min(left, vfs.CloneAlign-into)
		case left >= vfs.CloneAlign:
			if err := c.settle(ctx); err != nil {
				return err
			}
			whole := min(left&^(vfs.CloneAlign-1), c.piece)
			err := c.cloner.Clone(ctx, &c.cred, c.src.ino, src, c.dst.ino, dst, whole)
			switch {
			case err == nil:
				c.done += whole
				if c.own != nil {
					c.durable = c.done
				}
				c.piece = min(2*c.piece, copyClone)
				return nil
			case vfs.KindOf(err) == vfs.KindXDev && whole > vfs.CloneAlign: // too much at once; a copy may be done in parts
				c.piece = max(whole/4&^(vfs.CloneAlign-1), vfs.CloneAlign)
				return nil
			}
			// The source is shorter by now, or cannot be cloned: reading tells.
			if ctx.Err() != nil || vfs.KindOf(err) == vfs.KindUnknown { // it may be done
				return err
			}
			if vfs.KindOf(err) == vfs.KindNotSupported {
				c.cloner = nil
			}
		}
	}
	if c.copier != nil && c.own == nil {
		n, v, err := c.copier.Copy(ctx, &c.cred, c.src.ino, src, c.dst.ino, dst, min(left, copyPiece))
		switch {
		case vfs.KindOf(err) == vfs.KindNotSupported:
			c.copier = nil
		case err != nil:
			return err
		default:
			return c.moved(n, n == 0, v)
		}
	}
	n, eof, err := c.src.fs.Read(ctx, c.src.ino, src, buf[:min(left, uint64(len(buf)))])
	if err != nil {
		return err
	}
	if c.own != nil {
		return c.put(ctx, buf[:n], eof)
	}
	var v vfs.Verifier
	if n > 0 {
		if _, v, err = c.dst.fs.Write(ctx, &c.cred, c.dst.ino, dst, buf[:n], vfs.Unstable); err != nil {
			return err
		}
	}
	return c.moved(uint64(n), eof, v)
}

// put hands bytes on that are to be written in order.
func (c *copying) put(ctx context.Context, p []byte, eof bool) (err error) {
	o := c.own
	if o.filling == nil && len(p) > 0 {
		if o.filling, err = o.filler.Fill(ctx, &c.cred, c.dst.ino, c.dst.off+c.done, o.call); err != nil {
			return err
		}
	}
	if len(p) > 0 {
		if err := o.filling.Put(ctx, p); err != nil {
			return err
		}
	}
	c.done += uint64(len(p))
	c.bytes += uint64(len(p))
	if eof {
		c.n = c.done
	}
	return nil
}

// progress is how much is durable.
func (c *copying) progress() uint64 {
	switch {
	case c.own == nil:
		return c.done
	case c.own.filling == nil:
		return c.durable
	}
	return c.durable + c.own.filling.Done()
}

// settle waits until what was read is durable. With an error no more than that is done, as far as is known here.
func (c *copying) settle(ctx context.Context) error {
	if c.own == nil || c.own.filling == nil {
		return nil
	}
	n, err := c.own.filling.End(ctx)
	c.own.filling = nil
	c.durable += n
	if err != nil {
		c.done = c.durable
	}
	return err
}

// ask learns how much is done, as call.
func (c *copying) ask(ctx context.Context, call *vfs.Call) error {
	to, err := c.own.filler.Fence(ctx, c.dst.ino, call, c.own.begin)
	if err == nil {
		c.done = c.own.before + to - c.own.begin
		c.durable = c.done
	}
	return err
}

// moved notes that n bytes were written, which are not durable yet.
func (c *copying) moved(n uint64, eof bool, v vfs.Verifier) error {
	if n > 0 {
		if c.wrote && v != c.verifier {
			return c.lost()
		}
		c.wrote, c.verifier = true, v
		c.done += n
		c.bytes += n
	}
	if eof {
		c.n = c.done
	}
	return nil
}

// run copies until all is done, or until keep, which is asked after each piece, says no.
func (c *copying) run(ctx context.Context, buf []byte, keep func() bool) error {
	for c.done < c.n && keep() {
		if err := c.step(ctx, buf); err != nil {
			return err
		}
	}
	return nil
}

// commit makes what was copied durable and returns the verifier. It fails if something that was written was lost before, which
// nobody else would be told: then no more is done than what an earlier commit made durable.
func (c *copying) commit(ctx context.Context) (vfs.Verifier, error) {
	v, err := c.dst.fs.Commit(ctx, c.dst.ino, c.dst.off, c.done)
	switch {
	case err != nil:
		return v, err
	case c.wrote && v != c.verifier:
		return v, c.lost()
	}
	c.wrote, c.durable = false, c.done
	return v, nil
}

// lost takes back what is not durable.
func (c *copying) lost() error {
	c.wrote, c.done = false, c.durable
	return vfs.Errorf(vfs.KindUnavailable, "copy", "what was copied to inode %d and not durable was lost: copy it again", c.dst.ino)
}
