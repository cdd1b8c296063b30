package volume

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// Resume implements vfs.Keeper, as does Slots. No write lease is taken for what is opened: the first write does so.
func (v *Volume) Resume(ctx context.Context, client uint64) (opens []vfs.HeldOpen, locks []vfs.HeldLocks, err error) {
	const op = "resume"
	ask := &metapb.ClientStateQ{Client: client}
	for {
		r, err := v.query(ctx, op, nil, &metapb.Query{Q: &metapb.Query_ClientState{ClientState: ask}})
		if err != nil {
			v.closeResumed(opens)
			return nil, nil, err
		}
		page := r.GetClientState()
		for _, o := range page.GetOpens() {
			if o.Fs != v.cfg.FS {
				continue
			}
			h := vfs.HeldOpen{Ino: vfs.Ino(o.Ino), Share: vfs.Share{
				Client: client, Owner: o.Owner, Access: vfs.OpenFlags(o.Access), Deny: vfs.OpenFlags(o.Deny),
			}}
			copy(h.State[:], o.Stateid)
			e := v.acquire(h.Ino)
			v.addOpen(e, h.Access)
			v.setShare(e, &h.Share, true)
			v.release(e)
			opens = append(opens, h)
		}
		for _, l := range page.GetLocks() {
			if l.Fs != v.cfg.FS {
				continue
			}
			h := vfs.HeldLocks{Ino: vfs.Ino(l.Ino), Owner: vfs.LockOwner{Client: client, Owner: string(l.Owner)}}
			copy(h.State[:], l.Stateid)
			copy(h.Open[:], l.State)
			for _, r := range l.Ranges {
				h.Ranges = append(h.Ranges, byterange.Range{First: r.First, Last: r.Last, Write: r.Write})
			}
			locks = append(locks, h)
		}
		if !page.GetMore() {
			return opens, locks, nil
		}
		ask = &metapb.ClientStateQ{Client: client, AfterFs: page.NextFs, AfterIno: page.NextIno}
	}
}

// closeResumed takes back the opens of a Resume that failed.
func (v *Volume) closeResumed(opens []vfs.HeldOpen) {
	for _, o := range opens {
		if e := v.find(o.Ino); e != nil {
			v.dropShare(e, keyOf(&o.Share))
			v.dropOpen(e, o.Access)
			v.release(e)
		}
	}
}

func (v *Volume) Slots(ctx context.Context, session [16]byte) ([]vfs.SlotSeq, error) {
	r, err := v.query(ctx, "session slots", nil, &metapb.Query{Q: &metapb.Query_SessionSlots{SessionSlots: &metapb.SessionSlotsQ{Session: session[:]}}})
	if err != nil {
		return nil, err
	}
	var out []vfs.SlotSeq
	for _, s := range r.GetSessionSlots().GetSlots() {
		out = append(out, vfs.SlotSeq{Slot: s.Slot, Seq: s.Seq})
	}
	return out, nil
}
