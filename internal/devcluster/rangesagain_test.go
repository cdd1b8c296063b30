package devcluster_test

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// TestRangesAreToldAgain has a client send COPY, CLONE and DEALLOCATE again after everything was killed. Another client has written over what they did meanwhile, and was told that it is
// stable: that stays.
func TestRangesAreToldAgain(t *testing.T) {
	t.Parallel()
	const size = 3<<20 + 100
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := &child{t: t, dir: filepath.Join(t.TempDir(), "data")}
	c.start()
	defer func() { c.kill() }()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	client := func(owner string) *nfsclient.Client {
		cl, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: owner, Slots: 8, Patient: true, Minor: 2, DialFunc: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", c.addr)
		}})
		must("dial", err)
		t.Cleanup(cl.Disconnect)
		return cl
	}
	a, b := client("a"), client("b")
	root, _, err := a.Walk(ctx, "/default")
	must("walk", err)
	fill := func(f *nfsclient.File, of byte) {
		t.Helper()
		data := bytes.Repeat([]byte{of}, size)
		for at := 0; at < size; at += 1 << 20 {
			_, err := a.Write(ctx, f, uint64(at), nfsv4.FILE_SYNC4, data[at:min(at+1<<20, size)])
			must("write", err)
		}
	}
	src, err := a.Create(ctx, root, "src", 0o666)
	must("create", err)
	fill(src, 'c')
	stateid := func(cp *nfsclient.Compound, id nfsclient.Stateid) { cp.Words(id.Seqid).Raw(id.Other[:]) }
	copying := func(to uint32) func(cp *nfsclient.Compound, f *nfsclient.File) {
		return func(cp *nfsclient.Compound, f *nfsclient.File) {
			cp.PutFH(src.FH).SaveFH().PutFH(f.FH).Op(nfsv4.OP_COPY)
			stateid(cp, src.Stateid)
			stateid(cp, f.Stateid)
			cp.Words(0, 0, 0, to, 0, 0, 1, 1, 0) // offsets, all of it, consecutive, synchronous, no other server
		}
	}
	ops := []struct {
		name  string
		build func(cp *nfsclient.Compound, f *nfsclient.File)
		of    byte // what it makes of the file
		shift int  // which begins there

		file     *nfsclient.File
		sl       *nfsclient.Slot
		seq      uint32
		cp       *nfsclient.Compound
		expected []byte
	}{
		{name: "copy", build: copying(0), of: 'c'},
		{name: "copy of bytes", build: copying(1), of: 'c', shift: 1},
		{name: "clone", build: func(cp *nfsclient.Compound, f *nfsclient.File) {
			cp.PutFH(src.FH).SaveFH().PutFH(f.FH).Op(nfsv4.OP_CLONE)
			stateid(cp, src.Stateid)
			stateid(cp, f.Stateid)
			cp.Words(0, 0, 0, 0, 0, 0)
		}, of: 'c'},
		{name: "deallocate", build: func(cp *nfsclient.Compound, f *nfsclient.File) {
			cp.PutFH(f.FH).Op(nfsv4.OP_DEALLOCATE)
			stateid(cp, f.Stateid)
			cp.Words(0, 0, 0, size)
		}},
	}
	for i := range ops {
		o := &ops[i]
		o.file, err = a.Create(ctx, root, o.name, 0o666)
		must("create", err)
		fill(o.file, 'a')
		o.sl, err = a.Session(0).Slot(ctx)
		must("slot", err)
		o.seq, o.cp = o.sl.Sequence()+1, nfsclient.NewCompound()
		o.build(o.cp, o.file)
		r := answer(t, ctx, o.sl, o.seq, o.cp)
		if r.Status != nfsv4.NFS4_OK {
			t.Fatalf("%s: %s", o.name, nfsv4.Nfsstat4_name[r.Status])
		}
		r.Release()
		f, err := b.Open(ctx, root, nfsclient.OpenArgs{Name: o.name})
		must("open", err)
		o.expected = append(bytes.Repeat([]byte{'a'}, o.shift), bytes.Repeat([]byte{o.of}, size)...)
		for _, at := range []int{10, 5000, 1<<20 + 9, size - 5} {
			_, err := b.Write(ctx, f, uint64(at), nfsv4.FILE_SYNC4, []byte("BBB"))
			must("write over it", err)
			copy(o.expected[at:], "BBB")
		}
		must("close", b.CloseFile(ctx, f))
	}
	c.kill()
	c.start()
	for i := range ops {
		o := &ops[i]
		for range 2 {
			r := answer(t, ctx, o.sl, o.seq, o.cp)
			if r.Status != nfsv4.NFS4_OK {
				t.Errorf("%s, again: %s", o.name, nfsv4.Nfsstat4_name[r.Status])
			}
			r.Release()
		}
		got := make([]byte, 0, size+1)
		for {
			p := make([]byte, 1<<20)
			n, eof, err := a.Read(ctx, o.file, uint64(len(got)), p)
			must("read", err)
			if got = append(got, p[:n]...); eof || n == 0 {
				break
			}
		}
		if !bytes.Equal(got, o.expected) {
			at := 0
			for at < min(len(got), len(o.expected)) && got[at] == o.expected[at] {
				at++
			}
			t.Errorf("%s: %d bytes, want %d; byte %d is another one", o.name, len(got), len(o.expected), at)
		}
	}
}
