package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// Of the stores' process: where they are, and how connections are protected. See storesProcess.
const (
	storesDirEnv  = "RACKFS_BENCH_STORES_DIR"
	storesModeEnv = "RACKFS_BENCH_STORES_MODE"
	benchStores   = 6
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(storesDirEnv); dir != "" {
		if err := serveStores(dir, os.Getenv(storesModeEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveStores runs block servers, says their addresses, a line each, and ends when standard input does.
func serveStores(dir, mode string) error {
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	var ca *pki.CA
	if mode == wire.ModeTLS.String() {
		var err error
		if ca, err = pki.LoadCA(vfile.OS{}, dir); err != nil {
			return err
		}
	}
	for id := uint32(1); id <= benchStores; id++ {
		s, err := store.Open(ctx, store.Options{Dir: filepath.Join(dir, name(id)), Cluster: segment.ID{1}, Create: true, SegmentSize: 64 << 20, Logger: quiet})
		if err != nil {
			return err
		}
		defer s.Close()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		sec := wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name(id), Roles: []string{blockstore.RoleBlock}}}
		if ca != nil {
			identity, err := ca.Issue(name(id), []string{blockstore.RoleBlock}, nil, time.Now())
			if err != nil {
				return err
			}
			sec.Mode, sec.TLS = wire.ModeTLS, identity.ServerTLS()
		}
		h := server.New(map[uint32]*store.Store{id: s}, server.Options{Logger: quiet})
		srv := wire.NewServer(h.Handle, wire.ServerOptions{Security: sec, Logger: quiet})
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(ln) }()
		defer func() { srv.Close(); <-done }()
		fmt.Println(ln.Addr())
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// storesProcess starts serveStores in a process of its own, so that what is measured here is the gateway alone.
func storesProcess(b *testing.B, mode wire.Mode) *rig {
	dir := b.TempDir()
	sec := wire.Security{Mode: mode, Self: wire.Peer{Name: "gw", Roles: []string{blockstore.RoleGateway}}}
	var identity *pki.Identity
	if mode == wire.ModeTLS {
		ca, err := pki.CreateCA(vfile.OS{}, dir, "bench", time.Now())
		if err != nil {
			b.Fatal(err)
		}
		if identity, err = ca.Issue("gw", sec.Self.Roles, nil, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), storesDirEnv+"="+dir, storesModeEnv+"="+mode.String())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	r := &rig{t: b, dialled: map[string]int{}, raw: &metapb.ClusterMapR{Version: 1, Pools: []*metapb.Pool{{Id: testPool, K: 4, M: 2}}}}
	var ids []uint32
	for lines := bufio.NewScanner(out); len(ids) < benchStores; {
		if !lines.Scan() {
			b.Fatalf("the stores' process ended: %v", lines.Err())
		}
		id := uint32(len(ids) + 1)
		ids = append(ids, id)
		r.raw.Stores = append(r.raw.Stores, &metapb.Store{Id: id, Node: name(id), Address: lines.Text()})
	}
	for i := range ids {
		group(r.raw, uint32(i+1), 4, slices.Concat(ids[i:], ids[:i])...)
	}
	r.live, err = newLiveMap(b.Context(), r.ask, func(node, addr string) *wire.Client {
		s := sec
		if identity != nil {
			s.TLS = identity.ClientTLS(node)
		}
		return wire.NewClient(wire.Dialer("tcp", addr), wire.ClientOptions{Security: s, Logger: slog.New(slog.DiscardHandler)})
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.live.close)
	r.blocks = &blocks{client: stripe.New(stripe.Options{Probed: true, Logger: slog.New(slog.DiscardHandler)}), cmap: r.live, pool: testPool}
	ctx, stop := context.WithCancel(context.Background())
	var prober sync.WaitGroup
	prober.Go(func() { r.live.run(ctx, defaultMapInterval, r.blocks.client) })
	b.Cleanup(func() { stop(); prober.Wait() })
	return r
}

// ioBench is a gateway with one open file, and a client that costs next to nothing: it sends prepared bytes and reads the
// answer into a buffer.
type ioBench struct {
	b    *testing.B
	nfs  *nfsclient.Client
	file *nfsclient.File
	conn net.Conn

	session nfsclient.SessionID
	slot    uint32 // taken from the client that opened the file
	seq     uint32
	reply   []byte
}

// newIOBench serves a volume over the real state machine, without replicas and in this process, and the stores of r.
func newIOBench(b *testing.B, r *rig, cfg volume.Config) *ioBench {
	quiet := slog.New(slog.DiscardHandler)
	shard := newShardOne(b)
	cfg.FS, cfg.Shard, cfg.Meta, cfg.Blocks, cfg.Logger = 1, 1, shard, r.blocks, quiet
	v := volume.New(cfg)
	b.Cleanup(func() {
		if err := v.Shutdown(context.Background()); err != nil {
			b.Error(err)
		}
	})
	srv, err := nfsserver.New(b.Context(), nfsserver.Config{
		Keys:    []handle.Key{{ID: 1, Secret: [16]byte{42}}},
		Exports: []export.Export{{ID: 1, FSID: 1, Path: "/default", FS: &leasedFS{fs: v}, Rules: export.Everyone(export.ReadWrite, export.SquashNone)}},
		Store:   newClientStore(newShard0(b), "gw"), Name: "gw", Logger: quiet,
	})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	b.Cleanup(func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			b.Error(err)
		}
		<-served
	})
	x := &ioBench{b: b, reply: make([]byte, 2<<20)}
	if x.nfs, err = nfsclient.Dial(b.Context(), nfsclient.Config{Addr: ln.Addr().String(), Owner: "bench", Patient: true}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(x.nfs.Disconnect)
	root, _, err := x.nfs.Walk(b.Context(), "/default")
	if err != nil {
		b.Fatal(err)
	}
	if x.file, err = x.nfs.Create(b.Context(), root, "f", 0o644); err != nil {
		b.Fatal(err)
	}
	if x.conn, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { x.conn.Close() })
	slot, err := x.nfs.Session(0).Slot(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	x.session, x.slot, x.seq = x.nfs.Session(0).ID(), slot.ID(), slot.Sequence()
	return x
}

// request is a prepared record, and where in it the offset of a READ or WRITE is.
type request struct {
	rec      []byte
	seq, off int
}

// prepare encodes PUTFH and one more operation, whose arguments have the offset tail bytes before their end; data follows.
func (x *ioBench) prepare(cp *nfsclient.Compound, tail int, data []byte) *request {
	ops, n := cp.Ops()
	b := make([]byte, 4, 1024+len(data))
	for _, w := range []uint32{1, 0, 2, 100003, 4, 1} { // xid, CALL, RPC version, NFS, version, COMPOUND
		b = xdr.AppendUint32(b, w)
	}
	b = append(b, rpc.AuthSysCred("bench", &vfs.Cred{})...)
	b = xdr.AppendUint64(b, 0)
	for _, w := range []uint32{0, 1, n + 1, uint32(nfsv4.OP_SEQUENCE)} { // tag, minor version
		b = xdr.AppendUint32(b, w)
	}
	b = append(b, x.session[:]...)
	seq := len(b)
	for _, w := range []uint32{0, x.slot, x.slot, 0} {
		b = xdr.AppendUint32(b, w)
	}
	b = append(b, ops...)
	off := len(b) - tail
	b = append(b, data...)
	binary.BigEndian.PutUint32(b, 1<<31|uint32(len(b)-4))
	return &request{b, seq, off}
}

func (x *ioBench) reading() *request {
	return x.prepare(nfsclient.NewCompound().PutFH(x.file.FH).Read(x.file.Stateid, 0, 1<<20), 12, nil)
}

func (x *ioBench) writing(data []byte) *request {
	return x.prepare(nfsclient.NewCompound().PutFH(x.file.FH).Write(x.file.Stateid, 0, nfsv4.UNSTABLE4, data), 16, data)
}

// send sends a request at an offset and waits for its answer.
func (x *ioBench) send(q *request, off uint64) {
	x.seq++
	binary.BigEndian.PutUint32(q.rec[q.seq:], x.seq)
	binary.BigEndian.PutUint64(q.rec[q.off:], off)
	if _, err := x.conn.Write(q.rec); err != nil {
		x.b.Fatal(err)
	}
	if _, err := io.ReadFull(x.conn, x.reply[:4]); err != nil {
		x.b.Fatal(err)
	}
	body := x.reply[:binary.BigEndian.Uint32(x.reply)&^(1<<31)]
	if _, err := io.ReadFull(x.conn, body); err != nil {
		x.b.Fatal(err)
	}
	// Behind xid, REPLY, accepted, verifier and SUCCESS.
	if st := binary.BigEndian.Uint32(body[24:]); st != 0 {
		x.b.Fatalf("NFS status %d", st)
	}
}

func (x *ioBench) commit() {
	if _, err := x.nfs.Commit(x.b.Context(), x.file.FH, 0, 0); err != nil {
		x.b.Fatal(err)
	}
}

// fill writes and commits n MiB.
func (x *ioBench) fill(n int) {
	q := x.writing(random(1 << 20))
	for i := range n {
		x.send(q, uint64(i)<<20)
	}
	x.commit()
}

// run measures one request after the other at the offsets that next gives, in MiB.
func (x *ioBench) run(q *request, next func(i int) int, after func(i int)) {
	x.b.SetBytes(1 << 20)
	x.b.ReportAllocs()
	var before, end syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	i := 0
	for x.b.Loop() {
		x.send(q, uint64(next(i))<<20)
		if after != nil {
			after(i)
		}
		i++
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &end)
	cpu := end.Utime.Nano() + end.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	x.b.ReportMetric(float64(cpu)/1e3/float64(i), "cpu-us/op")
}

// BenchmarkIO measures a gateway alone: READ and WRITE of 1 MiB as COMPOUNDs over a connection, through the NFS server, a volume over
// the real state machine (in this process, without replicas) and the stripe client. The stores have a process of their own.
func BenchmarkIO(b *testing.B) {
	const mib = 64 // of the file
	in := func(i int) int { return i % mib }
	b.Run("read-cached", func(b *testing.B) {
		r := storesProcess(b, wire.ModeInsecure)
		x := newIOBench(b, r, volume.Config{})
		x.fill(mib)
		q := x.reading()
		for i := range 2 * mib {
			x.send(q, uint64(i%mib)<<20)
		}
		b.ResetTimer()
		x.run(q, in, nil)
	})
	b.Run("write-buffered", func(b *testing.B) { // all to where bytes are dirty already, so nothing is flushed
		r := storesProcess(b, wire.ModeInsecure)
		x := newIOBench(b, r, volume.Config{FlushAge: time.Hour})
		q := x.writing(random(1 << 20))
		x.run(q, func(i int) int { return i % 3 }, nil)
	})
	for _, mode := range []wire.Mode{wire.ModeInsecure, wire.ModeTLS} {
		b.Run("read-stream/"+mode.String(), func(b *testing.B) {
			r := storesProcess(b, mode)
			x := newIOBench(b, r, volume.Config{CacheLimitBytes: 32 << 20})
			x.fill(mib)
			x.run(x.reading(), in, nil)
		})
		b.Run("read-random/"+mode.String(), func(b *testing.B) {
			r := storesProcess(b, mode)
			x := newIOBench(b, r, volume.Config{CacheLimitBytes: 1 << 20})
			x.fill(mib)
			x.run(x.reading(), func(i int) int { return i * 29 % mib }, nil)
		})
		b.Run("write-stream/"+mode.String(), func(b *testing.B) { // and its flushes
			r := storesProcess(b, mode)
			x := newIOBench(b, r, volume.Config{})
			x.run(x.writing(random(1<<20)), func(i int) int { return i % 1024 }, func(i int) {
				if in(i) == mib-1 {
					x.commit()
				}
			})
			x.commit()
		})
	}
}
