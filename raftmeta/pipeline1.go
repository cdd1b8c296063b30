package raftmeta

import (
	"sync"

	"github.com/hashicorp/raft"
)

// transport1 is that of Raft streams' first protocol, with pipelines that end.
type transport1 struct{ *raft.NetworkTransport }

// AppendEntriesPipeline implements raft.Transport.
func (t transport1) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	in, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	p := &pipeline{AppendPipeline: in, out: make(chan raft.AppendFuture), closed: make(chan struct{})}
	p.wg.Go(p.relay)
	return p, nil
}

// pipeline is a follower's pipeline that is closed as soon as an answer says no. Raft stops reading answers then, and closes the
// pipeline when its sender notices; but a sender that waits for room in the pipeline never does, for answers that are not read leave
// none. The follower would get no more entries from this leader, and the leader could not be shut down.
type pipeline struct {
	raft.AppendPipeline
	out    chan raft.AppendFuture
	closed chan struct{}
	once   sync.Once
	wg     sync.WaitGroup // relay
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

func (p *pipeline) relay() {
	for {
		var f raft.AppendFuture
		select {
		case f = <-p.AppendPipeline.Consumer():
		case <-p.closed:
			return
		}
		select {
		case p.out <- f:
		case <-p.closed:
			return
		}
		if !f.Response().Success { // or there was none
			_ = p.AppendPipeline.Close()
			return
		}
	}
}

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	err := p.AppendPipeline.Close()
	p.once.Do(func() { close(p.closed) })
	p.wg.Wait()
	return err
}
