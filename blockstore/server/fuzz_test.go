package server

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

// FuzzCall makes any call with any body to a block server with one store.
// There is an answer, and the shard that was there stays there.
func FuzzCall(f *testing.F) {
	ctx := context.Background()
	mem := vfile.NewMem(64 << 20)
	quiet := slog.New(slog.DiscardHandler)
	st, err := store.Open(ctx, store.Options{
		Dir: "/s", Cluster: segment.ID{1}, Create: true, SegmentSize: store.MinSegmentSize, ReserveBytes: 4096,
		FS: mem, IndexFS: pvfs.NewMem(), Logger: quiet,
	})
	if err != nil {
		f.Fatal(err)
	}
	everything := wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: "n", Roles: []string{blockstore.RoleGateway, blockstore.RoleMeta}}}
	srv := wire.NewServer(New(map[uint32]*store.Store{1: st}, Options{Logger: quiet}).Handle, wire.ServerOptions{Security: everything, Logger: quiet})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	go srv.Serve(ln)
	cl := wire.NewClient(wire.Dialer("tcp", ln.Addr().String()), wire.ClientOptions{Security: everything, Logger: quiet})
	f.Cleanup(func() {
		cl.Close()
		srv.Close()
		st.Close()
	})
	// The PG of the shard that must stay has the highest epoch, which no fence can raise.
	kept := segment.Key{PG: 7, Block: 9}
	data := bytes.Repeat([]byte("kept"), 1024)
	put := &store.Put{Key: kept, Epoch: 1<<32 - 1, K: 4, M: 2, BlockLen: 4096, Data: data}
	if err := st.Put(ctx, put); err != nil {
		f.Fatal(err)
	}
	req := func(m interface{ Append([]byte) []byte }) []byte { return m.Append(nil) }
	f.Add(uint16(blockstore.OpPut), req(&blockstore.PutRequest{Disk: 1, Key: segment.Key{PG: 1, Block: 5}, Epoch: 1, K: 4, M: 2, BlockLen: 5}), []byte("12345"))
	f.Add(uint16(blockstore.OpPut), req(&blockstore.PutRequest{Disk: 1, Key: kept, Epoch: 1<<32 - 1, K: 4, M: 2, BlockLen: 4096}), data)
	f.Add(uint16(blockstore.OpGet), req(&blockstore.GetRequest{Disk: 1, Key: kept, Offset: 10, Length: 100}), []byte(nil))
	f.Add(uint16(blockstore.OpGet), req(&blockstore.GetRequest{Disk: 1, Key: kept, Offset: 1<<32 - 1, Length: 1<<32 - 1}), []byte(nil))
	f.Add(uint16(blockstore.OpStat), req(&blockstore.GetRequest{Disk: 1, Key: kept}), []byte(nil))
	f.Add(uint16(blockstore.OpList), req(&blockstore.ListRequest{Disk: 1, PG: 7, Limit: 10}), []byte(nil))
	f.Add(uint16(blockstore.OpList), req(&blockstore.ListRequest{Disk: 1, PG: 7, Limit: 1<<32 - 1, After: &kept}), []byte(nil))
	f.Add(uint16(blockstore.OpGroups), req(&blockstore.GroupsRequest{Disk: 1, After: 6}), []byte(nil))
	f.Add(uint16(blockstore.OpDelete), req(&blockstore.DiskRequest{Disk: 1}), segment.AppendKeys(nil, []segment.Key{kept}))
	f.Add(uint16(blockstore.OpFence), req(&blockstore.DiskRequest{Disk: 1}), segment.AppendEpochs(nil, []segment.Epoch{{PG: 1, Epoch: 2}}))
	f.Add(uint16(blockstore.OpFence), req(&blockstore.DiskRequest{Disk: 2}), []byte("short"))
	f.Add(uint16(blockstore.OpInfo), req(&blockstore.DiskRequest{Disk: 1}), []byte(nil))
	f.Fuzz(func(t *testing.T, op uint16, meta, payload []byte) {
		if len(meta) > 1<<10 || len(payload) > 1<<16 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		r, err := cl.Call(ctx, wire.Op(op), meta, [][]byte{payload}, nil)
		switch {
		case err == nil:
			r.Release()
		case !wire.Answered(err):
			t.Fatalf("no answer: %v", err)
		case vfs.KindOf(err) == vfs.KindInternal || vfs.KindOf(err) == vfs.KindIO || vfs.KindOf(err) == vfs.KindUnknown:
			t.Fatalf("operation %#x: %v", op, err)
		}
		got, err := st.Get(ctx, kept, 0, len(data))
		if err != nil {
			t.Fatal(err)
		}
		defer got.Release()
		if !bytes.Equal(got.Bytes, data) {
			t.Fatal("the shard has changed")
		}
	})
}
