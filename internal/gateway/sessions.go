package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// nfsMeta is the metadata client as far as clients and sessions need it.
type nfsMeta interface {
	volume.Meta
	NewNFSClients(ctx context.Context, n uint32) (first uint64, err error)
	TakeNFSClients(ctx context.Context, ids []uint64) (taken []uint64, err error)
	NFSClients(ctx context.Context, gateway string) ([]*metapb.ClientSessions, error)
	NFSClientOf(ctx context.Context, session []byte) (*metapb.ClientSessions, error)
	NFSClientOfOwner(ctx context.Context, owner []byte) (*metapb.ClientSessions, error)
	NFSClient(ctx context.Context, id uint64) (*metapb.ClientSessions, error)
	WishNFSClient(ctx context.Context, id uint64) error
	GiveNFSClients(ctx context.Context, clients []*metapb.GivenClient) (given []uint64, err error)
	Settle(ctx context.Context, shard uint16) error
	ReleaseNFSClient(ctx context.Context, id uint64) error
}

// sessionStore is the NFS server's state.SessionStore in shard 0, of feature level 3. What legacy has are
// records of clients that this gateway recorded when it was below: they may reclaim.
type sessionStore struct {
	legacy *clientStore
	meta   nfsMeta
	name   string
	shards []uint16 // namespace shards of the file systems that are served
	log    *slog.Logger

	order [recordLocks]sync.Mutex // by client: changes of a record happen in order, held while one is stored

	mu       sync.Mutex // guards the fields below
	doubted  uint64     // counts hand-overs of unknown outcome
	settled  uint64     // so many of them have one
	known    map[state.ClientID]state.ClientRecord
	versions map[state.ClientID]map[state.SessionID]uint64 // state.SessionRecord.Version of what was stored last
}

// recordLocks is how many clients' records are stored at once, at most.
const recordLocks = 64

// ordered runs put with the newest of rec, one of a client at a time, and notes it if it is stored.
func (s *sessionStore) ordered(ctx context.Context, rec state.ClientRecord, put func(context.Context, *state.ClientRecord) error) error {
	turn := &s.order[uint64(rec.ClientID)%recordLocks]
	turn.Lock()
	defer turn.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	rec = s.newest(rec)
	if err := put(ctx, &rec); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[rec.ClientID] = rec
	return nil
}

var _ state.SessionStore = (*sessionStore)(nil)

func newSessionStore(meta nfsMeta, gateway string, shards []uint16, log *slog.Logger) *sessionStore {
	return &sessionStore{legacy: newClientStore(meta, gateway), meta: meta, name: gateway, shards: shards, log: log,
		known: make(map[state.ClientID]state.ClientRecord), versions: make(map[state.ClientID]map[state.SessionID]uint64)}
}

// clientIDs is how many ids are reserved at once.
const clientIDs = 16

// NewClientIDs implements state.SessionStore, as do the other methods.
func (s *sessionStore) NewClientIDs(ctx context.Context) ([]state.ClientID, error) {
	first, err := s.meta.NewNFSClients(ctx, clientIDs)
	if err != nil {
		return nil, vfs.Wrap("gateway.client ids", err)
	}
	ids := make([]state.ClientID, clientIDs)
	for i := range ids {
		ids[i] = first + uint64(i)
	}
	return ids, nil
}

// newest is rec with what was stored of it since it was made: requests of a client may overtake each other here.
func (s *sessionStore) newest(rec state.ClientRecord) state.ClientRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.known[rec.ClientID]; ok {
		rec.Reclaimed = rec.Reclaimed || old.Reclaimed
		rec.Delegated = rec.Delegated || old.Delegated
		if int32(old.Sequence-rec.Sequence) > 0 {
			rec.Sequence = old.Sequence
		}
		if old.CopiesVersion > rec.CopiesVersion {
			rec.Copies, rec.CopiesVersion = old.Copies, old.CopiesVersion
		}
	}
	return rec
}

func (s *sessionStore) PutClient(ctx context.Context, rec state.ClientRecord) error {
	return s.ordered(ctx, rec, func(ctx context.Context, rec *state.ClientRecord) error {
		_, err := s.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutClient{PutClient: &metapb.PutClient{Client: pbClient(rec)}}})
		return vfs.Wrap("gateway.record client", err)
	})
}

func (s *sessionStore) PutSession(ctx context.Context, p state.SessionPut) error {
	return s.ordered(ctx, p.Client, func(ctx context.Context, rec *state.ClientRecord) error {
		if s.storedVersion(&p.Session) > p.Session.Version { // what overtook it says more
			return nil
		}
		_, err := s.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutSession{PutSession: &metapb.PutSession{
			Client:  pbClient(rec),
			Session: &metapb.SessionRecord{Id: p.Session.ID[:], Client: uint64(p.Session.Client), Record: encodeSession(&p.Session)},
		}}})
		if err != nil {
			return vfs.Wrap("gateway.record session", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.versions[p.Session.Client] == nil {
			s.versions[p.Session.Client] = make(map[state.SessionID]uint64)
		}
		s.versions[p.Session.Client][p.Session.ID] = p.Session.Version
		return nil
	})
}

func (s *sessionStore) storedVersion(r *state.SessionRecord) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.versions[r.Client][r.ID]
}

// ReleaseSlots is repeated until all shards have done it.
func (s *sessionStore) ReleaseSlots(ctx context.Context, g state.SlotsGone) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	for _, shard := range s.shards {
		_, err := s.meta.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_ReleaseSlots{ReleaseSlots: &metapb.ReleaseSlots{
			Client: uint64(g.Client), Session: g.Session[:], First: g.First, BelowSeq: g.Below,
		}}})
		if err != nil {
			return vfs.Wrap("gateway.release slots", err)
		}
	}
	return nil
}

func (s *sessionStore) RemoveClient(ctx context.Context, rec state.ClientRecord) error {
	if s.legacy.has(rec) {
		return s.legacy.RemoveClient(ctx, rec)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	err := s.meta.ReleaseNFSClient(ctx, uint64(rec.ClientID))
	if k := vfs.KindOf(err); k != vfs.KindOK && k != vfs.KindBusy { // busy: it is another gateway's now
		return vfs.Wrap("gateway.end client", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, rec.ClientID)
	delete(s.versions, rec.ClientID)
	return nil
}

func (s *sessionStore) RemoveSession(ctx context.Context, rec state.SessionRecord) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	_, err := s.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemoveSession{RemoveSession: &metapb.RemoveSession{Session: rec.ID[:]}}})
	switch vfs.KindOf(err) {
	case vfs.KindOK:
	case vfs.KindExpired, vfs.KindBusy: // with its client
		return nil
	default:
		return vfs.Wrap("gateway.end session", err)
	}
	s.mu.Lock()
	delete(s.versions[rec.Client], rec.ID)
	s.mu.Unlock()
	for _, shard := range s.shards {
		_, err := s.meta.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_ReleaseSession{ReleaseSession: &metapb.ReleaseSession{
			Client: uint64(rec.Client), Session: rec.ID[:],
		}}})
		if err != nil { // it only takes room, until the client ends
			s.log.Warn("gateway: replies of a session stay until its client ends", "shard", shard, "err", err)
		}
	}
	return nil
}

func (s *sessionStore) Clients(ctx context.Context) ([]state.ClientRecord, error) {
	return s.legacy.Clients(ctx)
}

func (s *sessionStore) Load(ctx context.Context) ([]state.ClientState, error) {
	const op = "gateway.load clients"
	list, err := s.meta.NFSClients(ctx, s.name)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	// Ids without a record may have been told to a client, and are never given to another: the metadata ends them as it does clients that
	// nobody takes.
	list = slices.DeleteFunc(list, func(c *metapb.ClientSessions) bool {
		return len(c.GetClient().GetOwner()) == 0 && len(c.GetClient().GetRecord()) == 0
	})
	ids := make([]uint64, len(list))
	for i, c := range list {
		ids[i] = c.GetClient().GetId()
	}
	taken, err := s.meta.TakeNFSClients(ctx, ids)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	slices.Sort(taken)
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []state.ClientState
	for _, c := range list {
		id := c.GetClient().GetId()
		if _, ok := slices.BinarySearch(taken, id); !ok {
			continue
		}
		cs, err := clientState(c)
		if err != nil {
			return nil, vfs.Wrap(op, err)
		}
		s.known[cs.Client.ClientID] = cs.Client
		out = append(out, cs)
	}
	return out, nil
}

// Retake makes the gateway's new origin the one that serves clients, after the former one ended, and returns those that it
// serves now.
func (s *sessionStore) Retake(ctx context.Context) (map[state.ClientID]bool, error) {
	list, err := s.meta.NFSClients(ctx, s.name)
	if err != nil {
		return nil, vfs.Wrap("gateway.retake clients", err)
	}
	ids := make([]uint64, len(list))
	for i, c := range list {
		ids[i] = c.GetClient().GetId()
	}
	taken, err := s.meta.TakeNFSClients(ctx, ids)
	if err != nil {
		return nil, vfs.Wrap("gateway.retake clients", err)
	}
	// One that another gateway had between the two, and gave up, is not as it is remembered here: its next request finds what was handed over.
	now, err := s.meta.NFSClients(ctx, s.name)
	if err != nil {
		return nil, vfs.Wrap("gateway.retake clients", err)
	}
	before := make(map[uint64]*metapb.ClientSessions, len(list))
	for _, c := range list {
		before[c.GetClient().GetId()] = c
	}
	slices.Sort(taken)
	served := make(map[state.ClientID]bool, len(taken))
	for _, c := range now {
		id := c.GetClient().GetId()
		if _, mine := slices.BinarySearch(taken, id); mine && sameHandOver(before[id], c) {
			served[state.ClientID(id)] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.known, func(id state.ClientID, _ state.ClientRecord) bool { return !served[id] })
	maps.DeleteFunc(s.versions, func(id state.ClientID, _ map[state.SessionID]uint64) bool { return !served[id] })
	return served, nil
}

// sameHandOver reports whether a client was not given up between two looks at it.
func sameHandOver(a, b *metapb.ClientSessions) bool {
	return bytes.Equal(a.GetClient().GetHanded(), b.GetClient().GetHanded()) &&
		slices.EqualFunc(a.GetSessions(), b.GetSessions(), func(x, y *metapb.SessionRecord) bool {
			return bytes.Equal(x.GetId(), y.GetId()) && bytes.Equal(x.GetRecord(), y.GetRecord())
		})
}

// serves reports whether the gateway serves a client: it has taken or made it, and has not given it up, nor lost it to another gateway.
func (s *sessionStore) serves(id state.ClientID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.known[id]
	return ok
}

func (s *sessionStore) ClientOf(ctx context.Context, id state.SessionID) (state.ClientID, error) {
	c, err := s.meta.NFSClientOf(ctx, id[:])
	return state.ClientID(c.GetClient().GetId()), vfs.Wrap("gateway.find session", err)
}

func (s *sessionStore) ClientOfOwner(ctx context.Context, owner []byte) (state.ClientID, error) {
	c, err := s.meta.NFSClientOfOwner(ctx, owner)
	return state.ClientID(c.GetClient().GetId()), vfs.Wrap("gateway.find client", err)
}

func (s *sessionStore) Take(ctx context.Context, id state.ClientID) (state.ClientState, error) {
	const op = "gateway.take client"
	if err := s.settleGives(ctx); err != nil {
		return state.ClientState{}, vfs.Wrap(op, err)
	}
	c, err := s.meta.NFSClient(ctx, uint64(id))
	if err != nil {
		return state.ClientState{}, vfs.Wrap(op, err)
	}
	if r := c.GetClient(); r.GetState() != metapb.ClientState_CLIENT_ACTIVE || len(r.GetOwner()) == 0 {
		return state.ClientState{}, vfs.Errorf(vfs.KindNotFound, op, "client %d has ended, or never began", id)
	}
	taken, err := s.meta.TakeNFSClients(ctx, []uint64{uint64(id)})
	if err != nil {
		return state.ClientState{}, vfs.Wrap(op, err)
	}
	if len(taken) == 0 {
		return state.ClientState{}, vfs.Errorf(vfs.KindBusy, op, "gateway %s serves client %d", c.GetClient().GetGateway(), id)
	}
	// Only from here on it does not change by others.
	if c, err = s.meta.NFSClient(ctx, uint64(id)); err != nil {
		return state.ClientState{}, vfs.Wrap(op, err)
	}
	cs, err := clientState(c)
	if err != nil {
		return state.ClientState{}, vfs.Wrap(op, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[id] = cs.Client
	return cs, nil
}

// settleGives returns when no hand-over can be carried out that was begun before: it would give away again, unnoticed, a client that was taken back.
func (s *sessionStore) settleGives(ctx context.Context) error {
	s.mu.Lock()
	doubted, settled := s.doubted, s.settled
	s.mu.Unlock()
	if settled == doubted {
		return nil
	}
	if err := s.meta.Settle(ctx, clusterShard); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = max(s.settled, doubted)
	return nil
}

func (s *sessionStore) Wish(ctx context.Context, id state.ClientID) error {
	return vfs.Wrap("gateway.wish client", s.meta.WishNFSClient(ctx, uint64(id)))
}

func (s *sessionStore) Give(ctx context.Context, id state.ClientID, h state.Handed) (bool, error) {
	const op = "gateway.give client"
	for _, shard := range append(slices.Clone(s.shards), clusterShard) {
		if err := s.meta.Settle(ctx, shard); err != nil {
			return false, vfs.Wrap(op, err)
		}
	}
	g := &metapb.GivenClient{Client: uint64(id), Handed: encodeHanded(&h)}
	for i := range h.Sessions {
		g.Sessions = append(g.Sessions, &metapb.SessionRecord{Id: h.Sessions[i].ID[:], Record: encodeSession(&h.Sessions[i])})
	}
	given, err := s.meta.GiveNFSClients(ctx, []*metapb.GivenClient{g})
	if err == nil && len(given) == 0 {
		return false, nil
	}
	if err != nil && vfs.KindOf(err) != vfs.KindUnknown {
		return false, vfs.Wrap(op, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.doubted++
	}
	delete(s.known, id)
	delete(s.versions, id)
	return err == nil, vfs.Wrap(op, err)
}

// sessionFormat is the first byte of our part of records in shard 0: of a client then 4 bytes of sequence, 1 of flags, and for each
// copy that it waits for 12 of stateid, 1 with the length of the handle, and the handle (from feature level 10 on with what copyMark says between); of a session 4 each of sequence, flags, callback
// program, then two channels of 5 times 4; then, unless all that follows is 0 or nothing, 4 with the number of slots; then what is known of slots' last requests, all as
// uvarint: the slot less the one before and 1, the sequence, and flags. Big-endian but for those.
const sessionFormat = 1

// Flags of a client.
const (
	flagReclaimed = 1 // RECLAIM_COMPLETE was received
	flagDelegated = 2 // it had a delegation
)

// slotFinal is the flag of state.SlotRecord.Final.
const slotFinal = 1

const (
	clientRecordLen  = 1 + 4 + 1
	sessionRecordLen = 1 + 3*4 + 2*5*4
)

func pbClient(r *state.ClientRecord) *metapb.ClientRecord {
	var flags byte
	if r.Reclaimed {
		flags |= flagReclaimed
	}
	if r.Delegated {
		flags |= flagDelegated
	}
	b := append(binary.BigEndian.AppendUint32([]byte{sessionFormat}, r.Sequence), flags)
	for i := range r.Copies {
		b = appendCopy(b, &r.Copies[i])
	}
	return &metapb.ClientRecord{Id: uint64(r.ClientID), Owner: r.Owner, Verifier: r.Verifier[:], Principal: []byte(r.Principal), Confirmed: true, Record: b}
}

func encodeSession(r *state.SessionRecord) []byte {
	b := make([]byte, 0, sessionRecordLen)
	b = append(b, sessionFormat)
	put := func(vs ...uint32) {
		for _, v := range vs {
			b = binary.BigEndian.AppendUint32(b, v)
		}
	}
	put(r.Sequence, r.Flags, r.CallbackProgram)
	for _, c := range []*state.ChannelAttrs{&r.Fore, &r.Back} {
		put(c.MaxRequest, c.MaxResponse, c.MaxCachedResponse, c.MaxOps, c.MaxSlots)
	}
	if r.Slots != 0 || len(r.Last) > 0 {
		put(r.Slots)
	}
	next := uint32(0)
	for _, l := range r.Last {
		var flags uint64
		if l.Final {
			flags |= slotFinal
		}
		b = binary.AppendUvarint(b, uint64(l.Slot-next))
		b = binary.AppendUvarint(b, l.Seq)
		b = binary.AppendUvarint(b, flags)
		next = l.Slot + 1
	}
	return b
}

// lastOf decodes what encodeSession says of slots' last requests.
func lastOf(b []byte) (list []state.SlotRecord, ok bool) {
	next := uint64(0)
	for len(b) > 0 {
		var v [3]uint64
		for i := range v {
			n := 0
			if v[i], n = binary.Uvarint(b); n <= 0 {
				return nil, false
			}
			b = b[n:]
		}
		slot := next + v[0]
		if slot < next || slot > math.MaxUint32 {
			return nil, false
		}
		list = append(list, state.SlotRecord{Slot: uint32(slot), Seq: v[1], Final: v[2]&slotFinal != 0})
		next = slot + 1
	}
	return list, true
}

func clientState(c *metapb.ClientSessions) (state.ClientState, error) {
	const op = "gateway.client record"
	r := c.GetClient()
	b := r.GetRecord()
	if len(b) < clientRecordLen || b[0] != sessionFormat || len(r.GetVerifier()) != 8 {
		return state.ClientState{}, vfs.Errorf(vfs.KindIncompatible, op, "NFS client %d (%q) is of a format this version does not know", r.GetId(), r.GetOwner())
	}
	cs := state.ClientState{Client: state.ClientRecord{
		Owner: r.Owner, Verifier: [8]byte(r.Verifier), Principal: state.Principal(r.Principal), ClientID: state.ClientID(r.Id),
		Sequence: binary.BigEndian.Uint32(b[1:]), Reclaimed: b[5]&flagReclaimed != 0, Delegated: b[5]&flagDelegated != 0,
	}}
	for rest := b[clientRecordLen:]; len(rest) > 0; {
		c, left, ok := copyOf(rest)
		if !ok {
			return state.ClientState{}, vfs.Errorf(vfs.KindIncompatible, op, "the record of NFS client %d (%q) ends within a copy; this version does not know the format", r.GetId(), r.GetOwner())
		}
		cs.Client.Copies = append(cs.Client.Copies, c)
		rest = left
	}
	cs.Seqids, cs.Replies = handedOf(r.GetHanded())
	for _, s := range c.GetSessions() {
		b := s.GetRecord()
		if len(b) < sessionRecordLen || b[0] != sessionFormat || len(s.GetId()) != len(state.SessionID{}) {
			return state.ClientState{}, vfs.Errorf(vfs.KindIncompatible, op, "session %x of NFS client %d is of a format this version does not know", s.GetId(), r.GetId())
		}
		at := 1
		next := func() uint32 {
			at += 4
			return binary.BigEndian.Uint32(b[at-4:])
		}
		rec := state.SessionRecord{ID: state.SessionID(s.Id), Client: cs.Client.ClientID, Sequence: next(), Flags: next(), CallbackProgram: next()}
		for _, c := range []*state.ChannelAttrs{&rec.Fore, &rec.Back} {
			*c = state.ChannelAttrs{MaxRequest: next(), MaxResponse: next(), MaxCachedResponse: next(), MaxOps: next(), MaxSlots: next()}
		}
		if len(b) >= at+4 {
			rec.Slots = next()
			var ok bool
			if rec.Last, ok = lastOf(b[at:]); !ok {
				return state.ClientState{}, vfs.Errorf(vfs.KindIncompatible, op, "what the record of session %x of NFS client %d says of slots is of a format this version does not know", s.GetId(), r.GetId())
			}
		}
		cs.Sessions = append(cs.Sessions, rec)
	}
	return cs, nil
}

// keeping reports whether all shards are of a feature level at which they keep clients and what clients have. Commands without
// anything to do tell.
func keeping(ctx context.Context, meta volume.Meta, shards []uint16) (bool, error) {
	ask := func(shard uint16, cmd *metapb.Command) (bool, error) {
		switch _, err := meta.Apply(ctx, shard, cmd); vfs.KindOf(err) {
		case vfs.KindOK:
			return true, nil
		case vfs.KindNotSupported:
			return false, nil
		default:
			return false, vfs.Wrap("gateway.level", err)
		}
	}
	ok, err := ask(clusterShard, &metapb.Command{Op: &metapb.Command_ForgetClients{ForgetClients: &metapb.ForgetClients{}}})
	for _, shard := range shards {
		if !ok || err != nil {
			break
		}
		ok, err = ask(shard, &metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{}}})
	}
	return ok && err == nil, err
}
