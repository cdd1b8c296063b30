package state

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
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
	running  int
	ended    bool
	slotTable

	sequence   uint32 // of the CREATE_SESSION that made it
	version    uint64 // of what the store is to keep of it, see SessionRecord
	unrecorded bool   // the store that keeps sessions has not confirmed that version yet
	resumed    bool   // another server instance made it: what its backchannel's slots saw last is not known
	backFault  bool   // its backchannel is of no use any more
}

func (ss *session) flags() (f uint32) {
	if ss.wantBack {
		f |= nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN
	}
	return f
}

// record is what the store keeps of ss while it is served here.
func (ss *session) record() SessionRecord { return ss.recordFor(false) }

// recordFor is record, also of a session whose client is about to leave.
func (ss *session) recordFor(leaving bool) SessionRecord {
	return SessionRecord{ID: ss.id, Client: ss.client.id, Sequence: ss.sequence, Flags: ss.flags(), Fore: ss.fore, Back: ss.back,
		CallbackProgram: ss.program, Slots: ss.recorded(), Last: ss.last(leaving), Version: ss.version}
}

// changed notes that what the store keeps of ss is old.
func (s *State) changed(ss *session) {
	s.versions++
	ss.version, ss.unrecorded = s.versions, s.cfg.Kept
}

// reply is the answer to its CREATE_SESSION.
func (ss *session) reply() CreateSessionResult {
	return CreateSessionResult{SessionID: ss.id, Sequence: ss.sequence, Flags: ss.flags(), Fore: ss.fore, Back: ss.back}
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
	slots := s.grant(now, c, &a, &eff)
	if slots == 0 {
		return CreateSessionResult{}, s.effects(eff), nfsv4.NFS4ERR_DELAY
	}
	c.csLoose = false
	if old := s.replaced(c); old != nil && old.running > 0 {
		return CreateSessionResult{}, s.effects(eff), nfsv4.NFS4ERR_DELAY
	}
	c.csSequence = a.Sequence
	c.csReply = CreateSessionResult{}
	c.csStatus = s.checkSession(c, &a)
	c.renewed = now
	s.heardBy(c, a.Conn, a.Via)
	if c.csStatus != nfsv4.NFS4_OK {
		return c.csReply, s.effects(eff), c.csStatus
	}
	// Phases 3 and 4: confirmation, session creation.
	if !c.confirmed {
		s.confirm(c, &eff)
	}
	ss := s.newSession(c, &a, slots)
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

func (s *State) newSession(c *client, a *CreateSessionArgs, slots int) *session {
	l := &s.cfg.Limits
	ss := &session{
		client: c,
		fore: ChannelAttrs{
			MaxRequest:        min(a.Fore.MaxRequest, l.MaxRequest),
			MaxResponse:       min(a.Fore.MaxResponse, l.MaxResponse),
			MaxCachedResponse: s.cachedResponse(a),
			MaxOps:            min(a.Fore.MaxOps, l.MaxOps),
			MaxSlots:          uint32(slots),
		},
		back:     a.Back,
		program:  a.CallbackProgram,
		wantBack: a.Flags&nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN != 0,
		conns:    make(map[uint64]struct{}),

		sequence: a.Sequence,
	}
	s.changed(ss)
	ss.back.MaxSlots = min(ss.back.MaxSlots, maxBackSlots)
	s.makeSlots(ss, slots)
	for {
		s.cfg.Rand(ss.id[:])
		if _, taken := s.sessions[ss.id]; !taken && !isCopySession(ss.id) {
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
	s.endSlots(ss)
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
// the fore channel; binding matters for the backchannel. via is as in SequenceArgs.
func (s *State) BindConn(now time.Time, id SessionID, conn uint64, via string, dir nfsv4.ChannelDirFromClient4) (nfsv4.ChannelDirFromServer4, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	ss := s.sessions[id]
	if ss == nil {
		return 0, s.effects(eff), nfsv4.NFS4ERR_BADSESSION
	}
	ss.client.renewed = now
	s.heardBy(ss.client, conn, via)
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
		if !ss.wantBack {
			ss.wantBack = true
			s.changed(ss)
		}
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
	s.unheard(conn)
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
		s.changed(ss)
	}
	s.mustRecord(ss.client, &eff)
	return s.effects(eff), nfsv4.NFS4_OK
}
