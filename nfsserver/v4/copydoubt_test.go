package v4_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/vfs"
)

// lossy is a file system without clones whose writes to calls end with these errors, in turn, and which loses what is not durable.
type lossy struct {
	vfs.FS
	writes, commits []error // nil: it succeeds
	takes           bool    // bytes of a write that fails may be in the file
	again           []bool  // each write was done as a repetition
}

func next(list *[]error) error {
	if len(*list) == 0 {
		return nil
	}
	err := (*list)[0]
	*list = (*list)[1:]
	return err
}

func (l *lossy) Write(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	call := vfs.CallOf(ctx)
	if s == vfs.Unstable {
		l.again = append(l.again, call.Repeated())
		if err := next(&l.writes); err != nil {
			if l.takes {
				call.Begin()
			}
			return 0, vfs.Verifier{}, err
		}
		call.Begin()
	}
	return l.FS.Write(ctx, c, ino, off, p, s)
}

func (l *lossy) Commit(ctx context.Context, ino vfs.Ino, off, n uint64) (vfs.Verifier, error) {
	if err := next(&l.commits); err != nil {
		return vfs.Verifier{}, err
	}
	return l.FS.Commit(ctx, ino, off, n)
}

// What a COPY may have done in part it repeats itself, as a repetition of its call, until it knows: to DELAY or a short answer its client would make another call of it, which would do that
// part again, over what others have written since. If nothing was done, or if it is not for now, the client hears so.
func TestCopyInDoubtGoesOn(t *testing.T) {
	away, full := vfs.KindUnavailable.Err("x"), vfs.KindNoSpace.Err("x")
	for name, x := range map[string]struct {
		writes, commits []error
		takes           bool
		want            nfsv4.Nfsstat4
		n               uint64 // MiB
		again           []bool
	}{
		"all done":                 {nil, nil, false, nfsv4.NFS4_OK, 3, []bool{false, false, false}},
		"nothing done":             {[]error{away}, nil, false, nfsv4.NFS4ERR_DELAY, 0, []bool{false}},
		"the first in doubt":       {[]error{away, away}, nil, true, nfsv4.NFS4_OK, 3, []bool{false, true, true, true, true}},
		"the second":               {[]error{nil, away}, nil, true, nfsv4.NFS4_OK, 3, []bool{false, false, true, true}},
		"none of the second":       {[]error{nil, vfs.KindUnknownOrigin.Err("x")}, nil, false, nfsv4.NFS4_OK, 3, []bool{false, false, true, true}},
		"no space for the second":  {[]error{nil, full}, nil, false, nfsv4.NFS4_OK, 1, []bool{false, false}},
		"what is not durable":      {nil, []error{away}, false, nfsv4.NFS4_OK, 3, []bool{false, false, false}},
		"no space after a failure": {[]error{away, full}, nil, true, nfsv4.NFS4ERR_NOSPC, 0, []bool{false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			var l *lossy
			w, _ := copyWorld(t, func(m *memfs.FS) vfs.FS {
				if l == nil {
					l = &lossy{FS: struct{ vfs.FS }{m}}
				}
				return l
			})
			c := w.connect("a", 2)
			f, id := c.openIn("default", rw, "src")
			g, gid := c.openIn("default", rw, "dst")
			data := pattern(3 << 20)
			for at := 0; at < len(data); at += 1 << 20 {
				c.ok(putFH(f), write(id, uint64(at), nfsv4.FILE_SYNC4, data[at:at+1<<20]))
			}
			l.writes, l.commits, l.takes = x.writes, x.commits, x.takes
			all := ops(pair(f, g), copyArgs(id, gid, 0, 0, uint64(len(data)), true))
			if x.want != nfsv4.NFS4_OK {
				c.fails(x.want, all...)
			} else {
				if n := copyOK(last(c.ok(all...))).CrResponse.WrCount; n != x.n<<20 {
					t.Errorf("%d bytes, want %d MiB", n, x.n)
				}
				if !bytes.Equal(contentOf(t, w.fs, "dst", 4<<20), data[:x.n<<20]) {
					t.Error("other bytes")
				}
			}
			if len(l.again) != len(x.again) {
				t.Fatalf("written as %v, want %v", l.again, x.again)
			}
			for i, again := range l.again {
				if again != x.again[i] {
					t.Fatalf("written as %v, want %v", l.again, x.again)
				}
			}
		})
	}
}
