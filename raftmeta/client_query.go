package raftmeta

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"google.golang.org/protobuf/encoding/protowire"
)

// Query reads: what it answers contains everything that was acknowledged before it was called. A result with an
// error kind becomes a *vfs.Error of that kind. It is repeated until a leader answers or ctx ends.
func (c *Client) Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	enc, err := q.MarshalVT()
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, opQuery, "%w", err)
	}
	if len(enc) > maxItemBytes {
		return nil, vfs.Errorf(vfs.KindTooMany, opQuery, "query of %d bytes, limit %d: split it", len(enc), maxItemBytes)
	}
	s := c.shard(shard)
	it := &item{enc: enc, done: make(chan outcome, 1), request: vfs.RequestOf(ctx)}
	l := &s.short
	if long(q) {
		l = &s.long
	}
	s.mu.Lock()
	l.queue = append(l.queue, it)
	s.pumpQueries(l)
	s.mu.Unlock()
	o, err := s.wait(ctx, it, opQuery)
	if err != nil {
		return nil, err
	}
	if k := vfs.Kind(o.answer.Kind); k != vfs.KindOK {
		return nil, &vfs.Error{Kind: k, Op: opQuery, Text: o.answer.Text}
	}
	return o.answer, nil
}

// lane is a queue of queries. Those whose answers may take long have one of their own: nobody else waits for them.
type lane struct {
	queue []*item
	calls int // in flight
	free  int // calls that start whatever is queued
}

// long reports whether the answer to q may be long.
func long(q *metapb.Query) bool {
	switch q.Q.(type) {
	case *metapb.Query_GetAttr, *metapb.Query_Lookup, *metapb.Query_Parent, *metapb.Query_ReadLink, *metapb.Query_GetXattr,
		*metapb.Query_Statfs, *metapb.Query_TestLock, *metapb.Query_ShardInfo, *metapb.Query_Client:
		return false
	}
	return true
}

// pumpQueries starts calls while there are queries. s.mu is held.
func (s *clientShard) pumpQueries(l *lane) {
	for s.mayCall(len(l.queue), l.calls, l.free) {
		items := take(&l.queue)
		if len(items) == 0 {
			return
		}
		l.calls++
		if !s.c.start(func() { s.runQueries(l, items) }) {
			l.calls--
			fail(items, vfs.Errorf(vfs.KindCanceled, opQuery, "%w", errClientClosed))
		}
	}
}

// runQueries makes calls until each of items has an answer or nobody waits for it any more.
func (s *clientShard) runQueries(l *lane, items []*item) {
	var b backoff
	for {
		var answered bool
		items, answered = s.tryQueries(items)
		if len(items) > 0 && answered {
			continue // the answer was cut because of its size
		}
		if items = s.wanted(items); len(items) == 0 {
			break
		}
		if !b.wait(s.c.ctx) {
			fail(items, vfs.Errorf(vfs.KindCanceled, opQuery, "%w", errClientClosed))
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.calls--
	s.pumpQueries(l)
}

// wanted are the items whose callers still wait.
func (s *clientShard) wanted(items []*item) []*item {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, it := range items {
		if !it.gone {
			items[n] = it
			n++
		}
	}
	return items[:n]
}

// tryQueries makes one call and returns the items that have no answer yet, and whether there was one.
func (s *clientShard) tryQueries(items []*item) ([]*item, bool) {
	req := protowire.AppendVarint(protowire.AppendTag(nil, fieldShard, protowire.VarintType), uint64(s.id))
	for _, it := range items {
		req = protowire.AppendTag(req, fieldItems, protowire.BytesType)
		req = protowire.AppendBytes(req, it.enc)
	}
	r, err := s.call(OpQuery, req, requestsOf(items))
	if err != nil {
		if final(err) {
			fail(items, vfs.Wrap(opQuery, err))
			return nil, false
		}
		return items, false
	}
	var reply metapb.QueryReply
	err = reply.UnmarshalReply(r.Payload)
	r.Release()
	if err != nil || len(reply.Results) == 0 || len(reply.Results) > len(items) {
		s.c.opt.Logger.Error("raftmeta: malformed answer to queries", "shard", s.id, "err", err, "results", len(reply.Results), "queries", len(items))
		return items, false
	}
	for i, a := range reply.Results {
		items[i].done <- outcome{answer: a}
	}
	return items[len(reply.Results):], true
}
