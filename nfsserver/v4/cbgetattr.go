package v4

import (
	"context"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// CB_GETATTR (RFC 8881, 10.4.3 and 20.1): who has a file for writing is asked for the size and whether it has changed it, before another client is told
// its attributes. If so, the change that the server does not know yet is made visible: the file's times move, and with them its change value,
// durably, so that what anybody was told before and is told from now on differ, also after a crash. A client that does not answer has its
// delegation recalled.

const (
	// getAttrWait is how long its answer is waited for.
	getAttrWait = 500 * time.Millisecond
	// maxAsked bounds the files of one READDIR for which somebody has to be asked: the page ends there.
	maxAsked = 64
)

// heldAttrs are those that a client may have changed without telling.
var heldAttrs = bits4(nfsv4.FATTR4_CHANGE, nfsv4.FATTR4_SIZE, nfsv4.FATTR4_TIME_MODIFY, nfsv4.FATTR4_TIME_METADATA)

// askHolder makes the attributes of o, loaded or not, those of a file that another client may have for writing. asked is false if nobody has.
func (c *compound) askHolder(o *object) (asked bool, st status) {
	s := c.s.cfg.State
	if !s.WritesDelegated() || o.pseudo() || o.hasAttr && o.attr.Type != vfs.TypeFile {
		return false, nfsv4.NFS4_OK
	}
	f := o.file()
	h, eff, has := s.BeginGetAttr(c.now, c.clientID(), f)
	if has {
		defer s.EndChange(f)
	}
	if st := c.apply(eff, nfsv4.NFS4_OK); st != nfsv4.NFS4_OK || !has {
		return false, st
	}
	o.hasAttr = false // it may have told us something since
	var change, size uint64
	var err error
	if !h.Down {
		change, size, err = c.s.getAttrOf(c.ctx, h)
	}
	if h.Down || err != nil {
		return true, c.unclaimed(func() (state.Effects, status) { return s.RecallForRead(c.now, c.clientID(), f) })
	}
	if modified, held := s.Told(h, change); !held || !modified {
		return true, nfsv4.NFS4_OK
	}
	a, err := o.export.FS.SetAttr(c.ctx, &vfs.Root, o.ino, vfs.SetAttr{MtimeSet: vfs.TimeServer}, true)
	if err != nil {
		return true, statusOf(err, true)
	}
	a.Size = size
	o.attr, o.hasAttr = a, true
	return true, nfsv4.NFS4_OK
}

// getAttrOf asks a client for change and size.
func (s *Server) getAttrOf(ctx context.Context, h state.WriteHolder) (change, size uint64, err error) {
	const what = "nfs.cb_getattr"
	ctx, cancel := context.WithTimeout(ctx, getAttrWait)
	defer cancel()
	res, err := s.callBack(ctx, h.Client, &nfsv4.NfsCbArgop4_OP_CB_GETATTR{Opcbgetattr: nfsv4.CbGetattr4args{
		Fh: h.Handle, AttrRequest: []uint32{1<<nfsv4.FATTR4_CHANGE | 1<<nfsv4.FATTR4_SIZE},
	}})
	if err != nil {
		return 0, 0, vfs.Wrap(what, err)
	}
	r, _ := res.(*nfsv4.NfsCbResop4_OP_CB_GETATTR)
	if r == nil {
		return 0, 0, vfs.Errorf(vfs.KindInvalid, what, "result %d", res.GetResop())
	}
	ok, _ := r.Opcbgetattr.(*nfsv4.CbGetattr4res_NFS4_OK)
	if ok == nil {
		return 0, 0, vfs.Errorf(vfs.KindStale, what, "status %s", nfsv4.Nfsstat4_name[r.Opcbgetattr.GetStatus()])
	}
	a := ok.Resok4.ObjAttributes
	var mask bitmap
	copy(mask[:], a.Attrmask)
	// Clients that wanted the times delegated may tell these, too.
	times := bits4(attrTimeDelegAccess, attrTimeDelegModify)
	if len(a.Attrmask) > len(mask) || mask.without(times) != bits4(nfsv4.FATTR4_CHANGE, nfsv4.FATTR4_SIZE) {
		return 0, 0, vfs.Errorf(vfs.KindInvalid, what, "attributes %v", a.Attrmask)
	}
	d := xdr.NewDecoder(a.AttrVals)
	change, size = d.Uint64(), d.Uint64()
	for t := mask.next(attrTimeDelegAccess); t >= 0; t = mask.next(t + 1) {
		d.Int64()
		d.Uint32()
	}
	if d.Err() != nil || d.Len() != 0 || size > vfs.MaxSize {
		return 0, 0, vfs.Errorf(vfs.KindInvalid, what, "%d bytes of attributes", len(a.AttrVals))
	}
	return change, size, nil
}
