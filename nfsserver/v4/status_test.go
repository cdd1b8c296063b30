package v4

import (
	"errors"
	"fmt"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// lastKind is the highest kind that vfs knows, found by its text.
func lastKind() vfs.Kind {
	k := vfs.KindOK
	for k.String() != fmt.Sprintf("error kind %d", uint8(k)) {
		k++
	}
	return k - 1
}

// Every kind has a status of its own choosing: none is zero by omission, and all are
// statuses that the protocol defines.
func TestEveryKindHasAStatus(t *testing.T) {
	if last := lastKind(); len(kindStatus) != int(last)+1 {
		t.Fatalf("the table ends at %v, the kinds at %v", vfs.Kind(len(kindStatus)-1), last)
	}
	for k := vfs.KindOK + 1; int(k) < len(kindStatus); k++ {
		for _, idempotent := range []bool{false, true} {
			st := statusOf(k.Err("test"), idempotent)
			if _, defined := nfsv4.Nfsstat4_name[st]; st == nfsv4.NFS4_OK || (!defined && st != errNoXattr) {
				t.Errorf("%v, idempotent %v: status %d", k, idempotent, st)
			}
		}
	}
	if st := statusOf(nil, false); st != nfsv4.NFS4_OK {
		t.Errorf("no error: %v", st)
	}
}

func TestStatusOf(t *testing.T) {
	for _, c := range []struct {
		err        error
		idempotent bool
		want       status
	}{
		{vfs.KindUnavailable.Err("x"), false, nfsv4.NFS4ERR_DELAY},
		{vfs.KindUnavailable.Err("x"), true, nfsv4.NFS4ERR_DELAY},
		{vfs.KindUnknown.Err("x"), true, nfsv4.NFS4ERR_DELAY},
		{vfs.KindUnknown.Err("x"), false, nfsv4.NFS4ERR_IO},
		{vfs.KindNotFound.Err("x"), false, nfsv4.NFS4ERR_NOENT},
		{vfs.Wrap("outer", vfs.KindStale.Err("x")), true, nfsv4.NFS4ERR_STALE},
		{errors.New("anything"), true, nfsv4.NFS4ERR_IO},
		{vfs.Kind(250).Err("from a newer release"), true, nfsv4.NFS4ERR_SERVERFAULT},
	} {
		if got := statusOf(c.err, c.idempotent); got != c.want {
			t.Errorf("%v, idempotent %v: %v, want %v", c.err, c.idempotent, got, c.want)
		}
	}
}

func TestParseID(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1000": 1000, "4294967295": 4294967295,
		"": -1, "00": -1, "01": -1, "-1": -1, "4294967296": -1, "99999999999": -1, "root": -1, "1000@localdomain": -1, "1 ": -1,
	} {
		got, ok := parseID([]byte(in))
		if ok != (want >= 0) || (ok && int64(got) != want) {
			t.Errorf("%q: %d, %v", in, got, ok)
		}
	}
}
