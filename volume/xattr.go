package volume

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Xattrs = (*Volume)(nil)

// GetXattr implements vfs.Xattrs.
func (v *Volume) GetXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string) ([]byte, error) {
	const op = "getxattr"
	if err := vfs.CheckXattrName(name, op); err != nil {
		return nil, err
	}
	r, err := v.query(ctx, op, c, &metapb.Query{Q: &metapb.Query_GetXattr{GetXattr: &metapb.GetXattrQ{Ino: uint64(ino), Name: []byte(name)}}})
	if err != nil {
		return nil, err
	}
	return r.GetGetXattr().GetValue(), nil
}

// ListXattrs implements vfs.Xattrs.
func (v *Volume) ListXattrs(ctx context.Context, c *vfs.Cred, ino vfs.Ino, cookie uint64, maxBytes int) (vfs.XattrPage, error) {
	const op = "listxattrs"
	r, err := v.query(ctx, op, c, &metapb.Query{Q: &metapb.Query_ListXattrs{ListXattrs: &metapb.ListXattrsQ{
		Ino: uint64(ino), Cookie: cookie, MaxBytes: uint32(min(max(maxBytes, 1), vfs.XattrListMax)),
	}}})
	if err != nil {
		return vfs.XattrPage{}, err
	}
	l := r.GetListXattrs()
	if len(l.GetCookies()) != len(l.GetNames()) {
		return vfs.XattrPage{}, vfs.Errorf(vfs.KindCorrupt, op, "%d names and %d cookies", len(l.GetNames()), len(l.GetCookies()))
	}
	page := vfs.XattrPage{EOF: l.GetEof(), Names: make([]vfs.XattrName, len(l.GetNames()))}
	for i, name := range l.GetNames() {
		page.Names[i] = vfs.XattrName{Cookie: l.Cookies[i], Name: string(name)}
	}
	return page, nil
}

// SetXattr implements vfs.Xattrs.
func (v *Volume) SetXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string, value []byte, how vfs.XattrHow) (vfs.DirChange, error) {
	const op = "setxattr"
	if err := vfs.CheckXattrValue(value, how, op); err != nil {
		return vfs.DirChange{}, err
	}
	// The caller may use value again when it gave up and the command has not.
	ask := &metapb.SetXattr{Ino: uint64(ino), Name: []byte(name), Value: append([]byte{}, value...), How: uint32(how)}
	return v.changeXattr(ctx, c, ino, &metapb.Command{Op: &metapb.Command_SetXattr{SetXattr: ask}}, op)
}

// RemoveXattr implements vfs.Xattrs.
func (v *Volume) RemoveXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, name string) (vfs.DirChange, error) {
	ask := &metapb.RemoveXattr{Ino: uint64(ino), Name: []byte(name)}
	return v.changeXattr(ctx, c, ino, &metapb.Command{Op: &metapb.Command_RemoveXattr{RemoveXattr: ask}}, "removexattr")
}

func (v *Volume) changeXattr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, cmd *metapb.Command, op string) (vfs.DirChange, error) {
	return detached(ctx, v, op, func(ctx context.Context) (vfs.DirChange, error) {
		e := v.acquire(ino)
		defer v.release(e)
		// What was shown before is what the client compares with: no write may pass in between.
		if err := e.gate.Acquire(ctx, gateWide); err != nil {
			return vfs.DirChange{}, vfs.Wrap(op, err)
		}
		defer e.gate.Release(gateWide)
		e.mu.Lock()
		var shown uint64
		if e.leased() && e.known {
			shown = e.top()
		}
		dead := e.dead
		e.mu.Unlock()
		if dead {
			return vfs.DirChange{}, vfs.Errorf(vfs.KindStale, op, "inode %d", ino)
		}
		x := v.watches.begin()
		defer v.watches.end(x)
		r, err := v.apply(ctx, op, c, cmd)
		if err != nil {
			return vfs.DirChange{}, err
		}
		ch := dirChangeOf(r.GetXattr().GetChange())
		ch.Before = max(ch.Before, shown)
		// It is done, whether its attributes can be overlaid now or not.
		_, _ = v.touched(ctx, x, attrOf(r.GetXattr().GetAttr()), op)
		return ch, nil
	}, nil)
}
