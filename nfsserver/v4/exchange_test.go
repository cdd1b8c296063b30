package v4_test

import (
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// RFC 8881, 18.35.3: state protection needs RPCSEC_GSS, which there is not, and undefined flags are refused. RFC 7862, 14.1
// defines one for minor version 2.
func TestExchangeIDRefuses(t *testing.T) {
	w := newWorld(t)
	ask := func(minor uint32, a nfsv4.ExchangeId4args, want nfsv4.Nfsstat4) {
		t.Helper()
		a.EiaClientowner = nfsv4.ClientOwner4{CoVerifier: [8]byte{1}, CoOwnerid: []byte("x")}
		c := w.dial(minor)
		c.want(c.raw(minor, &nfsv4.NfsArgop4_OP_EXCHANGE_ID{OpexchangeId: a}), want)
	}
	none := &nfsv4.StateProtect4A_SP4_NONE{}
	ask(1, nfsv4.ExchangeId4args{EiaStateProtect: &nfsv4.StateProtect4A_SP4_MACH_CRED{}}, nfsv4.NFS4ERR_INVAL)
	ask(1, nfsv4.ExchangeId4args{EiaStateProtect: &nfsv4.StateProtect4A_SP4_SSV{}}, nfsv4.NFS4ERR_INVAL)
	ask(1, nfsv4.ExchangeId4args{EiaStateProtect: none, EiaFlags: nfsv4.EXCHGID4_FLAG_SUPP_FENCE_OPS}, nfsv4.NFS4ERR_INVAL)
	ask(2, nfsv4.ExchangeId4args{EiaStateProtect: none, EiaFlags: nfsv4.EXCHGID4_FLAG_SUPP_FENCE_OPS}, nfsv4.NFS4_OK)
	ask(1, nfsv4.ExchangeId4args{EiaStateProtect: none, EiaFlags: nfsv4.EXCHGID4_FLAG_CONFIRMED_R}, nfsv4.NFS4ERR_INVAL)
	ask(1, nfsv4.ExchangeId4args{EiaStateProtect: none}, nfsv4.NFS4_OK)
}
