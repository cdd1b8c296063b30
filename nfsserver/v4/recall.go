package v4

import (
	"context"
	"sync"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// CB_RECALL and CB_NOTIFY_LOCK (RFC 8881, 20.2 and 20.11). Package state says which delegations are to be returned, takes them from those that do not, and says who waits for a lock; here the clients
// are called, each by a few goroutines at a time, which end with their work or at Shutdown.

const (
	// recallWorkers is how many of these callbacks of one client are under way at once.
	recallWorkers = 4
	// recallWait is how long a request waits for delegations before its client is told to come again. A client that has
	// nothing to write back returns one at once.
	recallWait = 150 * time.Millisecond
	// lostWait is the same while a client was not heard of since a restart of the server, or does not know yet what it lost in that.
	lostWait = 3 * time.Second
	// unheardPatience is how long the answer to a recall is waited for before the next try, of a client that did not answer the last one.
	unheardPatience = time.Second
	// maxRecallWaiters bounds the requests that wait.
	maxRecallWaiters = 64
	// recallDoubt is how long a client may say that it does not know what is recalled: the reply that gave it may arrive
	// after the recall (RFC 8881, 2.10.6.3).
	recallDoubt = 2 * time.Second
)

// recalls are the callbacks about delegations and locks that are under way.
type recalls struct {
	ctx    context.Context // ends with stop
	stop   context.CancelFunc
	active sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	clients map[state.ClientID]*callbackQueue
	waiters int
	changed chan struct{} // closed when delegations ended
}

// callbackQueue is what a client is still to be told.
type callbackQueue struct {
	list    []func()
	workers int
}

func (r *recalls) init() {
	r.clients = make(map[state.ClientID]*callbackQueue)
	r.changed = make(chan struct{})
	r.ctx, r.stop = context.WithCancel(context.Background())
}

// tell has a client told something in the background.
func (r *recalls) tell(client state.ClientID, call func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	q := r.clients[client]
	if q == nil {
		q = &callbackQueue{}
		r.clients[client] = q
	}
	q.list = append(q.list, call)
	if q.workers < recallWorkers {
		q.workers++
		r.active.Go(func() { r.work(client, q) })
	}
}

func (r *recalls) work(client state.ClientID, q *callbackQueue) {
	for {
		call, ok := r.next(client, q)
		if !ok {
			return
		}
		call()
	}
}

func (r *recalls) next(client state.ClientID, q *callbackQueue) (call func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(q.list) == 0 || r.ctx.Err() != nil {
		if q.workers--; q.workers == 0 {
			delete(r.clients, client)
		}
		return nil, false
	}
	call, q.list = q.list[0], q.list[1:]
	return call, true
}

// change is closed when delegations end from now on.
func (r *recalls) change() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *recalls) notify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

// await waits for a change and reports whether there was one.
func (r *recalls) await(ctx context.Context, changed <-chan struct{}, limit time.Duration) bool {
	r.mu.Lock()
	if r.waiters >= maxRecallWaiters {
		r.mu.Unlock()
		return false
	}
	r.waiters++
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.waiters--
		r.mu.Unlock()
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-changed:
		return true
	case <-t.C:
	case <-ctx.Done():
	case <-r.ctx.Done():
	}
	return false
}

func (r *recalls) shutdown() {
	r.mu.Lock()
	r.stop()
	r.mu.Unlock()
	r.active.Wait()
}

// recall tells a client to return a delegation, until it has heard it or the delegation has ended.
func (s *Server) recall(r *state.Recall) {
	ctx, cancel := context.WithTimeout(s.recalls.ctx, r.Until.Sub(s.cfg.Now()))
	defer cancel()
	var doubt time.Time // since when the client says that it does not know it
	for ctx.Err() == nil && s.cfg.State.Recalled(r.Client, r.Stateid) {
		st, err := s.recallOnce(ctx, r)
		switch {
		case vfs.KindOf(err) == vfs.KindStale || s.recalls.ctx.Err() != nil:
			return
		case err != nil:
			s.cfg.State.CalledBack(s.cfg.Now(), r.Client, false)
			s.cfg.Logger.Info("nfs: a client does not answer the recall of a delegation", "client", r.Client, "err", err)
		default:
			s.cfg.State.CalledBack(s.cfg.Now(), r.Client, true)
		}
		switch st {
		case nfsv4.NFS4_OK:
			if err == nil {
				return
			}
		case nfsv4.NFS4ERR_BAD_STATEID, nfsv4.NFS4ERR_BADHANDLE:
			now := time.Now()
			if doubt.IsZero() {
				doubt = now
			}
			if now.Sub(doubt) >= recallDoubt {
				eff := s.cfg.State.Disclaimed(r.Client, r.Stateid)
				if err := s.apply(ctx, &eff); err != nil {
					s.cfg.Logger.Warn("nfs: client state could not be stored; will be tried again", "err", err)
				}
				s.recalls.notify()
				return
			}
		}
		select {
		case <-time.After(callbackPause):
		case <-ctx.Done():
		}
	}
}

func (s *Server) recallOnce(ctx context.Context, r *state.Recall) (status, error) {
	limit := callbackTimeout
	if s.cfg.State.Unheard(r.Client) {
		limit = unheardPatience // others may wait only for this to fail
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	res, err := s.callBack(ctx, r.Client, &nfsv4.NfsCbArgop4_OP_CB_RECALL{Opcbrecall: nfsv4.CbRecall4args{
		Stateid: r.Stateid, Fh: r.Handle,
	}})
	if err != nil {
		return nfsv4.NFS4_OK, err
	}
	if res, ok := res.(*nfsv4.NfsCbResop4_OP_CB_RECALL); ok {
		return res.Opcbrecall.Status, nil
	}
	return nfsv4.NFS4ERR_SERVERFAULT, nil
}

// doubtPatience is how long the answer to such a call is waited for: the next tick asks again.
const doubtPatience = time.Second

// notifyPatience is how long it is tried to tell a client of a lock. It asks by itself, too.
const notifyPatience = 10 * time.Second

// notifyLocks tells clients that locks they wait for are free.
func (s *Server) notifyLocks(list []state.NotifyLock) {
	for _, n := range list {
		s.recalls.tell(n.Client, func() {
			ctx, cancel := context.WithTimeout(s.recalls.ctx, notifyPatience)
			defer cancel()
			_, err := s.callBack(ctx, n.Client, &nfsv4.NfsCbArgop4_OP_CB_NOTIFY_LOCK{OpcbnotifyLock: nfsv4.CbNotifyLock4args{
				CnlaFh: n.Handle, CnlaLockOwner: nfsv4.StateOwner4{Clientid: n.Client, Owner: n.Owner},
			}})
			if err != nil {
				s.cfg.Logger.Info("nfs: a client was not told that a lock is free", "client", n.Client, "err", err)
			}
		})
	}
}

// askDoubtful calls back the clients that seem to know by now that they have lost their delegations.
func (s *Server) askDoubtful() {
	if s.cfg.State.Lost() {
		s.recalls.notify() // who waits looks again
	}
	for _, id := range s.cfg.State.Doubtful(s.cfg.Now()) {
		s.recalls.tell(id, func() {
			ctx, cancel := context.WithTimeout(s.recalls.ctx, doubtPatience)
			defer cancel()
			asked := s.cfg.Now()
			if _, err := s.callBack(ctx, id, nil); err == nil {
				s.cfg.State.Answered(id, asked)
				s.recalls.notify()
			}
		})
	}
}

// tryRebound tries backchannels that were bound after callbacks had failed.
func (s *Server) tryRebound() {
	for _, id := range s.cfg.State.Rebound() {
		s.recalls.tell(id, func() {
			ctx, cancel := context.WithTimeout(s.recalls.ctx, unheardPatience)
			defer cancel()
			_, err := s.callBack(ctx, id, nil)
			if s.recalls.ctx.Err() == nil {
				s.cfg.State.CalledBack(s.cfg.Now(), id, err == nil)
			}
		})
	}
}

// AwaitedLocks are the files in which clients wait for locks of clients that other servers serve, and those clients; changed is closed when there are more files.
func (s *Server) AwaitedLocks() (files []state.File, by []state.ClientID, changed <-chan struct{}) {
	return s.cfg.State.AwaitedElsewhere(s.cfg.Now())
}

// Unlocked tells clients that what they wait for may be free, after a client of another server has fewer locks of the files that is is true for.
func (s *Server) Unlocked(is func(state.File) bool) {
	s.notifyLocks(s.cfg.State.FreedElsewhere(s.cfg.Now(), is))
}

// InTheWay ends a client that is in the way of one of another server, if its lease is over. Of clients that are not served here nothing is known.
func (s *Server) InTheWay(ctx context.Context, id state.ClientID) {
	eff := s.cfg.State.InTheWay(s.cfg.Now(), id)
	if err := s.apply(ctx, &eff); err != nil {
		s.cfg.Logger.Warn("nfs: client state could not be stored; will be tried again", "err", err)
	}
}

// freed tells those who wait for locks that were freed, after the effects of that were applied.
func (s *Server) freed() { s.notifyLocks(s.cfg.State.TakeFreed(s.cfg.Now())) }
