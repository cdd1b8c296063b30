//go:build linux

package kclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const testDeadline = 5 * time.Minute

func TestMain(m *testing.M) {
	Main(leakChecked{m}, Programs{
		"echo":  func(args []string) int { fmt.Println(strings.Join(args, " ")); return 3 },
		"flood": programFlood,
		"cat":   func([]string) int { _, err := io.Copy(os.Stdout, os.Stdin); return boolStatus(err == nil) },
		"sleep": func([]string) int { fmt.Println("asleep"); time.Sleep(time.Hour); return 0 },
		"sync":  programSync,
		"dial":  programDial,
	})
}

// leakChecked fails the run when a goroutine of the harness outlives its test.
type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	status := l.m.Run()
	if err := goleak.Find(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

func boolStatus(ok bool) int {
	if ok {
		return 0
	}
	return 1
}

// flood prints many bytes of every value, to show that the control line is transparent and loses nothing.
func programFlood([]string) int {
	_, err := os.Stdout.Write(floodBytes())
	return boolStatus(err == nil)
}

func floodBytes() []byte {
	b := make([]byte, 3<<20)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

// sync leaves one file that was synced and one that was not on the guest's disk.
func programSync([]string) int {
	m := Mount{Type: "ext4", Source: "/dev/ubda", Target: "/mnt/disk", Data: "commit=300"}
	if err := m.mount(); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, name := range []string{"synced", "dirty"} {
		f, err := os.Create("/mnt/disk/" + name)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if _, err := f.WriteString(name); err != nil {
			return 1
		}
		if name == "synced" {
			if err := f.Sync(); err != nil {
				return 1
			}
		}
	}
	fmt.Println("written")
	time.Sleep(time.Hour)
	return 0
}

func programDial(args []string) int {
	c, err := net.DialTimeout("tcp", args[0], 5*time.Second)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	return boolStatus(err == nil)
}

func TestGuestRunsPrograms(t *testing.T) {
	Require(t)
	dir := t.TempDir()
	n := NewNet(t)
	g := n.Boot(t, Guest{Writable: []string{dir}})
	ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
	defer cancel()

	t.Run("status and output", func(t *testing.T) {
		var out bytes.Buffer
		c := Program("echo", "a", "b c")
		c.Stdout = &out
		code, err := g.Run(ctx, t, c)
		if err != nil || code != 3 || out.String() != "a b c\n" {
			t.Fatalf("status %d, error %v, output %q; want 3, nil, \"a b c\\n\"", code, err, out.String())
		}
	})
	t.Run("command of the host", func(t *testing.T) {
		var out bytes.Buffer
		c := Command("uname", "-n")
		c.Stdout = &out
		if code, err := g.Run(ctx, t, c); err != nil || code != 0 || out.String() != "guest1\n" {
			t.Fatalf("status %d, error %v, output %q", code, err, out.String())
		}
	})
	t.Run("missing command", func(t *testing.T) {
		if _, err := g.Run(ctx, t, Command("/no/such/program")); err == nil {
			t.Fatal("no error")
		}
	})
	t.Run("transparent and lossless output", func(t *testing.T) {
		h := sha256.New()
		c := Program("flood")
		c.Stdout = h
		code, err := g.Run(ctx, t, c)
		want := sha256.Sum256(floodBytes())
		if err != nil || code != 0 || !bytes.Equal(h.Sum(nil), want[:]) {
			t.Fatalf("status %d, error %v, checksums equal: %v", code, err, bytes.Equal(h.Sum(nil), want[:]))
		}
	})
	t.Run("input", func(t *testing.T) {
		var out bytes.Buffer
		c := Program("cat")
		c.Stdout = &out
		k := g.Start(t, c)
		text := bytes.Repeat([]byte("line\n"), 5000)
		if _, err := k.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := k.CloseInput(); err != nil {
			t.Fatal(err)
		}
		if code, err := k.Wait(ctx); err != nil || code != 0 || !bytes.Equal(out.Bytes(), text) {
			t.Fatalf("status %d, error %v, %d bytes of %d", code, err, out.Len(), len(text))
		}
	})
	t.Run("signal", func(t *testing.T) {
		k := g.Start(t, Program("sleep"))
		k.WaitOutput(t, "asleep", testDeadline)
		if err := k.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code, err := k.Wait(ctx); err != nil || code != 128+int(unix.SIGTERM) {
			t.Fatalf("status %d, error %v", code, err)
		}
	})
	t.Run("context", func(t *testing.T) {
		k := g.Start(t, Program("sleep"))
		k.WaitOutput(t, "asleep", testDeadline)
		ended, stop := context.WithCancel(ctx)
		stop()
		if _, err := k.Wait(ended); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		<-k.Ended() // killed
	})
	t.Run("writable folder", func(t *testing.T) {
		g.MustRun(t, testDeadline, Command("cp", "/etc/debian_version", filepath.Join(dir, "copy")))
		if b, err := os.ReadFile(filepath.Join(dir, "copy")); err != nil || len(b) == 0 {
			t.Fatalf("%q, %v", b, err)
		}
		if code, err := g.Run(ctx, t, Command("touch", filepath.Join(filepath.Dir(dir), "outside"))); err != nil || code == 0 {
			t.Fatalf("the rest of the host is writable: status %d, error %v", code, err)
		}
	})
	t.Run("mount refused", func(t *testing.T) {
		if err := g.TryMount(ctx, NFS(n.Addr(), 1, "/", "/mnt/none", "4.1", "soft", "timeo=10", "retrans=1")); err == nil {
			t.Fatal("mounted from a port where nobody listens")
		}
	})
	g.Shutdown(t)
	if g.Alive() {
		t.Fatal("alive after shutdown")
	}
	if _, err := g.Run(ctx, t, Program("echo")); !errors.Is(err, ErrGuestGone) {
		t.Fatalf("run after shutdown: %v", err)
	}
}

func TestNetwork(t *testing.T) {
	Require(t)
	n := NewNet(t)
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = net.Listen("tcp", n.Addr()+":7000")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, b := n.Boot(t, Guest{Name: "a"}), n.Boot(t, Guest{Name: "b"})
	ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
	defer cancel()
	for _, g := range []*Running{a, b} {
		g.MustRun(t, testDeadline, Program("dial", l.Addr().String()))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := c.RemoteAddr().(*net.TCPAddr).IP.String(); got != g.Addr() {
			t.Fatalf("connection from %s, want %s", got, g.Addr())
		}
		c.Close()
	}
	a.SetLink(t, false)
	if code, err := a.Run(ctx, t, Program("dial", l.Addr().String())); err != nil || code == 0 {
		t.Fatalf("dial over a cut link: status %d, error %v", code, err)
	}
	b.MustRun(t, testDeadline, Program("dial", l.Addr().String()))
	a.SetLink(t, true)
	a.MustRun(t, testDeadline, Program("dial", l.Addr().String()))
}

func TestPowerCutLosesWhatWasNotSynced(t *testing.T) {
	Require(t, "mkfs.ext4", "e2fsck")
	disk := filepath.Join(t.TempDir(), "disk")
	NewDisk(t, disk, "ext4", 256<<20)
	n := NewNet(t)
	g := n.Boot(t, Guest{Disk: disk, Sysctl: map[string]string{"vm.dirty_expire_centisecs": "360000", "vm.dirty_writeback_centisecs": "0"}})
	k := g.Start(t, Program("sync"))
	k.WaitOutput(t, "written", testDeadline)
	g.Kill(t)
	if _, err := k.Wait(context.Background()); !errors.Is(err, ErrGuestGone) {
		t.Fatalf("program after the power cut: %v", err)
	}
	CheckDisk(t, disk)

	g = n.Boot(t, Guest{Disk: disk})
	g.Mount(t, Mount{Type: "ext4", Source: "/dev/ubda", Target: "/mnt/disk"})
	var out bytes.Buffer
	c := Command("cat", "/mnt/disk/synced", "/mnt/disk/dirty")
	c.Stdout = &out
	code, err := g.Run(context.Background(), t, c)
	if err != nil || code == 0 || out.String() != "synced" {
		t.Fatalf("status %d, error %v, content %q: want the synced file and not the dirty one", code, err, out.String())
	}
}

func TestProcessInNetwork(t *testing.T) {
	Require(t)
	n := NewNet(t)
	p := n.Start(t, Process{Args: []string{"sh", "-c", "ip -o addr show br0; cat /proc/sys/net/ipv4/tcp_congestion_control; echo ready; sleep 3600 & wait"}})
	p.WaitOutput(t, "ready", testDeadline)
	p.WaitOutput(t, "cubic", testDeadline)
	p.Kill(t)
	if code, err := p.Wait(context.Background()); err != nil || code != 128+int(unix.SIGKILL) {
		t.Fatalf("status %d, error %v", code, err)
	}
}

func TestModuleFiles(t *testing.T) {
	dep := []byte("kernel/a/dm-x.ko: kernel/b/y.ko kernel/c/z.ko\nkernel/c/z.ko:\n")
	got, err := moduleFiles(dep, "dm_x")
	want := []string{"kernel/c/z.ko", "kernel/b/y.ko", "kernel/a/dm-x.ko"}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%v, %v; want %v", got, err, want)
	}
	if _, err := moduleFiles(dep, "none"); err == nil {
		t.Fatal("no error for an unknown module")
	}
}
