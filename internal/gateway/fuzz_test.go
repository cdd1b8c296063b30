package gateway

import (
	"testing"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// FuzzClientRecord reads anything as the record of an NFS client: what is accepted is what would be written.
func FuzzClientRecord(f *testing.F) {
	f.Add(encodeClient(state.ClientRecord{ClientID: 1 << 33, Principal: "sys:1000", Verifier: [8]byte{1, 2}}))
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := decodeClient(&metapb.NFSClient{Owner: []byte("o"), Record: b})
		switch {
		case err != nil && vfs.KindOf(err) != vfs.KindIncompatible:
			t.Fatal(err)
		case err == nil && string(encodeClient(rec)) != string(b):
			t.Fatalf("%x became %+v", b, rec)
		}
	})
}
