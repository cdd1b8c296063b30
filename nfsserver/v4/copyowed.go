package v4

import (
	"context"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
)

// lostCopy is the end of a copy that was lost with the server that made it, or that its client could not be told. The client sends its COPY
// again: Linux (nfs42proc.c: handle_async_copy) treats what CB_OFFLOAD brings as if COPY had been answered with it.
const lostCopy = nfsv4.NFS4ERR_DELAY

// recordCopy names a copy in its client's record. false: it may not go on in the background.
func (s *Server) recordCopy(ctx context.Context, o *offload, fh []byte) bool {
	eff, ok := s.cfg.State.AddCopy(o.client, state.CopyRecord{ID: o.id.Other, Handle: fh})
	if err := s.apply(ctx, &eff); err != nil {
		s.cfg.Logger.Warn("nfs: a copy could not be recorded; its client gets a short answer", "client", o.client, "err", err)
		ok = false
	}
	if !ok {
		s.settleCopy(ctx, o.client, o.id)
	}
	return ok
}

// settleCopy takes a copy out of its client's record: the client knows its end.
func (s *Server) settleCopy(ctx context.Context, client state.ClientID, id state.Stateid) {
	eff := s.cfg.State.EndCopy(client, id.Other)
	if err := s.apply(context.WithoutCancel(ctx), &eff); err != nil { // then the next tick tries
		s.cfg.Logger.Warn("nfs: the end of a copy could not be recorded; will be tried again", "client", client, "err", err)
	}
}

// owed reports whether id is that of a copy whose end the client is owed.
func (c *compound) owed(id state.Stateid) bool {
	return id.Seqid <= 1 && c.s.cfg.State.Owes(c.clientID(), id.Other)
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
				id := state.Stateid{Seqid: 1, Other: r.ID}
				err := s.callOffload(ctx, client, r.Handle, id, &nfsv4.OffloadInfo4_default{CoaStatus: lostCopy})
				if err != nil {
					s.cfg.Logger.Warn("nfs: a client was not told that its copy is lost; will be tried again", "client", client, "err", err)
					return
				}
				s.settleCopy(ctx, client, id)
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
