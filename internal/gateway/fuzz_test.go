package gateway

import (
	"reflect"
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

// FuzzHanded reads anything as what is said of a client that was given up: what is understood is not more than it could say, and is written and read as the same.
func FuzzHanded(f *testing.F) {
	h := state.Handed{Seqids: []state.StateSeqid{{State: vfs.StateID{1}, Seqid: 7}}, Replies: []state.SlotReply{{Session: state.SessionID{3}, Slot: 1, Seq: 1 << 40, Digest: 9, Reply: []byte("reply")}}}
	f.Add(encodeHanded(&h))
	f.Add(append([]byte{seqidsFormat}, make([]byte, 2*seqidLen)...))
	var p packer
	f.Add(p.pack(appendHanded(nil, h.Seqids, h.Replies)))
	f.Add(p.pack(make([]byte, maxUnpacked)))
	f.Add([]byte{handedFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxHanded {
			return
		}
		seqids, replies := handedOf(b)
		size := len(seqids) * seqidLen
		for _, r := range replies {
			size += len(r.Reply)
		}
		if most := len(b); size > most && (len(b) == 0 || b[0] != packedFormat) || size > maxUnpacked {
			t.Fatalf("%d bytes became %d", len(b), size)
		}
		out := encodeHanded(&state.Handed{Seqids: seqids, Replies: replies})
		if len(out) > maxHanded {
			t.Fatalf("%d bytes", len(out))
		}
		s, r := handedOf(out)
		if n := len(r); n < len(replies) || len(s) < len(seqids) { // what there is no room for
			replies, seqids = replies[:n], seqids[:len(s)]
		}
		if len(s)+len(seqids) > 0 && !reflect.DeepEqual(s, seqids) || len(r)+len(replies) > 0 && !reflect.DeepEqual(r, replies) {
			t.Fatalf("%+v and %+v become %+v and %+v", seqids, replies, s, r)
		}
	})
}

// FuzzCopyRecord reads anything as what a client's record says of a copy: what is understood is written and read as the same.
func FuzzCopyRecord(f *testing.F) {
	f.Add(appendCopy(nil, &state.CopyRecord{ID: vfs.StateID{1}, Handle: []byte("handle")}))
	f.Add(appendCopy(nil, &state.CopyRecord{ID: vfs.StateID{1}, Handle: []byte("handle"), CopyTarget: state.CopyTarget{FS: 1, Ino: 2, Off: 3, Before: 4, Count: 5},
		CopyRequest: state.CopyRequest{Session: state.SessionID{6}, Slot: 7, Seq: 1 << 40, Op: 8}}))
	f.Add(append(make([]byte, 12), copyMark))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, rest, ok := copyOf(b)
		if !ok {
			return
		}
		if len(rest) >= len(b) {
			t.Fatalf("%x: %x is left", b, rest)
		}
		if again, rest, ok := copyOf(appendCopy(nil, &c)); !ok || len(rest) > 0 || !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v becomes %+v", c, again)
		}
	})
}
