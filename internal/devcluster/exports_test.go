package devcluster

import (
	"context"
	"crypto/rand"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// hangs ends a test that waits for what does not come.
const hangs = 5 * time.Minute

// exporting is a cluster whose exports change, and clients of it.
type exporting struct {
	t   *testing.T
	ctx context.Context
	c   *Cluster
	fs  vfs.FS // the file system default, as its gateway has it
}

func newExporting(t *testing.T) *exporting {
	ctx, cancel := context.WithTimeout(t.Context(), hangs)
	t.Cleanup(cancel)
	c, err := Start(ctx, Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", NFS3Addr: "127.0.0.1:0", Voters: 1, BlockStores: 3, Profile: "2+1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	return &exporting{t: t, ctx: ctx, c: c, fs: c.gateway.Exports()[0].FS}
}

func (x *exporting) dial(owner string, cred vfs.Cred) *nfsclient.Client {
	x.t.Helper()
	cl, err := nfsclient.Dial(x.ctx, nfsclient.Config{Owner: owner, Slots: 4, Cred: cred, Patient: true, DialFunc: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", x.c.NFSAddr())
	}})
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(cl.Disconnect)
	return cl
}

// change changes the settings of the file system.
func (x *exporting) change(edit func(*filesystem.Settings)) {
	x.t.Helper()
	if _, err := filesystem.Change(x.ctx, x.c.meta, "", "default", func(s *filesystem.Settings) error {
		edit(s)
		return nil
	}); err != nil {
		x.t.Fatal(err)
	}
}

// until repeats what a client does until it ends with a status: gateways follow within about a second.
func (x *exporting) until(what string, want nfsclient.Status, do func() error) {
	x.t.Helper()
	for {
		err := do()
		if nfsclient.StatusOf(err) == want {
			return
		}
		if x.ctx.Err() != nil {
			x.t.Fatalf("%s: still %v, want %s", what, err, nfsv4.Nfsstat4_name[want])
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (x *exporting) want(what string, err error, want nfsclient.Status) {
	x.t.Helper()
	if nfsclient.StatusOf(err) != want {
		x.t.Errorf("%s: %v, want %s", what, err, nfsv4.Nfsstat4_name[want])
	}
}

func (x *exporting) make(dir vfs.Ino, name string, typ vfs.Type) vfs.Ino {
	x.t.Helper()
	mode := uint32(0o777)
	var made vfs.Created
	var err error
	if typ == vfs.TypeFile {
		if made, err = x.fs.Create(x.ctx, &vfs.Root, dir, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}}); err == nil {
			_, _, err = x.fs.Write(x.ctx, &vfs.Root, made.Attr.Ino, 0, []byte("secret"), vfs.FileSync)
		}
	} else {
		made, err = x.fs.MakeNode(x.ctx, &vfs.Root, dir, name, vfs.NodeArgs{Type: typ, Attr: vfs.SetAttr{Mode: &mode}})
	}
	if err != nil {
		x.t.Fatal(err)
	}
	return made.Attr.Ino
}

// ring makes the handles that this cluster makes: a client that has its key could not forge better.
func (x *exporting) ring() *handle.Ring {
	x.t.Helper()
	r, err := x.c.meta.Query(x.ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{Kind: "handle"}}})
	if err != nil {
		x.t.Fatal(err)
	}
	var keys []handle.Key
	for _, k := range r.GetKeys().GetKeys() {
		keys = append(keys, handle.Key{ID: uint16(k.Id), Secret: [handle.KeySize]byte(k.Secret)})
	}
	ring, err := handle.NewRing([16]byte(x.c.dir.shape.clusterID()), keys)
	if err != nil {
		x.t.Fatal(err)
	}
	return ring
}

// TestSecureExport: a client that may mount only a secure export reaches nothing else, whatever it tries.
func TestSecureExport(t *testing.T) {
	t.Parallel()
	x := newExporting(t)
	outside := x.make(vfs.RootIno, "outside", vfs.TypeFile)
	elsewhere := x.make(vfs.RootIno, "elsewhere", vfs.TypeDir)
	e, err := filesystem.CreateExport(x.ctx, x.c.meta, "test", "", "default", filesystem.NewExport{Path: "/team", Allow: []string{"127.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	team := vfs.Ino(e.Dir)
	inside := x.make(team, "inside", vfs.TypeFile)
	sub := x.make(team, "sub", vfs.TypeDir)
	deep := x.make(sub, "deep", vfs.TypeFile)
	nested, err := filesystem.CreateExport(x.ctx, x.c.meta, "test", "", "default", filesystem.NewExport{Path: "/team/nested", Allow: []string{"192.0.2.0/24"}})
	if err != nil {
		t.Fatal(err)
	}
	x.make(vfs.Ino(nested.Dir), "theirs", vfs.TypeFile)
	x.change(func(s *filesystem.Settings) { s.Allow = []string{"192.0.2.0/24"} })

	c := x.dial("a", vfs.Cred{})
	walk := func(path string) func() error {
		return func() error {
			_, _, err := c.Walk(x.ctx, path)
			return err
		}
	}
	x.until("the whole file system", nfsv4.NFS4ERR_NOENT, walk("/default/outside"))
	root, a, err := c.Walk(x.ctx, "/default/team")
	x.want("the export", err, nfsv4.NFS4_OK)
	if a.Fileid != uint64(team) {
		t.Errorf("the export's root is inode %d, not %d", a.Fileid, team)
	}
	in, _, err := c.Lookup(x.ctx, root, "inside")
	x.want("a file inside", err, nfsv4.NFS4_OK)

	// The ways out that names give.
	above, a, err := c.LookupParent(x.ctx, root)
	x.want("LOOKUPP", err, nfsv4.NFS4_OK)
	if a.Fileid == uint64(vfs.RootIno) || a.FSID[1] != 0 {
		t.Errorf("LOOKUPP leads to inode %d of file system %d", a.Fileid, a.FSID[1])
	}
	_, _, err = c.Lookup(x.ctx, above, "outside")
	x.want("a name above", err, nfsv4.NFS4ERR_NOENT)
	if list, err := c.Readdir(x.ctx, above, attr.Stat()); err != nil || len(list) != 1 || list[0].Name != "team" {
		t.Errorf("above there is %v, %v", list, err)
	}
	_, _, err = c.Mkdir(x.ctx, above, "new", 0o755)
	x.want("a directory above", err, nfsv4.NFS4ERR_ROFS)
	_, _, err = c.Lookup(x.ctx, root, "nested")
	x.want("a directory of another project", err, nfsv4.NFS4ERR_ACCESS)
	_, _, err = c.Lookup(x.ctx, root, "..")
	x.want("the name ..", err, nfsv4.NFS4ERR_BADNAME)

	// Handles of everything that there is, as the cluster makes them, of both exports; and random ones.
	ring := x.ring()
	forged := func(export uint32, ino vfs.Ino) nfsclient.FH {
		return nfsclient.FH(ring.Append(nil, handle.Handle{Kind: handle.Inode, FS: 1, Export: export, Ino: uint64(ino)}))
	}
	secure, err := ring.Decode([]byte(root))
	if err != nil {
		t.Fatal(err)
	}
	mine := map[vfs.Ino]bool{team: true, inside: true, sub: true, deep: true}
	for ino := vfs.RootIno; ino < 40; ino++ {
		_, err := c.Getattr(x.ctx, forged(secure.Export, ino))
		if mine[ino] {
			x.want("a handle inside", err, nfsv4.NFS4_OK)
		} else {
			x.want("a handle outside", err, nfsv4.NFS4ERR_STALE)
		}
		_, err = c.Getattr(x.ctx, forged(1, ino))
		x.want("a handle of the whole", err, nfsv4.NFS4ERR_ACCESS)
	}
	for range 500 {
		guess := []byte(root)
		_, _ = rand.Read(guess[24:])
		if _, err := c.Getattr(x.ctx, nfsclient.FH(guess)); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_BADHANDLE {
			t.Fatalf("a guessed handle: %v", err)
		}
	}
	x.want("link from outside", c.Link(x.ctx, forged(secure.Export, outside), root, "l"), nfsv4.NFS4ERR_STALE)
	x.want("rename to outside", c.Rename(x.ctx, root, "inside", forged(secure.Export, elsewhere), "x"), nfsv4.NFS4ERR_STALE)
	if _, err := c.Open(x.ctx, forged(secure.Export, elsewhere), nfsclient.OpenArgs{Name: "x", Access: nfsv4.OPEN4_SHARE_ACCESS_READ}); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_STALE {
		t.Errorf("open outside: %v", err)
	}

	// A client that may use both does not mix them, and names do not cross the border from either side.
	x.change(func(s *filesystem.Settings) { s.Allow = []string{"127.0.0.0/8"} })
	x.until("the whole file system again", nfsv4.NFS4_OK, walk("/default/outside"))
	whole, _, err := c.Walk(x.ctx, "/default")
	x.want("the whole", err, nfsv4.NFS4_OK)
	out, _, err := c.Lookup(x.ctx, whole, "outside")
	x.want("a file outside", err, nfsv4.NFS4_OK)
	x.want("link of a file outside into the export", c.Link(x.ctx, out, root, "l"), nfsv4.NFS4ERR_XDEV)
	x.want("link of a file inside to the outside", c.Link(x.ctx, in, whole, "l"), nfsv4.NFS4ERR_XDEV)
	x.want("rename into the export", c.Rename(x.ctx, whole, "outside", root, "o"), nfsv4.NFS4ERR_XDEV)
	x.want("rename out of the export", c.Rename(x.ctx, root, "inside", whole, "i"), nfsv4.NFS4ERR_XDEV)
	projectByWhole, _, err := c.Lookup(x.ctx, whole, "team")
	x.want("the directory by the whole", err, nfsv4.NFS4_OK)
	x.want("rename across the border within the whole", c.Rename(x.ctx, whole, "outside", projectByWhole, "o"), nfsv4.NFS4ERR_XDEV)
	x.want("moving a directory out within the whole", c.Rename(x.ctx, projectByWhole, "sub", whole, "sub"), nfsv4.NFS4ERR_XDEV)

	// Handles that a client kept: the project's directory may move, and takes them along; what leaves it is another file.
	subHandle, _, err := c.Lookup(x.ctx, root, "sub")
	x.want("a directory inside", err, nfsv4.NFS4_OK)
	deepHandle, _, err := c.Lookup(x.ctx, subHandle, "deep")
	x.want("a file in it", err, nfsv4.NFS4_OK)
	x.want("moving the project's directory", c.Rename(x.ctx, whole, "team", forged(1, elsewhere), "moved"), nfsv4.NFS4_OK)
	x.change(func(s *filesystem.Settings) { s.Allow = []string{"192.0.2.0/24"} })
	x.until("the whole is not for this client again", nfsv4.NFS4ERR_NOENT, walk("/default/outside"))
	_, err = c.Getattr(x.ctx, deepHandle)
	x.want("a kept handle after the move", err, nfsv4.NFS4_OK)
	above, a, err = c.LookupParent(x.ctx, root)
	x.want("LOOKUPP after the move", err, nfsv4.NFS4_OK)
	if a.Fileid == uint64(elsewhere) || a.FSID[1] != 0 {
		t.Errorf("LOOKUPP after the move leads to inode %d", a.Fileid)
	}
	_, _, err = c.Lookup(x.ctx, above, "moved")
	x.want("names above after the move", err, nfsv4.NFS4ERR_NOENT)
	// What an administrator moves out is copied, with new inodes; the old ones are gone.
	if _, err := x.fs.Remove(x.ctx, &vfs.Root, sub, "deep", vfs.RemoveFile); err != nil {
		t.Fatal(err)
	}
	if _, err := x.fs.Remove(x.ctx, &vfs.Root, team, "sub", vfs.RemoveDir); err != nil {
		t.Fatal(err)
	}
	for _, fh := range []nfsclient.FH{subHandle, deepHandle} {
		_, err = c.Getattr(x.ctx, fh)
		x.want("a kept handle of what was moved out", err, nfsv4.NFS4ERR_STALE)
	}
	// The end of the export ends every handle of it.
	if err := filesystem.DeleteExport(x.ctx, x.c.meta, "", "default", "/team"); err != nil {
		t.Fatal(err)
	}
	x.until("a handle of an export that ended", nfsv4.NFS4ERR_STALE, func() error {
		_, err := c.Getattr(x.ctx, in)
		return err
	})
}

// TestExportOptions changes options of a file system while clients use it.
func TestExportOptions(t *testing.T) {
	t.Parallel()
	x := newExporting(t)
	if _, err := x.fs.SetAttr(x.ctx, &vfs.Root, vfs.RootIno, vfs.SetAttr{Mode: ptr(uint32(0o777))}, false); err != nil {
		t.Fatal(err)
	}
	root := x.dial("root", vfs.Cred{})
	user := x.dial("user", vfs.Cred{UID: 1000, GID: 1000})
	top, _, err := root.Walk(x.ctx, "/default")
	x.want("walk", err, nfsv4.NFS4_OK)
	n := 0
	owner := func(c *nfsclient.Client) string {
		n++
		_, a, err := c.Mkdir(x.ctx, top, string(rune('a'+n%26))+string(rune('a'+n/26%26))+string(rune('a'+n/676)), 0o755)
		if err != nil {
			return nfsv4.Nfsstat4_name[nfsclient.StatusOf(err)]
		}
		return a.Owner
	}
	becomes := func(what string, c *nfsclient.Client, want string) {
		t.Helper()
		for got := ""; got != want; got = owner(c) {
			if x.ctx.Err() != nil {
				t.Fatalf("%s: %s, want %s", what, got, want)
			}
			if got != "" {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	becomes("as the gateway is configured", root, "0")
	x.change(func(s *filesystem.Settings) { s.Squash = filesystem.SquashRoot })
	becomes("root squashed", root, "65534")
	becomes("the user", user, "1000")
	x.change(func(s *filesystem.Settings) { s.Squash, s.AnonUID = filesystem.SquashAll, 77 })
	becomes("the user squashed", user, "77")
	x.change(func(s *filesystem.Settings) {
		s.Squash, s.AnonUID, s.Groups = filesystem.SquashNone, 0, []uint32{50}
	})
	becomes("a user in no group", user, "NFS4ERR_ACCESS")
	member := x.dial("member", vfs.Cred{UID: 1001, GID: 1, Groups: []uint32{50}})
	becomes("a member", member, "1001")
	x.change(func(s *filesystem.Settings) { s.ReadOnly = true })
	becomes("read-only", member, "NFS4ERR_ROFS")
	x.change(func(s *filesystem.Settings) { s.ReadOnly, s.Groups = false, nil })
	becomes("as before", user, "1000")

	// The read-only NFSv3 beside it offers the same exports by the same handles, under the same rules.
	mounted := func() (status uint32, fh string) {
		t.Helper()
		nc, err := net.Dial("tcp", x.c.NFS3Addr())
		if err != nil {
			t.Fatal(err)
		}
		conn := rpc.NewClientConn(nc, rpc.ClientConfig{})
		defer conn.Close()
		r, err := conn.Call(x.ctx, &rpc.Call{Prog: 100005, Vers: 3, Proc: 1, Cred: rpc.AuthSysCred("v3", &vfs.Cred{UID: 1000}), Args: xdr.AppendString(nil, "/default"), MaxReply: 1024})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		d := xdr.NewDecoder(r.Body)
		return d.Uint32(), string(d.Opaque(64))
	}
	if st, fh := mounted(); st != 0 || nfsclient.FH(fh) != top {
		t.Errorf("MNT: status %d, handle %x, by NFSv4 it is %x", st, fh, top)
	}
	x.change(func(s *filesystem.Settings) { s.Groups = []uint32{50} })
	becomes("a user in no group again", user, "NFS4ERR_ACCESS")
	if st, _ := mounted(); st != 13 {
		t.Errorf("MNT by a user in no group: status %d", st)
	}
}

func ptr[T any](v T) *T { return &v }
