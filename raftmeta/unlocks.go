package raftmeta

import (
	"context"
	"slices"
	"sync"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxAwaited bounds the files that one call of a gateway is about.
	maxAwaited = 1024
	// unlocksKept is how many releases of locks a leader remembers.
	unlocksKept = 4096
)

// lockedFile is a file that may have locks.
type lockedFile struct {
	fs  uint32
	ino uint64
}

// anyFile stands for all files of a shard: no inode has the number 0.
var anyFile lockedFile

// unlockEvent is that there are fewer locks of a file, or that an NFS client is in another gateway's way.
type unlockEvent struct {
	file    lockedFile
	against uint64
}

// unlocks are the last events of that kind that one leader knows, and the calls of gateways that wait for some. All of it is only a hint: who waits for a lock asks
// for it again, and asks by itself now and then.
type unlocks struct {
	mu      sync.Mutex // guards the fields below
	base    uint64     // the version before the first that this leader gave; those of different leaders are far apart
	version uint64     // of the last event
	last    [unlocksKept]unlockEvent
	waiting map[lockedFile]map[chan<- struct{}]struct{} // the calls about a file; all of them under anyFile
	asks    map[uint64]*opensAsk
	asked   uint64 // the last id of one
}

func newUnlocks(term uint64) *unlocks {
	return &unlocks{base: term << 32, version: term << 32, waiting: make(map[lockedFile]map[chan<- struct{}]struct{}), asks: make(map[uint64]*opensAsk)}
}

// note takes in that there are fewer locks of files.
func (u *unlocks) note(files ...lockedFile) {
	if len(files) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range files {
		u.add(unlockEvent{file: f})
		wake(u.waiting[f])
	}
}

// add is called with u.mu held.
func (u *unlocks) add(e unlockEvent) {
	u.version++
	u.last[u.version%unlocksKept] = e
}

func wake(calls map[chan<- struct{}]struct{}) {
	for c := range calls {
		select {
		case c <- struct{}{}:
		default: // it has been woken
		}
	}
}

// begin is a call about files, by a gateway (origin) in whose clients' way some others are, which knows what there was up to a version. It returns what came since; if that is nothing, woken is
// told when there may be something since the version from, until end.
func (u *unlocks) begin(origin, version uint64, files []lockedFile, against []uint64) (known news, from uint64, woken <-chan struct{}, end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	known = u.newsSince(origin, version, files)
	for _, c := range against {
		u.add(unlockEvent{against: c})
	}
	if len(against) > 0 {
		wake(u.waiting[anyFile])
	}
	if !known.empty() {
		return known, 0, nil, func() {}
	}
	c := make(chan struct{}, 1)
	of := append([]lockedFile{anyFile}, files...)
	for _, f := range of {
		if u.waiting[f] == nil {
			u.waiting[f] = make(map[chan<- struct{}]struct{})
		}
		u.waiting[f][c] = struct{}{}
	}
	return known, u.version, c, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, f := range of {
			if delete(u.waiting[f], c); len(u.waiting[f]) == 0 {
				delete(u.waiting, f)
			}
		}
	}
}

// news is what there is to be told.
type news struct {
	version uint64 // now
	freed   []lockedFile
	all     bool // it is not known which, or all of them
	against []uint64
	asks    []*metapb.OpensAsk
}

func (n *news) empty() bool {
	return !n.all && len(n.freed) == 0 && len(n.against) == 0 && len(n.asks) == 0
}

// since tells which of the files have fewer locks since a version, and who is in the way.
func (u *unlocks) since(origin, version uint64, files []lockedFile) news {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.newsSince(origin, version, files)
}

func (u *unlocks) newsSince(origin, version uint64, files []lockedFile) (n news) {
	n.version, n.asks = u.version, u.asksOf(origin)
	if version < u.base || version > u.version || u.version-version > unlocksKept {
		n.all = true
		return n
	}
	asked := make(map[lockedFile]bool, len(files))
	for _, f := range files {
		asked[f] = true
	}
	for v := version + 1; v <= u.version; v++ {
		switch e := u.last[v%unlocksKept]; {
		case e.against != 0:
			if !slices.Contains(n.against, e.against) {
				n.against = append(n.against, e.against)
			}
		case e.file == anyFile:
			n.all = true
		case asked[e.file]:
			asked[e.file] = false
			n.freed = append(n.freed, e.file)
		}
	}
	return n
}

// frees are the files of which there are fewer locks after a command.
func frees(c *metapb.Command) (files []lockedFile) {
	switch op := c.Op.(type) {
	case *metapb.Command_SetLock:
		if op.SetLock.Type != metapb.LockType_LOCK_WRITE { // a lock for reading may take the place of one for writing
			files = append(files, lockedFile{c.Fs, op.SetLock.Ino})
		}
	case *metapb.Command_CloseFiles:
		for _, f := range op.CloseFiles.Files {
			if len(f.Locks) == 0 {
				continue
			}
			fs := c.Fs
			if f.Fs != 0 {
				fs = f.Fs
			}
			files = append(files, lockedFile{fs, f.Ino})
		}
	case *metapb.Command_ReleaseClients:
		if len(op.ReleaseClients.Clients) > 0 {
			files = append(files, anyFile)
		}
	}
	return files
}

// serveUnlocks tells a gateway which of the files that its clients wait for have fewer locks.
func (s *Server) serveUnlocks(ctx context.Context, call *wire.Call) error {
	const op = "raftmeta.unlocks"
	var req metapb.UnlocksRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	if len(req.Files) > maxAwaited || len(req.Against) > maxAwaited || len(req.Answers) > maxAsks {
		return vfs.Errorf(vfs.KindTooMany, op, "%d files and %d clients, at most %d", len(req.Files), len(req.Against), maxAwaited)
	}
	_, l, err := s.leading(req.Shard)
	if err != nil {
		return err
	}
	files := make([]lockedFile, len(req.Files))
	for i, f := range req.Files {
		files[i] = lockedFile{f.GetFs(), f.GetIno()}
	}
	l.unlocks.answered(req.Origin, req.Answers)
	known, from, woken, end := l.unlocks.begin(req.Origin, req.Version, files, req.Against)
	defer end()
	if known.empty() {
		if err := awaitFor(ctx, woken, wishWait); err != nil {
			return err
		}
		known = l.unlocks.since(req.Origin, from, files)
	}
	reply := &metapb.UnlocksReply{Version: known.version, All: known.all, Against: known.against, Asks: known.asks}
	for _, f := range known.freed {
		reply.Files = append(reply.Files, &metapb.FileId{Fs: f.fs, Ino: f.ino})
	}
	return answer(call, reply)
}
