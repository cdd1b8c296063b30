package state

import (
	"math"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/internal/xdr"
)

// slot is one entry of the reply cache (RFC 8881, 2.10.6.1).
type slot struct {
	sequence uint32
	digest   uint64
	wide     uint64 // sequence without wrapping around
	call     *Call  // in progress
	used     bool   // sequence was accepted once
	resumed  bool   // the last request was another server instance's: sequence is the lowest that it may have had, if used, else that is not known
	returned bool   // it was given up and came back: sequence is the last of before, if the client still knows it, else it begins with 1
	final    bool   // the last request is not to be executed again, see SlotRecord
	alone    bool   // see Call.Alone, of the last request; also of one whose reply another server instance has kept
	told     uint32 // slotTable.lowered when the last request was answered
	ended    uint64 // State.ended when it was
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

	// Changes is set by the caller when the request may have changed something: its reply is kept up to MaxKept, whether the client has asked for that or not. A Linux client does
	// not ask for it of WRITE, and makes another call of one whose reply is not kept (NFS4ERR_RETRY_UNCACHED_REP). That would undo what others have written in between.
	Changes bool

	// Alone is set by the caller when nothing but the reply tells what the request did: no file system remembers it by its call.
	Alone bool

	// Final is set by the caller when the request has changed what no store tells of: another server must not execute it again.
	Final bool

	state   *State
	session *session
	slot    *slot
	over    chan struct{} // closed at its end; nil: nobody waits for that. Guarded by State.mu
}

// awaited is closed when the call has ended.
func (c *Call) awaited() <-chan struct{} {
	if c.over == nil {
		c.over = make(chan struct{})
	}
	return c.over
}

const (
	// digestBytes of a request go into its digest: all of it but the bulk of a
	// WRITE.
	digestBytes = 4 << 10

	// sequenceBytes are those of an encoded SEQUENCE with its operation number.
	sequenceBytes = 4 + 16 + 4 + 4 + 4 + 4

	// MaxKept bounds a reply that is kept unasked (Call.Changes), and one that goes to another server, in bytes: all of what changes bytes, opens, locks or names are shorter, with
	// the handle and the attributes that Linux asks for.
	MaxKept = 1 << 10

	// replyUnit is what room for a cached reply is a multiple of, in bytes.
	replyUnit = 256
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
	case ss.client.leave != nil:
		return SequenceResult{Leaving: ss.client.leave.over}, nfsv4.NFS4ERR_DELAY
	case a.Via != "" && ss.client.follows(a.Via):
		return SequenceResult{Follow: ss.client.id}, nfsv4.NFS4ERR_DELAY
	case a.Slot >= uint32(len(ss.slots)):
		return SequenceResult{}, nfsv4.NFS4ERR_BADSLOT
	case a.HighestSlot >= ss.everHighest():
		return SequenceResult{}, nfsv4.NFS4ERR_BAD_HIGH_SLOT
	case a.CacheThis && ss.fore.MaxCachedResponse < minResponse: // not even SEQUENCE alone
		return SequenceResult{}, nfsv4.NFS4ERR_REP_TOO_BIG_TO_CACHE
	}
	s.heardBy(ss.client, a.Conn, a.Via)
	sl := ss.slots[a.Slot]
	res := SequenceResult{HighestSlot: ss.highest(), TargetHighestSlot: ss.targetHighest(), StatusFlags: s.statusFlags(ss)}
	switch {
	case sl.resumed && sl.used && (sl.final || sl.cached) && a.Sequence == sl.sequence:
		return s.again(now, ss, sl, &a, res)
	case sl.resumed && (!sl.used || int32(a.Sequence-sl.sequence) >= 0):
		// Whoever accepted it before may have answered what left no trace. If it was a mutation that was done, the vfs
		// tells its outcome again.
	case sl.returned && a.Sequence == 1:
		sl.sequence, sl.wide = 0, sl.wide&^math.MaxUint32
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
			return SequenceResult{Running: sl.call.awaited()}, nfsv4.NFS4ERR_DELAY
		}
		return s.again(now, ss, sl, &a, res)
	default:
		s.st.Misordered++
		return SequenceResult{}, nfsv4.NFS4ERR_SEQ_MISORDERED
	}
	if ss.next > 0 && a.Slot >= uint32(ss.next) { // it is being given up
		return SequenceResult{}, nfsv4.NFS4ERR_DELAY
	}
	knows := sl.used && !sl.resumed && sl.told == ss.lowered // the client has the answer that told the target
	sl.wide += uint64(a.Sequence - sl.sequence)
	sl.sequence = a.Sequence
	sl.digest = a.Digest
	resumed := sl.resumed
	sl.used, sl.resumed, sl.returned = true, false, false
	sl.cached, sl.final = false, false
	s.hear(now, ss.client)
	ss.client.heard = true
	call := &Call{
		Client:    ss.client.id,
		SessionID: ss.id,
		Fore:      ss.fore,
		CacheThis: a.CacheThis,
		Slot:      a.Slot,
		Sequence:  sl.wide,
		Repeated:  resumed,
		state:     s,
		session:   ss,
		slot:      sl,
	}
	sl.call = call
	ss.running++
	ss.client.running++
	ss.client.renewed = now
	s.resize(ss, &a, knows)
	res.Call = call
	return res, nfsv4.NFS4_OK
}

// again answers a request that was answered before.
func (s *State) again(now time.Time, ss *session, sl *slot, a *SequenceArgs, res SequenceResult) (SequenceResult, Status) {
	if a.Digest != sl.digest && a.Digest != 0 && sl.digest != 0 {
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

// Keeps reports whether a reply of n bytes is kept. One that the client has asked for is no longer than Fore.MaxCachedResponse: the caller has answered
// NFS4ERR_REP_TOO_BIG_TO_CACHE instead.
func (c *Call) Keeps(n int) bool {
	return c.CacheThis && uint64(n) <= uint64(c.Fore.MaxCachedResponse) || c.Changes && n <= MaxKept
}

// Finish ends a call. reply is the whole COMPOUND result, which is copied, if
// Keeps, else nil. Exactly once per Call.
func (s *State) Finish(now time.Time, c *Call, reply []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss, sl := c.session, c.slot
	ss.running--
	ss.client.running--
	ss.client.renewed = now
	if c.over != nil {
		close(c.over)
	}
	s.ended++
	sl.call, sl.final, sl.alone, sl.ended = nil, c.Final, c.Alone || c.Final, s.ended
	ss.client.leave.settle(ss.client)
	if ss.ended {
		return
	}
	if len(reply) > 0 && c.Keeps(len(reply)) {
		before := cap(sl.reply)
		if sl.shared || before < len(reply) {
			sl.reply, sl.shared = make([]byte, 0, min((len(reply)+replyUnit-1)/replyUnit*replyUnit, int(replyRoom(ss.fore.MaxCachedResponse)))), false
		}
		sl.reply = append(sl.reply[:0], reply...)
		sl.cached = true
		s.st.CachedBytes += int64(cap(sl.reply) - before)
	}
}
