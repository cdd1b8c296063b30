package main

import (
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
		{fs(local), "/a", true, "", "one volume on each node of group gpu, and is mounted whole"},
		{fs(func(fs *api.FileSystem) { fs.Servers = nil }), "", false, "", "no gateway exports images"},
		{fs(func(fs *api.FileSystem) { fs.State = "deleted" }), "", false, "", "is deleted and is not exported"},
	} {
		got, err := mountFrom(x.fs, x.from, x.found)
		if x.refused == "" && (err != nil || got != x.want) || x.refused != "" && (err == nil || !strings.Contains(err.Error(), x.refused)) {
			t.Errorf("%s %q: %q, %v, want %q, %q", x.fs.Kind, x.from, got, err, x.want, x.refused)
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
