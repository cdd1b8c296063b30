package gateway

import (
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// writeReply is like the results of SEQUENCE, PUTFH, WRITE and GETATTR as a Linux client asks for them: of the file's change, size, space and two times.
func writeReply(r *rand.Rand, session state.SessionID, slot uint32, verifier uint64) []byte {
	put := binary.BigEndian.AppendUint32
	long := binary.BigEndian.AppendUint64
	b := put(put(put(nil, 0), 0), 4)
	b = append(put(put(b, 53), 0), session[:]...)
	b = put(put(put(put(put(b, r.Uint32N(1<<20)), slot), 255), 255), 0)
	b = put(put(b, 22), 0)
	b = long(put(put(put(put(b, 38), 0), 4096<<r.UintN(9)), 2*r.Uint32N(2)), verifier)
	b = put(put(put(put(put(b, 9), 0), 2), 1<<3|1<<4), 1<<13|1<<20|1<<21)
	second, nano := 1_800_000_000+r.Uint64N(10), r.Uint32N(1e9)
	b = long(long(long(put(b, 48), second<<30|uint64(nano)), r.Uint64N(1<<40)), r.Uint64N(1<<40)&^4095)
	b = put(long(b, second), nano)
	return put(long(b, second), nano)
}

// The last WRITEs of all slots that a session has by default go with a client, and what there is no room for is of those that come last.
func TestHandedWrites(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		slots, seqids         int
		format                byte
		allReplies, allSeqids bool
	}{
		{16, 100, handedFormat, true, true},
		{64, 100, handedFormat, true, true},
		{256, 100, packedFormat, true, true},
		{256, 1024, packedFormat, true, false},
		{2000, 100, packedFormat, false, false},
	} {
		var h state.Handed
		session, verifier := state.SessionID{3, 15: 9}, r.Uint64()
		for slot := range uint32(c.slots) {
			h.Replies = append(h.Replies, state.SlotReply{
				Session: session, Slot: slot, Seq: r.Uint64N(1 << 20), Digest: r.Uint64(), Reply: writeReply(r, session, slot, verifier),
			})
		}
		for range c.seqids {
			var id vfs.StateID
			binary.BigEndian.PutUint64(id[4:], r.Uint64())
			h.Seqids = append(h.Seqids, state.StateSeqid{State: id, Seqid: r.Uint32N(100)})
		}
		b := encodeHanded(&h)
		if len(b) > maxHanded || b[0] != c.format {
			t.Fatalf("%d slots: %d bytes of format %d, want %d", c.slots, len(b), b[0], c.format)
		}
		seqids, replies := handedOf(b)
		t.Logf("%d of %d replies of %d bytes and %d of %d seqids are %d bytes", len(replies), c.slots, len(h.Replies[0].Reply), len(seqids), c.seqids, len(b))
		if n := len(replies); c.allReplies && n < c.slots || n < 300 && n < c.slots || !reflect.DeepEqual(replies, h.Replies[:n]) {
			t.Errorf("%d slots: %d replies are understood, or are others", c.slots, n)
		}
		if n := len(seqids); c.allSeqids && n < c.seqids || n > 0 && !reflect.DeepEqual(seqids, h.Seqids[:n]) {
			t.Errorf("%d slots: %d seqids of %d are understood, or are others", c.slots, n, c.seqids)
		}
	}
}
