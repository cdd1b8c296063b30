package raftmeta

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxWished bounds the files and clients that one gateway is asked for at a time; the rest are told when these are given back.
	maxWished = 1024
	// maxWishes bounds what a leader remembers; who wishes more is told to try again.
	maxWishes = 64 << 10
	// wishWait is how long a call for or about wishes waits at the leader: less than its caller waits for an answer (AttemptTimeout).
	wishWait = 2 * time.Second
	// wishLinger is how long a wish stands after the last call about it, so that who wishes can ask again.
	wishLinger = 5 * time.Second
	// maxPlace bounds Place.Address, in bytes.
	maxPlace = 512
)

// Wished is what somebody wants from the gateway that has it: a file, whose lease is meant, or an NFS client.
type Wished struct {
	FS     uint32
	Ino    uint64
	Client uint64 // in place of a file
}

// recalls are the wishes that one leader knows, in its memory: which gateway (origin) has what somebody else waits for. A
// wish lasts as long as somebody waits here, or did a moment ago. It is only a hint: who wishes looks at the lease before and after, and wishes again at the next
// leader. All times are of the leader's monotonic clock.
type recalls struct {
	mu      sync.Mutex // guards the fields below
	holders map[uint64]*holder
	wishes  map[Wished]*wish
	version uint64 // grows with every change of any list; lists of different leaders are told apart by where it begins
}

// wish is one thing wished for, and those who wait for it.
type wish struct {
	origin  uint64 // who has it
	waiters int
	since   time.Duration
	left    time.Duration // when the last waiter left
	gone    chan struct{} // closed when it was given back
}

// holder is what a gateway is to be told.
type holder struct {
	version uint64
	changed chan struct{} // closed at the next change
	wanted  map[Wished]*wish
	place   Place
}

// Place is where a gateway takes calls of its NFS clients that came to other ones.
type Place struct {
	Gateway string // as its certificate calls it
	Address string // host:port
}

// newRecalls makes those of a leader of a term.
func newRecalls(term uint64) *recalls {
	return &recalls{holders: make(map[uint64]*holder), wishes: make(map[Wished]*wish), version: term << 32}
}

// wait notes that somebody waits for what origin has; gone is closed when it was given back. end ends the waiting. ok is false if there are too
// many wishes.
func (r *recalls) wait(origin uint64, f Wished, now time.Duration) (gone <-chan struct{}, end func(now time.Duration), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.wishes[f]
	if w == nil || w.origin != origin {
		if w != nil {
			r.drop(f, w) // it went from one to another
		}
		if len(r.wishes) >= maxWishes {
			return nil, nil, false
		}
		w = &wish{origin: origin, since: now, gone: make(chan struct{})}
		r.wishes[f] = w
		h := r.holder(origin)
		h.wanted[f] = w
		r.change(h)
	}
	w.waiters++
	return w.gone, func(now time.Duration) {
		r.mu.Lock()
		defer r.mu.Unlock()
		w.waiters--
		w.left = now
	}, true
}

// drop ends a wish and wakes who waits. r.mu is held.
func (r *recalls) drop(f Wished, w *wish) {
	close(w.gone)
	delete(r.wishes, f)
	if h := r.holders[w.origin]; h != nil {
		delete(h.wanted, f)
		r.change(h)
	}
}

// holder is that of an origin. r.mu is held.
func (r *recalls) holder(origin uint64) *holder {
	h := r.holders[origin]
	if h == nil {
		h = &holder{version: r.version, changed: make(chan struct{}), wanted: make(map[Wished]*wish)}
		r.holders[origin] = h
	}
	return h
}

// change tells who waits for a change of h. r.mu is held.
func (r *recalls) change(h *holder) {
	r.version++
	h.version = r.version
	close(h.changed)
	h.changed = make(chan struct{})
}

// gaveBack takes in that origin gave something back.
func (r *recalls) gaveBack(origin uint64, gave []Wished) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range gave {
		if w := r.wishes[f]; w != nil && w.origin == origin {
			r.drop(f, w)
		}
	}
}

// list is what origin is asked for at now, and its version; changed is closed when there is another one.
func (r *recalls) list(origin uint64, now time.Duration) (wanted []Wished, version uint64, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.holder(origin)
	for f, w := range h.wanted {
		if w.waiters == 0 && now-w.left >= wishLinger {
			r.drop(f, w)
			continue
		}
		if len(wanted) < maxWished {
			wanted = append(wanted, f)
		}
	}
	return wanted, h.version, h.changed
}

// at notes where an origin takes calls.
func (r *recalls) at(origin uint64, p Place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holder(origin).place = p
}

// where is what an origin said of that last, nothing if it said nothing to this leader.
func (r *recalls) where(origin uint64) Place {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.holders[origin]; h != nil {
		return h.place
	}
	return Place{}
}

// overdue reports whether something that origin has has been wished for that long, and still is.
func (r *recalls) overdue(origin uint64, now, long time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.holders[origin]
	if h == nil {
		return false
	}
	for _, w := range h.wanted {
		if now-w.since >= long && (w.waiters > 0 || now-w.left < wishLinger) {
			return true
		}
	}
	return false
}

// keep forgets the holders that are not among the registered origins, and wakes who waits for them; and wishes that nobody has any more.
func (r *recalls) keep(registered []uint64, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	alive := make(map[uint64]bool, len(registered))
	for _, o := range registered {
		alive[o] = true
	}
	for f, w := range r.wishes {
		if !alive[w.origin] || w.waiters == 0 && now-w.left >= wishLinger {
			r.drop(f, w)
		}
	}
	for o, h := range r.holders {
		if !alive[o] {
			close(h.changed)
			r.version++
			delete(r.holders, o)
		}
	}
}

// holder is the origin that has it, 0 if none has.
func (w Wished) holder(v fsm.View) (uint64, error) {
	if w.Client != 0 {
		return fsm.ServerOf(v, w.Client)
	}
	return fsm.Holder(v, w.FS, w.Ino)
}

// serveWish has the gateway that has a file to itself, or serves a client, asked for it, and waits for that for a moment. It reads this leader's own state, which may be
// behind: then who wishes wishes again.
func (s *Server) serveWish(ctx context.Context, call *wire.Call) error {
	const op = "raftmeta.wish"
	var req metapb.WishRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	sh, l, err := s.leading(req.Shard)
	if err != nil {
		return err
	}
	w := Wished{req.File.GetFs(), req.File.GetIno(), req.Client}
	v, _, err := sh.host.View()
	if err != nil {
		return err
	}
	origin, err := w.holder(v)
	v.Release()
	if err != nil {
		return err
	}
	if req.Where {
		p := l.recalls.where(origin)
		return answer(call, &metapb.WishReply{Gateway: p.Gateway, Address: p.Address})
	}
	if origin != 0 {
		gone, end, ok := l.recalls.wait(origin, w, s.opt.Monotonic())
		if !ok {
			return vfs.Errorf(vfs.KindUnavailable, op, "%d files and clients are wished for already", maxWishes)
		}
		err := awaitFor(ctx, gone, wishWait)
		end(s.opt.Monotonic())
		if err != nil {
			return err
		}
	}
	return answer(call, &metapb.WishReply{})
}

// serveRecalls tells a gateway what it is to give back.
func (s *Server) serveRecalls(ctx context.Context, call *wire.Call) error {
	const op = "raftmeta.recalls"
	var req metapb.RecallsRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	sh, l, err := s.leading(req.Shard)
	if err != nil {
		return err
	}
	v, _, err := sh.host.View()
	if err != nil {
		return err
	}
	_, ok, err := fsm.FindOrigin(v, req.Origin)
	v.Release()
	if err != nil {
		return err
	}
	if !ok { // as far as is known here: nothing is remembered for it
		return vfs.Errorf(vfs.KindUnavailable, op, "origin %d of shard %d is not registered", req.Origin, req.Shard)
	}
	var gave []Wished
	for _, f := range req.Gave {
		gave = append(gave, Wished{FS: f.GetFs(), Ino: f.GetIno()})
	}
	for _, id := range req.GaveClients {
		gave = append(gave, Wished{Client: id})
	}
	l.recalls.gaveBack(req.Origin, gave)
	if req.Address != "" && len(req.Address) <= maxPlace {
		l.recalls.at(req.Origin, Place{Gateway: call.Peer.Name, Address: req.Address})
	}
	wanted, version, changed := l.recalls.list(req.Origin, s.opt.Monotonic())
	if req.Wait && version == req.Version {
		if err := awaitFor(ctx, changed, wishWait); err != nil {
			return err
		}
		wanted, version, _ = l.recalls.list(req.Origin, s.opt.Monotonic())
	}
	reply := &metapb.RecallsReply{Version: version}
	for _, w := range wanted {
		if w.Client != 0 {
			reply.Clients = append(reply.Clients, w.Client)
		} else {
			reply.Files = append(reply.Files, &metapb.FileId{Fs: w.FS, Ino: w.Ino})
		}
	}
	return answer(call, reply)
}

// awaitFor waits until c is closed, at most for d; an error only if ctx ended.
func awaitFor(ctx context.Context, c <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
