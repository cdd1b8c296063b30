package raftmeta

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// Settle returns when every command to a shard that was sent before has a definite outcome, also those whose callers have gone (KindUnknown): from then on none of
// them takes effect.
func (c *Client) Settle(ctx context.Context, shard uint16) error {
	s := c.shard(shard)
	s.mu.Lock()
	defer s.mu.Unlock()
	for last := s.calls; s.unsettled(last); {
		if s.ended == nil {
			s.ended = make(chan struct{})
		}
		ended := s.ended
		s.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
		case <-s.c.ctx.Done():
		}
		s.mu.Lock()
		switch {
		case s.c.ctx.Err() != nil:
			return vfs.Errorf(vfs.KindCanceled, "raftmeta.settle", "%w", errClientClosed)
		case ctx.Err() != nil:
			return vfs.Errorf(vfs.KindOf(context.Cause(ctx)), "raftmeta.settle", "commands to shard %d have no answer yet: %w", shard, context.Cause(ctx))
		}
	}
	return nil
}

// unsettled reports whether a call is under way that is not newer than last. s.mu is held.
func (s *clientShard) unsettled(last uint64) bool {
	for call := range s.under {
		if call <= last {
			return true
		}
	}
	return false
}

// beginCall notes that a call of commands begins. s.mu is held.
func (s *clientShard) beginCall() uint64 {
	if s.under == nil {
		s.under = make(map[uint64]struct{})
	}
	s.calls++
	s.under[s.calls] = struct{}{}
	return s.calls
}

// endCall notes that all commands of a call have their outcome, or that it did not begin. s.mu is held.
func (s *clientShard) endCall(call uint64) {
	delete(s.under, call)
	if s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
}
