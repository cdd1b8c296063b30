package localnode_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/localnode"
	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// hangs is after what time a test that hangs ends.
const hangs = 5 * time.Minute

var cluster = [16]byte{1, 2, 3}

// rig is a node whose cluster is a list in memory.
type rig struct {
	*testing.T
	ctx  context.Context
	dir  string
	cfg  localnode.Config
	s    *localnode.Server
	addr string
	end  func()

	list  *metapb.FileSystemsR // nil: the cluster does not answer
	group string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the tests of local volumes run as root")
		}
		t.Skip("acts as other users, so it needs root")
	}
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	t.Cleanup(cancel)
	r := &rig{T: t, ctx: ctx, dir: filepath.Join(t.TempDir(), "local"), group: "g"}
	r.cfg = localnode.Config{
		Dir: r.dir, Node: "n", Cluster: cluster, Interval: time.Hour, Lease: 10 * time.Minute,
		Own:   func() ([]netip.Addr, error) { return nil, nil },
		Group: func() (string, bool) { return r.group, r.group != "unknown" },
		List: func(context.Context, uint64) (*metapb.FileSystemsR, error) {
			if r.list == nil {
				return nil, vfs.Errorf(vfs.KindUnavailable, "test", "no leader")
			}
			return r.list, nil
		},
	}
	t.Cleanup(func() { r.stop() })
	return r
}

// start starts the node.
func (r *rig) start() {
	r.Helper()
	s, err := localnode.Start(r.ctx, r.cfg)
	if err != nil {
		r.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	r.s, r.addr = s, ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	r.end = func() {
		ln.Close()
		if err := s.Stop(r.ctx); err != nil {
			r.Error(err)
		}
		<-done
	}
}

func (r *rig) stop() {
	if r.end != nil {
		r.end()
		r.end = nil
	}
}

func local(id uint32, name, group string) *metapb.FileSystem {
	return &metapb.FileSystem{Id: id, Name: name, Workspace: "default", Kind: "local", Group: group, State: metapb.FileSystemState_FS_ACTIVE}
}

func (r *rig) serve(list ...*metapb.FileSystem) {
	r.Helper()
	r.list = &metapb.FileSystemsR{FileSystems: list}
	if err := r.s.Refresh(r.ctx); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) paths() (out []string) {
	for _, v := range r.s.Volumes() {
		out = append(out, v.Path)
	}
	return out
}

func (r *rig) client(owner string) *nfsclient.Client {
	r.Helper()
	c, err := nfsclient.Dial(r.ctx, nfsclient.Config{Addr: r.addr, Owner: owner, Minor: 2, Patient: true})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(c.Disconnect)
	return c
}

func (r *rig) walk(c *nfsclient.Client, path string) nfsclient.FH {
	r.Helper()
	fh, _, err := c.Walk(r.ctx, path)
	if err != nil {
		r.Fatal(err)
	}
	return fh
}

// What is served is what the newest list says, and what was served last when there is none.
func TestList(t *testing.T) {
	r := newRig(t)
	r.start()
	if err := r.s.Refresh(r.ctx); vfs.KindOf(err) != vfs.KindUnavailable || len(r.paths()) != 0 {
		t.Fatalf("%v, %v", err, r.paths())
	}
	deleted, shared := local(5, "deleted", "g"), local(6, "shared", "")
	deleted.State, shared.Kind = metapb.FileSystemState_FS_DELETED, "shared"
	group := local(7, "group", "g")
	group.Kind = "group"
	work := local(8, "team", "g")
	work.Workspace = "w"
	r.serve(local(3, "scratch", "g"), local(4, "other", "h"), deleted, shared, group, work)
	if want := []string{"/scratch", "/w/team"}; !slices.Equal(r.paths(), want) {
		t.Fatalf("%q, want %q", r.paths(), want)
	}
	c := r.client("a")
	dir := r.walk(c, "/scratch")
	if _, err := c.Create(r.ctx, dir, "f", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, v := range r.s.State(r.ctx, time.Now()) {
		if v.Problem != "" || v.Total == 0 || v.Free > v.Total {
			t.Errorf("state %+v", v)
		}
	}
	// The cluster is away, also at the start.
	r.list, r.group = nil, "unknown"
	r.stop()
	r.start()
	if err := r.s.Refresh(r.ctx); err != nil {
		t.Fatal(err)
	}
	if len(r.paths()) != 2 {
		t.Fatalf("%q after a restart without the cluster", r.paths())
	}
	c = r.client("a")
	r.walk(c, "/scratch/f")
	r.walk(c, "/w/team")
	// A file system that is deleted, or a node of another group: not served, and nothing is lost.
	r.group = "h"
	r.serve(local(3, "scratch", "g"))
	if _, _, err := c.Walk(r.ctx, "/scratch"); err == nil {
		t.Error("a file system of another group is served")
	}
	r.group = "g"
	r.serve(local(3, "scratch", "g"))
	r.walk(c, "/scratch/f")
	ro := local(3, "scratch", "g")
	ro.ReadOnly = true
	r.serve(ro)
	if _, err := c.Create(r.ctx, r.walk(c, "/scratch"), "g", 0o644); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_ROFS {
		t.Errorf("create in a read-only file system: %v", err)
	}
}

// elsewhere is a listener whose connections come from an address that this machine need not have.
type elsewhere struct {
	net.Listener
	from netip.Addr
}

func (l elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return connFrom{c, net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.from, 1000))}, nil
}

type connFrom struct {
	net.Conn
	from net.Addr
}

func (c connFrom) RemoteAddr() net.Addr { return c.from }

// Only the node's own workloads come in.
func TestDoor(t *testing.T) {
	r := newRig(t)
	outside := netip.MustParseAddr("192.0.2.7")
	mounts := func() error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.s.Serve(elsewhere{ln, outside}) }()
		defer func() { ln.Close(); <-done }()
		c := nfsclient.New(nfsclient.Config{Addr: ln.Addr().String(), Owner: "outside", Minor: 2})
		defer c.Disconnect()
		if err := c.Null(r.ctx); err != nil {
			return err
		}
		if err := errors.Join(c.Recover(r.ctx), c.ReclaimComplete(r.ctx)); err != nil {
			return err
		}
		_, _, err = c.Walk(r.ctx, "/scratch")
		return err
	}
	r.start()
	r.serve(local(3, "scratch", "g"))
	if err := mounts(); err == nil {
		t.Error("an address that is not the node's was let in")
	}
	r.cfg.Own = func() ([]netip.Addr, error) { return []netip.Addr{outside}, nil }
	r.stop()
	r.start()
	if err := mounts(); err != nil {
		t.Errorf("the node's own address: %v", err)
	}
	r.cfg.Own = func() ([]netip.Addr, error) { return nil, nil }
	r.cfg.Clients = []netip.Prefix{netip.PrefixFrom(outside, 24).Masked()}
	r.stop()
	r.start()
	if err := mounts(); err != nil {
		t.Errorf("a configured network: %v", err)
	}
}

// A call that does not return keeps the volume open when the server is stopped: the numbers of its descriptors must not become other files'.
func TestStopWithoutACall(t *testing.T) {
	r := newRig(t)
	r.start()
	r.serve(local(3, "scratch", "g"))
	path := filepath.Join(r.dir, "fs-3", "data", "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := r.client("a")
	dir := r.walk(c, "/scratch")
	// Whoever opens the file waits until this test allows it.
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
	if err != nil {
		t.Fatalf("fanotify: %v", err)
	}
	asked := os.NewFile(uintptr(fd), "fanotify")
	defer asked.Close()
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, path); err != nil {
		t.Fatalf("fanotify: %v", err)
	}
	if err := asked.SetReadDeadline(time.Now().Add(hangs)); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	calls, giveUp := context.WithCancel(r.ctx)
	defer giveUp()
	go func() {
		f, err := c.Open(calls, dir, nfsclient.OpenArgs{Name: "f", Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
		if err == nil {
			_, _, err = c.Read(calls, f, 0, make([]byte, 1))
		}
		opened <- err
		_ = asked.SetReadDeadline(time.Now())
	}()
	if _, err := asked.Read(make([]byte, 4096)); err != nil {
		t.Fatalf("nobody opens the file: %v; the client: %v", err, <-opened)
	}
	now, cancel := context.WithCancel(r.ctx)
	cancel()
	if err := r.s.Stop(now); err == nil {
		t.Error("stopped, and a call had not returned")
	}
	giveUp()
	if err := <-opened; err == nil {
		t.Error("the call was answered")
	}
	if _, err := localssd.Open(filepath.Join(r.dir, "fs-3"), localssd.Options{}); vfs.KindOf(err) != vfs.KindBusy {
		t.Errorf("the volume was closed under a call: %v", err)
	}
	asked.Close() // which allows it; the rig stops the server again, and that has to succeed
}

// Handles that this server did not give never lead to data.
func TestForgedHandles(t *testing.T) {
	r := newRig(t)
	r.start()
	r.serve(local(3, "scratch", "g"), local(4, "other", "g"))
	c := r.client("a")
	dir := r.walk(c, "/scratch")
	f, err := c.Create(r.ctx, dir, "f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CloseFile(r.ctx, f); err != nil {
		t.Fatal(err)
	}
	good := []byte(f.FH)
	if len(good) != handle.Size {
		t.Fatalf("a handle of %d bytes", len(good))
	}
	for n := range len(good) {
		refusedHandle(r, c, "truncated", good[:n])
	}
	for i := range good {
		b := slices.Clone(good)
		b[i] ^= 1 << rand.IntN(8)
		refusedHandle(r, c, "a changed byte", b)
	}
	for range 200 {
		b := make([]byte, rand.IntN(128)+1)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		refusedHandle(r, c, "random", b)
	}
	// Made with another key, for another cluster, and, by who has the key, for another file system.
	made := func(cluster [16]byte, secret byte, h handle.Handle) []byte {
		ring, err := handle.NewRing(cluster, []handle.Key{{ID: 1, Secret: [16]byte{secret}}})
		if err != nil {
			t.Fatal(err)
		}
		return ring.Append(nil, h)
	}
	refusedHandle(r, c, "another key", made(cluster, 9, handle.Handle{Kind: handle.Inode, FS: 3, Export: 3, Ino: 1}))
	refusedHandle(r, c, "another cluster", made([16]byte{7}, 9, handle.Handle{Kind: handle.Inode, FS: 3, Export: 3, Ino: 1}))
	// The same file as one of the other export: bytes 20 to 28 name the file system and the export.
	other := []byte(r.walk(c, "/other"))
	swapped := slices.Clone(good)
	copy(swapped[20:28], other[20:28])
	refusedHandle(r, c, "another export", swapped)
	// Deleted, and of a volume that is not served any more.
	if err := c.Remove(r.ctx, dir, "f"); err != nil {
		t.Fatal(err)
	}
	refusedHandle(r, c, "deleted", good)
	r.serve(local(3, "scratch", "g"))
	refusedHandle(r, c, "not exported any more", other)
	if _, err := c.Getattr(r.ctx, dir); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func refusedHandle(r *rig, c *nfsclient.Client, what string, fh []byte) {
	r.Helper()
	_, err := c.Getattr(r.ctx, nfsclient.FH(fh))
	switch nfsclient.StatusOf(err) {
	case nfsv4.NFS4ERR_STALE, nfsv4.NFS4ERR_BADHANDLE, nfsv4.NFS4ERR_FHEXPIRED:
	default:
		r.Errorf("%s, %x: %v", what, fh, err)
	}
}

// A client goes on after a restart: its handles are good, and it reclaims its open and its lock before others come.
func TestReclaim(t *testing.T) {
	r := newRig(t)
	r.start()
	r.serve(local(3, "scratch", "g"))
	c := r.client("a")
	dir := r.walk(c, "/scratch")
	f, err := c.Create(r.ctx, dir, "f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(r.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("before")); err != nil {
		t.Fatal(err)
	}
	// As a crash leaves it: nobody says good bye.
	c.Disconnect()
	r.stop()
	r.start()
	again := nfsclient.New(nfsclient.Config{Addr: r.addr, Owner: "a", Minor: 2, Patient: true})
	defer again.Disconnect()
	if err := again.Recover(r.ctx); err != nil {
		t.Fatal(err)
	}
	// In the grace period a newcomer may not take what could be somebody's.
	impatient := nfsclient.New(nfsclient.Config{Addr: r.addr, Owner: "b", Minor: 2})
	defer impatient.Disconnect()
	if err := errors.Join(impatient.Recover(r.ctx), impatient.ReclaimComplete(r.ctx)); err != nil {
		t.Fatal(err)
	}
	if _, err := impatient.Open(r.ctx, dir, nfsclient.OpenArgs{Name: "f"}); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_GRACE {
		t.Errorf("open in the grace period: %v", err)
	}
	g, err := again.Open(r.ctx, f.FH, nfsclient.OpenArgs{Reclaim: true})
	if err != nil {
		t.Fatalf("reclaim: %v", err)
	}
	if err := again.ReclaimComplete(r.ctx); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10)
	if n, _, err := again.Read(r.ctx, g, 0, p); err != nil || string(p[:n]) != "before" {
		t.Fatalf("%q, %v", p[:n], err)
	}
	// All have reclaimed, so the grace period is over, however long a lease is.
	if _, err := impatient.Open(r.ctx, dir, nfsclient.OpenArgs{Name: "f"}); err != nil {
		t.Errorf("open after the grace period: %v", err)
	}
}

// A directory of another node or cluster is refused, and so is what a newer release wrote.
func TestForeignDirectory(t *testing.T) {
	r := newRig(t)
	r.start()
	r.stop()
	for what, change := range map[string]func(*localnode.Config){
		"another node":    func(c *localnode.Config) { c.Node = "m" },
		"another cluster": func(c *localnode.Config) { c.Cluster[0]++ },
	} {
		cfg := r.cfg
		change(&cfg)
		if _, err := localnode.Start(r.ctx, cfg); vfs.KindOf(err) != vfs.KindIncompatible {
			t.Errorf("%s: %v", what, err)
		}
	}
	for file, contents := range map[string]map[string]vfs.Kind{
		"node.json":    {"": vfs.KindCorrupt, "{}": vfs.KindCorrupt, `{"magic":"rackfs-local-node","format":2}`: vfs.KindIncompatible},
		"clients.json": {"": vfs.KindCorrupt, `{"format":2}`: vfs.KindIncompatible, `{"format":1,"clients":[{}]}`: vfs.KindCorrupt},
	} {
		path := filepath.Join(r.dir, file)
		was, _ := os.ReadFile(path)
		for content, want := range contents {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := localnode.Start(r.ctx, r.cfg); vfs.KindOf(err) != want {
				t.Errorf("%s %q: %v, want %v", file, content, err, want)
			}
		}
		if was != nil {
			if err := os.WriteFile(path, was, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
