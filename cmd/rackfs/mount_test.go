package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/api"
)

func TestMountCommand(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
	fs := func(gateways ...string) api.FileSystem {
		return api.FileSystem{Name: "images", Path: "/research/images", State: "active", Gateways: gateways}
	}
	deleted := fs("10.0.0.1:2049")
	deleted.State = "deleted"
	for _, x := range []struct {
		fs         api.FileSystem
		from, want string
	}{
		{fs("10.0.0.1:2049"), "", "mount -t nfs -o vers=4.2,proto=tcp,port=2049,hard 10.0.0.1:/research/images /mnt"},
		{fs("10.0.0.1:2049", "10.0.0.2:2050", "10.0.0.3:2049"), "/a/b/", "mount -t nfs -o vers=4.2,proto=tcp,port=2050,hard 10.0.0.2:/research/images/a/b /mnt"},
		{fs("[fd00::2]:2049"), "/../../x", "mount -t nfs -o vers=4.2,proto=tcp,port=2049,hard [fd00::2]:/research/images/x /mnt"},
		{fs("0.0.0.0:2049"), "", "mount -t nfs -o vers=4.2,proto=tcp,port=2049,hard 127.0.0.1:/research/images /mnt"},
		{fs("nas.example:2049"), "/", "mount -t nfs -o vers=4.2,proto=tcp,port=2049,hard nas.example:/research/images /mnt"},
		{fs(), "", "no gateway exports images"},
		{deleted, "", "is deleted and is not exported"},
		{fs("10.0.0.1:2049"), "a", "write FS:/DIRECTORY"},
		{fs("10.0.0.1"), "", "missing port"},
	} {
		line, err := mountCommand(x.fs, x.from, "/mnt", own)
		got := strings.Join(line, " ")
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != x.want || err != nil && !strings.Contains(got, x.want) {
			t.Errorf("%v %q: %s, want %s", x.fs.Gateways, x.from, got, x.want)
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
