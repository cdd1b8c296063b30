package mount

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

func TestPlan(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
	const all = ",proto=tcp,port=2049,hard,timeo=600,retrans=2,rsize=1048576,wsize=1048576"
	near := func(list ...string) (out []Server) {
		for _, s := range list {
			address, where, _ := strings.Cut(s, " ")
			out = append(out, Server{address, where})
		}
		return out
	}
	for _, x := range []struct {
		r    Request
		want string
	}{
		{Request{Servers: near("10.0.0.1:2049 cluster")}, "mount -t nfs -o vers=4.2" + all + ",nconnect=4 10.0.0.1:/a /mnt"},
		// This machine's own before all others, and by one connection.
		{Request{Servers: near("10.0.0.1:2049 rack", "10.0.0.2:2050 cluster")}, "mount -t nfs -o vers=4.2" + strings.Replace(all, "2049", "2050", 1) + " 10.0.0.2:/a /mnt"},
		{Request{Servers: near("[fd00::2]:2049 node")}, "mount -t nfs -o vers=4.2" + all + " [fd00::2]:/a /mnt"},
		{Request{Servers: near("0.0.0.0:2049 node")}, "mount -t nfs -o vers=4.2" + all + " 127.0.0.1:/a /mnt"},
		{Request{Servers: near("[::]:2049 node")}, "mount -t nfs -o vers=4.2" + all + " [::1]:/a /mnt"},
		// One of the nearest; the test chooses the last that it may.
		{Request{Servers: near("10.1.0.1:2049 rack", "10.1.0.2:2049 rack", "10.1.0.3:2049 zone")}, "mount -t nfs -o vers=4.2" + all + ",nconnect=4 10.1.0.2:/a /mnt"},
		{Request{Servers: near("nas.example:2049 cluster"), ReadOnly: true}, "mount -t nfs -o vers=4.2" + all + ",nconnect=4,ro nas.example:/a /mnt"},
		{Request{Servers: near("10.0.0.1:2049 cluster"), Kernel: "5.2.0"}, "mount -t nfs -o vers=4.2" + all + " 10.0.0.1:/a /mnt"},
		{Request{Servers: near("10.0.0.1:2049 cluster"), Kernel: "5.3-rc1"}, "mount -t nfs -o vers=4.2" + all + ",nconnect=4 10.0.0.1:/a /mnt"},
		{Request{Servers: near("10.0.0.1:2049 cluster"), Kernel: "3.10.0-1160.el7"}, "mount -t nfs -o vers=4.1" + all + " 10.0.0.1:/a /mnt"},
		{Request{Servers: near("10.0.0.1:2049 cluster"), Options: []string{"soft", "vers=4.1", "noatime"}},
			"mount -t nfs -o proto=tcp,port=2049,timeo=600,retrans=2,rsize=1048576,wsize=1048576,nconnect=4,soft,vers=4.1,noatime 10.0.0.1:/a /mnt"},
		{Request{}, "no server"},
		{Request{Servers: near("10.0.0.1 cluster")}, "missing port"},
		{Request{Servers: near("10.0.0.1:2049 cluster"), Target: "mnt"}, "name the directory from the root"},
		{Request{Servers: near("10.0.0.1:2049 cluster"), Path: "/a\nb"}, "newline"},
	} {
		r := x.r
		r.Own, r.Choose = own, func(n int) int { return n - 1 }
		if r.Path == "" {
			r.Path = "/a"
		}
		if r.Target == "" {
			r.Target = "/mnt/"
		}
		m, err := Plan(r)
		got := strings.Join(m.Command(), " ")
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != x.want || err != nil && !strings.Contains(got, x.want) {
			t.Errorf("%+v:\n\t%s\nwant\n\t%s", x.r, got, x.want)
		}
	}
}

// Names with blanks and signs reach the kernel as they are, whatever is written.
func TestEscaping(t *testing.T) {
	m := Mount{Source: "10.0.0.1:/a/my data#1", Target: "/mnt/my 100%-data", Options: []string{"vers=4.2", "hard"}}
	if got, want := m.String(), `mount -t nfs -o vers=4.2,hard '10.0.0.1:/a/my data#1' '/mnt/my 100%-data'`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := quote("it's"); got != `'it'\''s'` {
		t.Error(got)
	}
	if got, want := m.FSTab(), `10.0.0.1:/a/my\040data\0431 /mnt/my\040100%-data nfs vers=4.2,hard,_netdev,nofail 0 0`+"\n"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	name, text := m.Unit()
	if want := `mnt-my\x20100\x25\x2ddata.mount`; name != want {
		t.Errorf("%s, want %s", name, want)
	}
	for _, line := range []string{"What=10.0.0.1:/a/my data#1", "Where=/mnt/my 100%%-data", "Type=nfs", "Options=vers=4.2,hard,_netdev,nofail", "WantedBy=remote-fs.target"} {
		if !slices.Contains(strings.Split(text, "\n"), line) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

// host is a machine in a directory, with these files.
func host(t *testing.T, files map[string]string) Host {
	h := Host{Root: t.TempDir(), Kernel: "6.1.0"}
	for p, text := range files {
		if err := os.MkdirAll(h.path(filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.path(p), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func TestCheck(t *testing.T) {
	const helper = "/usr/sbin/mount.nfs"
	for name, x := range map[string]struct {
		files map[string]string
		uid   int
		lacks []string // parts of the error; none: nothing
	}{
		"built in":   {map[string]string{helper: "", "/proc/filesystems": "nodev\tsysfs\nnodev\tnfs4\n"}, 0, nil},
		"a module":   {map[string]string{helper: "", "/lib/modules/6.1.0/modules.dep": "kernel/fs/nfs/nfsv4.ko.xz: kernel/fs/nfs/nfs.ko.xz\n"}, 0, nil},
		"no helper":  {map[string]string{"/proc/filesystems": "nodev\tnfs4\n"}, 0, []string{"nfs-common", "mount.nfs"}},
		"no kernel":  {map[string]string{helper: "", "/proc/filesystems": "nodev\tnfs\n"}, 0, []string{"kernel 6.1.0", "nfsv4"}},
		"no root":    {map[string]string{helper: "", "/proc/filesystems": "nodev\tnfs4\n"}, 1000, []string{"sudo"}},
		"everything": {nil, 1000, []string{"sudo", "mount.nfs", "nfsv4"}},
	} {
		h := host(t, x.files)
		h.UID = x.uid
		err := h.Check()
		if len(x.lacks) == 0 && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, part := range x.lacks {
			if vfs.KindOf(err) != vfs.KindNotSupported || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", name, err, part)
			}
		}
	}
}

func TestWriting(t *testing.T) {
	h := host(t, map[string]string{fstabPath: "# mine\n/dev/sda1 / ext4 defaults 0 1", unitDir + "/x": ""})
	m := Mount{Source: "10.0.0.1:/a", Target: "/mnt/a", Options: []string{"hard"}}
	for i := range 2 { // the second time nothing is to be done
		if added, err := h.WriteFSTab(&m); err != nil || added != (i == 0) {
			t.Errorf("%v, %v", added, err)
		}
		if name, err := h.WriteUnit(&m); err != nil || name != "mnt-a.mount" {
			t.Errorf("%q, %v", name, err)
		}
	}
	if fi, err := os.Stat(h.path(m.Target)); err != nil || !fi.IsDir() {
		t.Errorf("the directory that the line is about: %v, %v", fi, err)
	}
	got, err := os.ReadFile(h.path(fstabPath))
	if want := "# mine\n/dev/sda1 / ext4 defaults 0 1\n10.0.0.1:/a /mnt/a nfs hard,_netdev,nofail 0 0\n"; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	other := m
	other.Source = "10.0.0.9:/b"
	if _, err := h.WriteFSTab(&other); vfs.KindOf(err) != vfs.KindExists {
		t.Errorf("a second line for a directory: %v", err)
	}
	if _, err := h.WriteUnit(&other); vfs.KindOf(err) != vfs.KindExists {
		t.Errorf("another unit: %v", err)
	}
	if err := h.MakeTarget(&m); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(h.path("/mnt/a/f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.MakeTarget(&m); vfs.KindOf(err) != vfs.KindNotEmpty || !strings.Contains(err.Error(), "/mnt/a has files") {
		t.Errorf("files under the mount: %v", err)
	}
	onFile := Mount{Target: "/mnt/a/f"}
	if err := h.MakeTarget(&onFile); err == nil {
		t.Error("a file to mount on")
	}
}
