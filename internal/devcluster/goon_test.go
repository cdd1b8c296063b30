package devcluster_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/vfs"
)

// childDir names, to a child of the test, the data directory to serve.
const childDir = "RACKFS_TEST_CHILD_DIR"

// TestChild is no test: it is the process that tests kill.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("only as a child of another test")
	}
	c, err := devcluster.Start(t.Context(), devcluster.WithLinger(devcluster.Config{DataDir: dir, NFSAddr: "127.0.0.1:0", BlockStores: 3, Profile: "2+1", ReplyCache: 1 << 20}, 15*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nserving %s\n", c.NFSAddr())
	time.Sleep(time.Hour) // it is killed before
}

// child is a cluster in a process of its own.
type child struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	addr string
}

func (c *child) start() {
	c.t.Helper()
	c.cmd = exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
	c.cmd.Env = append(os.Environ(), childDir+"="+c.dir)
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	var seen bytes.Buffer
	for s := bufio.NewScanner(out); s.Scan(); {
		if addr, ok := strings.CutPrefix(s.Text(), "serving "); ok {
			c.addr = addr
			return
		}
		seen.WriteString(s.Text() + "\n")
	}
	c.t.Fatalf("the cluster did not start:\n%s", seen.Bytes())
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// After kill -9 of everything clients go on: sessions, locks and opens are those from before, at once, a request that is sent
// again has the outcome of the first, and a file without a name is there until its last close.
func TestGoesOnAfterKill(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := &child{t: t, dir: filepath.Join(t.TempDir(), "data")}
	c.start()
	defer func() { c.kill() }()
	client := func(owner string) (*nfsclient.Client, nfsclient.FH) {
		cl, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: owner, Slots: 8, Patient: true, DialFunc: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", c.addr)
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Disconnect)
		root, _, err := cl.Walk(ctx, "/default")
		if err != nil {
			t.Fatal(err)
		}
		return cl, root
	}
	must := func(what string, err error, want nfsclient.Status) {
		t.Helper()
		if got := nfsclient.StatusOf(err); got != want {
			t.Fatalf("%s: %v, want %s", what, err, nfsv4.Nfsstat4_name[want])
		}
	}
	a, root := client("a")
	b, _ := client("b")
	locked, err := a.Create(ctx, root, "locked", 0o644)
	must("create", err, nfsv4.NFS4_OK)
	la := &nfsclient.Lock{Owner: "l"}
	_, err = a.LockRange(ctx, locked, la, nfsv4.WRITE_LT, 0, 100)
	must("lock", err, nfsv4.NFS4_OK)
	gone, err := a.Create(ctx, root, "gone", 0o644)
	must("create", err, nfsv4.NFS4_OK)
	data := bytes.Repeat([]byte("content"), 10_000)
	_, err = a.Write(ctx, gone, 0, nfsv4.FILE_SYNC4, data)
	must("write", err, nfsv4.NFS4_OK)
	must("close", a.CloseFile(ctx, gone), nfsv4.NFS4_OK)
	// CLOSE is written down soon after it is answered; an open that denies writing waits for that.
	denier, err := b.Open(ctx, root, nfsclient.OpenArgs{Name: "gone", Access: nfsv4.OPEN4_SHARE_ACCESS_READ, Deny: nfsv4.OPEN4_SHARE_DENY_WRITE})
	must("open", err, nfsv4.NFS4_OK)
	must("close", b.CloseFile(ctx, denier), nfsv4.NFS4_OK)
	reader, err := b.Open(ctx, root, nfsclient.OpenArgs{Name: "gone", Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
	must("open", err, nfsv4.NFS4_OK)
	must("remove", b.Remove(ctx, root, "gone"), nfsv4.NFS4_OK)

	for name, build := range map[string]func(cp *nfsclient.Compound){
		"create": func(cp *nfsclient.Compound) {
			cp.Open(a.ID(), &nfsclient.OpenArgs{Name: "new", Create: nfsclient.Guarded, Attr: *attr.Mode(0o600)}).GetFH().Getattr(attr.Stat())
		},
		"rename": func(cp *nfsclient.Compound) { cp.SaveFH().Rename("from", "to") },
		"remove": func(cp *nfsclient.Compound) { cp.Remove("victim") },
	} {
		for _, file := range []string{"from", "victim"} {
			if _, _, err := a.Lookup(ctx, root, file); nfsclient.StatusOf(err) == nfsv4.NFS4ERR_NOENT {
				f, err := a.Create(ctx, root, file, 0o644)
				must("create", err, nfsv4.NFS4_OK)
				must("close", a.CloseFile(ctx, f), nfsv4.NFS4_OK)
			}
		}
		sl, err := a.Session(0).Slot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cp := nfsclient.NewCompound().PutFH(root)
		build(cp)
		cp.CacheThis = true
		seq := sl.Sequence() + 1
		var first []byte
		for try := range 2 {
			r := answer(t, ctx, sl, seq, cp)
			if r.Status != nfsv4.NFS4_OK {
				t.Fatalf("%s, try %d: %s", name, try, nfsv4.Nfsstat4_name[r.Status])
			}
			body := bytes.Clone(r.Body())
			r.Release()
			if name == "create" { // whoever made the open may have ended it: the stateid is another one, with the first seqid (decision 88)
				before, _, ok := bytes.Cut(body, []byte{0, 0, 0, byte(nfsv4.OP_OPEN), 0, 0, 0, 0}) // and NFS4_OK
				if at := len(before) + 8; !ok || len(body) < at+16 || !bytes.Equal(body[at:at+4], []byte{0, 0, 0, 1}) {
					t.Fatalf("no answer to an OPEN of a new file: %x", body)
				} else {
					clear(body[at : at+16])
				}
			}
			if try == 0 {
				first = body
			} else if !bytes.Equal(first, body) {
				t.Errorf("%s: first answer\n%x, the second\n%x", name, first, body)
			}
			if try == 0 {
				c.kill()
				c.start()
			}
		}
		// The slot is not used again: its sequence is not what the client thinks.
	}

	_, err = a.Write(ctx, locked, 0, nfsv4.FILE_SYNC4, []byte("x"))
	must("write with the stateid from before", err, nfsv4.NFS4_OK)
	denied, err := b.TestLock(ctx, locked.FH, nfsv4.READ_LT, 0, 1, "l")
	if err != nil || denied == nil || denied.Offset != 0 || denied.Length != 100 || denied.Client != a.ID() {
		t.Errorf("the lock from before: %+v, %v", denied, err)
	}
	must("unlock", a.Unlock(ctx, locked, la, 0, 100), nfsv4.NFS4_OK)
	if denied, err = b.TestLock(ctx, locked.FH, nfsv4.WRITE_LT, 0, 1, "l"); err != nil || denied != nil {
		t.Errorf("after the unlock: %+v, %v", denied, err)
	}
	got := make([]byte, len(data))
	if n, _, err := b.Read(ctx, reader, 0, got); err != nil || !bytes.Equal(got[:n], data) {
		t.Errorf("read of a file without a name: %d bytes, %v", n, err)
	}
	must("close", b.CloseFile(ctx, reader), nfsv4.NFS4_OK)
	deleted := func(f *nfsclient.File) {
		t.Helper()
		for {
			_, err := a.Getattr(ctx, f.FH)
			if nfsclient.StatusOf(err) == nfsv4.NFS4ERR_STALE {
				return
			}
			must("getattr until it is deleted", err, nfsv4.NFS4_OK)
			time.Sleep(10 * time.Millisecond)
		}
	}
	deleted(reader)

	// One that was opened for reading right before a kill has no record yet. It is removed after that, before it is used again.
	young, err := a.Create(ctx, root, "young", 0o644)
	must("create", err, nfsv4.NFS4_OK)
	_, err = a.Write(ctx, young, 0, nfsv4.FILE_SYNC4, data)
	must("write", err, nfsv4.NFS4_OK)
	must("close", a.CloseFile(ctx, young), nfsv4.NFS4_OK)
	time.Sleep(2 * time.Second) // else the CLOSE, which is written down a moment later, is lost, and the file stays for a
	young, err = b.Open(ctx, root, nfsclient.OpenArgs{Name: "young", Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
	must("open", err, nfsv4.NFS4_OK)
	c.kill()
	c.start()
	_, err = b.Getattr(ctx, root) // who is silent may have lost a delegation, and the removal waits
	must("getattr", err, nfsv4.NFS4_OK)
	must("remove", a.Remove(ctx, root, "young"), nfsv4.NFS4_OK)
	if n, _, err := b.Read(ctx, young, 0, got); err != nil || !bytes.Equal(got[:n], data) {
		t.Errorf("read of a file that was removed after the restart: %d bytes, %v", n, err)
	}
	must("close", b.CloseFile(ctx, young), nfsv4.NFS4_OK)
	deleted(young)
	must("close", a.CloseFile(ctx, locked), nfsv4.NFS4_OK)
}

// answer sends cp with a sequence until it is answered.
func answer(t *testing.T, ctx context.Context, sl *nfsclient.Slot, seq uint32, cp *nfsclient.Compound) *nfsclient.Reply {
	t.Helper()
	for {
		r, err := sl.Send(ctx, seq, cp)
		switch {
		case err == nil && r.Status != nfsv4.NFS4ERR_DELAY:
			return r
		case err == nil:
			r.Release()
		case vfs.KindOf(err) != vfs.KindUnavailable:
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
