package v3ro_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/v3ro"
	"github.com/rackfs/rackfs/vfs"
)

var cluster = [16]byte{1, 2, 3}

// world is a server over the reference file system.
type world struct {
	t       testing.TB
	fs      *memfs.FS
	ring    *handle.Ring
	exports *export.Set
	srv     *v3ro.Server
	addr    string
	stop    func()
}

func newRing(t testing.TB, cluster [16]byte) *handle.Ring {
	t.Helper()
	r, err := handle.NewRing(cluster, []handle.Key{{ID: 1, Secret: [16]byte{7}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) table(list ...export.Export) *export.Table {
	w.t.Helper()
	tab, err := export.NewTable(list, time.Unix(1, 0))
	if err != nil {
		w.t.Fatal(err)
	}
	return tab
}

// whole is the usual export.
func (w *world) whole(fs vfs.FS) export.Export {
	return export.Export{ID: 1, FSID: 1, Path: "/default", FS: fs, Rules: export.Everyone(export.ReadWrite, export.SquashNone)}
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, fs: memfs.New(memfs.Options{RootMode: 0o755})}
	w.exports = export.NewSet(w.table(w.whole(w.fs)))
	w.ring = newRing(t, cluster)
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start serves, as another process would after a restart.
func (w *world) start() {
	w.t.Helper()
	ring := newRing(w.t, cluster)
	w.srv = v3ro.New(v3ro.Config{Exports: w.exports, Ring: func() *handle.Ring { return ring }, Cluster: cluster, Logger: slog.New(slog.DiscardHandler)})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	served := make(chan error, 1)
	srv := w.srv
	go func() { served <- srv.Serve(ln) }()
	w.stop = func() {
		w.stop = func() {}
		if err := srv.Shutdown(context.Background()); err != nil {
			w.t.Error(err)
		}
		if err := <-served; err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) mk(dir vfs.Ino, name string, typ vfs.Type, mode, uid uint32) vfs.Ino {
	w.t.Helper()
	cred := vfs.Root
	var made vfs.Created
	var err error
	if typ == vfs.TypeFile {
		made, err = w.fs.Create(w.t.Context(), &cred, dir, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode, UID: &uid}})
	} else {
		made, err = w.fs.MakeNode(w.t.Context(), &cred, dir, name, vfs.NodeArgs{Type: typ, Target: "the/target", Attr: vfs.SetAttr{Mode: &mode, UID: &uid}})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return made.Attr.Ino
}

func (w *world) write(ino vfs.Ino, p []byte) {
	w.t.Helper()
	if _, _, err := w.fs.Write(w.t.Context(), &vfs.Root, ino, 0, p, vfs.FileSync); err != nil {
		w.t.Fatal(err)
	}
}

// client makes calls on one connection.
type client struct {
	t    testing.TB
	conn *rpc.Conn
	cred []byte
}

func (w *world) dial(c vfs.Cred) *client {
	w.t.Helper()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	conn := rpc.NewClientConn(nc, rpc.ClientConfig{})
	w.t.Cleanup(conn.Close)
	return &client{t: w.t, conn: conn, cred: rpc.AuthSysCred("client", &c)}
}

const (
	nfs   = 100003
	mount = 100005
)

// Procedures.
const (
	pNull, pGetAttr, pSetAttr, pLookup, pAccess, pReadLink, pRead, pWrite, pCreate, pMkdir, pSymlink, pMknod, pRemove, pRmdir, pRename, pLink,
	pReadDir, pReadDirPlus, pFSStat, pFSInfo, pPathConf, pCommit = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
		16, 17, 18, 19, 20, 21
)

func (c *client) raw(prog, vers, proc uint32, args []byte) ([]byte, error) {
	r, err := c.conn.Call(c.t.Context(), &rpc.Call{Prog: prog, Vers: vers, Proc: proc, Cred: c.cred, Args: args, MaxReply: 4 << 20})
	if err != nil {
		return nil, err
	}
	defer r.Release()
	return bytes.Clone(r.Body), nil
}

// call returns the status and the rest of the results.
func (c *client) call(prog, proc uint32, args []byte) (uint32, *xdr.Decoder) {
	c.t.Helper()
	b, err := c.raw(prog, 3, proc, args)
	if err != nil {
		c.t.Fatalf("program %d, procedure %d: %v", prog, proc, err)
	}
	d := xdr.NewDecoder(b)
	st := d.Uint32()
	return st, &d
}

func (c *client) ok(prog, proc uint32, args []byte) *xdr.Decoder {
	c.t.Helper()
	st, d := c.call(prog, proc, args)
	if st != 0 {
		c.t.Fatalf("program %d, procedure %d: status %d", prog, proc, st)
	}
	return d
}

func (c *client) fails(want, prog, proc uint32, args []byte) {
	c.t.Helper()
	if st, _ := c.call(prog, proc, args); st != want {
		c.t.Fatalf("program %d, procedure %d: status %d, want %d", prog, proc, st, want)
	}
}

func fh(h []byte) []byte { return xdr.AppendOpaque(nil, h) }

func (c *client) mount(path string) []byte {
	c.t.Helper()
	d := c.ok(mount, 1, xdr.AppendString(nil, path))
	h := bytes.Clone(d.Opaque(64))
	if n, first, second := d.Uint32(), d.Uint32(), d.Uint32(); n != 2 || first != 1 || second != 0 {
		c.t.Errorf("%d flavours, %d and %d", n, first, second)
	}
	c.end(d)
	return h
}

func (c *client) end(d *xdr.Decoder) {
	c.t.Helper()
	if d.Err() != nil || d.Len() != 0 {
		c.t.Fatalf("the reply is not decoded: %v, %d bytes left", d.Err(), d.Len())
	}
}

// fattr is fattr3.
type fattr struct {
	typ, mode, nlink, uid, gid uint32
	size, used                 uint64
	major, minor               uint32
	fsid, fileid               uint64
	atime, mtime, ctime        time.Time
}

func decodeAttr(d *xdr.Decoder) (a fattr) {
	a.typ, a.mode, a.nlink, a.uid, a.gid = d.Uint32(), d.Uint32(), d.Uint32(), d.Uint32(), d.Uint32()
	a.size, a.used = d.Uint64(), d.Uint64()
	a.major, a.minor = d.Uint32(), d.Uint32()
	a.fsid, a.fileid = d.Uint64(), d.Uint64()
	for _, t := range []*time.Time{&a.atime, &a.mtime, &a.ctime} {
		sec := d.Uint32()
		*t = time.Unix(int64(sec), int64(d.Uint32()))
	}
	return a
}

func postOp(d *xdr.Decoder) *fattr {
	if !d.Bool() {
		return nil
	}
	a := decodeAttr(d)
	return &a
}

func (c *client) getattr(h []byte) fattr {
	c.t.Helper()
	d := c.ok(nfs, pGetAttr, fh(h))
	a := decodeAttr(d)
	c.end(d)
	return a
}

func (c *client) lookup(dir []byte, name string) (h []byte, a fattr) {
	c.t.Helper()
	d := c.ok(nfs, pLookup, xdr.AppendString(fh(dir), name))
	h = bytes.Clone(d.Opaque(64))
	p, dirAttr := postOp(d), postOp(d)
	c.end(d)
	if p == nil || dirAttr == nil {
		c.t.Fatal("LOOKUP without attributes")
	}
	return h, *p
}

func readArgs(h []byte, off uint64, n uint32) []byte {
	return xdr.AppendUint32(xdr.AppendUint64(fh(h), off), n)
}

func (c *client) read(h []byte, off uint64, n uint32) (p []byte, eof bool) {
	c.t.Helper()
	d := c.ok(nfs, pRead, readArgs(h, off, n))
	if postOp(d) == nil {
		c.t.Fatal("READ without attributes")
	}
	count := d.Uint32()
	eof = d.Bool()
	p = bytes.Clone(d.Opaque(4 << 20))
	c.end(d)
	if int(count) != len(p) {
		c.t.Fatalf("%d bytes said, %d sent", count, len(p))
	}
	return p, eof
}

// dirent is an entry of a listing.
type dirent struct {
	ino    uint64
	name   string
	cookie uint64
	attr   *fattr
	handle []byte
}

func (c *client) page(h []byte, cookie uint64, count uint32, plus bool) (out []dirent, eof bool) {
	c.t.Helper()
	args := xdr.AppendUint64(xdr.AppendUint64(fh(h), cookie), 0)
	proc := uint32(pReadDir)
	if plus {
		proc, args = pReadDirPlus, xdr.AppendUint32(args, count)
	}
	d := c.ok(nfs, proc, xdr.AppendUint32(args, count))
	if len(d.Rest())+4 > int(count) {
		c.t.Errorf("a listing of %d bytes, at most %d were wanted", len(d.Rest())+4, count)
	}
	if postOp(d) == nil {
		c.t.Fatal("a listing without attributes")
	}
	d.Uint64()
	for d.Bool() {
		e := dirent{ino: d.Uint64(), name: d.String(4096), cookie: d.Uint64()}
		if plus {
			e.attr = postOp(d)
			if d.Bool() {
				e.handle = bytes.Clone(d.Opaque(64))
			}
		}
		out = append(out, e)
	}
	eof = d.Bool()
	c.end(d)
	return out, eof
}

// list is a whole directory.
func (c *client) list(h []byte, count uint32, plus bool) (out []dirent) {
	c.t.Helper()
	for cookie := uint64(0); ; {
		page, eof := c.page(h, cookie, count, plus)
		out = append(out, page...)
		if eof {
			return out
		}
		if len(page) == 0 {
			c.t.Fatal("a page without entries that is not the last")
		}
		cookie = page[len(page)-1].cookie
	}
}

// send writes bytes and reads until the server closes.
func (w *world) send(p []byte) {
	w.t.Helper()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer nc.Close()
	_, _ = nc.Write(p)
	_ = nc.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, nc)
}
