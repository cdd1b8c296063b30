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
			whole := min(left&^(vfs.CloneAlign-1), c.piece)
			err := c.cloner.Clone(ctx, &c.cred, c.src.ino, src, c.dst.ino, dst, whole)
			switch {
			case err == nil:
				c.done += whole
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
	if c.copier != nil {
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
	var v vfs.Verifier
	if n > 0 {
		if _, v, err = c.dst.fs.Write(ctx, &c.cred, c.dst.ino, dst, buf[:n], vfs.Unstable); err != nil {
			return err
		}
	}
	return c.moved(uint64(n), eof, v)
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
