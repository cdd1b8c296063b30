package state

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs/byterange"
)

// Waiters for locks (RFC 8881, 9.6 and 20.11). A client whose blocking LOCK was denied is told by CB_NOTIFY_LOCK when it is worth asking again, so that it
// need not ask every second; it holds nothing by that, and whoever asks first gets the lock. A Linux client that was promised to be told asks only every 30 s
// by itself, so nobody is forgotten: what becomes free is seen when it does, and once more by each Tick, which also
// counts locks as free whose holder's lease is over (the LOCK that follows takes them).
//
// A lock of a client that another server serves is known to the vfs.Keeper only. The caller learns which files that is about (AwaitedElsewhere), has somebody
// tell when there are fewer locks of them, and says so (FreedElsewhere). Should it never be told, the waiters are after elsewhereAgain.

const (
	// Bounds of those of a file, of a client, and of all. Others ask by themselves.
	maxFileWaiters   = 256
	maxClientWaiters = 1024
	maxLockWaiters   = 1 << 16
	// waiterLeases is how many leases after its LOCK one is forgotten: the client has asked again by then, or given up.
	waiterLeases = 4
	// againstFor is for how long others are told of a client of theirs whose open denied one here.
	againstFor = 5 * time.Second
	// maxAgainst bounds these clients.
	maxAgainst = 1024
	// elsewhereAgain is when a client that waits for one of another server is told to ask again in any case.
	elsewhereAgain = 10 * time.Second
)

type lockWaiter struct {
	client *client
	owner  string
	handle []byte
	want   byterange.Range
	until  time.Time

	by    ClientID  // who is in the way and is served elsewhere, 0: nobody is
	again time.Time // when that is over in any case
}

// lockWaiters are those of all files, in the order in which they came.
type lockWaiters struct {
	files map[File][]*lockWaiter
	freed map[File]struct{} // where something became free since TakeFreed
	count int

	elsewhere map[File]int           // how many wait for clients of other servers
	against   map[ClientID]time.Time // clients of other servers that denied an open or a lock, and until when these are told of
	changed   chan struct{}          // closed when there is more in elsewhere or against
}

// NotifyLock is a CB_NOTIFY_LOCK to make.
type NotifyLock struct {
	Client ClientID
	Owner  []byte
	Handle []byte
}

func (w *lockWaiters) init() {
	w.files = make(map[File][]*lockWaiter)
	w.freed = make(map[File]struct{})
	w.elsewhere = make(map[File]int)
	w.against = make(map[ClientID]time.Time)
	w.changed = make(chan struct{})
}

// more wakes who follows AwaitedElsewhere.
func (w *lockWaiters) more() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// DeniedElsewhere notes that an open or a lock of a client that is not served here denied one: its server is to look whether its lease is over (AwaitedElsewhere).
func (s *State) DeniedElsewhere(now time.Time, by ClientID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.wait.against[by]; !ok {
		if len(s.wait.against) >= maxAgainst {
			return
		}
		s.wait.more()
	}
	s.wait.against[by] = now.Add(againstFor)
}

// AwaitLock notes that a was denied and that its client waits. free: nothing that is known here is in the way any more, so it may be tried
// again at once. by is the client in the way if others are told of by FreedElsewhere, else 0.
func (s *State) AwaitLock(now time.Time, a LockArgs, handle []byte, by ClientID) (free bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, f := s.clients[a.Client], s.files[a.File]
	first, last, ok := byterange.Of(a.Offset, a.Length)
	write, _ := lockType(a.Type)
	if c == nil || f == nil || !ok {
		return false
	}
	owner := string(a.Owner)
	if !a.New {
		l, st := s.lookupLock(a.Client, a.File, a.Stateid)
		if st != nfsv4.NFS4_OK {
			return false
		}
		owner = l.key.owner
	}
	s.forgetWaiter(a.File, c, owner)
	w := &lockWaiter{client: c, owner: owner, handle: handle, want: byterange.Range{First: first, Last: last, Write: write}, until: now.Add(waiterLeases * s.cfg.Lease)}
	if by != 0 && s.clients[by] == nil {
		w.by, w.again = by, now.Add(elsewhereAgain)
	}
	if len(s.wait.files[a.File]) < maxFileWaiters && c.waiting < maxClientWaiters && s.wait.count < maxLockWaiters {
		s.wait.files[a.File] = append(s.wait.files[a.File], w)
		s.wait.count++
		c.waiting++
		if w.by != 0 {
			if s.wait.elsewhere[a.File]++; s.wait.elsewhere[a.File] == 1 {
				s.wait.more()
			}
		}
	}
	return w.by == 0 && s.lockFree(now, a.File, w)
}

// AwaitedElsewhere are the files in which clients wait for locks of clients that other servers serve, and those clients, and those whose opens denied one; changed is closed
// when there is more.
func (s *State) AwaitedElsewhere(now time.Time) (files []File, by []ClientID, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[ClientID]bool)
	for c, until := range s.wait.against {
		if !now.Before(until) {
			delete(s.wait.against, c)
			continue
		}
		seen[c] = true
		by = append(by, c)
	}
	for f := range s.wait.elsewhere {
		files = append(files, f)
		for _, w := range s.wait.files[f] {
			if w.by != 0 && !seen[w.by] {
				seen[w.by] = true
				by = append(by, w.by)
			}
		}
	}
	return files, by, s.wait.changed
}

// FreedElsewhere returns whom to tell that the lock they wait for may be free, after a client of another server has fewer locks of the files that is is true for.
func (s *State) FreedElsewhere(now time.Time, is func(File) bool) []NotifyLock {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []NotifyLock
	for f := range s.wait.elsewhere {
		if !is(f) {
			continue
		}
		for _, w := range s.wait.files[f] {
			w.again = now
		}
		out = s.notifyWaiters(now, f, out)
	}
	return out
}

// lockFree reports whether only clients whose lease is over are in w's way.
func (s *State) lockFree(now time.Time, file File, w *lockWaiter) bool {
	f := s.files[file]
	if f == nil {
		return true
	}
	free := true
	f.locks.Conflicts(f.owners[lockOwnerKey{w.client, w.owner}], w.want.First, w.want.Last, w.want.Write, func(l *lockState, _ byterange.Range) bool {
		free = s.expired(l.client, now)
		return free
	})
	return free
}

// forgetWaiter forgets that an owner waits for a lock of a file.
func (s *State) forgetWaiter(file File, c *client, owner string) {
	if c.waiting > 0 {
		s.keepWaiters(file, func(w *lockWaiter) bool { return w.client != c || w.owner != owner })
	}
}

// keepWaiters drops all waiters of a file but those that keep is true for.
func (s *State) keepWaiters(file File, keep func(*lockWaiter) bool) {
	var kept []*lockWaiter
	for _, w := range s.wait.files[file] {
		if keep(w) {
			kept = append(kept, w)
			continue
		}
		s.wait.count--
		w.client.waiting--
		if w.by != 0 {
			if s.wait.elsewhere[file]--; s.wait.elsewhere[file] == 0 {
				delete(s.wait.elsewhere, file)
			}
		}
	}
	if s.wait.files[file] = kept; len(kept) == 0 {
		delete(s.wait.files, file)
	}
}

// endWaiters forgets those of a client that goes.
func (s *State) endWaiters(c *client) {
	for f := range s.wait.files {
		if c.waiting == 0 {
			return
		}
		s.keepWaiters(f, func(w *lockWaiter) bool { return w.client != c })
	}
}

// unlocked notes that less of a file is locked.
func (s *State) unlocked(f File) {
	if len(s.wait.files[f]) > 0 {
		s.wait.freed[f] = struct{}{}
	}
}

// TakeFreed returns whom to tell that the lock they wait for is free. The caller has applied the effects of what freed it.
func (s *State) TakeFreed(now time.Time) []NotifyLock {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []NotifyLock
	for f := range s.wait.freed {
		out = s.notifyWaiters(now, f, out)
	}
	clear(s.wait.freed)
	return out
}

// TickWaiters is TakeFreed of all files.
func (s *State) TickWaiters(now time.Time) []NotifyLock {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []NotifyLock
	for f := range s.wait.files {
		out = s.notifyWaiters(now, f, out)
	}
	return out
}

func (s *State) notifyWaiters(now time.Time, f File, out []NotifyLock) []NotifyLock {
	s.keepWaiters(f, func(w *lockWaiter) bool {
		if s.expired(w.client, now) || !now.Before(w.until) {
			return false
		}
		if now.Before(w.again) || !s.lockFree(now, f, w) {
			return true
		}
		out = append(out, NotifyLock{Client: w.client.id, Owner: []byte(w.owner), Handle: w.handle})
		return false
	})
	return out
}
