package devcluster_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/internal/devcluster"
)

// two are clients at two gateways of one cluster.
type two struct {
	t    *testing.T
	cl   [2]*nfsclient.Client
	root nfsclient.FH
	tree *api.Tree // of the API, which the first gateway has
}

// TestTwoGateways has two gateways serve one file system, to clients of which each is at one of them. What one was told is done the other sees.
func TestTwoGateways(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	c, err := devcluster.Start(t.Context(), devcluster.Config{
		DataDir: data, NFSAddr: "127.0.0.1:0", Gateways: 2, Delegations: "write",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stopCluster(t, c)
	admin := api.Dial(filepath.Join(data, api.SocketName))
	defer admin.Close()
	w := &two{tree: admin.Tree("default", "default"), t: t}
	for i, addr := range c.NFSAddrs() {
		cl, err := nfsclient.Dial(t.Context(), nfsclient.Config{Addr: addr, Owner: fmt.Sprintf("client %d", i), Patient: true})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close(context.WithoutCancel(t.Context()))
		w.cl[i] = cl
		if w.root, _, err = cl.Walk(t.Context(), "/default"); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []struct {
		name string
		test func(*two)
	}{
		{"what is stable is read", (*two).stable},
		{"a lost update", (*two).lostUpdate},
		{"names and attributes", (*two).names},
		{"locks", (*two).locks},
		{"increments under locks", (*two).increments},
		{"unlinked files", (*two).unlinked},
		{"the API and NFS", (*two).api},
	} {
		t.Run(s.name, func(t *testing.T) { s.test(&two{t: t, cl: w.cl, root: w.root, tree: w.tree}) })
	}
}

// create makes a file at a gateway, and opens it at the other one too, if both says so.
func (w *two) create(name string, both bool) (f [2]*nfsclient.File) {
	w.t.Helper()
	var err error
	if f[0], err = w.cl[0].Create(w.t.Context(), w.root, name, 0o644); err != nil {
		w.t.Fatal(err)
	}
	if both {
		f[1] = w.open(1, name, 0)
	}
	return f
}

func (w *two) open(at int, name string, access uint32) *nfsclient.File {
	w.t.Helper()
	f, err := w.cl[at].Open(w.t.Context(), w.root, nfsclient.OpenArgs{Name: name, Access: access})
	if err != nil {
		w.t.Fatalf("open %s at gateway %d: %v", name, at+1, err)
	}
	if f.Delegation.Type != nfsv4.OPEN_DELEGATE_NONE && f.Delegation.Type != nfsv4.OPEN_DELEGATE_NONE_EXT {
		w.t.Fatalf("gateway %d gave a delegation of type %v, which nobody would recall for the other", at+1, f.Delegation.Type)
	}
	return f
}

func (w *two) write(at int, f *nfsclient.File, off uint64, how nfsv4.StableHow4, p []byte) nfsclient.Written {
	w.t.Helper()
	r, err := w.cl[at].Write(w.t.Context(), f, off, how, p)
	if err != nil || int(r.Count) != len(p) {
		w.t.Fatalf("write at gateway %d: %d of %d bytes, %v", at+1, r.Count, len(p), err)
	}
	return r
}

func (w *two) read(at int, f *nfsclient.File, off uint64, want []byte) {
	w.t.Helper()
	p := make([]byte, len(want))
	n, _, err := w.cl[at].Read(w.t.Context(), f, off, p)
	if err != nil || !bytes.Equal(p[:n], want) {
		w.t.Fatalf("read at gateway %d: %d bytes, %v: not what was written at the other one", at+1, n, err)
	}
}

// stable: a read that begins after a stable write was answered, at whichever gateway, has it.
func (w *two) stable() {
	f := w.create("stable", false)
	size := []int{10, 5000, 300 << 10}
	for i := range 12 {
		if i == 4 { // from here on both have it open for writing
			f[1] = w.open(1, "stable", 0)
		}
		p := bytes.Repeat([]byte{byte('a' + i)}, size[i%len(size)])
		at := 0
		if f[1] != nil {
			at = i % 2
		}
		switch {
		case i%3 == 0:
			w.write(at, f[at], 0, nfsv4.FILE_SYNC4, p)
		default:
			wrote := w.write(at, f[at], 0, nfsv4.UNSTABLE4, p)
			v, err := w.cl[at].Commit(w.t.Context(), f[at].FH, 0, 0)
			if err != nil || v != wrote.Verifier {
				w.t.Fatalf("commit: verifier %x of the write, %x now, %v", wrote.Verifier, v, err)
			}
		}
		if f[1] == nil {
			r := w.open(1, "stable", nfsv4.OPEN4_SHARE_ACCESS_READ)
			w.read(1, r, 0, p)
			if err := w.cl[1].CloseFile(w.t.Context(), r); err != nil {
				w.t.Fatal(err)
			}
			continue
		}
		w.read(0, f[0], 0, p)
		w.read(1, f[1], 0, p)
	}
	size64 := uint64(3)
	if err := w.cl[1].Setattr(w.t.Context(), f[1].FH, f[1].Stateid, &attr.Set{Size: &size64}); err != nil {
		w.t.Fatal(err)
	}
	if a, err := w.cl[0].Getattr(w.t.Context(), f[0].FH); err != nil || a.Size != 3 {
		w.t.Fatalf("size %d after the other gateway's truncation to 3, %v", a.Size, err)
	}
	w.write(0, f[0], 8, nfsv4.FILE_SYNC4, []byte("end"))
	w.read(1, f[1], 3, []byte("\x00\x00\x00\x00\x00end"))
}

// lostUpdate: what is only buffered at one gateway does not undo what another one has made stable since.
func (w *two) lostUpdate() {
	f := w.create("update", false)
	for i := range 6 {
		old, newer := bytes.Repeat([]byte{byte('a' + i)}, 9000), bytes.Repeat([]byte{byte('A' + i)}, 9000)
		g := w.open(1, "update", 0)
		wrote := w.write(0, f[0], 0, nfsv4.UNSTABLE4, old)
		w.write(1, g, 0, nfsv4.FILE_SYNC4, newer)
		v, err := w.cl[0].Commit(w.t.Context(), f[0].FH, 0, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		if v != wrote.Verifier {
			w.t.Log("the first gateway lost what it had buffered, and said so")
		}
		w.read(0, f[0], 0, newer)
		w.read(1, g, 0, newer)
		if err := w.cl[1].CloseFile(w.t.Context(), g); err != nil {
			w.t.Fatal(err)
		}
	}
}

// names: what one gateway makes, moves, removes or sets is so at the other one, of files that it has written, too.
func (w *two) names() {
	ctx := w.t.Context()
	dir, _, err := w.cl[0].Mkdir(ctx, w.root, "names", 0o755)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range 8 {
		f, err := w.cl[0].Create(ctx, dir, "f", 0o644)
		if err != nil {
			w.t.Fatal(err)
		}
		w.write(0, f, 0, nfsv4.UNSTABLE4, []byte("buffered"))
		if err := w.cl[1].Rename(ctx, dir, "f", dir, "g"); err != nil {
			w.t.Fatal(err)
		}
		mode := uint32(0o600 + i)
		if err := w.cl[1].Setattr(ctx, f.FH, nfsclient.Stateid{}, &attr.Set{Mode: &mode}); err != nil {
			w.t.Fatal(err)
		}
		fh, a, err := w.cl[0].Lookup(ctx, dir, "g")
		if err != nil || fh != f.FH || a.Mode != mode || a.Size != uint64(len("buffered")) {
			w.t.Fatalf("after the other gateway's rename and chmod: mode %o, size %d, %v", a.Mode, a.Size, err)
		}
		if err := w.cl[0].CloseFile(ctx, f); err != nil {
			w.t.Fatal(err)
		}
		if err := w.cl[1].Remove(ctx, dir, "g"); err != nil {
			w.t.Fatal(err)
		}
		if _, _, err := w.cl[0].Lookup(ctx, dir, "g"); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_NOENT {
			w.t.Fatalf("the other gateway removed it: %v", err)
		}
	}
	// Of two that create a name exclusively one does.
	for i := range 8 {
		var wg sync.WaitGroup
		var errs [2]error
		for at := range w.cl {
			wg.Go(func() {
				_, errs[at] = w.cl[at].Open(ctx, dir, nfsclient.OpenArgs{Name: fmt.Sprint("x", i), Create: nfsclient.Guarded})
			})
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			w.t.Fatalf("two exclusive creates of one name: %v, %v", errs[0], errs[1])
		}
	}
}

// lock locks a range of f at a gateway; nil: somebody else has it.
func (w *two) lock(at int, f *nfsclient.File, off, n uint64) (*nfsclient.Lock, error) {
	l := &nfsclient.Lock{Owner: "o"}
	if _, err := w.cl[at].LockRange(w.t.Context(), f, l, nfsv4.WRITE_LT, off, n); nfsclient.StatusOf(err) == nfsv4.NFS4ERR_DENIED {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("lock at gateway %d: %w", at+1, err)
	}
	return l, nil
}

func (w *two) locks() {
	f := w.create("locks", true)
	l, err := w.lock(0, f[0], 0, 10)
	if l == nil {
		w.t.Fatalf("nobody has a lock, and one is denied: %v", err)
	}
	if l, err := w.lock(1, f[1], 5, 10); l != nil || err != nil {
		w.t.Fatalf("two clients have locked the same bytes, at two gateways: %v", err)
	}
	if err := w.cl[0].Unlock(w.t.Context(), f[0], l, 0, 10); err != nil {
		w.t.Fatal(err)
	}
	if l, err := w.lock(1, f[1], 5, 10); l == nil {
		w.t.Fatalf("denied, and the lock at the other gateway has ended: %v", err)
	}
}

// increments: clients at both gateways lock a number, read it, write it back and make it stable; none is lost.
func (w *two) increments() {
	const each = 15
	ctx := w.t.Context()
	w.write(0, w.create("number", false)[0], 0, nfsv4.FILE_SYNC4, make([]byte, 8))
	var wg sync.WaitGroup
	for at := range w.cl {
		wg.Go(func() {
			cl := w.cl[at]
			for range each {
				f, err := cl.Open(ctx, w.root, nfsclient.OpenArgs{Name: "number"})
				if err != nil {
					w.t.Error(err)
					return
				}
				var l *nfsclient.Lock
				for l == nil {
					if l, err = w.lock(at, f, 0, 8); err != nil {
						w.t.Error(err)
						return
					}
					if w.t.Failed() { // the other one, with the lock
						return
					}
					if l == nil {
						time.Sleep(time.Millisecond)
					}
				}
				p := make([]byte, 8)
				if _, _, err := cl.Read(ctx, f, 0, p); err != nil {
					w.t.Error(err)
					return
				}
				binary.BigEndian.PutUint64(p, binary.BigEndian.Uint64(p)+1)
				for {
					wrote, err := cl.Write(ctx, f, 0, nfsv4.UNSTABLE4, p)
					if err != nil {
						w.t.Error(err)
						return
					}
					v, err := cl.Commit(ctx, f.FH, 0, 0)
					if err != nil {
						w.t.Error(err)
						return
					}
					if v == wrote.Verifier {
						break
					}
				}
				if err := cl.Unlock(ctx, f, l, 0, 8); err != nil {
					w.t.Error(err)
					return
				}
				if err := cl.CloseFile(ctx, f); err != nil {
					w.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	f := w.open(0, "number", nfsv4.OPEN4_SHARE_ACCESS_READ)
	w.read(0, f, 0, binary.BigEndian.AppendUint64(nil, 2*each))
}

// unlinked: a file stays while a client at another gateway than the one that removed it has it open, and goes then.
func (w *two) unlinked() {
	ctx := w.t.Context()
	f := w.create("open", false)
	data := bytes.Repeat([]byte("data"), 5000)
	w.write(0, f[0], 0, nfsv4.FILE_SYNC4, data)
	if err := w.cl[0].CloseFile(ctx, f[0]); err != nil {
		w.t.Fatal(err)
	}
	stale := func(at int, fh nfsclient.FH) bool {
		w.t.Helper()
		_, err := w.cl[at].Getattr(ctx, fh)
		if err != nil && nfsclient.StatusOf(err) != nfsv4.NFS4ERR_STALE {
			w.t.Fatal(err)
		}
		return err != nil
	}
	// It is known that a gateway has answered for what is open there when it has for a file that was removed later.
	answered := func() {
		w.t.Helper()
		other := w.create("not open", false)[0]
		if err := w.cl[0].CloseFile(ctx, other); err != nil {
			w.t.Fatal(err)
		}
		if err := w.cl[0].Remove(ctx, w.root, "not open"); err != nil {
			w.t.Fatal(err)
		}
		// It is kept for a moment, but not opened for who remembers its name.
		for _, c := range w.cl {
			if _, err := c.Open(ctx, other.FH, nfsclient.OpenArgs{}); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_STALE {
				w.t.Fatalf("open of a removed file by its handle: %v", err)
			}
		}
		w.until("the end of a file that is open nowhere", func() bool { return stale(1, other.FH) })
	}
	r := w.open(1, "open", nfsv4.OPEN4_SHARE_ACCESS_READ)
	if err := w.cl[0].Remove(ctx, w.root, "open"); err != nil {
		w.t.Fatal(err)
	}
	w.read(1, r, 0, data)
	for range 2 {
		answered()
	}
	w.read(1, r, 0, data)
	if err := w.cl[1].CloseFile(ctx, r); err != nil {
		w.t.Fatal(err)
	}
	w.until("the end of the file with its last open", func() bool { return stale(0, r.FH) && stale(1, r.FH) })
}

// api: what is uploaded to one gateway by the API is read at the other one by NFS, and the other way round.
func (w *two) api() {
	ctx := w.t.Context()
	var f *nfsclient.File
	for i := range 6 {
		p := bytes.Repeat([]byte{byte('a' + i)}, 10+i*20_000)
		if _, err := w.tree.Upload(ctx, "/uploaded", bytes.NewReader(p), api.Put{Length: int64(len(p))}); err != nil {
			w.t.Fatal(err)
		}
		r := w.open(1, "uploaded", nfsv4.OPEN4_SHARE_ACCESS_READ)
		w.read(1, r, 0, p)
		if err := w.cl[1].CloseFile(ctx, r); err != nil {
			w.t.Fatal(err)
		}
		if f == nil {
			var err error
			if f, err = w.cl[1].Create(ctx, w.root, "written", 0o644); err != nil {
				w.t.Fatal(err)
			}
		}
		w.write(1, f, 0, nfsv4.FILE_SYNC4, p)
		c, err := w.tree.Download(ctx, "/written", 0, "")
		if err != nil {
			w.t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		c.Close()
		if err != nil || !bytes.Equal(got, p) {
			w.t.Fatalf("round %d: %d bytes by the API, %v: not what was written by NFS at the other gateway", i, len(got), err)
		}
	}
}

// until waits for something that has to come, however slow the machine is.
func (w *two) until(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(5 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}
