package stripe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

var clusterID = segment.ID{1, 2, 3}

// realNode is a block server with one disk, on a real socket.
type realNode struct {
	name string
	dir  string
	addr string
	// capacity of its store, in small segments; 0: unbounded
	capacity int64
	store    *store.Store
	server   *wire.Server
	done     chan error
}

type realCluster struct {
	*Static
	nodes  []*realNode
	wires  []*wire.Client
	client *Client
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// startCluster runs n nodes with the given protection between them and the gateway.
func startCluster(t testing.TB, n, k, m, pgs int, mode wire.Mode, o Options) *realCluster {
	t.Helper()
	return startSized(t, make([]int64, n), k, m, pgs, mode, o)
}

// startSized is startCluster with a node for each of the capacities.
func startSized(t testing.TB, capacities []int64, k, m, pgs int, mode wire.Mode, o Options) *realCluster {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var ca *pki.CA
	var gateway *pki.Identity
	if mode != wire.ModeInsecure {
		var err error
		ca, err = pki.NewCA("test", time.Now())
		must(err)
		gateway, err = ca.Issue("gw", []string{blockstore.RoleGateway}, nil, time.Now())
		must(err)
	}
	c := &realCluster{}
	callers := map[string]Caller{}
	var targets []placement.Target
	for i, capacity := range capacities {
		name := fmt.Sprintf("n%d", i)
		node := &realNode{name: name, capacity: capacity, dir: t.TempDir(), done: make(chan error, 1)}
		c.nodes = append(c.nodes, node)
		addr := node.start(t, mode, ca)
		node.addr = addr
		sec := wire.Security{Mode: mode, Self: wire.Peer{Name: "gw", Roles: []string{blockstore.RoleGateway}}}
		if ca != nil {
			sec.TLS = gateway.ClientTLS(name)
		}
		w := wire.NewClient(wire.Dialer("tcp", addr), wire.ClientOptions{Security: sec, Logger: quiet()})
		c.wires = append(c.wires, w)
		callers[name] = w
		targets = append(targets, placement.Target{Node: name, Disk: uint32(i)})
	}
	groups, err := placement.Static(targets, k, m, pgs)
	must(err)
	c.Static, err = NewStatic(map[uint32][]placement.PG{pool: groups}, callers)
	must(err)
	o.Logger = quiet()
	c.client = New(unhurried(o))
	t.Cleanup(func() {
		for _, w := range c.wires {
			w.Close()
		}
		for _, n := range c.nodes {
			n.stop(t)
		}
	})
	return c
}

func (n *realNode) start(t testing.TB, mode wire.Mode, ca *pki.CA) (addr string) {
	t.Helper()
	size := int64(8 << 20)
	if _, ok := t.(*testing.B); ok {
		size = 64 << 20
	}
	if n.capacity > 0 {
		size = store.MinSegmentSize
	}
	s, err := store.Open(context.Background(), store.Options{Dir: n.dir, Cluster: clusterID, Create: true, SegmentSize: size, Capacity: n.capacity, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	n.store = s
	var disk uint32
	fmt.Sscanf(n.name, "n%d", &disk)
	sec := wire.Security{Mode: mode, Self: wire.Peer{Name: n.name, Roles: []string{blockstore.RoleBlock}}}
	if ca != nil {
		id, err := ca.Issue(n.name, []string{blockstore.RoleBlock}, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		sec.TLS = id.ServerTLS()
	}
	bs := server.New(map[uint32]*store.Store{disk: s}, server.Options{Logger: quiet()})
	n.server = wire.NewServer(bs.Handle, wire.ServerOptions{Security: sec, Logger: quiet()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { n.done <- n.server.Serve(l) }()
	return l.Addr().String()
}

func (n *realNode) stop(t testing.TB) {
	t.Helper()
	if n.server == nil {
		return
	}
	if err := n.server.Close(); err != nil {
		t.Error(err)
	}
	<-n.done
	n.server = nil
	if err := n.store.Close(); err != nil {
		t.Error(err)
	}
}

// Blocks of all sizes through real sockets, servers and disks, in each security mode; then with two nodes gone.
func TestCluster(t *testing.T) {
	for _, mode := range []wire.Mode{wire.ModeInsecure, wire.ModeMAC, wire.ModeTLS} {
		t.Run(mode.String(), func(t *testing.T) {
			ctx := background(t)
			c := startCluster(t, 8, 4, 2, 16, mode, Options{BackoffMin: time.Hour, BackoffMax: time.Hour})
			blocks := map[uint64]Block{}
			write := func(id uint64) {
				n := []int{1, 5000, 16 << 10, 100 << 10, 1 << 20, 4<<20 - 5, 4 << 20}[id%7]
				pg, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: id, Owner: blockstore.Owner{FS: 1, Ino: id, Offset: 9}, Data: randomBytes(id, n, 0)})
				if err != nil {
					t.Fatal(err)
				}
				blocks[id] = Block{pg.ID, id, uint32(n)}
			}
			check := func() {
				for id, b := range blocks {
					want := randomBytes(id, int(b.Len), 0)
					p := make([]byte, b.Len)
					if err := c.client.Read(ctx, c, b, 0, p); err != nil || !bytes.Equal(p, want) {
						t.Fatalf("block %+v: %v", b, err)
					}
					if err := c.client.Read(ctx, c, b, int(b.Len/2), p[:1]); err != nil || p[0] != want[b.Len/2] {
						t.Fatalf("a byte of block %+v: %v", b, err)
					}
				}
			}
			for id := range uint64(14) {
				write(id)
			}
			check()
			// One node dies: old blocks are read, new ones find whole groups.
			c.nodes[2].stop(t)
			for id := uint64(14); id < 28; id++ {
				write(id)
				g, _ := c.PG(blocks[id].PG)
				shape, err := blockstore.ShapeOf(int(blocks[id].Len), 4, 2)
				if err != nil {
					t.Fatal(err)
				}
				for i, s := range g.Slots {
					if s.Target.Node == "n2" && shape.Stored(i) {
						t.Fatalf("block %d counts as written, and shard %d of it is on a dead node", id, i)
					}
				}
			}
			check()
			c.nodes[5].stop(t)
			check()
		})
	}
}

// What a disk does to a shard behind the store's back, a reader does not notice, and somebody is told.
func TestClusterCorruptShards(t *testing.T) {
	ctx := background(t)
	var bad atomic.Int32
	c := startCluster(t, 6, 4, 2, 1, wire.ModeInsecure, Options{OnBad: func(BadShard) { bad.Add(1) }})
	data := randomBytes(1, 4<<20, 0)
	if _, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	pg, _ := c.PG(1)
	for i, slot := range []int{0, 3} {
		var node *realNode
		for _, n := range c.nodes {
			if n.name == pg.Slots[slot].Target.Node {
				node = n
			}
		}
		damage(t, node.dir, data[slot<<20:][64<<10:][:4096])
		for range 2 {
			p := make([]byte, len(data))
			if err := c.client.Read(ctx, c, Block{1, 1, 4 << 20}, 0, p); err != nil || !bytes.Equal(p, data) {
				t.Fatalf("%d damaged: %v", i+1, err)
			}
		}
	}
	if bad.Load() == 0 {
		t.Fatal("nobody was told of the damaged shards")
	}
}

// damage flips a bit of page wherever the store's segments hold it.
func damage(t *testing.T, dir string, page []byte) {
	t.Helper()
	segs, err := filepath.Glob(filepath.Join(dir, "segments", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range segs {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(raw, page)
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, werr := f.WriteAt([]byte{page[100] ^ 1}, int64(at+100))
		if err := errors.Join(werr, f.Close()); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("the shard was not found on disk")
}

// Who is no gateway neither reads nor writes (but see upkeep for members that repair); nobody deletes; what is malformed is refused.
func TestServerRefuses(t *testing.T) {
	ctx := background(t)
	n := &realNode{name: "n0", dir: t.TempDir(), done: make(chan error, 1)}
	addr := n.start(t, wire.ModeInsecure, nil)
	defer n.stop(t)
	dial := func(roles ...string) *wire.Client {
		return wire.NewClient(wire.Dialer("tcp", addr), wire.ClientOptions{Logger: quiet(),
			Security: wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: "x", Roles: roles}}})
	}
	shape, err := blockstore.ShapeOf(5000, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	put := blockstore.PutRequest{Key: blockstore.Key{PG: 1, Block: 1}, Epoch: 3, K: 1, BlockLen: 5000, Owner: blockstore.Owner{FS: 1, Ino: 2, Offset: 3}}
	get := blockstore.GetRequest{Key: put.Key, Length: 10}
	list := blockstore.ListRequest{PG: 1}
	disk := blockstore.DiskRequest{}
	shard := randomBytes(1, shape.ShardLen, 0)
	del := segment.AppendKeys(nil, []segment.Key{put.Key})
	fence := segment.AppendEpochs(nil, []segment.Epoch{{PG: 2, Epoch: 9}})
	type call struct {
		op      wire.Op
		meta    []byte
		payload []byte
	}
	calls := map[string]call{
		"put":    {blockstore.OpPut, put.Append(nil), shard},
		"get":    {blockstore.OpGet, get.Append(nil), nil},
		"stat":   {blockstore.OpStat, get.Append(nil), nil},
		"list":   {blockstore.OpList, list.Append(nil), nil},
		"info":   {blockstore.OpInfo, disk.Append(nil), nil},
		"groups": {blockstore.OpGroups, (&blockstore.GroupsRequest{}).Append(nil), nil},
		"fence":  {blockstore.OpFence, disk.Append(nil), fence},
		"delete": {blockstore.OpDelete, disk.Append(nil), del},
	}
	order := []string{"put", "get", "stat", "list", "info", "groups", "fence", "delete"}
	for _, c := range []struct{ role, may string }{
		{"gateway", "put get stat list info groups"}, {"meta", "stat list info groups fence"}, {"block", "stat list info groups"}, {"local", ""},
	} {
		w := dial(c.role)
		for _, name := range order {
			x := calls[name]
			r, err := w.Call(ctx, x.op, x.meta, net.Buffers{x.payload}, nil)
			may := strings.Contains(" "+c.may+" ", " "+name+" ")
			refusal := vfs.KindPerm
			if c.role == "block" && (name == "get" || name == "fence") {
				refusal = vfs.KindUnavailable // without the map nobody knows whether it is a member
			}
			if may != (err == nil) || !may && vfs.KindOf(err) != refusal {
				t.Errorf("%s, %s: %v", c.role, name, err)
			}
			if err == nil {
				checkReply(t, name, r, shard)
			}
			r.Release()
		}
		w.Close()
	}
	w := dial("gateway", "meta")
	defer w.Close()
	for name, x := range calls {
		if name == "delete" {
			continue
		}
		for _, meta := range [][]byte{nil, x.meta[1:], append([]byte{9}, x.meta[1:]...)} {
			r, err := w.Call(ctx, x.op, meta, nil, nil)
			r.Release()
			wantKind(t, err, vfs.KindInvalid)
		}
	}
	_, err = w.Call(ctx, 0x1ff, nil, nil, nil)
	wantKind(t, err, vfs.KindNotSupported)
	get.Disk = 5
	_, err = w.Call(ctx, blockstore.OpGet, get.Append(nil), nil, nil)
	wantKind(t, err, vfs.KindIncompatible)
	put.Epoch = 2
	put.Key.Block = 2
	_, err = w.Call(ctx, blockstore.OpPut, put.Append(nil), net.Buffers{shard}, nil)
	wantKind(t, err, vfs.KindFenced)
}

func checkReply(t *testing.T, name string, r *wire.Reply, shard []byte) {
	t.Helper()
	switch name {
	case "get":
		if !bytes.Equal(r.Payload, shard[:10]) {
			t.Error("get answers other bytes")
		}
	case "stat":
		var s blockstore.StatReply
		if err := s.Decode(r.Meta); err != nil || s.Owner != (blockstore.Owner{FS: 1, Ino: 2, Offset: 3}) || int(s.Shard.Length) != len(shard) || s.Shard.Epoch != 3 {
			t.Errorf("%+v %v", s, err)
		}
	case "list":
		infos, err := blockstore.DecodeShardInfos(r.Payload)
		if err != nil || len(infos) != 1 || infos[0].Block != 1 || infos[0].BlockLen != 5000 {
			t.Errorf("%+v %v", infos, err)
		}
	case "info":
		var i blockstore.InfoReply
		if err := i.Decode(r.Meta); err != nil || i.Cluster != clusterID || !i.Writable || i.Used == 0 || i.Capacity < i.Used {
			t.Errorf("%+v %v", i, err)
		}
	}
}

// BenchmarkCluster moves 4 MiB blocks to and from six block servers in this process, 4+2, four callers.
func BenchmarkCluster(b *testing.B) {
	for _, mode := range []wire.Mode{wire.ModeInsecure, wire.ModeMAC, wire.ModeTLS} {
		b.Run(mode.String(), func(b *testing.B) {
			c := startCluster(b, 6, 4, 2, 24, mode, Options{})
			var next atomic.Uint64
			var mu sync.Mutex
			var blocks []Block
			run := func(b *testing.B, f func(buf []byte) error) {
				const callers = 4
				b.SetBytes(4 << 20)
				b.ReportAllocs()
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				bufs := make([][]byte, callers)
				for i := range bufs {
					bufs[i] = randomBytes(uint64(i), 4<<20, 4<<20+blockstore.MaxPadding)
				}
				b.ResetTimer()
				cpu := cpuSeconds(b)
				for i := range callers {
					wg.Add(1)
					go func() {
						defer wg.Done()
						for left.Add(-1) >= 0 {
							if err := f(bufs[i]); err != nil {
								b.Error(err)
								return
							}
						}
					}()
				}
				wg.Wait()
				b.ReportMetric((cpuSeconds(b)-cpu)/float64(b.N)*1000, "cpu-ms/op")
			}
			ctx := context.Background()
			b.Run("write4M", func(b *testing.B) {
				run(b, func(buf []byte) error {
					id := next.Add(1)
					pg, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: id, Data: buf})
					if err != nil {
						return err
					}
					mu.Lock()
					blocks = append(blocks, Block{pg.ID, id, 4 << 20})
					mu.Unlock()
					return nil
				})
			})
			b.Run("read4M", func(b *testing.B) {
				run(b, func(buf []byte) error {
					return c.client.Read(ctx, c, blocks[int(next.Add(1))%len(blocks)], 0, buf)
				})
			})
			b.Run("read64K", func(b *testing.B) {
				run(b, func(buf []byte) error {
					n := int(next.Add(1))
					return c.client.Read(ctx, c, blocks[n%len(blocks)], n%64<<16, buf[:64<<10])
				})
				b.SetBytes(64 << 10)
			})
		})
	}
}

// cpuSeconds is the CPU time of this process: clients and servers together.
func cpuSeconds(b *testing.B) float64 {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return float64(ru.Utime.Sec+ru.Stime.Sec) + float64(ru.Utime.Usec+ru.Stime.Usec)/1e6
}
