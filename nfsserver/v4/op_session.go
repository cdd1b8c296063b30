package v4

import (
	"context"
	"strconv"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// maxSecParms bounds callback security parameters in one request.
const maxSecParms = 8

// opSequence is SEQUENCE (RFC 8881, 18.46).
func (c *compound) opSequence() status {
	a := state.SequenceArgs{
		SessionID: c.decodeSessionID(),
		Sequence:  c.d.Uint32(),
		Slot:      c.d.Uint32(),
		Conn:      c.req.Conn.ID(),
		Via:       c.req.Conn.Via(),
		Single:    c.ops == 1,
	}
	a.HighestSlot, a.CacheThis = c.d.Uint32(), c.d.Bool()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if !c.valid() {
		if a.Via != "" {
			return stElsewhere
		}
		c.s.cfg.State.Heard(c.now, a.SessionID)
		return stSilent // the slot is as before: the same request comes again (RFC 8881, 2.10.6.2)
	}
	a.Digest = state.Digest(c.req.Body, c.req.Cred.UID)
	res, st := c.sequence(&a)
	if st != nfsv4.NFS4_OK {
		return st
	}
	if res.Replay != nil {
		c.replay = res.Replay
		return nfsv4.NFS4_OK
	}
	c.table = c.s.cfg.Exports.Table() // to take the client over may have brought exports up to date (readKept)
	c.call, c.uncached = res.Call, res.Uncached
	b := append(c.r.B, a.SessionID[:]...)
	b = xdr.AppendUint32(b, a.Sequence)
	b = xdr.AppendUint32(b, a.Slot)
	c.slotsAt = len(b)
	b = xdr.AppendUint32(b, res.HighestSlot)
	b = xdr.AppendUint32(b, res.TargetHighestSlot)
	c.r.B = xdr.AppendUint32(b, res.StatusFlags)
	return nfsv4.NFS4_OK
}

// valid asks Config.Valid about the clients, and waits for that: a server whose lease ran out has a new one within a moment as a rule (DefaultValidWait). A request whose connection ends meanwhile is not begun, as in sequence.
func (c *compound) valid() bool {
	valid := c.s.cfg.Valid
	if valid == nil || valid(0) {
		return true
	}
	if c.req.Conn.Via() != "" { // who carries it has other ways
		return false
	}
	look := time.NewTicker(busyPause)
	defer look.Stop()
	for end := time.Now().Add(c.s.cfg.ValidWait); time.Now().Before(end); {
		select {
		case <-look.C:
		case <-c.req.Conn.ReadDone():
			return false
		case <-c.ctx.Done():
			return false
		}
		if valid(0) {
			c.now = c.s.cfg.Now()
			return true
		}
	}
	return false
}

// sequence begins the call. A session that is not known here is taken over, or another server answers; one that is about to leave is waited for. All that may come one after the other, when the
// client's requests come to several servers. What has waited so while its connection ended is not begun (hungUp).
func (c *compound) sequence(a *state.SequenceArgs) (state.SequenceResult, status) {
	var began time.Time
	failed := ""
	if c.s.cfg.Peers == nil {
		failed = anyServer
	}
	for {
		if !began.IsZero() && c.hungUp() {
			return state.SequenceResult{}, stSilent
		}
		res, st := c.s.cfg.State.Sequence(c.now, *a)
		if st != nfsv4.NFS4ERR_BADSESSION && res.Leaving == nil && res.Running == nil && res.Follow == 0 {
			return res, st
		}
		if began.IsZero() {
			began = time.Now()
		} else if res.Running == nil && time.Since(began) > busyWait {
			return res, stSilent
		}
		switch {
		case res.Leaving != nil || res.Running != nil: // one of them
			select {
			case <-res.Leaving:
			case <-res.Running: // every call ends
			case <-c.req.Conn.ReadDone(): // as above
			case <-c.ctx.Done():
			}
			c.now = c.s.cfg.Now()
			continue
		case res.Follow != 0:
			c.giveTo(res.Follow, func() bool { return c.s.cfg.State.Follows(res.Follow, a.Via) }) // or it remains
			c.now = c.s.cfg.Now()
			continue
		case a.Via != "":
			return res, stElsewhere
		case c.s.sessions == nil:
			return res, st
		}
		w, err := c.lookFor(a.SessionID, failed)
		if c.hungUp() {
			return res, stSilent
		}
		if err == nil && w.route.server != "" {
			if c.carry(w.route) {
				return res, stCarried
			}
			c.s.carrying.forget(a.SessionID, w.route)
			failed = w.route.server
			c.now = c.s.cfg.Now()
			continue
		}
		if passes(err) {
			time.Sleep(busyPause)
			c.now = c.s.cfg.Now()
			continue
		}
		if st = c.took(w.found, err, st); st != nfsv4.NFS4_OK {
			return res, st
		}
	}
}

// lookFor is Server.lookFor, while the request's connection lives.
func (c *compound) lookFor(id state.SessionID, failed string) (whereabouts, error) {
	ctx, over := c.patient()
	defer over()
	return c.s.lookFor(ctx, id, failed)
}

// passes reports whether a client that could not be looked for, or not be taken over, may be a moment later: another server has it, or the metadata says nothing for now, or this server has to
// register anew.
func passes(err error) bool {
	switch vfs.KindOf(err) {
	case vfs.KindBusy, vfs.KindUnknownOrigin, vfs.KindFenced:
		return true
	}
	return vfs.KindOf(err).Retryable()
}

// took tells what follows from a look for a client elsewhere: NFS4_OK if what found it missing is to be tried again, else what to answer instead of st.
func (c *compound) took(found bool, err error, st status) status {
	switch {
	case vfs.KindOf(err) == vfs.KindBusy: // another server has it, perhaps not for long
		return nfsv4.NFS4ERR_DELAY
	case err != nil:
		c.log().Warn("nfs: a client could not be looked for", "err", err)
		return nfsv4.NFS4ERR_DELAY
	case !found:
		return st
	}
	c.now = c.s.cfg.Now()
	return nfsv4.NFS4_OK
}

// ofSession runs do, which is about a session and none of its calls, and takes the session's client over if do does not find it.
func (c *compound) ofSession(id state.SessionID, do func() status) status {
	try := func() status {
		return c.unless(func() <-chan struct{} { return c.s.cfg.State.LeavingSession(id) }, do)
	}
	if via := c.req.Conn.Via(); via != "" && c.index == 0 {
		if client, follows := c.s.cfg.State.FollowsSession(id, via); follows && c.giveTo(client, func() bool { return c.s.cfg.State.Follows(client, via) }) {
			return stElsewhere
		}
	}
	st := try()
	if st != nfsv4.NFS4ERR_BADSESSION {
		return st
	}
	st = c.ofOther(st, func(ctx context.Context, failed string) (whereabouts, error) { return c.s.lookFor(ctx, id, failed) })
	if st != nfsv4.NFS4_OK {
		return st
	}
	return try()
}

// ofClient is ofSession for what names a client.
func (c *compound) ofClient(id state.ClientID, do func() status) status {
	try := func() status {
		return c.unless(func() <-chan struct{} { return c.s.cfg.State.LeavingClient(id) }, do)
	}
	follows := func() bool { return c.s.cfg.State.Follows(id, c.req.Conn.Via()) }
	if c.req.Conn.Via() != "" && c.index == 0 && follows() && c.giveTo(id, follows) {
		return stElsewhere
	}
	st := try()
	if st != nfsv4.NFS4ERR_STALE_CLIENTID {
		return st
	}
	st = c.ofOther(st, func(ctx context.Context, failed string) (whereabouts, error) {
		return c.s.lookForClient(ctx, id, failed)
	})
	if st != nfsv4.NFS4_OK {
		return st
	}
	return try()
}

func (c *compound) decodeSessionID() (id state.SessionID) {
	copy(id[:], c.d.Fixed(len(id)))
	return id
}

// principal is who makes the call, as far as AUTH_SYS can tell.
func principal(req *rpc.Request) state.Principal {
	if req.Flavor == rpc.AuthSys {
		return state.Principal("sys/" + strconv.FormatUint(uint64(req.Cred.UID), 10))
	}
	return "none"
}

// takeOwner sees to it that the client of an owner that introduces itself, to which the servers are one (Config.Shared), is served here, or that the server that serves it has answered.
func (c *compound) takeOwner(a *state.ExchangeIDArgs) status {
	if c.s.cfg.Shared == nil || c.s.sessions == nil {
		return nfsv4.NFS4_OK
	}
	if via := c.req.Conn.Via(); via != "" {
		id, follows := c.s.cfg.State.FollowsOwner(a, via)
		switch {
		case id == 0:
			return stElsewhere
		case !follows:
			return nfsv4.NFS4_OK
		case c.giveTo(id, func() bool { _, follows := c.s.cfg.State.FollowsOwner(a, via); return follows }):
			return stElsewhere
		}
		return nfsv4.NFS4ERR_DELAY
	}
	if c.s.cfg.State.ServesOwner(a.Owner) {
		return nfsv4.NFS4_OK
	}
	id, err := c.s.sessions.ClientOfOwner(c.ctx, a.Owner)
	if vfs.KindOf(err) == vfs.KindNotFound {
		return nfsv4.NFS4_OK
	}
	if err != nil {
		return c.took(false, err, nfsv4.NFS4_OK)
	}
	// One that ended meanwhile is none.
	return c.ofOther(nfsv4.NFS4_OK, func(ctx context.Context, failed string) (whereabouts, error) {
		return c.s.lookForClient(ctx, id, failed)
	})
}

// opExchangeID is EXCHANGE_ID (RFC 8881, 18.35).
func (c *compound) opExchangeID() status {
	var a nfsv4.ExchangeId4args
	if _, err := a.ReadFrom(&c.d); err != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if len(a.EiaClientowner.CoOwnerid) > nfsv4.NFS4_OPAQUE_LIMIT || len(a.EiaClientImplId) > 1 {
		return nfsv4.NFS4ERR_BADXDR
	}
	// Flags that only a server may set, or that do not exist, are refused.
	known := uint32(nfsv4.EXCHGID4_FLAG_SUPP_MOVED_REFER | nfsv4.EXCHGID4_FLAG_SUPP_MOVED_MIGR |
		nfsv4.EXCHGID4_FLAG_BIND_PRINC_STATEID | nfsv4.EXCHGID4_FLAG_MASK_PNFS | nfsv4.EXCHGID4_FLAG_UPD_CONFIRMED_REC_A)
	if c.minor >= 2 {
		known |= nfsv4.EXCHGID4_FLAG_SUPP_FENCE_OPS // RFC 7862, 14.1
	}
	if a.EiaFlags&^known != 0 {
		return nfsv4.NFS4ERR_INVAL
	}
	switch a.EiaStateProtect.(type) {
	case *nfsv4.StateProtect4A_SP4_NONE:
	default:
		// Both other ways need RPCSEC_GSS (18.35.3).
		return nfsv4.NFS4ERR_INVAL
	}
	if err := c.s.clientIDs(c.ctx); err != nil {
		c.log().Warn("nfs: no client id", "err", err)
		return nfsv4.NFS4ERR_DELAY
	}
	args := state.ExchangeIDArgs{Owner: a.EiaClientowner.CoOwnerid, Verifier: a.EiaClientowner.CoVerifier, Flags: a.EiaFlags, Principal: principal(c.req)}
	if st := c.takeOwner(&args); st != nfsv4.NFS4_OK {
		return st
	}
	var res state.ExchangeIDResult
	leaving := func() <-chan struct{} { return c.s.cfg.State.LeavingOwner(a.EiaClientowner.CoOwnerid) }
	st := c.unless(leaving, func() (st status) {
		var eff state.Effects
		res, eff, st = c.s.cfg.State.ExchangeID(c.now, args)
		return c.apply(eff, st)
	})
	if st != nfsv4.NFS4_OK {
		return st
	}
	owner, scope := c.s.cfg.Owner, c.s.cfg.Scope
	if c.s.cfg.Shared != nil {
		owner = c.s.cfg.Shared()
		scope = owner
	}
	ok := nfsv4.ExchangeId4resok{
		EirClientid:     res.ClientID,
		EirSequenceid:   res.Sequence,
		EirFlags:        res.Flags,
		EirStateProtect: &nfsv4.StateProtect4R_SP4_NONE{},
		EirServerOwner:  nfsv4.ServerOwner4{SoMajorId: owner},
		EirServerScope:  scope,
		EirServerImplId: []nfsv4.NfsImplId4{{NiiDomain: "rackfs.dev", NiiName: "rackfs " + c.s.cfg.Release}},
	}
	if _, err := ok.WriteTo(c.r); err != nil {
		return nfsv4.NFS4ERR_SERVERFAULT
	}
	return nfsv4.NFS4_OK
}

func (c *compound) decodeChannel() (a state.ChannelAttrs) {
	c.d.Uint32() // headerpadsize: RDMA only
	a.MaxRequest = c.d.Uint32()
	a.MaxResponse = c.d.Uint32()
	a.MaxCachedResponse = c.d.Uint32()
	a.MaxOps = c.d.Uint32()
	a.MaxSlots = c.d.Uint32()
	for range c.d.Count(1, 4) {
		c.d.Uint32() // rdma_ird
	}
	return a
}

func appendChannel(b []byte, a *state.ChannelAttrs) []byte {
	b = xdr.AppendUint32(b, 0)
	b = xdr.AppendUint32(b, a.MaxRequest)
	b = xdr.AppendUint32(b, a.MaxResponse)
	b = xdr.AppendUint32(b, a.MaxCachedResponse)
	b = xdr.AppendUint32(b, a.MaxOps)
	b = xdr.AppendUint32(b, a.MaxSlots)
	return xdr.AppendUint32(b, 0)
}

// decodeSecParms reads callback_sec_parms4<> and returns the credentials of callbacks: AUTH_SYS as the client wants to
// see it if it offers that, else AUTH_NONE.
func (c *compound) decodeSecParms() (cred []byte) {
	for range c.d.Count(maxSecParms, 4) {
		switch rpc.Flavor(c.d.Uint32()) {
		case rpc.AuthNone:
		case rpc.AuthSys:
			start := c.d.Offset()
			c.d.Uint32()    // stamp
			c.d.Opaque(255) // machine name
			c.d.Skip(8)     // uid, gid
			c.d.Skip(4 * c.d.Count(16, 4))
			if c.d.Err() == nil {
				cred = xdr.AppendOpaque(xdr.AppendUint32(nil, uint32(rpc.AuthSys)), c.d.Since(start))
			}
		case rpc.AuthGSS:
			c.d.Uint32() // service
			c.d.Opaque(c.d.Len())
			c.d.Opaque(c.d.Len())
		default:
			c.d.Fail(xdr.ErrLength)
		}
	}
	return cred
}

// opCreateSession is CREATE_SESSION (RFC 8881, 18.36).
func (c *compound) opCreateSession() status {
	a := state.CreateSessionArgs{
		ClientID:  c.d.Uint64(),
		Sequence:  c.d.Uint32(),
		Flags:     c.d.Uint32(),
		Fore:      c.decodeChannel(),
		Back:      c.decodeChannel(),
		Principal: principal(c.req),
		Conn:      c.req.Conn.ID(),
		Via:       c.req.Conn.Via(),
	}
	a.CallbackProgram = c.d.Uint32()
	cred := c.decodeSecParms()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	var res state.CreateSessionResult
	st := c.ofClient(a.ClientID, func() (st status) {
		var eff state.Effects
		res, eff, st = c.s.cfg.State.CreateSession(c.now, a)
		return c.apply(eff, st)
	})
	if st != nfsv4.NFS4_OK {
		return st
	}
	if res.Flags&nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN != 0 {
		c.s.back.bound(c.req.Conn, res.SessionID, c.minor, cred)
	}
	b := append(c.r.B, res.SessionID[:]...)
	b = xdr.AppendUint32(b, res.Sequence)
	b = xdr.AppendUint32(b, res.Flags)
	b = appendChannel(b, &res.Fore)
	c.r.B = appendChannel(b, &res.Back)
	return nfsv4.NFS4_OK
}

// opDestroySession is DESTROY_SESSION (RFC 8881, 18.37). Within a session it
// must come last, because nothing after it would have a session.
func (c *compound) opDestroySession() status {
	id := c.decodeSessionID()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if c.call != nil && c.call.SessionID == id && c.index != c.ops-1 {
		return nfsv4.NFS4ERR_NOT_ONLY_OP
	}
	destroy := func() status {
		eff, st := c.s.cfg.State.DestroySession(c.now, id, c.call)
		return c.apply(eff, st)
	}
	if c.call != nil && c.call.SessionID == id { // its client does not leave while this runs
		return destroy()
	}
	return c.ofSession(id, destroy)
}

// opDestroyClientID is DESTROY_CLIENTID (RFC 8881, 18.50).
func (c *compound) opDestroyClientID() status {
	id := c.d.Uint64()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	return c.ofClient(id, func() status {
		eff, st := c.s.cfg.State.DestroyClientID(c.now, id, principal(c.req))
		return c.apply(eff, st)
	})
}

// opBindConn is BIND_CONN_TO_SESSION (RFC 8881, 18.34).
func (c *compound) opBindConn() status {
	id := c.decodeSessionID()
	dir := nfsv4.ChannelDirFromClient4(c.d.Int32())
	c.d.Bool() // RDMA mode: never
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	var got nfsv4.ChannelDirFromServer4
	st := c.ofSession(id, func() (st status) {
		var eff state.Effects
		got, eff, st = c.s.cfg.State.BindConn(c.now, id, c.req.Conn.ID(), c.req.Conn.Via(), dir)
		return c.apply(eff, st)
	})
	if st != nfsv4.NFS4_OK {
		return st
	}
	if got != nfsv4.CDFS4_FORE {
		// A client that has not said how it wants to be called gets AUTH_SYS of nobody in particular.
		c.s.back.bound(c.req.Conn, id, c.minor, rpc.AuthSysCred("", &vfs.Root))
	}
	b := append(c.r.B, id[:]...)
	b = xdr.AppendInt32(b, int32(got))
	c.r.B = xdr.AppendBool(b, false)
	return nfsv4.NFS4_OK
}

// opBackchannelCtl is BACKCHANNEL_CTL (RFC 8881, 18.33).
func (c *compound) opBackchannelCtl() status {
	program := c.d.Uint32()
	cred := c.decodeSecParms()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	eff, st := c.s.cfg.State.BackchannelCtl(c.now, c.call.SessionID, program)
	if st = c.apply(eff, st); st == nfsv4.NFS4_OK {
		c.s.back.setCred(c.call.SessionID, cred)
	}
	return st
}

// opReclaimComplete is RECLAIM_COMPLETE (RFC 8881, 18.51).
func (c *compound) opReclaimComplete() status {
	oneFS := c.d.Bool()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if oneFS && !c.cur.set() {
		return nfsv4.NFS4ERR_NOFILEHANDLE
	}
	eff, st := c.s.cfg.State.ReclaimComplete(c.now, c.clientID(), oneFS)
	return c.apply(eff, st)
}

// opSetSSV is SET_SSV: no client has SP4_SSV protection (RFC 8881, 18.47.3).
func (c *compound) opSetSSV() status { return nfsv4.NFS4ERR_INVAL }
