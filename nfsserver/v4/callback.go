package v4

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// Callbacks (RFC 8881, 2.10.3, 20): calls from this server to a client, over the connections that the client bound to the backchannel
// of one of its sessions. Package state knows which these are; here are the connections themselves, how each session wants to be
// called, and the slots of its backchannel.
//
// A slot carries one call at a time, under a sequence id that is one above that of the last call. When a
// call is not answered it is not known whether the client saw it: the next one takes the next id, and, if the client says that it is
// misordered, the one before. So an operation may be carried out twice; those that are sent here are made for that.
//
// Of a session that another server instance made it is not known what its backchannel's slots saw last. Each is first asked to take a
// CB_SEQUENCE alone, with the id 1, then 2, and so on. A client that takes none of many is told by SEQUENCE that the backchannel is at fault, and
// makes another session. That alone would do; but one that has nothing to say calls only to renew its lease, and what waits for it would wait for that.

const (
	procCBCompound = 1

	// callbackTimeout is how long the answer to one call is waited for before another way is tried.
	callbackTimeout = 10 * time.Second
	// callbackPause is between two tries.
	callbackPause = 200 * time.Millisecond
	// callbackReply bounds the results of a callback, in bytes.
	callbackReply = 16 << 10
	// maxProbes is how many sequence ids are tried of a slot that another server instance may have used.
	maxProbes = 1024
)

// backchannels are those of all clients.
type backchannels struct {
	mu       sync.Mutex // guards the fields below
	conns    map[uint64]*rpc.Conn
	sessions map[state.SessionID]*backSession
}

// backSession is how a session is called back.
type backSession struct {
	minor uint32
	cred  []byte // opaque_auth; nil: AUTH_NONE
	free  chan *backSlot
}

type backSlot struct {
	number uint32
	seq    uint32 // of the last call that the client answered
	sent   uint32 // of the last one that was sent; the client may have seen any of those between
	unsure bool   // seq is not known: another server instance used the slot, or none
}

// bound remembers the connection of a CREATE_SESSION or BIND_CONN_TO_SESSION, which may carry callbacks from now on.
func (b *backchannels) bound(conn *rpc.Conn, id state.SessionID, minor uint32, cred []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		b.conns, b.sessions = make(map[uint64]*rpc.Conn), make(map[state.SessionID]*backSession)
	}
	b.conns[conn.ID()] = conn
	if b.sessions[id] == nil {
		b.sessions[id] = &backSession{minor: minor, cred: cred}
	}
}

// setCred has a session called with other credentials from now on (RFC 8881, 18.33).
func (b *backchannels) setCred(id state.SessionID, cred []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ss := b.sessions[id]; ss != nil {
		ss.cred = cred
	}
}

func (b *backchannels) connClosed(id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, id)
}

// prune forgets sessions that ended.
func (b *backchannels) prune(exists func(state.SessionID) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.sessions {
		if !exists(id) {
			delete(b.sessions, id)
		}
	}
}

// way is a connection and a session to call a client by.
type way struct {
	conn    *rpc.Conn
	session *backSession
	cred    []byte
	back    state.Backchannel
}

// ways lists them.
func (b *backchannels) ways(list []state.Backchannel) (out []way) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range list {
		ss := b.sessions[c.Session]
		if ss == nil || c.Attrs.MaxOps < 2 {
			continue
		}
		if ss.free == nil {
			n := max(1, c.Attrs.MaxSlots)
			ss.free = make(chan *backSlot, n)
			for i := range n {
				ss.free <- &backSlot{number: i, unsure: c.Resumed}
			}
		}
		for _, id := range c.Conns {
			if conn := b.conns[id]; conn != nil {
				out = append(out, way{conn, ss, ss.cred, c})
			}
		}
	}
	return out
}

// canCallBack reports whether a client has a backchannel now.
func (s *Server) canCallBack(client state.ClientID) bool {
	list, _ := s.cfg.State.Backchannels(client)
	return len(s.back.ways(list)) > 0
}

// callBack has a client carry out op, and returns its result, whatever its status. Without an op the answer itself is what counts. It
// tries until ctx ends, which is KindUnavailable; a client that is gone is KindStale. NFS4ERR_DELAY is tried again too.
func (s *Server) callBack(ctx context.Context, client state.ClientID, op nfsv4.NfsCbArgop4) (nfsv4.NfsCbResop4, error) {
	const what = "nfs.callback"
	var last error
	for {
		list, alive := s.cfg.State.Backchannels(client)
		if !alive {
			return nil, vfs.Errorf(vfs.KindStale, what, "client %#x", client)
		}
		for _, w := range s.back.ways(list) {
			res, err := w.call(ctx, op)
			if err == nil {
				return res, nil
			}
			if errors.Is(err, errBackFault) {
				s.cfg.State.BackFault(w.back.Session)
			}
			last = err
			if ctx.Err() != nil {
				break
			}
		}
		select {
		case <-time.After(callbackPause):
		case <-ctx.Done():
			if last == nil {
				last = vfs.Errorf(vfs.KindUnavailable, what, "no connection")
			}
			return nil, vfs.Errorf(vfs.KindUnavailable, what, "client %#x: %w", client, last)
		}
	}
}

// errBackFault says that the client and we do not agree about a slot.
var errBackFault = errors.New("the slot is at another sequence id")

// probe finds the sequence id of a slot that another server instance may have used: one above that of its last call. What the client has kept of
// that call's answer, for this it takes the call with the id before, has more than one result.
func (w *way) probe(ctx context.Context, slot *backSlot) error {
	const what = "nfs.callback"
	for seq := slot.sent + 1; seq <= maxProbes; seq++ {
		res, err := w.send(ctx, slot, seq, nil)
		if err != nil {
			return err // whether the client saw it is not known, and does not matter: the same id is tried again
		}
		switch res.Status {
		case nfsv4.NFS4ERR_DELAY:
			return vfs.Errorf(vfs.KindUnavailable, what, "the client asks to wait")
		case nfsv4.NFS4_OK:
			if len(res.Resarray) == 1 {
				slot.seq, slot.sent, slot.unsure = seq, seq, false
				return nil
			}
		case nfsv4.NFS4ERR_SEQ_MISORDERED, nfsv4.NFS4ERR_SEQ_FALSE_RETRY, nfsv4.NFS4ERR_RETRY_UNCACHED_REP:
		default:
			return vfs.Errorf(vfs.KindUnavailable, what, "a probe: %s: %w", nfsv4.Nfsstat4_name[res.Status], errBackFault)
		}
		slot.sent = seq
	}
	return vfs.Errorf(vfs.KindUnavailable, what, "none of %d sequence ids is taken: %w", maxProbes, errBackFault)
}

// call makes one call.
func (w *way) call(ctx context.Context, op nfsv4.NfsCbArgop4) (nfsv4.NfsCbResop4, error) {
	const what = "nfs.callback"
	ctx, cancel := context.WithTimeout(ctx, callbackTimeout)
	defer cancel()
	var slot *backSlot
	select {
	case slot = <-w.session.free:
		defer func() { w.session.free <- slot }()
	case <-ctx.Done():
		return nil, vfs.Wrap(what, ctx.Err())
	}
	if slot.unsure {
		if err := w.probe(ctx, slot); err != nil {
			return nil, vfs.Wrap(what, err)
		}
	}
	for seq := slot.sent + 1; ; {
		res, err := w.send(ctx, slot, seq, op)
		if err != nil {
			slot.sent = max(slot.sent, seq)
			return nil, vfs.Wrap(what, err)
		}
		if len(res.Resarray) == 0 {
			return nil, vfs.Errorf(vfs.KindInvalid, what, "status %d and no result", res.Status)
		}
		first, ok := res.Resarray[0].(*nfsv4.NfsCbResop4_OP_CB_SEQUENCE)
		if !ok {
			return nil, vfs.Errorf(vfs.KindInvalid, what, "result %d for CB_SEQUENCE", res.Resarray[0].GetResop())
		}
		switch st := first.Opcbsequence.GetCsrStatus(); {
		case st == nfsv4.NFS4_OK:
		case st == nfsv4.NFS4ERR_SEQ_MISORDERED && seq > slot.seq+1:
			seq--
			continue
		case st == nfsv4.NFS4ERR_SEQ_MISORDERED, st == nfsv4.NFS4ERR_SEQ_FALSE_RETRY, st == nfsv4.NFS4ERR_RETRY_UNCACHED_REP:
			return nil, vfs.Errorf(vfs.KindUnavailable, what, "CB_SEQUENCE: %s: %w", nfsv4.Nfsstat4_name[st], errBackFault)
		default: // the slot did not move
			return nil, vfs.Errorf(vfs.KindUnavailable, what, "CB_SEQUENCE: %s", nfsv4.Nfsstat4_name[st])
		}
		slot.seq, slot.sent = seq, seq
		switch {
		case op == nil && res.Status == nfsv4.NFS4_OK:
			return nil, nil
		case res.Status == nfsv4.NFS4ERR_DELAY:
			return nil, vfs.Errorf(vfs.KindUnavailable, what, "the client asks to wait")
		case len(res.Resarray) < 2:
			return nil, vfs.Errorf(vfs.KindInvalid, what, "status %s and no result", nfsv4.Nfsstat4_name[res.Status])
		}
		return res.Resarray[1], nil
	}
}

// send sends CB_SEQUENCE with op, nil: alone.
func (w *way) send(ctx context.Context, slot *backSlot, seq uint32, op nfsv4.NfsCbArgop4) (*nfsv4.CbCompound4res, error) {
	var args bytes.Buffer
	c := nfsv4.CbCompound4args{Minorversion: w.session.minor, Argarray: []nfsv4.NfsCbArgop4{
		&nfsv4.NfsCbArgop4_OP_CB_SEQUENCE{Opcbsequence: nfsv4.CbSequence4args{
			CsaSessionid: w.back.Session, CsaSequenceid: seq, CsaSlotid: slot.number, CsaHighestSlotid: uint32(cap(w.session.free)) - 1,
		}},
	}}
	if op != nil {
		c.Argarray = append(c.Argarray, op)
	}
	if _, err := c.WriteTo(&args); err != nil {
		return nil, err
	}
	resp, err := w.conn.Call(ctx, &rpc.Call{
		Prog: w.back.Program, Vers: 1, Proc: procCBCompound, Cred: w.cred, Args: args.Bytes(), MaxReply: callbackReply,
	})
	if err != nil {
		return nil, err
	}
	defer resp.Release()
	d := xdr.NewDecoder(resp.Body)
	res := new(nfsv4.CbCompound4res)
	if _, err := res.ReadFrom(&d); err != nil {
		return nil, err
	}
	return res, nil
}
