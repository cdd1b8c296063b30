package raftmeta

import (
	"bytes"
	"context"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/vfs"
)

// CheckOptions bound a check of a shard's state.
type CheckOptions = fsm.CheckOptions

// CheckReport is what a check of a shard's state found.
type CheckReport = fsm.CheckReport

// CheckShard checks a copy of the state that this server's replica of a shard has, of when it has applied an index at least; see OpenState and
// fsm.CheckState.
func (s *Server) CheckShard(ctx context.Context, shard uint16, applied uint64, o CheckOptions) (r CheckReport, err error) {
	st, err := s.OpenState(ctx, shard, applied)
	if err != nil {
		return r, err
	}
	err = st.Inspect(func(v fsm.View) (err error) {
		r, err = fsm.CheckState(ctx, v, o)
		return err
	})
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	return r, vfs.Wrap("raftmeta.check", err)
}

// Compared is how a voter's state compares with that of the server's own replica.
type Compared struct {
	Node, ID string
	Index    uint64 // of the entry that both were compared at
	Same     bool
	Err      error // why they could not be compared; nil: they were
}

const (
	// compareTimeout bounds how long one voter is asked until it is at an entry whose digest this replica knows too.
	compareTimeout = 10 * time.Second
	comparePause   = 50 * time.Millisecond
)

// CompareVoters compares the digest of every voter of a shard with the server's own, at an entry that both have applied.
func (s *Server) CompareVoters(ctx context.Context, shard uint16) ([]Compared, error) {
	sh, err := s.shard(uint32(shard))
	if err != nil {
		return nil, vfs.Errorf(vfs.KindNotFound, "raftmeta.compare", "node %s has no replica of shard %d: ask a node that has one", s.node.Name, shard)
	}
	var out []Compared
	for _, id := range sh.voters() {
		out = append(out, sh.compare(ctx, id))
	}
	return out, nil
}

func (sh *shard) compare(ctx context.Context, id string) Compared {
	c := Compared{Node: mux.NodeOf(id), ID: id}
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	for {
		r, err := sh.askReplica(ctx, id)
		if err == nil && r.Failed != "" {
			err = vfs.Errorf(vfs.KindUnavailable, "raftmeta.compare", "the replica has stopped: %s", r.Failed)
		}
		if err == nil {
			err = sh.host.Wait(ctx, r.State)
		}
		if err != nil {
			c.Err = err
			return c
		}
		if mine, ok := sh.host.DigestAt(r.State); ok && len(r.Digest) > 0 {
			c.Index, c.Same = r.State, bytes.Equal(mine, r.Digest)
			return c
		}
		if pause(ctx, comparePause) != nil {
			c.Err = vfs.Errorf(vfs.KindUnavailable, "raftmeta.compare", "it is at entry %d, whose digest node %s does not know (any more)", r.State, sh.s.node.Name)
			return c
		}
	}
}
