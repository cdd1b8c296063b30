package v4

import (
	"context"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxAdoptions bounds how many clients are taken over at once. A session id that nobody has costs a query.
	maxAdoptions = 4

	// adoptTries is how often a client is read again because something was removed meanwhile.
	adoptTries = 8

	// busyWait is how long the requests of a session wait that another server still serves: that one gives it up, or may have died a moment ago. Linux comes again
	// only 15 s after an NFS4ERR_DELAY of SEQUENCE.
	busyWait  = 10 * time.Second
	busyPause = 50 * time.Millisecond // between looks
	// maxBusy bounds the clients that are asked for at a time; others wait for their turn.
	maxBusy = 256
)

// Resume takes over the clients that an earlier instance of this server served. The owner calls it once, before it
// serves.
func (s *Server) Resume(ctx context.Context) error {
	if s.sessions == nil {
		return nil
	}
	all, err := s.sessions.Load(ctx)
	if err != nil {
		return vfs.Wrap("nfs.resume", err)
	}
	removals := s.cfg.State.Removals()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxAdoptions)
	for _, cs := range all {
		g.Go(func() error {
			_, err := s.adoptOnce(ctx, removals, cs) // nobody else adopts anything yet
			return err
		})
	}
	return vfs.Wrap("nfs.resume", g.Wait())
}

// Serves ends all clients but those that served tells, here only.
func (s *Server) Serves(ctx context.Context, served func(state.ClientID) bool) error {
	eff := s.cfg.State.EndExcept(s.cfg.Now(), served)
	s.copies.tick(s) // their copies may be begun again elsewhere
	return s.apply(ctx, &eff)
}

func clientKey(id state.ClientID) string { return "client " + strconv.FormatUint(uint64(id), 16) }

// sharedLook has requests that look for the same at the same time look once.
func (s *Server) sharedLook(ctx context.Context, key string, look func() (whereabouts, error)) (whereabouts, error) {
	for {
		v, err, _ := s.finding.Do(key, func() (any, error) { return look() })
		if vfs.KindOf(err) == vfs.KindCanceled && ctx.Err() == nil {
			continue // the request that looked has ended, not this one
		}
		w, _ := v.(whereabouts)
		return w, err
	}
}

// await takes a client over as soon as no other server serves it, at most for busyWait. The other one is asked to give it up.
func (s *Server) await(ctx context.Context, id state.ClientID) (found bool, err error) {
	s.turns.yield(ctx, id)
	found, err = s.take(ctx, id)
	if vfs.KindOf(err) != vfs.KindBusy {
		return found, err
	}
	end := time.Now().Add(busyWait)
	turn, over := context.WithDeadline(ctx, end)
	defer over()
	if s.waiting.Acquire(turn, 1) != nil {
		if ctx.Err() != nil {
			err = vfs.Wrap("nfs.takeover", ctx.Err())
		}
		return found, err
	}
	defer s.waiting.Release(1)
	for vfs.KindOf(err) == vfs.KindBusy && time.Now().Before(end) {
		asked := time.Now()
		// That it could not be asked is no reason to end: its origin may end.
		_ = s.sessions.Wish(ctx, id)
		if pause := busyPause - time.Since(asked); pause > 0 {
			if found, err = s.take(ctx, id); vfs.KindOf(err) != vfs.KindBusy {
				return found, err
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return found, vfs.Wrap("nfs.takeover", ctx.Err())
		}
		found, err = s.take(ctx, id)
	}
	return found, err
}

// take makes one attempt to take a client over.
func (s *Server) take(ctx context.Context, id state.ClientID) (bool, error) {
	const op = "nfs.takeover"
	// From before the store says that it is this server's until it is known here it is not given up.
	unlock, err := s.turns.lock(ctx, id)
	if err != nil {
		return false, vfs.Wrap(op, err)
	}
	defer unlock()
	if err := s.adoptions.Acquire(ctx, 1); err != nil {
		return false, vfs.Wrap(op, err)
	}
	defer s.adoptions.Release(1)
	for range adoptTries {
		if s.cfg.State.Serves(id) {
			return true, nil
		}
		removals := s.cfg.State.Removals()
		cs, err := s.sessions.Take(ctx, id)
		if vfs.KindOf(err) == vfs.KindNotFound {
			return false, nil
		}
		if err != nil {
			return false, vfs.Wrap(op, err)
		}
		again, err := s.adoptOnce(ctx, removals, cs)
		if !again {
			return err == nil, err
		}
	}
	return false, vfs.Errorf(vfs.KindUnavailable, op, "clients end faster than one can be read")
}

// adoptOnce takes a client over. again: what was read may be old. The client's turn is the caller's: a file system that
// reads what it keeps while the client is served already would take for recorded what has ended since.
func (s *Server) adoptOnce(ctx context.Context, removals uint64, cs state.ClientState) (again bool, err error) {
	if s.cfg.State.Serves(cs.Client.ClientID) {
		return false, nil
	}
	a := state.Adoption{ClientState: cs, Removals: removals, Slots: make(map[state.SessionID][]vfs.SlotSeq)}
	err = s.readKept(ctx, &a)
	if err != nil {
		for _, o := range a.Opens {
			s.closeFile(ctx, state.File{FS: o.FS, Ino: o.Ino}, o.Access)
		}
		if vfs.KindOf(err) == vfs.KindExpired { // its end is decided
			return false, nil
		}
		return false, err
	}
	eff, again := s.cfg.State.Adopt(s.cfg.Now(), a)
	if err := s.apply(ctx, &eff); err != nil {
		s.cfg.Logger.Warn("nfs: what a client had left behind could not be ended; will be tried again", "err", err)
	}
	return again, nil
}

// readKept reads what the file systems keep for the client of a.
func (s *Server) readKept(ctx context.Context, a *state.Adoption) error {
	if s.cfg.Refresh != nil {
		if err := s.cfg.Refresh(ctx); err != nil {
			return err
		}
	}
	for id, fs := range s.cfg.Exports.Table().FileSystems() {
		k := s.keeperOf(fs)
		if k == nil {
			continue
		}
		opens, locks, err := k.Resume(ctx, uint64(a.Client.ClientID))
		if err != nil {
			return err
		}
		s.remember(id, fs)
		for _, o := range opens {
			a.Opens = append(a.Opens, state.AdoptedOpen{FS: uint64(id), HeldOpen: o})
		}
		for _, l := range locks {
			a.Locks = append(a.Locks, state.AdoptedLocks{FS: uint64(id), HeldLocks: l})
		}
		for _, ss := range a.Sessions {
			slots, err := k.Slots(ctx, ss.ID)
			if err != nil {
				return err
			}
			a.Slots[ss.ID] = append(a.Slots[ss.ID], slots...)
		}
	}
	return nil
}

// clientIDs makes sure that an EXCHANGE_ID finds a client id.
func (s *Server) clientIDs(ctx context.Context) error {
	if !s.cfg.State.NeedIDs() {
		return nil
	}
	s.idsMu.Lock()
	defer s.idsMu.Unlock()
	if !s.cfg.State.NeedIDs() {
		return nil
	}
	ids, err := s.sessions.NewClientIDs(ctx)
	if err != nil {
		return vfs.Wrap("nfs.client ids", err)
	}
	s.cfg.State.AddIDs(ids)
	return nil
}
