package v4

import (
	"context"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// lostCopy is the end of a copy of which nothing was done, or nothing is known, when its server was lost. The client sends its COPY
// again: Linux (nfs42proc.c: handle_async_copy) treats what CB_OFFLOAD brings as if COPY had been answered with it. A count of 0 it would take for the end of the source.
const lostCopy = nfsv4.NFS4ERR_DELAY

// The copies of its own that a server fences: see state.CopyRecord.Call.
const (
	copySeq  = 1
	fenceSeq = 2
)

// copyRequest is the running operation as a record names it.
func (c *compound) copyRequest() state.CopyRequest {
	return state.CopyRequest{Session: c.call.SessionID, Slot: c.call.Slot, Seq: c.call.Sequence, Op: uint32(c.index)}
}

// begunCopy is the copy that an earlier server has begun for this very COPY, and answered with a stateid: the answer was lost. CB_OFFLOAD comes as if it was not, or has come before.
func (c *compound) begunCopy() (state.CopyRecord, bool) {
	return c.s.cfg.State.CopyOf(c.clientID(), c.copyRequest())
}

// ownCopy prepares a copy to go on under a call of its own, which r names, if its client may outlive this server. false: there can be no such call.
func (c *compound) ownCopy(job *copying, r *state.CopyRecord) bool {
	if c.s.sessions == nil {
		return true
	}
	filler, ok := job.dst.fs.(vfs.Filler)
	if !ok {
		return false
	}
	f := c.cur.file()
	r.CopyTarget = state.CopyTarget{FS: f.FS, Ino: f.Ino, Off: job.dst.off, Before: job.done, Count: job.n}
	r.CopyRequest = c.copyRequest()
	own := &ownCopy{filler: filler, begin: job.dst.off + job.done, before: job.done, call: r.Call(c.clientID(), copySeq), fence: r.Call(c.clientID(), fenceSeq)}
	if _, err := filler.Fence(c.ctx, job.dst.ino, own.call, own.begin); err != nil {
		if vfs.KindOf(err) != vfs.KindNotSupported {
			c.log().Warn("nfs: a copy could not begin in the background; its client gets a short answer", "client", c.clientID(), "err", err)
		}
		return false
	}
	job.own = own
	return true
}

// recordCopy names a copy in its client's record. false: it may not go on in the background.
func (s *Server) recordCopy(ctx context.Context, o *offload, r state.CopyRecord) bool {
	eff, ok := s.cfg.State.AddCopy(o.client, r)
	if err := s.apply(ctx, &eff); err != nil {
		s.cfg.Logger.Warn("nfs: a copy could not be recorded; its client gets a short answer", "client", o.client, "err", err)
		ok = false
	}
	if !ok {
		s.settleCopy(ctx, o.client, o.id)
	}
	return ok
}

// settleCopy takes a copy out of its client's record: the client knows its end, and has the answer of its COPY.
func (s *Server) settleCopy(ctx context.Context, client state.ClientID, id state.Stateid) {
	eff := s.cfg.State.EndCopy(client, id.Other)
	if err := s.apply(context.WithoutCancel(ctx), &eff); err != nil { // then the next tick tries
		s.cfg.Logger.Warn("nfs: the end of a copy could not be recorded; will be tried again", "client", client, "err", err)
	}
}

// settleCopies takes those out of records whose clients know their end and cannot send the COPY again, and forgets their calls. One that was fenced stays fenced until the client ends: who
// stood still may come with a late command. So does one that is not forgotten here.
func (s *Server) settleCopies() {
	eff, forget := s.cfg.State.SettleCopies()
	if err := s.apply(context.Background(), &eff); err != nil {
		s.cfg.Logger.Warn("nfs: the end of a copy could not be recorded; will be tried again", "err", err)
		return
	}
	if len(forget) == 0 || !s.copies.enter() {
		return
	}
	go func() {
		defer s.copies.active.Done()
		ctx, cancel := context.WithTimeout(s.copies.ctx, copyKept)
		defer cancel()
		for _, r := range forget {
			filler := s.fillerOf(r.FS)
			if filler == nil {
				continue
			}
			if err := filler.EndCall(ctx, r.Call(r.Client, copySeq)); err != nil {
				s.cfg.Logger.Info("nfs: what is remembered of a copy stays until its client ends", "client", r.Client, "err", err)
			}
		}
	}()
}

// enter begins something in the background; false if this server ends.
func (cs *copies) enter() bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.ctx.Err() != nil {
		return false
	}
	cs.active.Add(1)
	return true
}

// fillerOf is the file system of a copy, nil if there is none that remembers calls.
func (s *Server) fillerOf(id uint64) vfs.Filler {
	fs, _ := s.cfg.Exports.Table().FileSystems()[uint32(id)].(vfs.Filler)
	return fs
}

// owed is the copy with a stateid if the client is owed its end.
func (c *compound) owed(id state.Stateid) (state.CopyRecord, bool) {
	if id.Seqid > 1 {
		return state.CopyRecord{}, false
	}
	return c.s.cfg.State.OwedCopy(c.clientID(), id.Other)
}

// copyOutcome is how far a copy came whose server was lost.
type copyOutcome struct {
	done     uint64
	verifier vfs.Verifier
	status   status // lostCopy if nothing was done
}

// endOf ends a copy that an earlier server has begun, for good, and tells how far it came.
func (s *Server) endOf(ctx context.Context, client state.ClientID, r *state.CopyRecord) (copyOutcome, error) {
	lost := copyOutcome{status: lostCopy}
	filler := s.fillerOf(r.FS)
	if r.Count == 0 || filler == nil {
		return lost, nil
	}
	to, err := filler.Fence(ctx, r.Ino, r.Call(client, fenceSeq), r.Off+r.Before)
	switch vfs.KindOf(err) {
	case vfs.KindOK:
	case vfs.KindStale, vfs.KindNotSupported:
		return lost, nil
	default:
		return lost, err
	}
	done := to - r.Off
	if done == 0 {
		return lost, nil
	}
	v, err := filler.Commit(ctx, r.Ino, r.Off, done)
	if err != nil && vfs.KindOf(err) != vfs.KindStale { // the file is gone, which the client hears next
		return lost, err
	}
	return copyOutcome{done: done, verifier: v, status: nfsv4.NFS4_OK}, nil
}

// info is what CB_OFFLOAD tells of it.
func (e *copyOutcome) info() nfsv4.OffloadInfo4 {
	if e.status != nfsv4.NFS4_OK {
		return &nfsv4.OffloadInfo4_default{CoaStatus: e.status}
	}
	return &nfsv4.OffloadInfo4_NFS4_OK{CoaResok4: nfsv4.WriteResponse4{WrCount: e.done, WrCommitted: nfsv4.FILE_SYNC4, WrWriteverf: e.verifier}}
}

// tellOwed begins to tell clients what they are owed, those that have a backchannel by now.
func (cs *copies) tellOwed(s *Server) {
	for client, list := range s.cfg.State.OwedCopies() {
		if !s.canCallBack(client) || !cs.beginTelling(client) {
			continue
		}
		go func() {
			defer cs.endTelling(client)
			ctx, cancel := context.WithTimeout(cs.ctx, copyKept)
			defer cancel()
			for _, r := range list {
				end, err := s.endOf(ctx, client, &r)
				if err == nil {
					err = s.callOffload(ctx, client, r.Handle, state.Stateid{Seqid: 1, Other: r.ID}, end.info())
				}
				if err != nil {
					s.cfg.Logger.Warn("nfs: a client was not told how far its copy came; will be tried again", "client", client, "err", err)
					return
				}
				s.cfg.State.CopyTold(client, r.ID, false)
			}
		}()
	}
}

// maxTelling bounds how many clients are told at once.
const maxTelling = 64

func (cs *copies) beginTelling(client state.ClientID) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.told[client] || len(cs.told) >= maxTelling || cs.ctx.Err() != nil {
		return false
	}
	cs.told[client] = true
	cs.active.Add(1)
	return true
}

func (cs *copies) endTelling(client state.ClientID) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.told, client)
	cs.active.Done()
}
