package v4

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxTag bounds the tag of a COMPOUND in bytes; it is echoed.
	maxTag = 1024

	// replyHeader is what the RPC reply header adds to a COMPOUND's results, as
	// the session's limits count it (RFC 8881, 18.36).
	replyHeader = 24

	// sessionlessRoom bounds the results of operations without a session.
	sessionlessRoom = 16 << 10
)

// compound interprets one COMPOUND. It belongs to one goroutine.
type compound struct {
	s     *Server
	base  context.Context // of the request
	ctx   context.Context // of the running operation
	req   *rpc.Request
	r     *rpc.Reply
	d     xdr.Decoder
	args  xdr.Decoder // d before the running operation's arguments
	enc   attrEncoder
	now   time.Time
	table *export.Table
	from  netip.Addr

	minor uint32
	ops   int // how many the request has
	index int // of the one running
	op    nfsv4.NfsOpnum4

	call     *state.Call // of SEQUENCE, nil without a session
	opCall   *vfs.Call   // of the running operation, if it may change something
	slotsAt  int         // of sr_highest_slotid and sr_target_highest_slotid in the reply
	uncached bool        // SEQUENCE found a retry whose reply was not kept

	cur, saved object

	credRule *export.Rule // whose squash cred is under
	cred     vfs.Cred

	buffered  bool           // the reply may hold a readBuffer
	elsewhere state.ClientID // who denied the last LOCK, and may be another server's
	keepBody  bool           // the running operation's result has a body although it failed
	replay    []byte         // the whole reply, from the reply cache
	carried   *carriedAnswer // the whole reply, from another server
	scratch   []byte
}

func (c *compound) begin(s *Server, ctx context.Context, req *rpc.Request) {
	ctx = vfs.WithRequest(ctx, req.ID())
	c.s, c.base, c.ctx, c.req, c.r = s, ctx, ctx, req, &req.Reply
	c.d.Reset(req.Body)
	c.now = s.cfg.Now()
	c.table = s.cfg.Exports.Table()
	c.from = req.Conn.RemoteAddr().Addr()
	c.enc = attrEncoder{
		ring:         s.ring.Load(),
		leaseSeconds: uint32(s.cfg.State.Lease() / time.Second),
		maxRead:      uint64(s.cfg.MaxIO),
		maxWrite:     uint64(s.cfg.MaxIO),
	}
}

// run decodes and answers the COMPOUND (RFC 8881, 16.2).
func (c *compound) run() {
	tag := c.d.Opaque(maxTag)
	c.minor = c.d.Uint32()
	c.ops = int(c.d.Uint32())
	if c.d.Err() != nil {
		c.req.GarbageArgs()
		return
	}
	start := c.r.Mark()
	statusAt := len(c.r.B)
	c.r.B = xdr.AppendUint32(c.r.B, 0)
	c.r.B = xdr.AppendOpaque(c.r.B, tag)
	countAt := len(c.r.B)
	c.r.B = xdr.AppendUint32(c.r.B, 0)

	st := nfsv4.NFS4_OK
	if c.minor != 1 && c.minor != 2 {
		xdr.PutUint32(c.r.B, statusAt, uint32(nfsv4.NFS4ERR_MINOR_VERS_MISMATCH))
		return
	}
	c.enc.supported = supported(c.minor)
	for c.index = 0; c.index < c.ops && st == nfsv4.NFS4_OK; c.index++ {
		st = c.one()
		if c.replay != nil {
			c.r.Truncate(start)
			c.r.B = append(c.r.B, c.replay...)
			return
		}
		switch st {
		case stCarried:
			c.carried.put(c.req)
			return
		case stElsewhere:
			c.req.Elsewhere()
			return
		case stGone:
			c.gone()
			return
		case stSilent:
			c.silent()
			return
		}
	}
	xdr.PutUint32(c.r.B, statusAt, uint32(st))
	xdr.PutUint32(c.r.B, countAt, uint32(c.index))
	if st != nfsv4.NFS4_OK && c.s.cfg.Logger.Enabled(c.base, slog.LevelDebug) {
		c.log().Debug("nfs: answered", "op", c.op, "status", st)
	}

	if c.call != nil {
		highest, target := c.s.cfg.State.Slots(c.call)
		xdr.PutUint32(c.r.B, c.slotsAt, highest)
		xdr.PutUint32(c.r.B, c.slotsAt+4, target)
		var cached []byte
		if c.call.Keeps(c.r.Since(start)) {
			c.scratch = c.r.AppendTo(c.scratch[:0], start)
			cached = c.scratch
		}
		c.s.cfg.State.Finish(c.s.cfg.Now(), c.call, cached)
	}
}

// one carries out the next operation and appends its result.
func (c *compound) one() status {
	op := nfsv4.NfsOpnum4(c.d.Uint32())
	c.op = op
	if c.d.Err() != nil {
		// There is no operation number to answer to.
		return c.fail(nfsv4.OP_ILLEGAL, nfsv4.NFS4ERR_BADXDR)
	}
	def := lookupOp(op, c.minor)
	if def == nil {
		return c.fail(nfsv4.OP_ILLEGAL, nfsv4.NFS4ERR_OP_ILLEGAL)
	}
	if st := c.position(op, def); st != nfsv4.NFS4_OK {
		return c.fail(op, st)
	}

	statusAt := len(c.r.B) + 4
	c.r.B = xdr.AppendUint32(c.r.B, uint32(op))
	c.r.B = xdr.AppendUint32(c.r.B, 0)
	body := c.r.Mark()
	c.args = c.d

	began := c.s.cfg.Now()
	st := c.attempt(def)
	if st == nfsv4.NFS4ERR_DELAY && op != nfsv4.OP_SEQUENCE && c.mayBeDone() {
		st = c.insist(def, body)
	}
	if st != nfsv4.NFS4_OK && !decided(st) && c.call != nil && !c.call.Served() {
		st = stGone
	}
	if decided(st) {
		return st
	}
	if c.replay == nil {
		if over := c.tooBig(0); over != nfsv4.NFS4_OK && c.index > 0 {
			st, c.keepBody = over, false
		}
		if st != nfsv4.NFS4_OK && !c.keepBody {
			c.r.Truncate(body)
			c.failedBody(op)
		}
		xdr.PutUint32(c.r.B, statusAt, uint32(st))
	}
	c.keepBody = false
	if o := c.s.cfg.Observer; o != nil {
		o.Op(op, st, c.s.cfg.Now().Sub(began))
	}
	return st
}

// attempt carries out an operation.
func (c *compound) attempt(def *opDef) status {
	st := c.admit(def)
	if st == nfsv4.NFS4_OK {
		c.beginCall(def)
		st = def.run(c)
		c.ctx = c.base
	}
	return st
}

// beginCall names the operation that follows to the vfs, if it may change something.
func (c *compound) beginCall(def *opDef) {
	c.opCall = nil
	if c.call == nil || def.flags&(changes|alone) == 0 {
		return
	}
	c.call.Changes = true
	c.call.Alone = c.call.Alone || def.flags&alone != 0
	if def.flags&changes == 0 {
		return
	}
	x := &struct {
		of   vfs.Call
		from caller
	}{
		vfs.Call{Client: uint64(c.call.Client), Session: c.call.SessionID, Slot: c.call.Slot, Seq: c.call.Sequence, Op: uint32(c.index)},
		caller{c.call, c.s.cfg.Valid},
	}
	c.opCall = &x.of
	c.opCall.By = &x.from
	if c.call.Repeated {
		c.opCall.Repeat()
	}
	c.ctx = vfs.WithCall(c.base, c.opCall)
}

// caller is the vfs.Caller of a call.
type caller struct {
	call  *state.Call
	valid func(fsid uint32) bool // Config.Valid
}

func (c *caller) Serving() bool  { return c.call.Served() && (c.valid == nil || c.valid(0)) }
func (c *caller) Ended() bool    { return !c.call.Served() }
func (c *caller) Answered() bool { return c.call.Followed() }

// tail is that of stateids that the running operation makes.
func (c *compound) tail() uint32 {
	if c.opCall == nil {
		return 0
	}
	return state.Tail(c.opCall)
}

// failedBody appends what a failed operation's result has besides its status:
// nothing, but for SETATTR, which always tells what it set: none, because
// the vfs sets all or nothing.
func (c *compound) failedBody(op nfsv4.NfsOpnum4) {
	if op == nfsv4.OP_SETATTR {
		c.r.B = appendBitmap(c.r.B, bitmap{})
	}
}

// fail appends the result of an operation that is not run.
func (c *compound) fail(op nfsv4.NfsOpnum4, st status) status {
	c.r.B = xdr.AppendUint32(c.r.B, uint32(op))
	c.r.B = xdr.AppendUint32(c.r.B, uint32(st))
	c.failedBody(op)
	if o := c.s.cfg.Observer; o != nil {
		o.Op(op, st, 0)
	}
	return st
}

// position checks where in the COMPOUND an operation may stand (RFC 8881,
// 2.10.2, 18.46.3).
func (c *compound) position(op nfsv4.NfsOpnum4, def *opDef) status {
	switch {
	case c.index > 0 && op == nfsv4.OP_SEQUENCE:
		return nfsv4.NFS4ERR_SEQUENCE_POS
	case c.index == 0 && op != nfsv4.OP_SEQUENCE:
		if def.flags&sessionless == 0 {
			return nfsv4.NFS4ERR_OP_NOT_IN_SESSION
		}
		if c.ops > 1 {
			return nfsv4.NFS4ERR_NOT_ONLY_OP
		}
	case op == nfsv4.OP_BIND_CONN_TO_SESSION:
		return nfsv4.NFS4ERR_NOT_ONLY_OP // 18.34.3
	}
	return nfsv4.NFS4_OK
}

// admit checks what many operations have in common before they are run.
func (c *compound) admit(def *opDef) status {
	if c.uncached {
		return nfsv4.NFS4ERR_RETRY_UNCACHED_REP
	}
	if c.call != nil {
		if uint32(c.ops) > c.call.Fore.MaxOps {
			return nfsv4.NFS4ERR_TOO_MANY_OPS
		}
		if uint32(c.req.Size) > c.call.Fore.MaxRequest {
			return nfsv4.NFS4ERR_REQ_TOO_BIG
		}
	}
	if def.flags&needsFH != 0 && !c.cur.set() {
		return nfsv4.NFS4ERR_NOFILEHANDLE
	}
	if st := c.admitted(def); st != nfsv4.NFS4_OK {
		return st
	}
	if !c.mayAnswer(def) {
		return nfsv4.NFS4ERR_DELAY
	}
	if def.flags&changes != 0 {
		if st := c.tooBig(def.room); st != nfsv4.NFS4_OK {
			return st
		}
	}
	return nfsv4.NFS4_OK
}

// admitted refuses callers that are not in the groups of the exports whose files an operation uses.
func (c *compound) admitted(def *opDef) status {
	if def.flags&needsFH == 0 || def.flags&returning != 0 {
		return nfsv4.NFS4_OK
	}
	least := export.Admitted
	if def.flags&mounting != 0 {
		least = export.Mounting
	}
	for _, o := range []*object{&c.cur, &c.saved} {
		if o == &c.saved && (def.flags&both == 0 || !o.set()) {
			break
		}
		if !o.pseudo() && o.export.Admits(o.rule, &c.req.Cred) < least {
			return nfsv4.NFS4ERR_ACCESS
		}
	}
	return nfsv4.NFS4_OK
}

// mayAnswer asks Config.Valid: about clients and sessions where a COMPOUND begins, so that it is refused as a whole (SEQUENCE asks itself), and
// about the file where something is granted.
func (c *compound) mayAnswer(def *opDef) bool {
	valid := c.s.cfg.Valid
	if valid == nil || def == &opTable[nfsv4.OP_SEQUENCE] {
		return true
	}
	return (c.call != nil || valid(0)) && (def.flags&grants == 0 || c.cur.pseudo() || valid(c.cur.export.FSID))
}

// room is how many more bytes of results may be appended, and what to answer when they
// do not suffice.
func (c *compound) room() (int, status) {
	if c.call == nil {
		return sessionlessRoom - c.r.Len(), nfsv4.NFS4ERR_REP_TOO_BIG
	}
	most, st := int(c.call.Fore.MaxResponse), nfsv4.NFS4ERR_REP_TOO_BIG
	if c.call.CacheThis && int(c.call.Fore.MaxCachedResponse) < most {
		most, st = int(c.call.Fore.MaxCachedResponse), nfsv4.NFS4ERR_REP_TOO_BIG_TO_CACHE
	}
	return most - replyHeader - c.r.Len(), st
}

// tooBig is an error if n more bytes do not fit the reply.
func (c *compound) tooBig(n int) status {
	if room, st := c.room(); room < n {
		return st
	}
	return nfsv4.NFS4_OK
}

// apply carries out what package state asks for. Its error takes precedence
// over st: nothing may be answered that the store does not know.
func (c *compound) apply(eff state.Effects, st status) status {
	if err := c.s.apply(c.ctx, &eff); err != nil {
		c.log().Warn("nfs: client state could not be stored", "err", err)
		return nfsv4.NFS4ERR_DELAY
	}
	return st
}

const (
	// donePause is between attempts to carry out the effects of what is done, doneTimeout is for how long that is tried.
	donePause   = 50 * time.Millisecond
	doneTimeout = 2 * time.Minute
)

// applyDone is apply for what has taken a stateid, or moved it, and so cannot be done by another call, which would find the stateid old or unknown: the client hears
// nothing until the effects are carried out. DELAY would be wrong, as for the changes of a gateway that loses its registration meanwhile.
func (c *compound) applyDone(eff state.Effects, st status) status {
	if st != nfsv4.NFS4_OK {
		return c.apply(eff, st)
	}
	c.s.tellRecalls(&eff)
	for began := time.Now(); ; {
		err := eff.Apply(c.ctx, c.s.cfg.Store, files{c.s}) // what is done goes out of eff
		if k := vfs.KindOf(err); err == nil || !k.Retryable() && k != vfs.KindUnknownOrigin || time.Since(began) > doneTimeout {
			return c.apply(eff, st)
		}
		select {
		case <-time.After(donePause):
		case <-c.ctx.Done():
			return c.apply(eff, st)
		}
		if !c.call.Served() { // another server has the client by now, and would not know of an open that is kept from here
			eff.Share = nil
			return c.apply(eff, st)
		}
	}
}

// log is the logger of what is about this request: xid and client find it in a capture and in the client's own log; session, slot and sequence (RFC 8881, 2.10.6.1) are
// the same if it is sent again.
func (c *compound) log() *slog.Logger {
	l := c.s.cfg.Logger.With("remote", c.req.Conn.RemoteAddr(), "xid", c.req.XID, "request", c.req.ID())
	if c.call != nil {
		l = l.With("session", hex.EncodeToString(c.call.SessionID[:]), "slot", c.call.Slot, "seq", c.call.Sequence)
	}
	return l
}

// clientID is the client of the session.
func (c *compound) clientID() state.ClientID { return c.call.Client }

// fsCred is the caller under the rules of the current filehandle's export.
func (c *compound) fsCred() *vfs.Cred {
	if c.credRule != c.cur.rule || c.credRule == nil {
		c.credRule = c.cur.rule
		c.cred = c.cur.rule.Cred(&c.req.Cred)
	}
	return &c.cred
}

// credOf is the caller under the rules of o's export.
func (c *compound) credOf(o *object) *vfs.Cred {
	if o.rule == c.cur.rule {
		return c.fsCred()
	}
	cred := o.rule.Cred(&c.req.Cred)
	return &cred
}

// decodeName decodes component4 and checks it.
func (c *compound) decodeName() (string, status) {
	p := c.d.Opaque(c.d.Len())
	if c.d.Err() != nil {
		return "", nfsv4.NFS4ERR_BADXDR
	}
	return string(p), checkName(p)
}

// checkName refuses what cannot be a name (RFC 8881, 14.5: NUL and '/' are
// characters this server does not support in names).
func checkName(p []byte) status {
	switch {
	case len(p) == 0:
		return nfsv4.NFS4ERR_INVAL
	case len(p) > vfs.NameMax:
		return nfsv4.NFS4ERR_NAMETOOLONG
	case string(p) == "." || string(p) == "..":
		return nfsv4.NFS4ERR_BADNAME
	}
	for _, b := range p {
		if b == 0 || b == '/' {
			return nfsv4.NFS4ERR_BADCHAR
		}
	}
	return nfsv4.NFS4_OK
}

// decodeStateid decodes stateid4 and puts the current stateid in the place of
// its special value (RFC 8881, 16.2.3.1.2).
func (c *compound) decodeStateid() (id state.Stateid) {
	id.Seqid = c.d.Uint32()
	copy(id.Other[:], c.d.Fixed(len(id.Other)))
	if id == state.Current {
		return c.cur.stateid
	}
	return id
}

func appendStateid(b []byte, id state.Stateid) []byte {
	b = xdr.AppendUint32(b, id.Seqid)
	return append(b, id.Other[:]...)
}

func appendChangeInfo(b []byte, ch vfs.DirChange) []byte {
	b = xdr.AppendBool(b, true)
	b = xdr.AppendUint64(b, ch.Before)
	return xdr.AppendUint64(b, ch.After)
}
