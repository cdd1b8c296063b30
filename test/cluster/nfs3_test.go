//go:build linux

package cluster

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

const nfs3Port = "2052"

// byNFS3 reads a file of the file system `default` by NFSv3 (nfs.v3_listen), compares it, and sees that it cannot be written. It returns the file's handle, and uses
// the one that it is given, nil for none.
func byNFS3(t *testing.T, m *machine, name string, want, handle []byte) []byte {
	t.Helper()
	const (
		nfs, mount, version                             = 100003, 100005, 3
		mnt, export, lookup, read, write, ok, rofs, box = 1, 5, 3, 6, 7, 0, 30, 10008
	)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(m.host, nfs3Port))
	if err != nil {
		t.Fatal(err)
	}
	conn := rpc.NewClientConn(nc, rpc.ClientConfig{})
	defer conn.Close()
	raw := func(prog, proc uint32, args []byte) *xdr.Decoder {
		t.Helper()
		r, err := conn.Call(ctx, &rpc.Call{Prog: prog, Vers: version, Proc: proc, Cred: rpc.AuthSysCred("client", &vfs.Cred{UID: 1000, GID: 1000}), Args: args, MaxReply: 2 << 20})
		if err != nil {
			t.Fatalf("NFSv3, procedure %d: %v", proc, err)
		}
		defer r.Release()
		d := xdr.NewDecoder(bytes.Clone(r.Body))
		return &d
	}
	call := func(expect, prog, proc uint32, args []byte) *xdr.Decoder {
		t.Helper()
		for {
			d := raw(prog, proc, args)
			switch st := d.Uint32(); {
			case st == expect:
				return d
			case st != box:
				t.Fatalf("NFSv3, procedure %d: status %d, want %d", proc, st, expect)
			}
			select { // come again later
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("NFSv3, procedure %d: %v", proc, ctx.Err())
			}
		}
	}
	if list := raw(mount, export, nil); !list.Bool() || list.String(1024) != "/default" {
		t.Error("EXPORT does not list /default")
	}
	root := bytes.Clone(call(ok, mount, mnt, xdr.AppendString(nil, "/default")).Opaque(64))
	if handle == nil {
		handle = bytes.Clone(call(ok, nfs, lookup, xdr.AppendString(xdr.AppendOpaque(nil, root), name)).Opaque(64))
	}
	for off := 0; off < len(want); {
		d := call(ok, nfs, read, xdr.AppendUint32(xdr.AppendUint64(xdr.AppendOpaque(nil, handle), uint64(off)), 1<<20))
		const attributes = 84
		if d.Bool() {
			d.Fixed(attributes)
		}
		d.Uint32()
		d.Bool()
		p := d.Opaque(1 << 20)
		if d.Err() != nil || len(p) == 0 || !bytes.HasPrefix(want[off:], p) {
			t.Fatalf("NFSv3: %d bytes at %d of %s, %v", len(p), off, name, d.Err())
		}
		off += len(p)
	}
	args := xdr.AppendUint32(xdr.AppendUint32(xdr.AppendUint64(xdr.AppendOpaque(nil, handle), 0), 1), 2)
	call(rofs, nfs, write, xdr.AppendOpaque(args, []byte(strings.Repeat("x", 1))))
	return handle
}
