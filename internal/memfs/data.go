package memfs

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

const pageSize = 4096

// page is immutable once it is in a map: a write replaces it.
type page [pageSize]byte

// undo is how a file looked when it was last durable.
type undo struct {
	pages map[uint64]*page // nil value: there was a hole
	size  uint64
	mode  uint32
}

func (n *inode) remember(i uint64) {
	if n.undo == nil {
		return
	}
	if _, ok := n.undo.pages[i]; !ok {
		n.undo.pages[i] = n.pages[i]
	}
}

func (fs *FS) makeDurable(n *inode) { n.undo = nil }

// rollback takes back what was not durable. Change still grows: its values
// were seen.
func (fs *FS) rollback(n *inode) {
	u := n.undo
	if u == nil {
		return
	}
	n.undo = nil
	for i, p := range u.pages {
		fs.setPage(n, i, p)
	}
	n.attr.Size = u.size
	n.attr.Mode = u.mode
	n.modified(fs.now())
}

// setPage puts p (nil: a hole) at index i and keeps the accounts.
func (fs *FS) setPage(n *inode, i uint64, p *page) {
	if old := n.pages[i]; old != nil {
		n.attr.Used -= pageSize
		fs.usedBytes -= pageSize
	}
	if p == nil {
		delete(n.pages, i)
		return
	}
	fs.unreserve(n, i, i+1) // it takes that space
	n.pages[i] = p
	n.attr.Used += pageSize
	fs.usedBytes += pageSize
}

// truncate sets the size; what is cut off reads as zeros when the file grows.
func (fs *FS) truncate(n *inode, size uint64) {
	if size < n.attr.Size {
		first := size / pageSize
		fs.unreserve(n, (size+pageSize-1)/pageSize, vfs.MaxSize)
		for i := range n.pages {
			if i > first || (i == first && size%pageSize == 0) {
				fs.setPage(n, i, nil)
			}
		}
		if p := n.pages[first]; p != nil {
			q := *p
			clear(q[size%pageSize:])
			fs.setPage(n, first, &q)
		}
	}
	n.attr.Size = size
}

// wasRead takes the time of access as relatime does.
func (fs *FS) wasRead(n *inode) {
	if now := fs.now(); !fs.noAtime && n.attr.ReadAt(now) {
		n.attr.Atime = now
	}
}

// Read implements vfs.FS.
func (fs *FS) Read(_ context.Context, ino vfs.Ino, off uint64, p []byte) (int, bool, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getFile(ino, "read")
	if err != nil {
		return 0, false, err
	}
	fs.wasRead(n)
	if off >= n.attr.Size {
		return 0, true, nil
	}
	p = p[:min(uint64(len(p)), n.attr.Size-off)]
	for done := 0; done < len(p); {
		at := off + uint64(done)
		in := at % pageSize
		want := min(pageSize-in, uint64(len(p)-done))
		if pg := n.pages[at/pageSize]; pg != nil {
			copy(p[done:], pg[in:in+want])
		} else {
			clear(p[done : done+int(want)])
		}
		done += int(want)
	}
	return len(p), off+uint64(len(p)) >= n.attr.Size, nil
}

// Write implements vfs.FS.
func (fs *FS) Write(_ context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	const op = "write"
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getFile(ino, op)
	if err != nil {
		return 0, vfs.Verifier{}, err
	}
	if off > vfs.MaxSize || uint64(len(p)) > vfs.MaxSize-off {
		return 0, vfs.Verifier{}, vfs.KindTooBig.Err(op)
	}
	if len(p) > 0 {
		if need := uint64(len(p)); fs.usedBytes+need > fs.capacityBytes {
			return 0, vfs.Verifier{}, vfs.KindNoSpace.Err(op)
		}
		if n.undo == nil && s == vfs.Unstable {
			n.undo = &undo{pages: make(map[uint64]*page), size: n.attr.Size, mode: n.attr.Mode}
		}
		for done := 0; done < len(p); {
			at := off + uint64(done)
			var q page
			if old := n.pages[at/pageSize]; old != nil {
				q = *old
			}
			k := copy(q[at%pageSize:], p[done:])
			n.remember(at / pageSize)
			fs.setPage(n, at/pageSize, &q)
			done += k
		}
		n.attr.Size = max(n.attr.Size, off+uint64(len(p)))
		n.attr.Mode = vfs.ModeAfterWrite(c, &n.attr)
		n.modified(fs.now())
	}
	if s != vfs.Unstable {
		fs.makeDurable(n)
	}
	return s, fs.verifier(), nil
}

// Commit implements vfs.FS. It commits the whole file, whatever the range.
func (fs *FS) Commit(_ context.Context, ino vfs.Ino, _, _ uint64) (vfs.Verifier, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getFile(ino, "commit")
	if err != nil {
		return vfs.Verifier{}, err
	}
	fs.makeDurable(n)
	return fs.verifier(), nil
}
