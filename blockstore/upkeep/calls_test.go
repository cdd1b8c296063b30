package upkeep

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/wire"
)

const (
	opPut    = blockstore.OpPut
	opGet    = blockstore.OpGet
	opDelete = blockstore.OpDelete
	opFence  = blockstore.OpFence
	opReport = blockstore.OpReport
	opHint   = blockstore.OpHint
	opUpkeep = blockstore.OpUpkeep
)

// call makes a call that carries keys.
func call(t testing.TB, c Conn, op wire.Op, disk uint32, keys []segment.Key) {
	t.Helper()
	req := blockstore.DiskRequest{Disk: disk}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	r, err := c.Call(ctx, op, req.Append(nil), net.Buffers{segment.AppendKeys(nil, keys)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
}

// try makes any call about a shard.
func try(c Conn, op wire.Op, disk uint32, key segment.Key, epoch uint32) error {
	var meta []byte
	var payload net.Buffers
	switch op {
	case opGet:
		req := blockstore.GetRequest{Disk: disk, Key: key, Length: 1}
		meta = req.Append(nil)
	case opPut:
		req := blockstore.PutRequest{Disk: disk, Key: key, Epoch: 1, K: 4, M: 2, BlockLen: 1}
		meta, payload = req.Append(nil), net.Buffers{make([]byte, 4096)}
	default:
		req := blockstore.DiskRequest{Disk: disk}
		meta = req.Append(nil)
		if op == opFence {
			payload = net.Buffers{segment.AppendEpochs(nil, []segment.Epoch{{PG: key.PG, Epoch: epoch}})}
		} else {
			payload = net.Buffers{segment.AppendKeys(nil, []segment.Key{key})}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	r, err := c.Call(ctx, op, meta, payload, nil)
	r.Release()
	return err
}

func shardPut(pg uint32, block uint64, slot, k, m, blockLen int, data []byte) *store.Put {
	return &store.Put{Key: keyOf(pg, block, slot), Epoch: 1, K: uint8(k), M: uint8(m), BlockLen: uint32(blockLen), Data: data}
}
