package blockstore

import (
	"reflect"
	"testing"

	"github.com/rackfs/rackfs/vfs"
	"pgregory.net/rapid"
)

type message interface {
	Append([]byte) []byte
	Decode([]byte) error
}

// Every message survives the way over the wire, and no other length or version passes for one.
func TestMessages(t *testing.T) {
	key := rapid.Make[Key]()
	gens := map[string]*rapid.Generator[message]{
		"put":  rapid.Map(rapid.Make[PutRequest](), func(m PutRequest) message { return &m }),
		"get":  rapid.Map(rapid.Make[GetRequest](), func(m GetRequest) message { return &m }),
		"stat": rapid.Map(rapid.Make[StatReply](), func(m StatReply) message { return &m }),
		"list": rapid.Custom(func(t *rapid.T) message {
			m := &ListRequest{Disk: rapid.Uint32().Draw(t, "disk"), PG: rapid.Uint32().Draw(t, "pg"), Limit: rapid.Uint32().Draw(t, "limit")}
			if rapid.Bool().Draw(t, "after") {
				k := key.Draw(t, "key")
				k.PG = m.PG
				m.After = &k
			}
			return m
		}),
		"listed": rapid.Map(rapid.Bool(), func(b bool) message { return &ListReply{b} }),
		"disk":   rapid.Map(rapid.Uint32(), func(d uint32) message { return &DiskRequest{d} }),
		"groups": rapid.Map(rapid.Make[GroupsRequest](), func(m GroupsRequest) message { return &m }),
		"room":   rapid.Map(rapid.Make[RoomReply](), func(m RoomReply) message { return &m }),
		"info":   rapid.Map(rapid.Make[InfoReply](), func(m InfoReply) message { return &m }),
	}
	for name, gen := range gens {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := gen.Draw(t, "m")
				p := m.Append(nil)
				got := reflect.New(reflect.TypeOf(m).Elem()).Interface().(message)
				if err := got.Decode(p); err != nil || !reflect.DeepEqual(got, m) {
					t.Fatalf("%+v came back as %+v: %v", m, got, err)
				}
				for _, bad := range [][]byte{nil, p[:len(p)-1], append(p[:len(p):len(p)], 0)} {
					if err := got.Decode(bad); vfs.KindOf(err) != vfs.KindInvalid {
						t.Fatalf("%d bytes accepted: %v", len(bad), err)
					}
				}
			})
		})
	}
	for _, m := range []message{&PutRequest{}, &GetRequest{}, &ListRequest{}, &DiskRequest{}, &GroupsRequest{}} {
		p := m.Append(nil)
		p[0] = 2
		if err := m.Decode(p); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%T of version 2: %v", m, err)
		}
	}
	infos := []ShardInfo{{1, 2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14}}
	p := infos[1].Append(infos[0].Append(nil))
	if got, err := DecodeShardInfos(p); err != nil || !reflect.DeepEqual(got, infos) {
		t.Fatal(got, err)
	}
	if _, err := DecodeShardInfos(p[1:]); err == nil {
		t.Fatal("half an entry accepted")
	}
}
