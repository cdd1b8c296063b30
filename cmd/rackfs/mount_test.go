package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/api"
)

func TestMountFrom(t *testing.T) {
	fs := func(change func(*api.FileSystem)) api.FileSystem {
		fs := api.FileSystem{Name: "images", State: "active", Kind: "shared", Servers: []api.Gateway{{Address: "10.0.0.1:2049"}}}
		if change != nil {
			change(&fs)
		}
		return fs
	}
	local := func(fs *api.FileSystem) { fs.Kind, fs.Group = "local", "gpu" }
	for _, x := range []struct {
		fs      api.FileSystem
		from    string
		found   bool
		want    string
		refused string
	}{
		{fs(nil), "", false, "", ""},
		{fs(nil), "/", true, "", ""},
		{fs(nil), "/a/b/", true, "/a/b", ""},
		{fs(nil), "/../../x", true, "/x", ""},
		{fs(nil), "a", true, "", "write NAME:/DIRECTORY"},
		{fs(nil), "", true, "", "write NAME:/DIRECTORY"},
		{fs(local), "/", true, "", ""},
		{fs(local), "/a", true, "", "is of kind local, which is mounted whole"},
		{fs(func(fs *api.FileSystem) { fs.State = "deleted" }), "", false, "", "is deleted and is not exported"},
	} {
		got, err := mountFrom(x.fs, x.from, x.found)
		if x.refused == "" && (err != nil || got != x.want) || x.refused != "" && (err == nil || !strings.Contains(err.Error(), x.refused)) {
			t.Errorf("%s %q: %q, %v, want %q, %q", x.fs.Kind, x.from, got, err, x.want, x.refused)
		}
	}
}

// Of a file system of the cluster all gateways are there to choose from, of kind local only the machine's own volume.
func TestServers(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.0.0.2")}
	local := func(nodes ...string) api.FileSystem {
		fs := api.FileSystem{Name: "scratch", Kind: "local", Group: "gpu"}
		for i, address := range nodes {
			fs.Nodes = append(fs.Nodes, api.LocalVolume{Node: "n" + string(rune('1'+i)), Address: address})
		}
		return fs
	}
	gateways := []api.Gateway{{Address: "10.0.0.1:2049", Near: "rack"}, {Address: "10.0.0.2:2049", Near: "zone"}}
	for _, x := range []struct {
		fs            api.FileSystem
		want, refused string
	}{
		{api.FileSystem{Name: "images", Kind: "shared", Servers: gateways}, "10.0.0.1:2049 rack, 10.0.0.2:2049 zone", ""},
		{api.FileSystem{Name: "images", Kind: "shared"}, "", "no gateway exports images: the shared part of the cluster"},
		{api.FileSystem{Name: "images", Kind: "group", Group: "gpu"}, "", "node group gpu has no node with the role gateway"},
		{local("10.0.0.1:2050", "10.0.0.2:2050"), "10.0.0.2:2050 node", ""},
		{local("10.0.0.1:2050"), "", "one of n1, and this machine is none of them"},
		{local(), "", "one of none yet"},
	} {
		list, err := servers(x.fs, own)
		var got []string
		for _, s := range list {
			got = append(got, s.Address+" "+s.Near)
		}
		if x.refused == "" && (err != nil || strings.Join(got, ", ") != x.want) || x.refused != "" && (err == nil || !strings.Contains(err.Error(), x.refused)) {
			t.Errorf("%+v: %v, %v, want %q, %q", x.fs, got, err, x.want, x.refused)
		}
	}
}

func TestGIDs(t *testing.T) {
	var g gids
	for s, want := range map[string]string{"": "", "5": "5", "5,1000,70": "5,1000,70", "4294967295": "4294967295", "x": "!", "1,": "!", "-1": "!", "4294967296": "!"} {
		if err := g.Set(s); err != nil && want != "!" || err == nil && g.String() != want {
			t.Errorf("%q: %s, %v", s, g.String(), err)
		}
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 3 << 30: "3 GiB", 1<<40 + 1<<39: "1.5 TiB", 1<<64 - 1: "16.0 EiB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for s, ok := range map[string]bool{"7d": true, "12h": true, "0s": true, "0d": true, "-1d": false, "1w": false, "": false, "-1h": false} {
		if _, err := parseKeep(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
