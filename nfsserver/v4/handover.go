package v4

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// leastHold is how long a client that was taken over is served while it has something to do, so that what it came for is done before it goes on; holdPause is between looks.
	leastHold = 20 * time.Millisecond
	holdPause = time.Millisecond
	// quietWait is how long the calls of a client that leaves may take to end. Longer, and it stays: it will be asked for again.
	quietWait = 4 * time.Second
	// flushWait is how long what a client has written and not committed may take to become durable while its requests wait. What does not, it sends again: the next
	// server has another write verifier.
	flushWait = 500 * time.Millisecond
	// maxLoose bounds the opens for reading that are recorded before a client leaves. Others are made again at their next use, if their file still has a name then.
	maxLoose = 4096
	// leavingAtOnce is how many clients are given up at a time when the server ends.
	leavingAtOnce = 16
	// goingAtOnce is how many files of one client are made durable at a time.
	goingAtOnce = 64
)

// GiveUp gives a client to whichever server takes it: another one wants it. What its answers promised is durable then, nothing of it is under way here, and no
// request of it is answered here any more. After an error it is served as before.
func (s *Server) GiveUp(ctx context.Context, id state.ClientID) error {
	const op = "nfs.handover"
	if s.sessions == nil {
		return vfs.Errorf(vfs.KindNotSupported, op, "clients do not outlive this server")
	}
	for end := time.Now().Add(leastHold); time.Now().Before(end) && s.cfg.Now().Before(s.cfg.State.Needs(id, leastHold)) && ctx.Err() == nil; {
		time.Sleep(holdPause)
	}
	unlock, err := s.turns.lock(ctx, id)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	defer unlock()
	if !s.cfg.State.Serves(id) { // if it is this server's by the store, nobody knows it here, and what was handed over with it goes on
		cs, err := s.sessions.Take(ctx, id)
		switch vfs.KindOf(err) {
		case vfs.KindNotFound, vfs.KindBusy: // it has ended, or is another one's
			return nil
		case vfs.KindOK:
			_, err = s.sessions.Give(ctx, id, state.Handed{Seqids: cs.Seqids, Replies: cs.Replies})
		}
		return vfs.Wrap(op, err)
	}
	// Most of it while requests go on.
	if err := s.makeDurable(ctx, id); err != nil {
		return vfs.Wrap(op, err)
	}
	quiet, ok := s.cfg.State.BeginLeave(id)
	if !ok {
		return nil // it has ended
	}
	gone := false
	defer func() {
		if !gone {
			s.cfg.State.Stay(id)
		}
	}()
	s.awaitSettled() // what was begun before without a call
	wait := time.NewTimer(quietWait)
	defer wait.Stop()
	select {
	case <-quiet:
	case <-wait.C:
		return vfs.Errorf(vfs.KindBusy, op, "calls of client %d take longer than %v", id, quietWait)
	case <-ctx.Done():
		return vfs.Wrap(op, ctx.Err())
	}
	if err := s.copies.leave(ctx, id); err != nil {
		return vfs.Wrap(op, err)
	}
	if err := s.makeDurable(ctx, id); err != nil {
		return vfs.Wrap(op, err)
	}
	if err := s.settleKeepers(ctx); err != nil {
		return vfs.Wrap(op, err)
	}
	given, err := s.sessions.Give(ctx, id, s.cfg.State.Leaving(id))
	if !given && vfs.KindOf(err) != vfs.KindUnknown {
		return vfs.Wrap(op, err)
	}
	gone = true
	s.turns.left(id, time.Now())
	eff := s.cfg.State.Left(id)
	if aerr := s.apply(context.WithoutCancel(ctx), &eff); aerr != nil {
		s.cfg.Logger.Warn("nfs: what a client had that went to another server could not be closed here; will be tried again", "client", id, "err", aerr)
	}
	return vfs.Wrap(op, err)
}

// Prepare makes durable what clients have while they are served, so that GiveUpAll has little left to do.
func (s *Server) Prepare(ctx context.Context) {
	s.eachClient(func(id state.ClientID) {
		_ = s.makeDurable(ctx, id) // GiveUp does it again
	})
}

// GiveUpAll gives up all clients: the server ends, and nothing comes to it any more. Those that it could not give up go when others see that it is gone; then it is not all.
func (s *Server) GiveUpAll(ctx context.Context) (all bool) {
	var stay atomic.Bool
	s.eachClient(func(id state.ClientID) {
		if err := s.GiveUp(ctx, id); err != nil {
			stay.Store(true)
			s.cfg.Logger.Warn("nfs: a client was not given up; it waits for the end of this server's lease", "client", id, "err", err)
		}
	})
	return !stay.Load()
}

func (s *Server) eachClient(do func(state.ClientID)) {
	if s.sessions == nil {
		return
	}
	var g errgroup.Group
	g.SetLimit(leavingAtOnce)
	for _, id := range s.cfg.State.Served() {
		g.Go(func() error {
			do(id)
			return nil
		})
	}
	_ = g.Wait()
}

// awaitSettled returns when what was changing clients without a call has ended.
func (s *Server) awaitSettled() {
	s.settled.Lock()
	defer s.settled.Unlock()
}

// makeDurable records the opens of a client that only this server knows, and commits what it has written, the latter as far as flushWait allows.
func (s *Server) makeDurable(ctx context.Context, id state.ClientID) error {
	going := s.cfg.State.Going(id)
	var g errgroup.Group
	g.SetLimit(goingAtOnce)
	for _, sh := range going.Loose[:min(len(going.Loose), maxLoose)] {
		// One that cannot be recorded is made again, as after the end of this server.
		g.Go(func() error { return retryable(files{s}.Share(ctx, sh)) })
	}
	flush, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	for _, f := range going.Written {
		g.Go(func() error {
			if fs, ok := s.fileSystems.Load(f.FS); ok {
				_, _ = fs.(vfs.FS).Commit(flush, f.Ino, 0, 0)
			}
			return nil
		})
	}
	return g.Wait()
}

// retryable is err if it may not be so the next time.
func retryable(err error) error {
	if vfs.KindOf(err).Retryable() {
		return err
	}
	return nil
}

// settleKeepers has all file systems tell the metadata what was answered before.
func (s *Server) settleKeepers(ctx context.Context) error {
	var err error
	s.fileSystems.Range(func(_, fs any) bool {
		if k := s.keeperOf(fs.(vfs.FS)); k != nil {
			err = gone(k.Settle(ctx))
		}
		return err == nil
	})
	return err
}

// unless runs do, which changes a client without one of its calls, when it is decided whether the client goes to another server. leaving tells whether it may.
func (c *compound) unless(leaving func() <-chan struct{}, do func() status) status {
	for {
		c.s.settled.RLock()
		over := leaving()
		if over == nil {
			defer c.s.settled.RUnlock()
			return do()
		}
		c.s.settled.RUnlock()
		select {
		case <-over:
		case <-c.ctx.Done():
			return c.unheard()
		}
	}
}
