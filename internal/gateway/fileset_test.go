package gateway

import (
	"net/netip"
	"testing"

	"github.com/rackfs/rackfs/nfsserver/export"
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

func TestRulesOfFileSystems(t *testing.T) {
	g := &Gateway{cfg: Config{Rules: []export.Rule{
		{Clients: netip.MustParsePrefix("127.0.0.0/8"), Access: export.ReadWrite, Squash: export.SquashNone, AnonUID: 7},
		{Clients: netip.MustParsePrefix("10.0.0.0/8"), Access: export.ReadWrite, Squash: export.SquashNone, AnonUID: 7},
	}}}
	s := &fileSet{g: g}
	if got := s.rules(&metapb.FileSystem{}); len(got) != 2 || got[1].Access != export.ReadWrite {
		t.Errorf("%+v", got)
	}
	got := s.rules(&metapb.FileSystem{Allow: []string{"192.0.2.0/24"}, ReadOnly: true})
	if len(got) != 1 || got[0].Clients.String() != "192.0.2.0/24" || got[0].Access != export.ReadOnly || got[0].Squash != export.SquashNone || got[0].AnonUID != 7 {
		t.Errorf("%+v", got)
	}
	if g.cfg.Rules[0].Access != export.ReadWrite {
		t.Error("the gateway's own rules changed")
	}
}
