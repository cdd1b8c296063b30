package raftnet

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// commitPause is how long a follower may know of a commit, and of more entries, before Raft is told.
	commitPause = 20 * time.Millisecond
	// commitEntries is how many entries it may leave for later. Raft gives its state machine as many at a time.
	commitEntries = 64
)

// accept serves streams until the network has no more.
func (t *Transport) accept() {
	slots := make(chan struct{}, maxStreams)
	for {
		nc, peer, err := t.opt.Network.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			t.opt.Logger.Warn("raftmeta: a Raft stream is refused, there are too many", "from", peer, "limit", maxStreams)
			nc.Close()
			continue
		}
		s := newStream(nc, peer)
		if t.track(s) != nil {
			<-slots
			continue
		}
		t.wg.Go(func() {
			defer func() { <-slots }()
			defer t.end(s)
			if err := t.serve(s); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, errClosed) {
				t.opt.Logger.Info("raftmeta: a Raft stream ends", "from", peer, "err", err)
			}
		})
	}
}

// serve answers the requests of a stream.
func (t *Transport) serve(s *stream) error {
	from := []byte(s.peer)
	answers := make(chan raft.RPCResponse, 1) // one at a time, of all requests
	var lag lag
	for {
		kind, n, err := s.head(maxBody)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := s.body(n)
		if err != nil {
			return err
		}
		req, err := readRequest(kind, b, from)
		if err != nil {
			return err
		}
		rpc := raft.RPC{Command: req, RespChan: answers}
		switch m := req.(type) {
		case *raft.AppendEntriesRequest:
			m.LeaderCommitIndex = lag.commit(m.LeaderCommitIndex, len(m.Entries), t.opt.Clock())
		case *raft.InstallSnapshotRequest:
			rpc.Reader = io.LimitReader(s.r, m.Size)
		}
		if fn := t.beat.Load(); fn != nil && isHeartbeat(req) {
			(*fn)(rpc)
		} else {
			select {
			case t.opt.Requests <- rpc:
			case <-t.ctx.Done():
				return errClosed
			}
		}
		var r raft.RPCResponse
		select {
		case r = <-answers:
		case <-t.ctx.Done():
			return errClosed
		}
		s.begin(kind | kindAnswer)
		if s.out, err = appendAnswer(s.out, r); err != nil {
			return err
		}
		if err := s.send(maxAnswer); err != nil || kind == kindSnapshot {
			return err // how much of a snapshot was read is Raft's affair
		}
	}
}

// isHeartbeat reports whether req is what Raft's heartbeats are: it must not wait for Raft's main loop, which may wait for a disk.
func isHeartbeat(req any) bool {
	m, ok := req.(*raft.AppendEntriesRequest)
	return ok && m.Term != 0 && m.PrevLogEntry == 0 && m.PrevLogTerm == 0 && len(m.Entries) == 0 && m.LeaderCommitIndex == 0
}

// lag holds commits back, of one stream; see the package comment.
type lag struct {
	given uint64 // what Raft was told last
	at    time.Time
}

// commit is what Raft is told of a commit index that came with entries at now.
func (l *lag) commit(index uint64, entries int, now time.Time) uint64 {
	if index <= l.given {
		return index
	}
	if entries > 0 && l.given > 0 && index-l.given < commitEntries && now.Sub(l.at) < commitPause {
		return l.given
	}
	l.given, l.at = index, now
	return index
}
