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

	// busyWait is how long the requests of a session wait that another server still serves: that one may have died a moment ago. Linux comes again only 15 s
	// after an NFS4ERR_DELAY of SEQUENCE.
	busyWait  = 10 * time.Second
	busyPause = 50 * time.Millisecond // between looks
	// maxBusy bounds the sessions that are waited for at a time; others are to come again.
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
			_, err := s.adopt(ctx, removals, cs)
			return err
		})
	}
	return vfs.Wrap("nfs.resume", g.Wait())
}

// Serves ends all clients but those that served tells, here only.
func (s *Server) Serves(ctx context.Context, served func(state.ClientID) bool) error {
	eff := s.cfg.State.EndExcept(served)
	s.copies.tick(s) // their copies may be begun again elsewhere
	return s.apply(ctx, &eff)
}

// takeOver looks for a session that is not known here in the store, and takes its client over. It reports whether the
// session may be known now. While another server serves it, which may end any moment, it waits. Requests of a session share one look.
func (s *Server) takeOver(ctx context.Context, id state.SessionID) (bool, error) {
	if s.sessions == nil {
		return false, nil
	}
	for {
		v, err, _ := s.finding.Do(string(id[:]), func() (any, error) { return s.await(ctx, id) })
		if vfs.KindOf(err) == vfs.KindCanceled && ctx.Err() == nil {
			continue // the request that looked has ended, not this one
		}
		found, _ := v.(bool)
		return found, err
	}
}

// await looks for a session until no other server serves it, at most for busyWait.
func (s *Server) await(ctx context.Context, id state.SessionID) (found bool, err error) {
	found, err = s.find(ctx, id)
	if vfs.KindOf(err) != vfs.KindBusy {
		return found, err
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > maxBusy {
		return found, err
	}
	end := time.NewTimer(busyWait)
	defer end.Stop()
	for vfs.KindOf(err) == vfs.KindBusy {
		select {
		case <-time.After(busyPause):
		case <-end.C:
			return found, err
		case <-ctx.Done():
			return found, vfs.Wrap("nfs.takeover", ctx.Err())
		}
		found, err = s.find(ctx, id)
	}
	return found, err
}

// find makes one look for a session.
func (s *Server) find(ctx context.Context, id state.SessionID) (bool, error) {
	const op = "nfs.takeover"
	if err := s.adoptions.Acquire(ctx, 1); err != nil {
		return false, vfs.Wrap(op, err)
	}
	defer s.adoptions.Release(1)
	for range adoptTries {
		removals := s.cfg.State.Removals()
		cs, err := s.sessions.Find(ctx, id)
		if vfs.KindOf(err) == vfs.KindNotFound {
			return false, nil
		}
		if err != nil {
			return false, vfs.Wrap(op, err)
		}
		again, err := s.adopt(ctx, removals, cs)
		if !again {
			return err == nil, err
		}
	}
	return false, vfs.Errorf(vfs.KindUnavailable, op, "clients end faster than one can be read")
}

// adopt takes a client over. again: what was read may be old. Requests of a client that come at once share one adoption: a file system that
// reads what it keeps while the client is served already would take for recorded what has ended since.
func (s *Server) adopt(ctx context.Context, removals uint64, cs state.ClientState) (again bool, err error) {
	v, err, _ := s.adopting.Do(strconv.FormatUint(uint64(cs.Client.ClientID), 16), func() (any, error) {
		return s.adoptOnce(ctx, removals, cs)
	})
	return v.(bool), err
}

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
