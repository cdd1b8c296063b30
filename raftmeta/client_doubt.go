package raftmeta

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

const (
	// doubtAfter is how long a call is not answered until the other nodes are asked who leads, doubtEvery how often they are, and for how
	// long they may think.
	doubtAfter = 500 * time.Millisecond
	doubtEvery = 250 * time.Millisecond
)

// errAnother ends an attempt at a node that does not lead any more.
var errAnother = errors.New("most voters follow another leader")

// attempt makes a call to a node. A node whose machine is off the network answers nothing for as long as the call may take, while the
// others may have elected another leader long ago. So when there is no answer after a while they are asked whom they follow; if most
// nodes name the same other one, the attempt is given up and that one is hinted at. A node that is slow and still leads is waited
// for: then they name it. Giving up is safe at any time, as every attempt is.
func (s *clientShard) attempt(ctx context.Context, cl *wire.Client, node string, op wire.Op, req []byte, payload net.Buffers) (*wire.Reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	doubt := time.AfterFunc(doubtAfter, func() { s.c.start(func() { s.doubt(ctx, cancel, node) }) })
	defer doubt.Stop()
	return cl.Call(ctx, op, req, payload, nil)
}

// doubt asks who leads until ctx ends, or most nodes say that it is not the one that was asked.
func (s *clientShard) doubt(ctx context.Context, cancel context.CancelCauseFunc, asked string) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		if leader := s.followed(ctx, asked); leader != "" {
			s.elsewhere(asked, leader)
			cancel(errAnother)
			return
		}
		pause.Reset(doubtEvery)
	}
}

// followed is the node that most of all nodes name as the leader, if that is not the one that was asked; else "".
func (s *clientShard) followed(ctx context.Context, asked string) string {
	ctx, cancel := context.WithTimeout(ctx, doubtEvery)
	defer cancel()
	nodes := s.c.opt.NodesFunc()
	var mu sync.Mutex // guards votes
	votes := map[string]int{}
	var wg sync.WaitGroup
	for _, n := range nodes {
		if n == asked {
			continue
		}
		wg.Go(func() {
			var r metapb.LeaderReply
			if s.c.peers.call(ctx, n, OpLeader, &metapb.LeaderRequest{Shard: uint32(s.id)}, &r) == nil && r.LeaderId != "" {
				mu.Lock()
				votes[mux.NodeOf(r.LeaderId)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n, v := range votes {
		if n != asked && 2*v > len(nodes) {
			return n
		}
	}
	return ""
}
