package bench

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// TestMountsPromise: local file systems promise what their options leave of it, and of those whose server decides nothing is known.
func TestMountsPromise(t *testing.T) {
	for _, x := range []struct {
		line, point string
		names, data Promise
	}{
		{`29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard`, "/", Memory, Disk},
		{`29 1 254:0 / /a\040b rw - xfs /dev/vdb rw,nobarrier`, "/a b", Memory, Memory},
		{`29 1 254:0 / /d rw,dirsync - ext4 /dev/vdb rw`, "/d", Disk, Disk},
		{`29 1 254:0 / /d rw - ext4 /dev/vdb rw,barrier=0`, "/d", Memory, Memory},
		{`30 1 0:26 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1g`, "/tmp", Memory, Memory},
		{`31 1 0:27 / /mnt rw shared:9 master:2 - nfs4 host:/default rw,vers=4.2`, "/mnt", Unknown, Unknown},
		{`31 1 0:27 / /mnt rw - fuse.glusterfs host:/v rw`, "/mnt", Unknown, Unknown},
		{`31 1 0:27 / /mnt rw - overlay overlay rw,lowerdir=/a`, "/mnt", Unknown, Unknown},
		{`nonsense`, "", Unknown, Unknown},
		{`a b c - `, "", Unknown, Unknown},
	} {
		point, d := mountDurability(x.line)
		if point != x.point || d.Names != x.names || d.Data != x.data {
			t.Errorf("%s: %q %+v", x.line, point, d)
		}
	}
	if d, err := dirDurability(t.TempDir()); err != nil || d.Source == "" {
		t.Errorf("of a directory of this machine: %+v, %v", d, err)
	}
}

func TestDeclared(t *testing.T) {
	d, err := ParseDurability("names=memory,data=disk,losses=2")
	if err != nil || d != (Durability{Memory, Disk, 2, "declared"}) {
		t.Errorf("%+v, %v", d, err)
	}
	for _, s := range []string{"", "names=disk", "names=disk,data=paper", "names=disk,data=disk,losses=-1", "names=disk,data=disk,losses=x", "safe"} {
		if _, err := ParseDurability(s); vfs.KindOf(err) != vfs.KindInvalid || !strings.Contains(err.Error(), "write names=") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestNoNumberWithoutPromise: a target of which nothing is known is refused before anything is done, with what to do about it.
func TestNoNumberWithoutPromise(t *testing.T) {
	dir := t.TempDir()
	fs, _, err := NewDir(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	r := Run{
		Targets: []*Target{{Name: "x", Spec: "dir:x", FS: fs}}, Workloads: Workloads(), Options: tiny, Repeats: 1,
		Emit: func(Record) error { t.Error("something was emitted"); return nil },
	}
	if err := r.Do(t.Context()); vfs.KindOf(err) != vfs.KindInvalid || !strings.Contains(err.Error(), "--durability x=names=") {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestMetrics: CPU is that of the metrics, and a cluster's status beside them tells its promise.
func TestMetrics(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("# HELP process_cpu_seconds_total x\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 12.5\nprocess_cpu_seconds_total_more 99\nprocess_start_time_seconds 1.5\nprocess_resident_memory_bytes 1.5e+06\ngo_memstats_heap_inuse_bytes 5e+05\ngo_goroutines 12\nprocess_open_fds 9\n"))
	})
	mux.HandleFunc("GET /none", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"cluster":"c","profile":"4+2"}`))
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	ctx := t.Context()
	u, err := Meters{Metrics{s.URL + "/metrics"}, Metrics{s.URL + "/metrics"}}.Read(ctx)
	if err != nil || u != (Usage{25 * time.Second, 3, 3e6, 1e6, 24, 18}) {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := (Metrics{s.URL + "/none"}).Read(ctx); vfs.KindOf(err) != vfs.KindInvalid {
		t.Error(err)
	}
	if _, err := (Metrics{s.URL + "/absent"}).Read(ctx); vfs.KindOf(err) != vfs.KindInvalid {
		t.Error(err)
	}
	if d := statusDurability(ctx, s.URL+"/metrics"); d != (Durability{Disk, Disk, 2, "rackfs with profile 4+2"}) {
		t.Errorf("%+v", d)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if d := statusDurability(ctx, other.URL+"/metrics"); d.Known() {
		t.Errorf("another server promises %+v", d)
	}
}

// TestPID reads this process, which has used CPU and holds memory; what it says grows with what is done.
func TestPID(t *testing.T) {
	a, err := PID(os.Getpid()).Read(context.Background())
	if err != nil || a.Started <= 0 || a.Resident < 1<<20 || a.Files < 3 {
		t.Fatalf("%+v, %v", a, err)
	}
	for b := a; b.CPU < a.CPU+3*tick; {
		NewPattern(1)
		if b, err = PID(os.Getpid()).Read(context.Background()); err != nil {
			t.Fatal(err)
		}
		if b.Started != a.Started {
			t.Fatalf("started at %v and %v", a.Started, b.Started)
		}
	}
	if _, err := PID(1 << 30).Read(context.Background()); vfs.KindOf(err) != vfs.KindNotFound {
		t.Error(err)
	}
}

func TestSpecs(t *testing.T) {
	for s, want := range map[string]Spec{
		"dir:/a":                     {Name: "dir", Kind: "dir", Place: "/a"},
		"plain=dir-sync:/a=b":        {Name: "plain", Kind: "dir-sync", Place: "/a=b"},
		"dir:/a=b":                   {Name: "dir", Kind: "dir", Place: "/a=b"},
		"g=nfs:[::1]:2049/scratch/x": {Name: "g", Kind: "nfs", Place: "[::1]:2049/scratch/x"},
		"api:https://h:7443/w/f":     {Name: "api", Kind: "api", Place: "https://h:7443/w/f"},
	} {
		got, err := ParseSpec(s)
		if err != nil || got.Name != want.Name || got.Kind != want.Kind || got.Place != want.Place {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "/a", "dir:", "ftp:x", "x=y"} {
		if _, err := ParseSpec(s); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q: %v", s, err)
		}
	}
	if addr, path, err := parseNFS("[::1]:2049/scratch/x"); err != nil || addr != "[::1]:2049" || path != "/scratch/x" {
		t.Error(addr, path, err)
	}
	for _, s := range []string{"host/x", "h:1", "h:1/"} {
		if _, _, err := parseNFS(s); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{Standard, Short, tiny} {
		if err := o.Check(); err != nil {
			t.Error(err)
		}
	}
	for name, change := range map[string]func(*Options){
		"no files": func(o *Options) { o.Files = 0 }, "odd size": func(o *Options) { o.FileSize = 5 }, "no time": func(o *Options) { o.Time = 0 },
		"records that do not fill a shard": func(o *Options) { o.RecordSize = 12 << 10 }, "a stream of parts": func(o *Options) { o.StreamSize = PageSize },
		"endless": func(o *Options) { o.CheckpointSize = 1 << 50 },
	} {
		o := Standard
		change(&o)
		if err := o.Check(); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
