package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

func TestParseQuota(t *testing.T) {
	for text, want := range map[string]Quota{
		"default=1TiB":                      {FS: "default", Limits: raftmeta.Limits{Bytes: 1 << 40}},
		"default=0":                         {FS: "default"},
		"default=12345,inodes=7":            {FS: "default", Limits: raftmeta.Limits{Bytes: 12345, Inodes: 7}},
		"default:/a/b c=10GiB":              {FS: "default", Dir: "/a/b c", Limits: raftmeta.Limits{Bytes: 10 << 30}},
		"default:/a=0,inodes=1000000000000": {FS: "default", Dir: "/a", Limits: raftmeta.Limits{Inodes: 1e12}},
	} {
		if q, err := ParseQuota(text, want.Dir != ""); err != nil || q != want {
			t.Errorf("%q: %+v, %v", text, q, err)
		}
	}
	for _, text := range []string{
		"", "default", "=1", "default=", "default=1TB", "default=-1", "default=1 GiB", "default=9999999PiB", "default=1,2", "default=1,inodes=x",
		"default=18446744073709551616",
	} {
		if q, err := ParseQuota(text, false); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q: %+v, %v", text, q, err)
		}
	}
	for _, text := range []string{"default=1", "default:=1", "default:/=1", "default:a=1", ":/a=1", "default:/a//b=1", "default:/a/../b=1"} {
		if q, err := ParseQuota(text, true); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q: %+v, %v", text, q, err)
		}
	}
	want := DirExport{FS: "default", Dir: "/team", Clients: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::1/128")}}
	if e, err := ParseExport("default:/team=10.1.2.3/16,fd00::1"); err != nil || !reflect.DeepEqual(e, want) {
		t.Errorf("%+v, %v", e, err)
	}
	for _, text := range []string{"default", "default:/", "default:/a=b", "default:/a=10.0.0.0/8,"} {
		if e, err := ParseExport(text); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q: %+v, %v", text, e, err)
		}
	}
}

// TestQuotas sets limits at the start, meets them through the whole cluster, and finds them again after a restart.
func TestQuotas(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0"}
	for _, text := range []string{"default:/a/team=8MiB,inodes=4", "default:/other=1MiB"} {
		q, err := ParseQuota(text, true)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Quotas = append(cfg.Quotas, q)
	}
	cfg.Quotas = append(cfg.Quotas, Quota{FS: "default", Limits: raftmeta.Limits{Bytes: 20 << 20}})
	cfg.Exports = []DirExport{{FS: "default", Dir: "/a/team", Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
	start := func(cfg Config) (*Cluster, func()) {
		t.Helper()
		c, err := Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			if err := c.Close(ctx); err != nil {
				t.Errorf("stop: %v", err)
			}
		}
	}
	c, stop := start(cfg)
	fs := c.gateway.Exports()[0].FS
	find := func(fs vfs.FS, names ...string) vfs.Attr {
		t.Helper()
		at := vfs.Attr{Ino: vfs.RootIno}
		for _, n := range names {
			var err error
			if at, err = fs.Lookup(t.Context(), &vfs.Root, at.Ino, n); err != nil {
				t.Fatal(err)
			}
		}
		return at
	}
	team := find(fs, "a", "team")
	secured := c.gateway.Exports()[1]
	if secured.Path != "/default/a/team" || secured.Root != team.Ino || secured.Project != team.Project || team.Project == 0 || len(secured.Rules) != 1 {
		t.Errorf("%+v is not the export of %+v", secured, team)
	}
	f, err := fs.Create(t.Context(), &vfs.Root, team.Ino, "f", vfs.CreateArgs{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for p := make([]byte, 3<<20); ; n += len(p) {
		_, _, err := fs.Write(t.Context(), &vfs.Root, f.Attr.Ino, uint64(n), p, vfs.Unstable)
		var short *vfs.ShortWrite
		if errors.As(err, &short) && vfs.KindOf(err) == vfs.KindQuota {
			n += short.N
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n != 8<<20 {
		t.Errorf("%d bytes were accepted", n)
	}
	if _, err := fs.Commit(t.Context(), f.Attr.Ino, 0, 0); err != nil {
		t.Fatal(err)
	}
	type answer struct{ Quotas []quotaStatus }
	statusOf := func(c *Cluster) (s answer) {
		t.Helper()
		eventually(t, "status with quotas", func() bool { // it leaves them out when the metadata does not answer in time
			r, err := http.Get("http://" + c.HTTPAddr() + "/status")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			s = answer{}
			if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
				t.Fatal(err)
			}
			return len(s.Quotas) > 0
		})
		return s
	}
	want := []quotaStatus{
		{FS: 1, UsedBytes: 8 << 20, LimitBytes: 20 << 20, UsedInodes: 5},
		{FS: 1, Project: 1, Dir: uint64(team.Ino), UsedBytes: 8 << 20, LimitBytes: 8 << 20, UsedInodes: 2, LimitInodes: 4},
		{FS: 1, Project: 2, Dir: uint64(find(fs, "other").Ino), LimitBytes: 1 << 20, UsedInodes: 1},
	}
	if got := statusOf(c).Quotas; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	stop()

	// What is not named stays, what is named is set.
	cfg.Quotas = []Quota{{FS: "default", Dir: "/a/team", Limits: raftmeta.Limits{Bytes: 9 << 20}}}
	c, stop = start(cfg)
	fs = c.gateway.Exports()[0].FS
	if _, _, err = fs.Write(t.Context(), &vfs.Root, f.Attr.Ino, 8<<20, make([]byte, 1<<20), vfs.FileSync); err != nil {
		t.Error(err)
	}
	want[0].UsedBytes, want[1].UsedBytes, want[1].LimitBytes, want[1].LimitInodes = 9<<20, 9<<20, 9<<20, 0
	if got := statusOf(c).Quotas; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if again := c.gateway.Exports()[1]; again.ID != secured.ID {
		t.Errorf("the export has id %#x after a restart, had %#x", again.ID, secured.ID)
	}
	if _, err := fs.MakeNode(t.Context(), &vfs.Root, vfs.RootIno, "full", vfs.NodeArgs{Type: vfs.TypeDir}); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Create(t.Context(), &vfs.Root, find(fs, "full").Ino, "f", vfs.CreateArgs{}); err != nil {
		t.Fatal(err)
	}
	stop()
	for dir, kind := range map[string]vfs.Kind{"/full": vfs.KindNotEmpty, "/full/f": vfs.KindNotDir} {
		cfg.Quotas = []Quota{{FS: "default", Dir: dir}}
		if c, err := Start(t.Context(), cfg); vfs.KindOf(err) != kind {
			t.Errorf("%s: %v", dir, err)
			if c != nil {
				_ = c.Close(t.Context())
			}
		}
	}
	cfg.Quotas = []Quota{{FS: "none"}}
	if _, err := Start(t.Context(), cfg); vfs.KindOf(err) != vfs.KindNotFound {
		t.Errorf("an unknown file system: %v", err)
	}
}
