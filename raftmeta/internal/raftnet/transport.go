package raftnet

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxIdle is how many streams to a replica are kept for single requests.
	maxIdle = 3
	// maxStreams bounds the streams that others opened: more than all voters of a shard have.
	maxStreams = 256
	// inFlight is how many requests of a pipeline are not answered when more entries wait to be sent together.
	inFlight = 2
	// snapshotRate is how many bytes of a snapshot a timeout is enough for.
	snapshotRate = 256 << 10
)

// ErrOlder says that the other end does not know this protocol.
var ErrOlder = errors.New("raftnet: the replica's release speaks an older protocol of Raft streams")

// Network opens and accepts streams.
type Network interface {
	// Dial opens a stream to the replica to; an error that is ErrOlder says that it cannot be of this protocol.
	Dial(ctx context.Context, to string) (net.Conn, error)
	// Accept waits for a stream of this protocol and returns it with the replica at its other end. Once it fails there are no more.
	Accept() (net.Conn, string, error)
}

// Options configures a Transport.
type Options struct {
	Self    string // own id and address
	Network Network
	Timeout time.Duration // of a request; of a snapshot as many as its size takes
	Logger  *slog.Logger
	// Requests is where those of others go. The transport does not close it.
	Requests chan raft.RPC
	Clock    func() time.Time // default time.Now
}

// Transport is a raft.Transport. Addresses are replicas' ids.
type Transport struct {
	opt    Options
	self   []byte
	beat   atomic.Pointer[func(raft.RPC)]
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the accept loop and accepted streams

	mu     sync.Mutex
	closed bool
	open   map[*stream]struct{}
	idle   map[string][]*stream
}

var (
	_ raft.Transport   = (*Transport)(nil)
	_ raft.WithPreVote = (*Transport)(nil)
	_ raft.WithClose   = (*Transport)(nil)
)

// New makes a transport that accepts streams until Close, or until the network does not give any more.
func New(o Options) *Transport {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	t := &Transport{opt: o, self: []byte(o.Self), open: map[*stream]struct{}{}, idle: map[string][]*stream{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.wg.Go(t.accept)
	return t
}

// Close ends all streams. The caller ends Accept of the network, before or at the same time.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.closed = true
	t.cancel()
	for s := range t.open {
		s.Close()
	}
	t.mu.Unlock()
	return nil
}

// Wait waits until Close and Accept's end have ended what serves streams.
func (t *Transport) Wait() { t.wg.Wait() }

var errClosed = vfs.Errorf(vfs.KindCanceled, "raftnet", "the transport is closed")

// track makes s one of the streams that Close ends.
func (t *Transport) track(s *stream) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		s.Close()
		return errClosed
	}
	t.open[s] = struct{}{}
	return nil
}

// end closes s for good.
func (t *Transport) end(s *stream) {
	s.Close()
	t.mu.Lock()
	delete(t.open, s)
	t.mu.Unlock()
}

// take returns a stream to a replica that nobody else uses.
func (t *Transport) take(to string) (*stream, error) {
	t.mu.Lock()
	if ss := t.idle[to]; len(ss) > 0 {
		s := ss[len(ss)-1]
		t.idle[to] = ss[:len(ss)-1]
		t.mu.Unlock()
		return s, nil
	}
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.ctx, t.opt.Timeout)
	defer cancel()
	nc, err := t.opt.Network.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	s := newStream(nc, to)
	return s, t.track(s)
}

// give keeps a stream for the next request.
func (t *Transport) give(s *stream) {
	t.mu.Lock()
	keep := !t.closed && len(t.idle[s.peer]) < maxIdle
	if keep {
		t.idle[s.peer] = append(t.idle[s.peer], s)
	}
	t.mu.Unlock()
	if !keep {
		t.end(s)
	}
}

// call makes one request and waits for its answer.
func (t *Transport) call(target raft.ServerAddress, kind byte, req, resp any) error {
	s, err := t.take(string(target))
	if err != nil {
		return err
	}
	if err = s.SetDeadline(time.Now().Add(t.opt.Timeout)); err == nil {
		if err = s.request(kind, req); err == nil {
			err = s.answer(kind, resp)
		}
	}
	if reusable(err) {
		t.give(s)
	} else {
		t.end(s)
	}
	return err
}

// reusable reports whether a stream is as good as before err.
func reusable(err error) bool {
	_, answered := err.(remote)
	return err == nil || answered
}

func (s *stream) request(kind byte, req any) (err error) {
	s.begin(kind)
	if s.out, err = appendRequest(s.out, req); err != nil {
		return err
	}
	return s.send(maxBody)
}

// answer reads the answer to a request.
func (s *stream) answer(kind byte, resp any) error {
	k, n, err := s.head(maxAnswer)
	if err != nil {
		return err
	}
	if k != kind|kindAnswer {
		return malformed("kind %#x answers kind %#x", k, kind)
	}
	return s.answerBody(n, resp)
}

// answerBody reads n bytes behind the head of an answer.
func (s *stream) answerBody(n int, resp any) error {
	b, err := s.r.Peek(n) // maxAnswer is less than the buffer
	if err != nil {
		return err
	}
	err = readAnswer(b, []byte(s.peer), resp)
	if _, derr := s.r.Discard(n); err == nil {
		err = derr
	}
	return err
}

// Consumer implements raft.Transport.
func (t *Transport) Consumer() <-chan raft.RPC { return t.opt.Requests }

// LocalAddr implements raft.Transport.
func (t *Transport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.opt.Self) }

// EncodePeer implements raft.Transport. Nobody changes the result.
func (t *Transport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	if string(addr) == t.opt.Self {
		return t.self
	}
	return []byte(addr)
}

// DecodePeer implements raft.Transport.
func (t *Transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (t *Transport) SetHeartbeatHandler(fn func(raft.RPC)) { t.beat.Store(&fn) }

// AppendEntries implements raft.Transport.
func (t *Transport) AppendEntries(_ raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return t.call(target, kindAppend, req, resp)
}

// RequestVote implements raft.Transport.
func (t *Transport) RequestVote(_ raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.call(target, kindVote, req, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *Transport) RequestPreVote(_ raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.call(target, kindPreVote, req, resp)
}

// TimeoutNow implements raft.Transport.
func (t *Transport) TimeoutNow(_ raft.ServerID, target raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.call(target, kindTimeoutNow, req, resp)
}

// InstallSnapshot implements raft.Transport. The stream ends with it.
func (t *Transport) InstallSnapshot(_ raft.ServerID, target raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	s, err := t.take(string(target))
	if err != nil {
		return err
	}
	defer t.end(s)
	if err := s.SetDeadline(time.Now().Add(t.opt.Timeout * time.Duration(max(1, req.Size/snapshotRate)))); err != nil {
		return err
	}
	if err := s.request(kindSnapshot, req); err != nil {
		return err
	}
	n, err := io.Copy(s.Conn, io.LimitReader(data, req.Size))
	if err != nil {
		return err
	}
	if n < req.Size {
		return vfs.Errorf(vfs.KindIO, "raftnet", "the snapshot has %d bytes, and says %d", n, req.Size)
	}
	return s.answer(kindSnapshot, resp)
}
