package v4_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// What another front end does to a file waits until NFS clients have returned it, is not done before, and is done then.
func TestCoherent(t *testing.T) {
	ctx, size, mode := t.Context(), uint64(1), uint32(0o600)
	for name, change := range map[string]func(fs vfs.FS, ino vfs.Ino) error{
		"SetAttr": func(fs vfs.FS, ino vfs.Ino) error {
			_, err := fs.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Mode: &mode}, false)
			return err
		},
		"SetAttr of the size": func(fs vfs.FS, ino vfs.Ino) error {
			_, err := fs.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: &size}, false)
			return err
		},
		"Create": func(fs vfs.FS, _ vfs.Ino) error {
			none := uint64(0)
			_, err := fs.Create(ctx, &vfs.Root, vfs.RootIno, "file", vfs.CreateArgs{Attr: vfs.SetAttr{Size: &none}})
			return err
		},
		"Link": func(fs vfs.FS, ino vfs.Ino) error {
			_, _, err := fs.Link(ctx, &vfs.Root, ino, vfs.RootIno, "new")
			return err
		},
		"Remove": func(fs vfs.FS, _ vfs.Ino) error {
			_, err := fs.Remove(ctx, &vfs.Root, vfs.RootIno, "file", vfs.RemoveFile)
			return err
		},
		"Rename of it": func(fs vfs.FS, _ vfs.Ino) error {
			_, _, err := fs.Rename(ctx, &vfs.Root, vfs.RootIno, "file", vfs.RootIno, "new")
			return err
		},
		"Rename over it": func(fs vfs.FS, _ vfs.Ino) error {
			_, _, err := fs.Rename(ctx, &vfs.Root, vfs.RootIno, "other", vfs.RootIno, "file")
			return err
		},
		"Write": func(fs vfs.FS, ino vfs.Ino) error {
			_, _, err := fs.Write(ctx, &vfs.Root, ino, 0, []byte("new"), vfs.FileSync)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newDelegatingWorld(t)
			ino := w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
			w.mk(vfs.RootIno, "other", vfs.TypeFile, 0o666, 0)
			if _, _, err := w.fs.Write(t.Context(), &vfs.Root, ino, 0, pattern(100), vfs.FileSync); err != nil {
				t.Fatal(err)
			}
			before, err := w.fs.GetAttr(t.Context(), ino)
			if err != nil {
				t.Fatal(err)
			}
			h := w.hold("holder", "file")
			done := make(chan error, 1)
			go func() { done <- change(w.v4.Coherent(w.fs, testFS), ino) }()
			h.wantRecall()
			if now, err := w.fs.GetAttr(t.Context(), ino); err != nil || now.Change != before.Change {
				t.Fatalf("changed before the delegation was returned: %+v, %v", now, err)
			}
			h.ok(putFH(h.fh), read(h.id, 0, 10))
			h.ok(putFH(h.fh), delegReturn(h.id))
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if len(h.b.recalled) > 0 {
				t.Error("recalled again")
			}
		})
	}
}

// Reading takes a file from who may write it, and from nobody else. Whoever gives up leaves nothing behind.
func TestCoherentReads(t *testing.T) {
	w := newDelegatingWorld(t)
	ino := w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	h := w.hold("holder", "file")
	fs := w.v4.Coherent(w.fs, testFS)
	if _, err := fs.Open(t.Context(), &vfs.Root, ino, vfs.OpenRead, false); err != nil {
		t.Fatal(err)
	}
	if _, _, err := fs.Read(t.Context(), ino, 0, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(t.Context(), ino, vfs.OpenRead); err != nil {
		t.Fatal(err)
	}
	if len(h.b.recalled) > 0 {
		t.Error("recalled for a read")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := fs.Remove(ctx, &vfs.Root, vfs.RootIno, "file", vfs.RemoveFile)
		done <- err
	}()
	h.wantRecall()
	cancel()
	if err := <-done; vfs.KindOf(err) != vfs.KindCanceled {
		t.Errorf("given up: %v", err)
	}
	// Whoever has no more time is told to come again.
	over, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if _, err := fs.Remove(over, &vfs.Root, vfs.RootIno, "file", vfs.RemoveFile); vfs.KindOf(err) != vfs.KindUnavailable || !strings.Contains(err.Error(), "try again") {
		t.Errorf("no more time: %v", err)
	}
	if _, err := w.fs.GetAttr(t.Context(), ino); err != nil {
		t.Errorf("it was removed: %v", err)
	}
	h.ok(putFH(h.fh), delegReturn(h.id))
	if w.state.BeginNaming(testFS) {
		t.Error("something is still delegated")
	}
	w.state.EndNaming(testFS)

	w = newWorldThatDelegates(t, state.DelegateWrite)
	ino = w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	g, _ := w.holdForWriting("holder", "file")
	fs = w.v4.Coherent(w.fs, testFS)
	go func() {
		_, err := fs.Open(t.Context(), &vfs.Root, ino, vfs.OpenRead, false)
		done <- err
	}()
	g.wantRecall()
	g.ok(putFH(g.fh), delegReturn(g.id))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
