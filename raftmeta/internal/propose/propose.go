// Package propose coalesces callers' commands into Raft log entries.
//
// A call brings commands, already encoded, and waits for their results. Calls queue; when no entry is on its
// way through Raft, or fewer than InFlight and Load commands wait, the queue's commands are put into one
// metapb.Entry, at most MaxCommands of them and MaxBytes, in order of arrival. So
// one caller has the latency of one entry, and many callers share entries without waiting for a timer. An entry costs
// what ten to twenty commands in it do (a sync of each log among it), so few commands do not go beside another one.
// Commands of one call may be spread over entries; each is answered on its own.
//
// The queue is bounded: Do waits for room, or until its context ends, when the outcome is
// certain (not proposed). Once queued a command is proposed and its outcome waited for even if the
// caller leaves.
package propose

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/raftmeta/internal/crew"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds of an entry, and of what waits for one.
const (
	MaxCommands = 256
	MaxBytes    = 512 << 10
	InFlight    = 4
	Load        = 32 // commands that are worth an entry beside others

	queueBytes = 16 << 20
	// commandOverhead counts a queued command's own memory.
	commandOverhead = 256
)

const (
	entryFormat        = 1
	fieldEntryFormat   = 1
	fieldEntryCommands = 2
)

// Future is Raft's answer to an entry.
type Future interface {
	Error() error
	Response() any
}

// Options configures a Batcher.
type Options struct {
	// Apply proposes an entry to Raft.
	Apply func(entry []byte) Future
	// Results takes a successful future's response apart.
	Results func(response any) ([]*metapb.Result, error)
	// Entry is told of each answered entry; may be nil.
	Entry func(commands, bytes int)
}

// Batcher is the queue of one shard.
type Batcher struct {
	opt   Options
	bytes *semaphore.Weighted

	mu      sync.Mutex
	queue   []*command
	crew    *crew.Crew
	entries int // in flight
	closed  bool
	drained chan struct{} // closed when closed and nothing is queued or in flight
}

type command struct {
	enc  []byte
	call *call
	slot int // index into call.results
}

// call is one Do: its results are complete when left is 0.
type call struct {
	results []*metapb.Result
	errs    []error
	mu      sync.Mutex
	left    int
	done    chan struct{}
}

// New makes a Batcher.
func New(o Options) *Batcher {
	return &Batcher{opt: o, bytes: semaphore.NewWeighted(queueBytes), drained: make(chan struct{}), crew: crew.New(InFlight)}
}

var errClosed = errors.New("this replica is stopping")

// Do proposes commands, each the encoding of a metapb.Command that was checked, and returns a
// result or an error for each. An error of Do itself means that nothing was proposed,
// unless its kind is KindUnknown: the caller's context ended while it waited.
// The encodings must stay unchanged until the commands are answered, also if Do returns before.
func (b *Batcher) Do(ctx context.Context, cmds [][]byte) ([]*metapb.Result, []error, error) {
	const op = "propose"
	var size int64
	for _, c := range cmds {
		if len(c) > MaxBytes {
			return nil, nil, vfs.Errorf(vfs.KindTooMany, op, "command of %d bytes, limit %d", len(c), MaxBytes)
		}
		size += int64(len(c)) + commandOverhead
	}
	if len(cmds) == 0 {
		return nil, nil, nil
	}
	if size > queueBytes {
		return nil, nil, vfs.Errorf(vfs.KindTooMany, op, "commands of %d bytes, limit %d", size, queueBytes)
	}
	if err := b.bytes.Acquire(ctx, size); err != nil {
		return nil, nil, vfs.Errorf(vfs.KindUnavailable, op, "the queue is full: %w", context.Cause(ctx))
	}
	c := &call{
		results: make([]*metapb.Result, len(cmds)), errs: make([]error, len(cmds)),
		left: len(cmds), done: make(chan struct{}),
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		b.bytes.Release(size)
		return nil, nil, vfs.Errorf(vfs.KindUnavailable, op, "%w", errClosed)
	}
	for i, enc := range cmds {
		b.queue = append(b.queue, &command{enc, c, i})
	}
	b.pump()
	b.mu.Unlock()
	select {
	case <-c.done:
		return c.results, c.errs, nil
	case <-ctx.Done():
		return nil, nil, vfs.Errorf(vfs.KindUnknown, op, "%w", context.Cause(ctx))
	}
}

// pump proposes queued commands while entries may be put in flight. b.mu is held.
func (b *Batcher) pump() {
	for len(b.queue) > 0 && (b.entries == 0 || b.entries < InFlight && len(b.queue) >= Load) {
		n, size := 0, 0
		for n < len(b.queue) && n < MaxCommands {
			s := 1 + binary.MaxVarintLen32 + len(b.queue[n].enc)
			if n > 0 && size+s > MaxBytes {
				break
			}
			size += s
			n++
		}
		cmds := b.queue[:n:n]
		b.queue = b.queue[n:]
		if len(b.queue) == 0 {
			b.queue = nil // the array would keep answered commands alive
		}
		b.entries++
		b.crew.Go(func() { b.propose(cmds, size) })
	}
	if b.closed && b.entries == 0 && len(b.queue) == 0 {
		select {
		case <-b.drained:
		default:
			close(b.drained)
		}
	}
}

// propose puts cmds through Raft and answers them. It runs once per entry in flight.
func (b *Batcher) propose(cmds []*command, size int) {
	entry := make([]byte, 0, size+8)
	entry = protowire.AppendTag(entry, fieldEntryFormat, protowire.VarintType)
	entry = protowire.AppendVarint(entry, entryFormat)
	for _, c := range cmds {
		entry = protowire.AppendTag(entry, fieldEntryCommands, protowire.BytesType)
		entry = protowire.AppendBytes(entry, c.enc)
	}
	f := b.opt.Apply(entry)
	var results []*metapb.Result
	err := f.Error()
	if err == nil {
		results, err = b.opt.Results(f.Response())
	} else {
		err = RaftError(err)
	}
	if err == nil && len(results) != len(cmds) {
		err = vfs.Errorf(vfs.KindInternal, "propose", "%d results for %d commands", len(results), len(cmds))
	}
	if b.opt.Entry != nil {
		b.opt.Entry(len(cmds), len(entry))
	}
	b.mu.Lock()
	b.entries--
	b.pump()
	b.mu.Unlock()
	var freed int64
	for i, c := range cmds {
		freed += int64(len(c.enc)) + commandOverhead
		if err != nil {
			c.call.answer(c.slot, nil, err)
		} else {
			c.call.answer(c.slot, results[i], nil)
		}
	}
	b.bytes.Release(freed)
}

func (c *call) answer(slot int, r *metapb.Result, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results[slot], c.errs[slot] = r, err
	if c.left--; c.left == 0 {
		close(c.done)
	}
}

// RaftError gives an error of a Raft future its kind: whether the entry may have been committed, or not.
func RaftError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return vfs.Errorf(vfs.KindNotLeader, "raft.apply", "%w", err)
	}
	return vfs.Errorf(vfs.KindUnknown, "raft.apply", "%w", err)
}

// Close refuses new commands and waits until those that were accepted are answered, or ctx ends. Raft must
// still run: it answers all of them, if only with a lost leadership.
func (b *Batcher) Close(ctx context.Context) error {
	defer b.crew.Close()
	b.mu.Lock()
	b.closed = true
	b.pump()
	b.mu.Unlock()
	select {
	case <-b.drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
