package nfsserver_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// Extended attributes as a client uses them; and a retry of what must not be done twice is answered from the reply cache.
func TestXattrs(t *testing.T) {
	in := newInstance(t)
	c := in.dial("c", minor2)
	f := c.file("f")
	fh := f.FH
	ch, err := c.SetXattr(in.ctx, fh, nfsclient.XattrCreate, "a", "1")
	want(t, "create", err, nfsv4.NFS4_OK)
	if !ch.Atomic || ch.After <= ch.Before {
		t.Fatalf("%+v", ch)
	}
	_, err = c.SetXattr(in.ctx, fh, nfsclient.XattrCreate, "a", "2")
	want(t, "create again", err, nfsv4.NFS4ERR_EXIST)
	next, err := c.SetXattr(in.ctx, fh, nfsclient.XattrReplace, "a", "2")
	want(t, "replace", err, nfsv4.NFS4_OK)
	if next.Before != ch.After {
		t.Fatalf("change %+v after %+v", next, ch)
	}
	_, err = c.SetXattr(in.ctx, fh, nfsclient.XattrReplace, "b", "2")
	want(t, "replace nothing", err, nfsclient.ErrNoXattr)
	_, err = c.SetXattr(in.ctx, fh, nfsclient.XattrEither, "b", string(make([]byte, 65<<10)))
	want(t, "too large", err, nfsclient.ErrXattr2Big)
	v, err := c.GetXattr(in.ctx, fh, "a")
	want(t, "get", err, nfsv4.NFS4_OK)
	if v != "2" {
		t.Fatalf("%q", v)
	}
	var all []string
	for i := range 100 {
		name := fmt.Sprint("n", i)
		all = append(all, name)
		_, err = c.SetXattr(in.ctx, c.root, nfsclient.XattrCreate, name, "")
		want(t, name, err, nfsv4.NFS4_OK)
	}
	var listed []string
	for cookie, eof := uint64(0), false; !eof; {
		var names []string
		names, cookie, eof, err = c.ListXattrs(in.ctx, c.root, cookie, 128)
		want(t, "list", err, nfsv4.NFS4_OK)
		listed = append(listed, names...)
	}
	if !slices.Equal(all, listed) {
		t.Fatalf("listed %q", listed)
	}

	sl, err := c.Session(0).Slot(in.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, cp := range []*nfsclient.Compound{
		nfsclient.NewCompound().PutFH(fh).RemoveXattr("a"),
		nfsclient.NewCompound().PutFH(fh).SetXattr(nfsclient.XattrCreate, "once", "1"),
	} {
		cp.CacheThis = true
		seq := sl.Sequence() + 1
		if i > 0 {
			seq++
		}
		var first []byte
		for range 3 {
			r, err := sl.Send(in.ctx, seq, cp)
			if err != nil {
				t.Fatal(err)
			}
			want(t, "sent again", statusErr(r), nfsv4.NFS4_OK)
			if first == nil {
				first = bytes.Clone(r.Body())
			}
			if !bytes.Equal(r.Body(), first) {
				t.Fatalf("reply %x, was %x", r.Body(), first)
			}
			r.Release()
			c.Session(0).BreakConnection()
		}
	}
	_, err = c.GetXattr(in.ctx, fh, "a")
	want(t, "removed", err, nfsclient.ErrNoXattr)
	in.restart() // of the front end
	c2 := in.dial("c2", minor2)
	v, err = c2.GetXattr(in.ctx, fh, "once")
	want(t, "after a restart", err, nfsv4.NFS4_OK)
	if v != "1" {
		t.Fatalf("%q", v)
	}
}

func minor2(cfg *nfsclient.Config) { cfg.Minor = 2 }
