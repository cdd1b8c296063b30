package blockstore

import (
	"bytes"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// FuzzMessages decodes anything as every message. What is accepted is what
// would be sent, but for bytes that have no meaning; what is not is an invalid argument.
func FuzzMessages(f *testing.F) {
	k := Key{PG: 7, Block: 1 << 40, Shard: 3}
	info := ShardInfo{Block: 1, Shard: 2, K: 4, M: 2, Length: 65536, Epoch: 3, BlockLen: 262144}
	for _, m := range []message{
		&PutRequest{Disk: 1, Key: k, Epoch: 3, K: 4, M: 2, BlockLen: 1 << 20, Owner: Owner{FS: 1, Ino: 42, Offset: 4 << 20}},
		&GetRequest{Disk: 1, Key: k, Offset: 4096, Length: 16384},
		&StatReply{Shard: info, Owner: Owner{FS: 1, Ino: 42}},
		&ListRequest{Disk: 1, PG: 7, Limit: 100}, &ListRequest{Disk: 1, PG: 7, After: &k},
		&ListReply{true}, &DiskRequest{2}, &InfoReply{Capacity: 1 << 40, Used: 1, Writable: true, Full: true}, &RoomReply{Capacity: 1 << 40, Used: 1, Shared: 2},
	} {
		f.Add(m.Append(nil))
	}
	f.Add(info.Append(info.Append(nil)))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, m := range []message{&PutRequest{}, &GetRequest{}, &StatReply{}, &ListRequest{}, &ListReply{}, &DiskRequest{}, &InfoReply{}, &RoomReply{}} {
			if err := m.Decode(p); err != nil {
				if vfs.KindOf(err) != vfs.KindInvalid {
					t.Fatalf("%T: %v", m, err)
				}
				continue
			}
			q := m.Append(nil)
			if len(q) != len(p) {
				t.Fatalf("%T of %d bytes became %d", m, len(p), len(q))
			}
			if err := m.Decode(q); err != nil || !bytes.Equal(m.Append(nil), q) {
				t.Fatalf("%T: %x became %x (%v)", m, p, q, err)
			}
		}
		if infos, err := DecodeShardInfos(p); err == nil && len(infos)*shardInfoLen != len(p) {
			t.Fatalf("%d entries in %d bytes", len(infos), len(p))
		}
	})
}
