package consistency

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/internal/faultproxy"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// directoryFS is what the model knows of a file system: a volume, or one that is mounted over NFS.
type directoryFS interface {
	Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error)
	Link(ctx context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error)
	Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error)
	Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (vfs.DirChange, vfs.DirChange, error)
	Lookup(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string) (vfs.Attr, error)
	ReadDir(ctx context.Context, c *vfs.Cred, dir vfs.Ino, cookie uint64, maxEntries int, attrs bool) (vfs.DirPage, error)
}

// nfsGateway is a gateway's NFS server, the proxy before it, and a client with a session.
type nfsGateway struct {
	srv    *nfsserver.Server
	served chan error
	proxy  *faultproxy.Proxy
	client *nfsclient.Client
	name   string
}

// clientStore forgets NFS clients with the gateway: a new one has new clients.
type clientStore struct {
	mu   sync.Mutex // guards recs
	recs map[string]state.ClientRecord
}

func (s *clientStore) PutClient(_ context.Context, r state.ClientRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recs[string(r.Owner)] = r
	return nil
}

func (s *clientStore) RemoveClient(_ context.Context, r state.ClientRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.recs, string(r.Owner))
	return nil
}

func (s *clientStore) Clients(context.Context) ([]state.ClientRecord, error) { return nil, nil }

func startNFS(ctx context.Context, name string, fs vfs.FS) (*nfsGateway, error) {
	srv, err := nfsserver.New(ctx, nfsserver.Config{
		Cluster: [16]byte{1}, Keys: []handle.Key{{ID: 1, Secret: [16]byte{7}}}, Name: name,
		Store: &clientStore{recs: map[string]state.ClientRecord{}}, Logger: slog.New(slog.DiscardHandler),
		Exports: []export.Export{{ID: 1, FSID: 1, Path: "/default", FS: fs, Rules: export.Everyone(export.ReadWrite, export.SquashNone)}},
	})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &nfsGateway{srv: srv, name: name, served: make(chan error, 1)}
	go func() { g.served <- srv.Serve(ln) }()
	if g.proxy, err = faultproxy.Listen(faultproxy.To(ln.Addr().String())); err != nil {
		return nil, err
	}
	return g, g.connect(ctx)
}

// connect makes a client. A client does not use a slot again on which it gave up waiting, so it has to be replaced now and then.
func (g *nfsGateway) connect(ctx context.Context) (err error) {
	if g.client != nil {
		g.client.Disconnect()
	}
	g.client, err = nfsclient.Dial(ctx, nfsclient.Config{Addr: g.proxy.Addr(), Owner: fmt.Sprint(g.name, time.Now().UnixNano()), Patient: true})
	return err
}

// die ends the server without letting calls finish.
func (g *nfsGateway) die() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	g.proxy.Close()
	_ = g.srv.Shutdown(ctx)
	<-g.served
	g.client.Disconnect()
}

// nfsDirectory is a directory, mounted over NFS. Inode numbers are file ids.
type nfsDirectory struct {
	c   *nfsclient.Client
	dir nfsclient.FH

	mu      sync.Mutex // guards handles
	handles map[vfs.Ino]nfsclient.FH
}

var _ directoryFS = (*nfsDirectory)(nil)

// kindOf turns the status of an operation into the kind that a volume would say. A COMPOUND is not atomic: where
// another operation of it failed, such as the GETATTR of a file that was made and is removed already, nothing is
// known.
func kindOf(err error, ops ...nfsv4.NfsOpnum4) error {
	var e *nfsclient.Error
	if errors.As(err, &e) && !slices.Contains(ops, e.Op) {
		return vfs.Errorf(vfs.KindUnknown, "nfs", "%w", err)
	}
	kinds := map[nfsclient.Status]vfs.Kind{
		nfsv4.NFS4ERR_EXIST: vfs.KindExists, nfsv4.NFS4ERR_NOENT: vfs.KindNotFound, nfsv4.NFS4ERR_STALE: vfs.KindStale,
	}
	if k, known := kinds[nfsclient.StatusOf(err)]; known {
		return vfs.Errorf(k, "nfs", "%w", err)
	}
	if err != nil {
		return vfs.Errorf(vfs.KindUnknown, "nfs", "%w", err)
	}
	return nil
}

func (d *nfsDirectory) attr(ino uint64, owner string, fh nfsclient.FH) vfs.Attr {
	uid, _ := strconv.ParseUint(owner, 10, 32)
	if len(fh) > 0 {
		d.mu.Lock()
		d.handles[vfs.Ino(ino)] = fh
		d.mu.Unlock()
	}
	return vfs.Attr{Ino: vfs.Ino(ino), UID: uint32(uid)}
}

// Create makes a file exclusively, and closes it.
func (d *nfsDirectory) Create(ctx context.Context, _ *vfs.Cred, _ vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	args := nfsclient.OpenArgs{Name: name, Create: nfsclient.Guarded}
	owner := fmt.Sprint(*a.Attr.UID)
	args.Attr.Owner, args.Attr.Mode = &owner, a.Attr.Mode
	f, err := d.c.Open(ctx, d.dir, args)
	if nfsclient.StatusOf(err) == nfsv4.NFS4ERR_STALE {
		// It was made, and removed through the other gateway before OPEN had finished: a gateway does not
		// know yet what is open at another.
		return vfs.Created{}, vfs.Errorf(vfs.KindUnknown, "nfs", "%w", err)
	}
	if err != nil {
		return vfs.Created{}, kindOf(err, nfsv4.OP_OPEN)
	}
	_ = d.c.CloseFile(ctx, f)
	return vfs.Created{Attr: d.attr(f.Attr.Fileid, f.Attr.Owner, f.FH), New: true}, nil
}

func (d *nfsDirectory) Link(ctx context.Context, _ *vfs.Cred, ino, _ vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error) {
	d.mu.Lock()
	fh := d.handles[ino]
	d.mu.Unlock()
	return vfs.Attr{}, vfs.DirChange{}, kindOf(d.c.Link(ctx, fh, d.dir, name), nfsv4.OP_PUTFH, nfsv4.OP_SAVEFH, nfsv4.OP_LINK)
}

func (d *nfsDirectory) knows(ino vfs.Ino) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.handles[ino]) > 0
}

func (d *nfsDirectory) Remove(ctx context.Context, _ *vfs.Cred, _ vfs.Ino, name string, _ vfs.RemoveKind) (vfs.DirChange, error) {
	return vfs.DirChange{}, kindOf(d.c.Remove(ctx, d.dir, name), nfsv4.OP_REMOVE)
}

func (d *nfsDirectory) Rename(ctx context.Context, _ *vfs.Cred, _ vfs.Ino, from string, _ vfs.Ino, to string) (a, b vfs.DirChange, err error) {
	return a, b, kindOf(d.c.Rename(ctx, d.dir, from, d.dir, to), nfsv4.OP_RENAME)
}

func (d *nfsDirectory) Lookup(ctx context.Context, _ *vfs.Cred, _ vfs.Ino, name string) (vfs.Attr, error) {
	fh, a, err := d.c.Lookup(ctx, d.dir, name)
	if err != nil {
		return vfs.Attr{}, kindOf(err, nfsv4.OP_LOOKUP)
	}
	return d.attr(a.Fileid, a.Owner, fh), nil
}

func (d *nfsDirectory) ReadDir(ctx context.Context, _ *vfs.Cred, _ vfs.Ino, _ uint64, _ int, _ bool) (vfs.DirPage, error) {
	es, err := d.c.Readdir(ctx, d.dir, attr.Stat())
	if err != nil {
		return vfs.DirPage{}, kindOf(err, nfsv4.OP_READDIR)
	}
	var page vfs.DirPage
	for _, e := range es {
		a := d.attr(e.Attr.Fileid, e.Attr.Owner, nfsclient.FH(""))
		page.Entries = append(page.Entries, vfs.Dirent{Name: e.Name, Attr: &a})
	}
	return page, nil
}
