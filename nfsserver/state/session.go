package state

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/internal/xdr"
)

// session is a session with its fore channel's slots.
type session struct {
	id       SessionID
	client   *client
	fore     ChannelAttrs
	back     ChannelAttrs
	program  uint32 // of callbacks
	wantBack bool   // the client asked for a backchannel
	conns    map[uint64]struct{}
	slots    []slot
	running  int
	ended    bool

	sequence   uint32 // of the CREATE_SESSION that made it
	unrecorded bool   // the store that keeps sessions has not confirmed it yet
	resumed    bool   // another server instance made it: what its backchannel's slots saw last is not known
	backFault  bool   // its backchannel is of no use any more
}

func (ss *session) flags() (f uint32) {
	if ss.wantBack {
		f |= nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN
	}
	return f
}

// record is what the store keeps of ss.
func (ss *session) record() SessionRecord {
	return SessionRecord{ID: ss.id, Client: ss.client.id, Sequence: ss.sequence, Flags: ss.flags(), Fore: ss.fore, Back: ss.back,
		CallbackProgram: ss.program}
}

// reply is the answer to its CREATE_SESSION.
func (ss *session) reply() CreateSessionResult {
	return CreateSessionResult{SessionID: ss.id, Sequence: ss.sequence, Flags: ss.flags(), Fore: ss.fore, Back: ss.back}
}

// slot is one entry of the reply cache (RFC 8881, 2.10.6.1).
type slot struct {
	sequence uint32
	digest   uint64
	wide     uint64 // sequence without wrapping around
	call     *Call  // in progress
	used     bool   // sequence was accepted once
	resumed  bool   // the last request was another server instance's: sequence is the lowest that it may have had, if used, else that is not known
	cached   bool   // reply holds the reply
	shared   bool   // somebody else reads reply
	reply    []byte
}

// Call is a request in progress on a slot.
type Call struct {
	Client    ClientID
	SessionID SessionID
	Fore      ChannelAttrs // limits of the session: REQ_TOO_BIG, REP_TOO_BIG, REP_TOO_BIG_TO_CACHE, TOO_MANY_OPS
	CacheThis bool
	Slot      uint32
	Sequence  uint64 // of the slot, made longer: it does not wrap around
	Repeated  bool   // an earlier server instance may have had it

	session *session
	slot    *slot
}

// Limits of what a session can work with: the RPC header with AUTH_SYS or the
// accepted reply header, the COMPOUND header and SEQUENCE (RFC 8881, 18.36.3:
// NFS4ERR_TOOSMALL).
const (
	minRequest  = 24 + 8 + 8 + 12 + 4 + 32
	minResponse = 24 + 12 + 4 + 40

	// minCallback is for CB_COMPOUND with CB_SEQUENCE and one small operation, request and reply.
	minCallback = 128

	// maxBackSlots bounds what we would send at once; maxBackConns the
	// connections that a session's backchannel may use.
	maxBackSlots = 16
	maxBackConns = 16
)

const createSessionFlags = nfsv4.CREATE_SESSION4_FLAG_PERSIST |
	nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN | nfsv4.CREATE_SESSION4_FLAG_CONN_RDMA

// CreateSession is CREATE_SESSION (RFC 8881, 18.36.4).
func (s *State) CreateSession(now time.Time, a CreateSessionArgs) (CreateSessionResult, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	// Phase 1: client record lookup.
	c := s.clients[a.ClientID]
	if c == nil {
		return CreateSessionResult{}, s.effects(eff), nfsv4.NFS4ERR_STALE_CLIENTID
	}
	// Phase 3 comes first as far as the principal goes, so that a stranger
	// neither moves the sequence nor learns a cached reply.
	if !c.confirmed && c.principal != a.Principal {
		return CreateSessionResult{}, s.effects(eff), nfsv4.NFS4ERR_CLID_INUSE
	}
	// A channel that could carry nothing is refused before the sequence counts, so that the client may ask again with
	// the same one.
	if (a.Sequence == c.csSequence+1 || c.csLoose && int32(a.Sequence-c.csSequence) > 0) && tooSmall(&a) {
		return CreateSessionResult{}, s.effects(eff), nfsv4.NFS4ERR_TOOSMALL
	}
	// Phase 2: sequence processing.
	switch a.Sequence {
	case c.csSequence:
		s.st.Replays++
		s.mustRecord(c, &eff)
		return c.csReply, s.effects(eff), c.csStatus
	case c.csSequence + 1:
	default:
		if c.csLoose && int32(a.Sequence-c.csSequence) > 0 {
			break
		}
		s.st.Misordered++
		return CreateSessionResult{}, s.effects(eff), nfsv4.NFS4ERR_SEQ_MISORDERED
	}
	c.csLoose = false
	if old := s.confirmed[c.owner]; old != nil && old != c && old.running > 0 {
		return CreateSessionResult{}, s.effects(eff), nfsv4.NFS4ERR_DELAY
	}
	c.csSequence = a.Sequence
	c.csReply = CreateSessionResult{}
	c.csStatus = s.checkSession(c, &a)
	c.renewed = now
	if c.csStatus != nfsv4.NFS4_OK {
		return c.csReply, s.effects(eff), c.csStatus
	}
	// Phases 3 and 4: confirmation, session creation.
	if !c.confirmed {
		s.confirm(c, &eff)
	}
	ss := s.newSession(c, &a)
	c.csReply = ss.reply()
	s.mustRecord(c, &eff)
	return c.csReply, s.effects(eff), nfsv4.NFS4_OK
}

func (s *State) checkSession(c *client, a *CreateSessionArgs) Status {
	switch {
	case a.Flags&^uint32(createSessionFlags) != 0:
		return nfsv4.NFS4ERR_INVAL
	case len(c.sessions) >= s.cfg.Limits.SessionsPerClient:
		return nfsv4.NFS4ERR_NOSPC
	}
	return nfsv4.NFS4_OK
}

// tooSmall reports whether a channel is of no use. A client that wants no backchannel may leave out what it would be.
func tooSmall(a *CreateSessionArgs) bool {
	f, b := &a.Fore, &a.Back
	back := a.Flags&nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN != 0 || *b != ChannelAttrs{}
	return f.MaxRequest < minRequest || f.MaxResponse < minResponse || f.MaxOps < 1 || f.MaxSlots < 1 ||
		back && (b.MaxRequest < minCallback || b.MaxResponse < minCallback || b.MaxOps < 2 || b.MaxSlots < 1)
}

func (s *State) newSession(c *client, a *CreateSessionArgs) *session {
	l := &s.cfg.Limits
	ss := &session{
		client: c,
		fore: ChannelAttrs{
			MaxRequest:        min(a.Fore.MaxRequest, l.MaxRequest),
			MaxResponse:       min(a.Fore.MaxResponse, l.MaxResponse),
			MaxCachedResponse: min(a.Fore.MaxCachedResponse, l.MaxCachedResponse),
			MaxOps:            min(a.Fore.MaxOps, l.MaxOps),
			MaxSlots:          min(a.Fore.MaxSlots, uint32(l.Slots)),
		},
		back:     a.Back,
		program:  a.CallbackProgram,
		wantBack: a.Flags&nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN != 0,
		conns:    make(map[uint64]struct{}),

		sequence:   a.Sequence,
		unrecorded: s.cfg.Kept,
	}
	ss.back.MaxSlots = min(ss.back.MaxSlots, maxBackSlots)
	ss.slots = make([]slot, ss.fore.MaxSlots)
	for {
		s.cfg.Rand(ss.id[:])
		if _, taken := s.sessions[ss.id]; !taken {
			break
		}
	}
	s.sessions[ss.id] = ss
	c.sessions[ss] = struct{}{}
	if ss.wantBack {
		c.delegs.pathDown = false // to be seen
		s.bind(ss, a.Conn)
	}
	return ss
}

// endSession takes away a session and its reply cache. Its calls in progress
// end without a trace.
func (s *State) endSession(ss *session) {
	ss.ended = true
	for i := range ss.slots {
		s.st.CachedBytes -= int64(cap(ss.slots[i].reply))
	}
	ss.slots = nil
	for conn := range ss.conns {
		s.unbind(ss, conn)
	}
	delete(ss.client.sessions, ss)
	delete(s.sessions, ss.id)
}

// DestroySession is DESTROY_SESSION (RFC 8881, 18.37). call is that of the
// SEQUENCE in the same COMPOUND, nil if there is none. Knowing the random id is
// the right to destroy.
func (s *State) DestroySession(now time.Time, id SessionID, call *Call) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	ss := s.sessions[id]
	if ss == nil {
		return s.effects(eff), nfsv4.NFS4ERR_BADSESSION
	}
	own := 0
	if call != nil && call.session == ss {
		own = 1
	}
	if ss.running > own {
		return s.effects(eff), nfsv4.NFS4ERR_DELAY
	}
	if s.cfg.Kept {
		s.unended[id] = ss.record()
	}
	s.endSession(ss)
	return s.effects(eff), nfsv4.NFS4_OK
}

// Heard notes that the client of a session sent something that could not be answered yet: it keeps what it has, although it was not told so.
func (s *State) Heard(now time.Time, id SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss := s.sessions[id]; ss != nil {
		ss.client.renewed = now
	}
}

// BindConn is BIND_CONN_TO_SESSION (RFC 8881, 18.34). All connections carry
// the fore channel; binding matters for the backchannel.
func (s *State) BindConn(now time.Time, id SessionID, conn uint64, dir nfsv4.ChannelDirFromClient4) (nfsv4.ChannelDirFromServer4, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	ss := s.sessions[id]
	if ss == nil {
		return 0, s.effects(eff), nfsv4.NFS4ERR_BADSESSION
	}
	ss.client.renewed = now
	got, st := s.bindConn(ss, conn, dir)
	s.mustRecord(ss.client, &eff)
	return got, s.effects(eff), st
}

func (s *State) bindConn(ss *session, conn uint64, dir nfsv4.ChannelDirFromClient4) (nfsv4.ChannelDirFromServer4, Status) {
	switch dir {
	case nfsv4.CDFC4_FORE:
		s.unbind(ss, conn)
		return nfsv4.CDFS4_FORE, nfsv4.NFS4_OK
	case nfsv4.CDFC4_BACK, nfsv4.CDFC4_FORE_OR_BOTH, nfsv4.CDFC4_BACK_OR_BOTH:
		if _, ok := ss.conns[conn]; !ok && len(ss.conns) >= maxBackConns {
			if dir == nfsv4.CDFC4_FORE_OR_BOTH {
				return nfsv4.CDFS4_FORE, nfsv4.NFS4_OK
			}
			return 0, nfsv4.NFS4ERR_DELAY
		}
		ss.unrecorded = ss.unrecorded || s.cfg.Kept && !ss.wantBack
		ss.wantBack = true
		ss.client.delegs.pathDown = false // to be seen
		s.bind(ss, conn)
		if dir == nfsv4.CDFC4_BACK {
			return nfsv4.CDFS4_BACK, nfsv4.NFS4_OK
		}
		return nfsv4.CDFS4_BOTH, nfsv4.NFS4_OK
	}
	return 0, nfsv4.NFS4ERR_INVAL
}

func (s *State) bind(ss *session, conn uint64) {
	ss.conns[conn] = struct{}{}
	if s.bound[conn] == nil {
		s.bound[conn] = make(map[*session]struct{})
	}
	s.bound[conn][ss] = struct{}{}
}

func (s *State) unbind(ss *session, conn uint64) {
	delete(ss.conns, conn)
	delete(s.bound[conn], ss)
	if len(s.bound[conn]) == 0 {
		delete(s.bound, conn)
	}
}

// ConnClosed forgets the bindings of a connection that is closed.
func (s *State) ConnClosed(conn uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss := range s.bound[conn] {
		s.unbind(ss, conn)
	}
}

// BackchannelCtl is BACKCHANNEL_CTL (RFC 8881, 18.33).
func (s *State) BackchannelCtl(now time.Time, id SessionID, program uint32) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	ss := s.sessions[id]
	if ss == nil {
		return s.effects(eff), nfsv4.NFS4ERR_BADSESSION
	}
	if ss.program != program {
		ss.program = program
		ss.unrecorded = s.cfg.Kept
	}
	s.mustRecord(ss.client, &eff)
	return s.effects(eff), nfsv4.NFS4_OK
}

const (
	// digestBytes of a request go into its digest: all of it but the bulk of a
	// WRITE.
	digestBytes = 4 << 10

	// sequenceBytes are those of an encoded SEQUENCE with its operation number.
	sequenceBytes = 4 + 16 + 4 + 4 + 4 + 4
)

// Digest is a SequenceArgs.Digest of encoded COMPOUND arguments and the
// caller's uid: what a retry has in common with its original. It is the same in
// every process.
//
// SEQUENCE itself does not count: a Linux client that sends a request again on
// a new connection encodes it again, with the highest slot it uses by then.
// Taking that for another request would make the client execute it twice.
func Digest(body []byte, uid uint32) uint64 {
	d := xdr.NewDecoder(body)
	d.Opaque(len(body)) // tag
	d.Skip(4 + 4 + sequenceBytes)
	if d.Err() == nil {
		body = d.Rest()
	}
	h := xxhash.Sum64(body[:min(len(body), digestBytes)])
	h = (h ^ uint64(len(body))) * 0x9e3779b97f4a7c15
	h = (h ^ uint64(uid)) * 0x9e3779b97f4a7c15
	return h | 1 // 0 means unknown
}

// Sequence is SEQUENCE (RFC 8881, 18.46). A new request gets a Call, which must
// be ended by Finish.
func (s *State) Sequence(now time.Time, a SequenceArgs) (SequenceResult, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss := s.sessions[a.SessionID]
	switch {
	case ss == nil:
		return SequenceResult{}, nfsv4.NFS4ERR_BADSESSION
	case a.Slot >= uint32(len(ss.slots)):
		return SequenceResult{}, nfsv4.NFS4ERR_BADSLOT
	case a.HighestSlot >= uint32(len(ss.slots)):
		return SequenceResult{}, nfsv4.NFS4ERR_BAD_HIGH_SLOT
	case a.CacheThis && ss.fore.MaxCachedResponse < minResponse: // not even SEQUENCE alone
		return SequenceResult{}, nfsv4.NFS4ERR_REP_TOO_BIG_TO_CACHE
	}
	sl := &ss.slots[a.Slot]
	highest := uint32(len(ss.slots)) - 1
	res := SequenceResult{HighestSlot: highest, TargetHighestSlot: highest, StatusFlags: s.statusFlags(ss)}
	switch {
	case sl.resumed && (!sl.used || int32(a.Sequence-sl.sequence) >= 0):
		// Whoever accepted it before may have answered what left no trace. If it was a mutation that was done, the vfs
		// tells its outcome again.
	case a.Sequence == sl.sequence+1:
		if sl.call != nil { // the client gave up on a call that still runs
			s.st.Misordered++
			return SequenceResult{}, nfsv4.NFS4ERR_SEQ_MISORDERED
		}
	case a.Sequence == sl.sequence:
		switch {
		case !sl.used:
			s.st.Misordered++
			return SequenceResult{}, nfsv4.NFS4ERR_SEQ_MISORDERED
		case sl.call != nil: // also for a probe of an interrupted client, which is no retry
			return SequenceResult{}, nfsv4.NFS4ERR_DELAY
		case a.Digest != sl.digest && a.Digest != 0 && sl.digest != 0:
			s.st.FalseRetries++
			return SequenceResult{}, nfsv4.NFS4ERR_SEQ_FALSE_RETRY
		}
		ss.client.renewed = now
		s.st.Replays++
		if sl.cached {
			res.Replay = sl.reply
			sl.shared = true // the next reply gets a new buffer
			return res, nfsv4.NFS4_OK
		}
		s.st.UncachedReplays++
		res.Uncached = !a.Single
		return res, nfsv4.NFS4_OK
	default:
		s.st.Misordered++
		return SequenceResult{}, nfsv4.NFS4ERR_SEQ_MISORDERED
	}
	sl.wide += uint64(a.Sequence - sl.sequence)
	sl.sequence = a.Sequence
	sl.digest = a.Digest
	resumed := sl.resumed
	sl.used, sl.resumed = true, false
	sl.cached = false
	s.hear(now, ss.client)
	call := &Call{
		Client:    ss.client.id,
		SessionID: ss.id,
		Fore:      ss.fore,
		CacheThis: a.CacheThis,
		Slot:      a.Slot,
		Sequence:  sl.wide,
		Repeated:  resumed,
		session:   ss,
		slot:      sl,
	}
	sl.call = call
	ss.running++
	ss.client.running++
	ss.client.renewed = now
	res.Call = call
	return res, nfsv4.NFS4_OK
}

// statusFlags are sr_status_flags.
func (s *State) statusFlags(ss *session) uint32 {
	f := ss.client.delegationFlags()
	if ss.backFault {
		f |= nfsv4.SEQ4_STATUS_BACKCHANNEL_FAULT
	}
	if ss.wantBack && len(ss.conns) == 0 {
		f |= nfsv4.SEQ4_STATUS_CB_PATH_DOWN_SESSION
		for other := range ss.client.sessions {
			if len(other.conns) > 0 {
				return f
			}
		}
		f |= nfsv4.SEQ4_STATUS_CB_PATH_DOWN
	}
	return f
}

// Finish ends a call. reply is the whole COMPOUND result, which is copied, if
// CacheThis, else nil. A reply over Fore.MaxCachedResponse is not kept: the
// caller has answered NFS4ERR_REP_TOO_BIG_TO_CACHE instead. Exactly once per Call.
func (s *State) Finish(now time.Time, c *Call, reply []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss, sl := c.session, c.slot
	ss.running--
	ss.client.running--
	ss.client.renewed = now
	sl.call = nil
	if ss.ended {
		return
	}
	if len(reply) > 0 && c.CacheThis && uint64(len(reply)) <= uint64(ss.fore.MaxCachedResponse) {
		before := cap(sl.reply)
		if sl.shared {
			sl.reply, sl.shared = nil, false
		}
		sl.reply = append(sl.reply[:0], reply...)
		sl.cached = true
		s.st.CachedBytes += int64(cap(sl.reply) - before)
	}
}
