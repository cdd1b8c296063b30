package devcluster_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/vfs"
)

// TestWritesAreToldAgain has a client whose connection ends send the last WRITE of each of its slots again, through a gateway that it was handed over to. Another client has
// written over them meanwhile, and was told that it is stable: that stays.
func TestWritesAreToldAgain(t *testing.T) {
	t.Parallel()
	const slots = 64
	ctx, c := twoGateways(t)
	a, b := roamOn(t, c.NFSAddrs(), "a", slots), roam(t, c.NFSAddrs(), "b")
	must := musts(t)
	root, _, err := a.Walk(ctx, "/default")
	must("walk", err)
	file, err := a.Create(ctx, root, "file", 0o666)
	must("create", err)
	for range 2 {
		var all []*nfsclient.Slot
		var calls []*nfsclient.Compound
		var told [][]byte
		for n := range slots {
			sl, err := a.Session(0).Slot(ctx)
			must("slot", err)
			how := []nfsv4.StableHow4{nfsv4.FILE_SYNC4, nfsv4.UNSTABLE4}[n%2]
			cp := nfsclient.NewCompound().PutFH(file.FH).Write(file.Stateid, uint64(n), how, []byte{'a'}).Getattr(attr.Stat())
			r, err := sl.Do(ctx, cp)
			if err != nil || r.Status != nfsv4.NFS4_OK {
				t.Fatalf("write: %v, %+v", err, r)
			}
			all, calls, told = append(all, sl), append(calls, cp), append(told, bytes.Clone(r.Body()))
			r.Release()
		}
		over, err := b.Open(ctx, root, nfsclient.OpenArgs{Name: "file"})
		must("open", err)
		want := bytes.Repeat([]byte{'b'}, slots)
		_, err = b.Write(ctx, over, 0, nfsv4.FILE_SYNC4, want)
		must("write over it", err)
		a.move()
		for n, sl := range all {
			r, err := sl.Send(ctx, sl.Sequence(), calls[n])
			for ; err != nil && vfs.KindOf(err) == vfs.KindUnavailable; r, err = sl.Send(ctx, sl.Sequence(), calls[n]) {
				time.Sleep(time.Millisecond)
			}
			must("send again", err)
			if !bytes.Equal(r.Body(), told[n]) {
				t.Errorf("slot %d: the WRITE is answered %s, %x; it was %x", n, nfsv4.Nfsstat4_name[r.Status], r.Body(), told[n])
			}
			r.Release()
			sl.Put()
		}
		got := make([]byte, slots)
		if n, _, err := b.Read(ctx, over, 0, got); err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("%q is read of what was written over it, %v", got[:n], err)
		}
		must("close", b.CloseFile(ctx, over))
	}
	must("close", a.CloseFile(ctx, file))
}
