package gateway

import (
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// A gateway serves what is active, of its own group, and in a shard that it uses.
func TestServes(t *testing.T) {
	g := &Gateway{members: memberships{all: map[uint16]*membership{0: {}, 1: {}}}}
	const active = metapb.FileSystemState_FS_ACTIVE
	for _, x := range []struct {
		group string
		fs    *metapb.FileSystem
		want  bool
	}{
		{"", &metapb.FileSystem{Kind: "shared", State: active, Shard: 1}, true},
		{"", &metapb.FileSystem{Kind: "group", Group: "gpu", State: active, Shard: 1}, false},
		{"gpu", &metapb.FileSystem{Kind: "group", Group: "gpu", State: active, Shard: 1}, true},
		{"gpu", &metapb.FileSystem{Kind: "group", Group: "db", State: active, Shard: 1}, false},
		{"gpu", &metapb.FileSystem{Kind: "shared", State: active, Shard: 1}, false},
		{"", &metapb.FileSystem{Kind: "shared", State: active, Shard: 2}, false},
		{"gpu", &metapb.FileSystem{Kind: "local", Group: "gpu", State: active, Shard: 1}, false},
		{"", &metapb.FileSystem{Kind: "shared", State: metapb.FileSystemState_FS_CREATING, Shard: 1}, false},
		{"", &metapb.FileSystem{Kind: "shared", State: metapb.FileSystemState_FS_DELETED, Shard: 1}, false},
		{"", &metapb.FileSystem{Kind: "shared", State: metapb.FileSystemState_FS_PURGING, Shard: 1}, false},
	} {
		s := &fileSet{g: g, group: x.group}
		if got := s.serves(x.fs); got != x.want {
			t.Errorf("a gateway of group %q serves %v: %v", x.group, x.fs, got)
		}
	}
}
