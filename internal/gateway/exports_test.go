package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// The record decides over the gateway's configuration where it says something.
func TestExportsOfFileSystems(t *testing.T) {
	gateway := []export.Rule{
		{Clients: netip.MustParsePrefix("127.0.0.0/8"), Access: export.ReadWrite, Squash: export.SquashRoot, AnonUID: 7, AnonGID: 8},
		{Clients: netip.MustParsePrefix("10.0.0.0/8"), Access: export.ReadWrite, Squash: export.SquashRoot, AnonUID: 7, AnonGID: 8},
	}
	mem := memfs.New(memfs.Options{})
	of := func(fs *metapb.FileSystem) []string {
		fs.Id, fs.Name, fs.Workspace = 1, "a", "default"
		var out []string
		exports := exportsOf(fs, mem, gateway)
		for _, e := range exports {
			var rules []string
			for _, r := range e.Rules {
				rules = append(rules, fmt.Sprintf("%v %s %s %d:%d", r.Clients, [...]string{"ro", "rw"}[r.Access], [...]string{"root", "none", "all"}[r.Squash], r.AnonUID, r.AnonGID))
			}
			text := fmt.Sprintf("%s %d %d %v", e.Path, e.RootIno(), e.Project, e.Groups)
			out = append(out, text+": "+strings.Join(rules, ", "))
		}
		if _, err := export.NewTable(exports, time.Time{}); err != nil {
			t.Errorf("%v: %v", fs, err)
		}
		return out
	}
	for _, c := range []struct {
		fs   *metapb.FileSystem
		want []string
	}{
		{&metapb.FileSystem{}, []string{"/a 1 0 []: 127.0.0.0/8 rw root 7:8, 10.0.0.0/8 rw root 7:8"}},
		{&metapb.FileSystem{Allow: []string{"192.0.2.0/24"}, ReadOnly: true}, []string{"/a 1 0 []: 192.0.2.0/24 ro root 7:8"}},
		{&metapb.FileSystem{Squash: metapb.Squash_SQUASH_NONE, Allow: []string{"192.0.2.0/24"}, Groups: []uint32{3}}, []string{"/a 1 0 [3]: 192.0.2.0/24 rw none 7:8"}},
		{&metapb.FileSystem{Squash: metapb.Squash_SQUASH_ALL, AnonUid: 1, AnonGid: 2, Allow: []string{"192.0.2.0/24"}}, []string{"/a 1 0 []: 192.0.2.0/24 rw all 1:2"}},
		{&metapb.FileSystem{Allow: []string{"192.0.2.0/24"}, Squash: metapb.Squash_SQUASH_ALL, Exports: []*metapb.SecureExport{
			{Path: "/x", Dir: 5, Project: 2}, {Path: "/x/y", Dir: 9, Project: 3, Allow: []string{"198.51.100.0/24"}, ReadOnly: true},
		}}, []string{
			"/a 1 0 []: 192.0.2.0/24 rw all 7:8", "/a/x 5 2 []: 192.0.2.0/24 rw all 7:8", "/a/x/y 9 3 []: 198.51.100.0/24 ro all 7:8",
		}},
		{&metapb.FileSystem{ReadOnly: true, Exports: []*metapb.SecureExport{{Path: "/x", Dir: 5, Project: 2, Allow: []string{"198.51.100.0/24"}}}}, []string{
			"/a 1 0 []: 127.0.0.0/8 ro root 7:8, 10.0.0.0/8 ro root 7:8", "/a/x 5 2 []: 198.51.100.0/24 ro root 7:8",
		}},
	} {
		if got := of(c.fs); !slices.Equal(got, c.want) {
			t.Errorf("%v:\n\t%s\nwant\n\t%s", c.fs, strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
		}
	}
	if gateway[0].Access != export.ReadWrite || gateway[0].Squash != export.SquashRoot {
		t.Error("the gateway's own rules changed")
	}
	if secureID(1, 2) == secureID(2, 1) || secureID(1, 2)>>31 != 1 {
		t.Error("ids of secure exports")
	}
}
