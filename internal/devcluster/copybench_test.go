package devcluster_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// BenchmarkCopyInTheBackground copies a file whose blocks cannot be shared, most of it in the background.
func BenchmarkCopyInTheBackground(b *testing.B) {
	const size = 256 << 20
	ctx := b.Context()
	c := startCluster(b, filepath.Join(b.TempDir(), "data"))
	defer stopCluster(b, c)
	back := &offloads{t: b, got: make(chan *nfsv4.CbOffload4args, 10), seq: map[[16]byte]uint32{}}
	cl, err := nfsclient.Dial(ctx, nfsclient.Config{Addr: c.NFSAddr(), Owner: b.Name(), Slots: 8, Patient: true, Minor: 2, Callbacks: back})
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close(context.Background())
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	root, _, err := cl.Walk(ctx, "/default")
	must(err)
	src, err := cl.Create(ctx, root, "src", 0o666)
	must(err)
	data := make([]byte, 1<<20)
	rand.Read(data)
	for at := 0; at < size; at += len(data) {
		_, err := cl.Write(ctx, src, uint64(at), nfsv4.UNSTABLE4, data)
		must(err)
	}
	_, err = cl.Commit(ctx, src.FH, 0, 0)
	must(err)
	b.SetBytes(size)
	cpu := time.Duration(0)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		name := fmt.Sprintf("dst%d", i)
		dst, err := cl.Create(ctx, root, name, 0o666)
		must(err)
		cp := nfsclient.NewCompound().PutFH(src.FH).SaveFH().PutFH(dst.FH).Op(nfsv4.OP_COPY)
		for _, id := range []nfsclient.Stateid{src.Stateid, dst.Stateid} {
			cp.Words(id.Seqid).Raw(id.Other[:])
		}
		cp.Words(0, 0, 0, 1, 0, size, 1, 0, 0)
		before := cpuTime()
		b.StartTimer()
		r, err := cl.Do(ctx, cp)
		must(err)
		must(r.Skip(nfsv4.OP_PUTFH, nfsv4.OP_SAVEFH, nfsv4.OP_PUTFH, nfsv4.OP_COPY))
		background := r.D().Uint32() == 1
		r.Release()
		if !background {
			b.Fatal("it is not in the background")
		}
		select {
		case told := <-back.got:
			if ok, is := told.CoaOffloadInfo.(*nfsv4.OffloadInfo4_NFS4_OK); !is || ok.CoaResok4.WrCount != size {
				b.Fatalf("told %+v", told.CoaOffloadInfo)
			}
		case <-ctx.Done():
			b.Fatal("no CB_OFFLOAD")
		}
		b.StopTimer()
		cpu += cpuTime() - before
		must(cl.CloseFile(ctx, dst))
		must(cl.Remove(ctx, root, name))
		b.StartTimer()
	}
	b.ReportMetric(cpu.Seconds()/(float64(b.N)*size/(1<<30)), "cpu-s/GiB")
}
