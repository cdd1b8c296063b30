package volume

import (
	"bytes"
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Opens and locks are recorded under the client's call. Else what comes late, from a gateway that stood still and whose origin at the shard lives on, would record an open that the gateway which serves the
// client by now does not know, change one that is in use, or unlock what was locked since.

// applyOpen runs an OpenFile. What denies it may have been closed here already, or, if it is told to a repetition, since then: so it is tried again.
func (v *Volume) applyOpen(ctx context.Context, op string, c *vfs.Cred, ask *metapb.OpenFile) (*metapb.OpenResult, error) {
	repeated := vfs.CallOf(ctx).Repeated()
	if repeated { // an attempt that was given up may have queued the end of what is made now
		if err := v.closings.flush(ctx, v); err != nil {
			return nil, err
		}
	}
	for again := false; ; again = true {
		o, err := v.openOnce(ctx, op, c, ask)
		if err != nil {
			return nil, err
		}
		if o.GetDenied() == nil {
			return o, nil
		}
		if again || !v.closings.again(ctx, v) && !repeated {
			return nil, deniedError(op, o.Denied)
		}
	}
}

// openOnce runs an OpenFile as the next step of its call. What a repetition is told was so once: the open may have another name, or be of the file that had the name then, and it may have been
// given up or changed since. So it is recorded once more, as it is to be from now on.
func (v *Volume) openOnce(ctx context.Context, op string, c *vfs.Cred, ask *metapb.OpenFile) (*metapb.OpenResult, error) {
	run := func(ctx context.Context) (*metapb.OpenResult, error) {
		r, err := v.apply(ctx, op, c, &metapb.Command{Op: &metapb.Command_OpenFile{OpenFile: ask}})
		return r.GetOpen(), err
	}
	call := vfs.CallOf(ctx)
	o, err := run(ctx)
	asked := bytes.Equal(o.GetStateid(), ask.Share.Stateid) && o.GetAttr().GetIno() == ask.Ino
	switch {
	case err != nil && !atLimit(call, err), o.GetDenied() != nil:
		return o, err
	case err == nil && asked && (!call.Repeated() || o.Lease != nil): // a lease is not told again
		return o, nil
	}
	if err := goesOn(call, op); err != nil {
		return nil, err
	}
	if err == nil && !asked {
		v.endUnknown(vfs.Ino(o.GetAttr().GetIno()), ask.Share.Client, o.GetStateid())
	}
	return run(vfs.WithCall(ctx, nil))
}

// endUnknown ends an open of a client that another gateway has recorded for it, unless it was found when the client came here.
func (v *Volume) endUnknown(ino vfs.Ino, client uint64, stateid []byte) {
	s := vfs.Share{Client: client}
	copy(s.State[:], stateid)
	if e := v.find(ino); e != nil {
		known := v.share(e, keyOf(&s)) != nil
		v.release(e)
		if known {
			return
		}
	}
	v.closings.add(v, fileClose(ino, &s, nil))
}

// atLimit reports whether err is that of a limit which a repetition is told for ever to be at.
func atLimit(call *vfs.Call, err error) bool {
	return vfs.KindOf(err) == vfs.KindTooMany && call.Repeated()
}

// goesOn fails if another gateway may have the client of a call, and so may be who did the call: then nothing more is to be done for it here.
func goesOn(call *vfs.Call, op string) error {
	if call.Serving() {
		return nil
	}
	return vfs.Errorf(vfs.KindUnavailable, op, "client %d may be served by another gateway by now", call.Client)
}

// setLock runs a SetLock.
func (v *Volume) setLock(ctx context.Context, op string, ask *metapb.SetLock) (*metapb.LockResult, error) {
	run := func(ctx context.Context) (*metapb.LockResult, error) {
		r, err := v.apply(ctx, op, nil, &metapb.Command{Op: &metapb.Command_SetLock{SetLock: ask}})
		return r.GetLock(), err
	}
	call := vfs.CallOf(ctx)
	got, err := run(ctx)
	// Another gateway has done it for the same call after this one looked what the client has: it is to be found by the name that the client is told.
	renamed := err == nil && got.GetDenied() == nil && len(ask.Stateid) > 0 && !bytes.Equal(got.GetStateid(), ask.Stateid)
	if !renamed && !atLimit(call, err) {
		return got, err
	}
	if err := goesOn(call, op); err != nil { // this one is the late one
		return nil, err
	}
	return run(vfs.WithCall(ctx, nil))
}
