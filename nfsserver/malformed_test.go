package nfsserver_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// What is not a proper COMPOUND gets its proper error (RFC 8881, 15 and 16.2).
func TestMalformedCompounds(t *testing.T) {
	in := newInstance(t)
	c := in.dial("c")
	new := nfsclient.NewCompound
	long := new()
	for range 65 {
		long.PutRootFH()
	}
	for _, tc := range []struct {
		what string
		cp   *nfsclient.Compound
		st   nfsclient.Status
	}{
		{"an unknown operation", new().Op(9999), nfsv4.NFS4ERR_OP_ILLEGAL},
		{"operation 0", new().Op(0), nfsv4.NFS4ERR_OP_ILLEGAL},
		{"a 4.0 operation", new().Op(nfsv4.OP_RENEW).Words(0, 0), nfsv4.NFS4ERR_NOTSUPP},
		{"no operation number", new().PutRootFH().Op(nfsv4.OP_LOOKUP), nfsv4.NFS4ERR_BADXDR},
		{"arguments cut off", new().Op(nfsv4.OP_PUTFH).Words(100, 1), nfsv4.NFS4ERR_BADXDR},
		{"a length beyond the record", new().PutRootFH().Op(nfsv4.OP_LOOKUP).Words(0xfffffff0), nfsv4.NFS4ERR_BADXDR},
		{"a bool of 2", new().Op(nfsv4.OP_RECLAIM_COMPLETE).Words(2), nfsv4.NFS4ERR_BADXDR},
		{"no file handle", new().GetFH(), nfsv4.NFS4ERR_NOFILEHANDLE},
		{"no saved file handle", new().RestoreFH(), nfsv4.NFS4ERR_NOFILEHANDLE},
		{"a forged handle", new().PutFH(c.root[:len(c.root)-1] + "\x00"), nfsv4.NFS4ERR_BADHANDLE},
		{"an empty handle", new().PutFH(""), nfsv4.NFS4ERR_BADHANDLE},
		{"an empty name", new().PutRootFH().Lookup(""), nfsv4.NFS4ERR_INVAL},
		{"a name with a slash", new().PutFH(c.root).Lookup("a/b"), nfsv4.NFS4ERR_BADCHAR},
		{"SEQUENCE inside", new().Op(nfsv4.OP_SEQUENCE).Words(0, 0, 0, 0, 1, 0, 0, 0), nfsv4.NFS4ERR_SEQUENCE_POS},
		{"too many operations", long, nfsv4.NFS4ERR_TOO_MANY_OPS},
		{"a compound without SEQUENCE", nfsclient.NewRaw().PutRootFH(), nfsv4.NFS4ERR_OP_NOT_IN_SESSION},
		{"EXCHANGE_ID with company", nfsclient.NewRaw().ExchangeID("x", [8]byte{}, 0).PutRootFH(), nfsv4.NFS4ERR_NOT_ONLY_OP},
		{"BIND_CONN_TO_SESSION inside", new().BindConn(c.Session(0).ID(), nfsv4.CDFC4_FORE), nfsv4.NFS4ERR_NOT_ONLY_OP},
		{"CREATE_SESSION for nobody", nfsclient.NewRaw().CreateSession(1, 1, 0, nfsclient.ChannelAttrs{}, nfsclient.ChannelAttrs{}, 0), nfsv4.NFS4ERR_STALE_CLIENTID},
	} {
		t.Run(tc.what, func(t *testing.T) {
			send := c.Do
			if tc.cp.Sessionless() {
				send = c.Raw
			}
			r, err := send(in.ctx, tc.cp)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Release()
			want(t, tc.what, statusErr(r), tc.st)
		})
	}
	old := in.dialMinor0()
	r, err := old.Raw(in.ctx, nfsclient.NewRaw().PutRootFH())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	want(t, "minor version 0", statusErr(r), nfsv4.NFS4ERR_MINOR_VERS_MISMATCH)
	if r.Results() != 0 {
		t.Errorf("%d results", r.Results())
	}
}

func (in *instance) dialMinor0() *nfsclient.Client {
	c := nfsclient.New(nfsclient.Config{Addr: in.addr, Minor: nfsclient.MinorZero})
	in.t.Cleanup(c.Disconnect)
	return c
}

// Requests with random bytes changed, added and cut off never disturb the
// server: whatever it answers, the next client is served.
func TestMutatedCompounds(t *testing.T) {
	in := newInstance(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	c := in.dial("c")
	f := c.file("f")
	set := attr.Set{Mode: new(uint32), Size: new(uint64)}
	originals := []func() *nfsclient.Compound{
		func() *nfsclient.Compound {
			return nfsclient.NewCompound().PutFH(c.root).Readdir(0, [8]byte{}, 4096, 4096, attr.Stat())
		},
		func() *nfsclient.Compound {
			return nfsclient.NewCompound().PutFH(f.FH).Setattr(f.Stateid, &set).Getattr(attr.Stat())
		},
		func() *nfsclient.Compound {
			return nfsclient.NewCompound().PutFH(c.root).Open(c.ID(), &nfsclient.OpenArgs{Name: "g", Create: nfsclient.Exclusive41, Attr: set})
		},
		func() *nfsclient.Compound {
			return nfsclient.NewCompound().PutFH(f.FH).Lock(c.ID(), &nfsclient.LockArgs{Type: nfsv4.WRITE_LT, Length: 5, New: true, Stateid: f.Stateid, Owner: "o"})
		},
		func() *nfsclient.Compound {
			return nfsclient.NewCompound().PutFH(c.root).SaveFH().PutFH(c.root).Rename("a", "b").Mkdir("d", &set)
		},
		func() *nfsclient.Compound { return nfsclient.NewCompound().TestStateid(f.Stateid, f.Stateid) },
		func() *nfsclient.Compound { return nfsclient.NewRaw().ExchangeID("m", [8]byte{3}, 0) },
		func() *nfsclient.Compound {
			a := nfsclient.ChannelAttrs{MaxRequest: 4096, MaxResponse: 4096, MaxOps: 4, MaxSlots: 4}
			return nfsclient.NewRaw().CreateSession(c.ID(), 2, 0, a, a, 1)
		},
	}
	for range 3000 {
		cp := originals[rnd.IntN(len(originals))]()
		mutate(rnd, cp)
		send := c.Do
		if cp.Sessionless() {
			send = c.Raw
		}
		ctx, cancel := context.WithTimeout(in.ctx, patience)
		r, err := send(ctx, cp)
		cancel()
		if err == nil {
			r.Release()
			continue
		}
		var garbage *rpc.RemoteError
		if nfsclient.StatusOf(err) == -1 && !errors.As(err, &garbage) {
			t.Fatalf("the server did not answer: %v", err)
		}
	}
	d := in.dial("d")
	if _, err := d.Getattr(in.ctx, d.root); err != nil {
		t.Error(err)
	}
}

// mutate damages the operations of cp in one to four places.
func mutate(rnd *rand.Rand, cp *nfsclient.Compound) {
	p, count := cp.Ops()
	p = slices.Clone(p)
	for range 1 + rnd.IntN(4) {
		if len(p) == 0 {
			break
		}
		i := rnd.IntN(len(p))
		switch rnd.IntN(6) {
		case 0:
			p[i] = byte(rnd.Uint32())
		case 1:
			p[i] ^= 1 << rnd.IntN(8)
		case 2:
			p = p[:i]
		case 3:
			p = slices.Insert(p, i, byte(rnd.Uint32()), 0, 0, 0)
		case 4: // a length or a count
			i &^= 3
			copy(p[i:], [][]byte{{0xff, 0xff, 0xff, 0xff}, {0x7f, 0xff, 0xff, 0xff}, {0, 0, 0x10, 0}, {0, 0, 0, 0}}[rnd.IntN(4)])
		case 5:
			count = rnd.Uint32N(10)
		}
	}
	cp.SetOps(p, count)
}
