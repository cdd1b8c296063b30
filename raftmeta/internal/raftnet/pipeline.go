package raftnet

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/vfs"
)

// quiet is how long a request that says nothing new is not sent. Raft makes one every 50 to 100 ms, for each follower of each shard. That the follower
// lives is what heartbeats are for; that the pipeline's stream does, is seen after quiet.
const quiet = 2 * time.Second

// pipeline sends entries to a follower without waiting for each answer. It ends with the first answer that says no: Raft stops reading answers then,
// and a sender that waited for room would never see that.
type pipeline struct {
	t   *Transport
	s   *stream
	out chan raft.AppendFuture
	wg  sync.WaitGroup // receive

	room   chan struct{} // holds a token when a request was answered, or failed
	closed chan struct{}
	once   sync.Once
	watch  *time.Timer

	mu     sync.Mutex
	flight []*future // sent, or about to be, and not answered; oldest first
	err    error     // why nothing is sent any more
	said   state     // by the last request that was answered
	heard  time.Time // when that was
}

// state is what a request without entries says. A follower that agreed to one learns nothing from the same again.
type state struct{ term, prev, prevTerm, commit uint64 }

// after is the state after req.
func after(req *raft.AppendEntriesRequest) state {
	s := state{req.Term, req.PrevLogEntry, req.PrevLogTerm, req.LeaderCommitIndex}
	if n := len(req.Entries); n > 0 {
		s.prev, s.prevTerm = req.Entries[n-1].Index, req.Entries[n-1].Term
		s.commit = 0 // the follower may have been told less: it is told again
	}
	return s
}

// future is a request of a pipeline. It implements raft.AppendFuture.
type future struct {
	start time.Time
	req   *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	err   error
	done  sync.WaitGroup
}

func (f *future) Error() error                          { f.done.Wait(); return f.err }
func (f *future) Start() time.Time                      { return f.start }
func (f *future) Request() *raft.AppendEntriesRequest   { return f.req }
func (f *future) Response() *raft.AppendEntriesResponse { return f.resp }

// AppendEntriesPipeline implements raft.Transport.
func (t *Transport) AppendEntriesPipeline(_ raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	s, err := t.take(string(target))
	if err != nil {
		return nil, err
	}
	if err := s.SetDeadline(time.Time{}); err != nil {
		t.end(s)
		return nil, err
	}
	p := &pipeline{t: t, s: s, out: make(chan raft.AppendFuture), room: make(chan struct{}, 1), closed: make(chan struct{})}
	p.mu.Lock()
	p.watch = time.AfterFunc(t.watchPause(), p.look)
	p.mu.Unlock()
	p.wg.Go(p.receive)
	return p, nil
}

func (t *Transport) watchPause() time.Duration { return max(t.opt.Timeout/4, time.Millisecond) }

// look ends the pipeline when a request was not answered in time, or not taken.
func (p *pipeline) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	if len(p.flight) > 0 && time.Since(p.flight[0].start) >= p.t.opt.Timeout {
		p.stop(vfs.Errorf(vfs.KindUnavailable, "raftnet", "no answer from %s for %v", p.s.peer, p.t.opt.Timeout))
		return
	}
	p.watch.Reset(p.t.watchPause())
}

// stop has nothing sent any more; what is in flight fails. p.mu is held.
func (p *pipeline) stop(err error) {
	if p.err != nil {
		return
	}
	p.err = err
	p.watch.Stop()
	p.s.Close()
}

// AppendEntries implements raft.AppendPipeline. It returns when less than inFlight requests are not answered, so that the next one
// has all the entries that there are until then.
func (p *pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &future{start: time.Now(), req: req, resp: resp}
	f.done.Add(1)
	p.mu.Lock()
	if err := p.err; err != nil {
		p.mu.Unlock()
		return nil, err
	}
	if len(req.Entries) == 0 && len(p.flight) == 0 && after(req) == p.said && p.t.opt.Clock().Sub(p.heard) < quiet {
		p.mu.Unlock()
		// Not told to the consumer: that would be a word of the follower's.
		*resp = raft.AppendEntriesResponse{Term: req.Term, LastLog: req.PrevLogEntry, Success: true}
		f.done.Done()
		return f, nil
	}
	p.flight = append(p.flight, f)
	p.mu.Unlock()
	if err := p.s.request(kindAppend, req); err != nil {
		p.mu.Lock()
		p.stop(err)
		p.mu.Unlock()
		return nil, err
	}
	for {
		p.mu.Lock()
		n, err := len(p.flight), p.err
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if n < inFlight {
			return f, nil
		}
		select {
		case <-p.room:
		case <-p.closed:
			return nil, raft.ErrPipelineShutdown
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

// receive reads answers until one says no, or there are no more.
func (p *pipeline) receive() {
	for {
		kind, n, err := p.s.head(maxAnswer)
		p.mu.Lock()
		if err == nil && (kind != kindAppend|kindAnswer || len(p.flight) == 0) {
			err = malformed("kind %#x while %d requests wait for an answer", kind, len(p.flight))
		}
		if p.err != nil {
			err = p.err
		}
		if err != nil {
			p.stop(err)
			failed := p.flight
			p.flight = nil
			p.mu.Unlock()
			p.fail(failed, err)
			if len(failed) > 0 {
				// Raft's decoder ends, and with it the sender does not wait for its next entry to see that.
				select {
				case p.out <- failed[0]:
				case <-p.closed:
				}
			}
			p.once.Do(func() { close(p.closed) })
			return
		}
		f := p.flight[0]
		p.flight = append(p.flight[:0], p.flight[1:]...)
		p.mu.Unlock()
		f.err = p.s.answerBody(n, f.resp)
		f.done.Done()
		yes := f.err == nil && f.resp.Success
		p.mu.Lock()
		if p.said, p.heard = after(f.req), p.t.opt.Clock(); yes {
			p.mu.Unlock()
		} else {
			p.stop(raft.ErrPipelineShutdown)
			failed := p.flight
			p.flight = nil
			p.mu.Unlock()
			p.fail(failed, raft.ErrPipelineShutdown)
		}
		p.wake()
		select {
		case p.out <- f:
		case <-p.closed:
		}
		if !yes {
			p.once.Do(func() { close(p.closed) })
			return
		}
	}
}

// wake has a sender that waits for room look again.
func (p *pipeline) wake() {
	select {
	case p.room <- struct{}{}:
	default:
	}
}

// fail answers requests that get no answer.
func (p *pipeline) fail(fs []*future, err error) {
	for _, f := range fs {
		f.err = err
		f.done.Done()
	}
	p.wake()
}

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	p.mu.Lock()
	p.stop(raft.ErrPipelineShutdown)
	p.mu.Unlock()
	p.t.end(p.s)
	p.wg.Wait()
	return nil
}
