package v4_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// FuzzCompound sends any operations behind a good SEQUENCE, or alone. Whatever
// they are, the server answers with something that decodes, with as many
// results as it counts, of which only the last failed; and the session goes on.
func FuzzCompound(f *testing.F) {
	w := newWorld(f)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)

	// Seeds: each operation behind the requests that give it what it works on.
	prefix := ops(at("f"), &nfsv4.NfsArgop4_OP_SAVEFH{}, root(), open("o", rw, 0, nil, named("f")))
	for _, op := range everyOp(&client{}) {
		for _, inDir := range []bool{true, false} {
			seed := ops(prefix, op)
			if inDir {
				seed = ops(prefix, root(), op)
			}
			var b bytes.Buffer
			for _, op := range seed {
				b.Write(encodeOp(f, op))
			}
			f.Add(uint32(2), uint32(len(seed)), true, b.Bytes())
		}
		f.Add(uint32(1), uint32(1), false, encodeOp(f, op))
	}
	for _, op := range [][]byte{getXattr("a"), setXattr(0, "a", "value"), setXattr(1, "b", ""), listXattrs(0, 100), removeXattr("a")} {
		body := append(encodeOps(f, at("f")), setXattr(0, "a", "1")...)
		f.Add(uint32(2), uint32(len(at("f"))+2), true, append(body, op...))
	}
	clients := 0
	f.Fuzz(func(t *testing.T, minor, n uint32, inSession bool, body []byte) {
		if len(body) > 1<<16 {
			return
		}
		w.t = t
		if clients++; clients%500 == 0 {
			w.advance(49 * time.Hour) // forget what went before
		}
		c := w.connect(fmt.Sprint("fuzz ", clients), 2)
		args := rawOps(minor, int(n), body)
		if inSession {
			args = rawOps(minor, int(n+1), encodeOp(t, c.sequence()), body)
		}
		reply, err := c.send(args)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		checkReply(t, reply)
		// The same server serves the next client, whatever became of this one.
		w.connect(fmt.Sprint("after ", clients), 1).ok(root()...)
	})
}

func encodeOps(t testing.TB, list []nfsv4.NfsArgop4) []byte {
	var b bytes.Buffer
	for _, op := range list {
		b.Write(encodeOp(t, op))
	}
	return b.Bytes()
}

// skipXattr decodes the result of an operation of RFC 8276.
func skipXattr(d *xdr.Decoder, op uint32) {
	switch op {
	case opGetXattr:
		d.Opaque(vfs.XattrValueMax)
	case opSetXattr, opRemoveXattr:
		d.Bool()
		d.Skip(16)
	case opListXattrs:
		d.Uint64()
		for range d.Count(vfs.XattrsMax, 4) {
			d.Opaque(vfs.XattrNameMax)
		}
		d.Bool()
	}
}

// checkReply decodes a reply as far as the generated types know its operations.
func checkReply(t *testing.T, reply []byte) {
	d := xdr.NewDecoder(reply)
	st := nfsv4.Nfsstat4(d.Uint32())
	d.Opaque(1024)
	n := d.Uint32()
	for i := range n {
		if op := nfsv4.NfsOpnum4(d.Rest()[3]); d.Rest()[2] == 0 && op >= 72 && op <= 75 {
			d.Uint32()
			if got := nfsv4.Nfsstat4(d.Uint32()); got == nfsv4.NFS4_OK {
				skipXattr(&d, uint32(op))
			} else if got != st {
				t.Fatalf("operation %d of RFC 8276: %x", op, reply)
			}
			continue
		}
		_, _, err := nfsv4.ReadNfsResop4(&d)
		if err != nil && strings.Contains(err.Error(), "not valid UTF-8") {
			return // a name is any bytes to the server, but not to the generated types
		}
		if err != nil {
			t.Fatalf("result %d of %d does not decode: %v\n%x", i, n, err, reply)
		}
	}
	if d.Err() != nil || d.Len() != 0 {
		t.Fatalf("%v, %d bytes behind %d results\n%x", d.Err(), d.Len(), n, reply)
	}
	if n == 0 && st != nfsv4.NFS4_OK && st != nfsv4.NFS4ERR_MINOR_VERS_MISMATCH {
		t.Fatalf("%v without a result", st)
	}
}
