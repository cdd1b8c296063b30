package raftmeta

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// requestBytes is the size of a vfs.RequestID. Those of a call's commands or queries, which come of several users' requests, are the call's payload, in the
// items' order, if any of them has one. Releases that do not know them do not look at the payload.
const requestBytes = 8

// requestsOf is the payload that says of which requests items are part, nil if of none.
func requestsOf(items []*item) net.Buffers {
	any := false
	for _, it := range items {
		any = any || it.request != 0
	}
	if !any {
		return nil
	}
	b := make([]byte, 0, len(items)*requestBytes)
	for _, it := range items {
		b = binary.LittleEndian.AppendUint64(b, uint64(it.request))
	}
	return net.Buffers{b}
}

// requests is such a payload.
type requests []byte

// readRequests checks the payload of a call of n items.
func readRequests(payload []byte, n int) (requests, error) {
	if len(payload) != 0 && len(payload) != n*requestBytes {
		return nil, vfs.Errorf(vfs.KindInvalid, "raftmeta.serve", "%d bytes say of which requests %d items are part, want %d", len(payload), n, n*requestBytes)
	}
	return requests(payload), nil
}

func (r requests) of(i int) vfs.RequestID {
	if len(r) == 0 {
		return 0
	}
	return vfs.RequestID(binary.LittleEndian.Uint64(r[i*requestBytes:]))
}

// refused logs that one of a call's commands or queries did not succeed, if that is part of somebody's request. What the voter failed in is a warning; a
// refusal by the state machine is the caller's affair, and another leader the client's.
func (sh *shard) refused(id vfs.RequestID, op func() string, kind vfs.Kind, text string) {
	level := slog.LevelDebug
	switch kind {
	case vfs.KindOK:
		return
	case vfs.KindIO, vfs.KindInternal, vfs.KindUnknown:
		level = slog.LevelWarn
	}
	if ctx := context.Background(); id != 0 && sh.log.Enabled(ctx, level) {
		sh.log.Log(ctx, level, "raftmeta: no success", "op", op(), "kind", kind, "text", text, "request", id)
	}
}

// failed logs that all of a call's n items failed, and returns why.
func (sh *shard) failed(of requests, n int, op func(i int) string, err error) error {
	if len(of) > 0 {
		for i := range n {
			sh.refused(of.of(i), func() string { return op(i) }, vfs.KindOf(err), err.Error())
		}
	}
	return err
}

// commandName is what an encoded command does.
func commandName(enc []byte) string {
	c := new(metapb.Command)
	if err := c.UnmarshalVT(enc); err != nil {
		return err.Error()
	}
	return opName(c)
}

// opName is the field of the operation of a command or query.
func opName(m proto.Message) string {
	r := m.ProtoReflect()
	for i, all := 0, r.Descriptor().Oneofs(); i < all.Len(); i++ {
		if f := r.WhichOneof(all.Get(i)); f != nil {
			return string(f.Name())
		}
	}
	return ""
}
