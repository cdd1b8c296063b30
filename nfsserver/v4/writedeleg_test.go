package v4_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// holdForWriting makes a client that has name for writing; its OPEN is still there.
func (w *world) holdForWriting(owner, name string) (h *holder, opened nfsv4.Stateid4) {
	w.t.Helper()
	h = &holder{}
	h.client, h.b = w.connectBack(owner)
	return h, h.takeForWriting(name)
}

func (h *holder) takeForWriting(name string) nfsv4.Stateid4 {
	h.t.Helper()
	res := h.ok(ops(root(), open("o", rw, 0, nil, named(name)), &nfsv4.NfsArgop4_OP_GETFH{})...)
	ok := openOK(res[len(res)-2])
	d, is := ok.Delegation.(*nfsv4.OpenDelegation4_OPEN_DELEGATE_WRITE)
	if !is {
		h.t.Fatalf("%s: delegation %+v", name, ok.Delegation)
	}
	// No space is promised: the client sends what it has when the file is closed, and hears if there is no room.
	if l, is := d.Write.SpaceLimit.(*nfsv4.NfsSpaceLimit4_NFS_LIMIT_BLOCKS); !is || l.ModBlocks.NumBlocks != 0 || d.Write.Recall {
		h.t.Fatalf("%s: %+v", name, d.Write)
	}
	h.fh, h.id = fhOf(last(res)), d.Write.Stateid
	return ok.Stateid
}

// answer is how the holder answers CB_GETATTR from now on.
func (h *holder) answer(pairs ...any) {
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	h.b.getattr = func(a nfsv4.CbGetattr4args) nfsv4.CbGetattr4res {
		if !bytes.Equal(a.Fh, h.fh) {
			h.t.Errorf("CB_GETATTR of %x", a.Fh)
		}
		return &nfsv4.CbGetattr4res_NFS4_OK{Resok4: nfsv4.CbGetattr4resok{ObjAttributes: attrs(pairs...)}}
	}
}

func (h *holder) asked() int {
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	return h.b.asked
}

// Whatever others do with a file that a client has for writing waits until it is returned.
func TestConflictsRecallWriteDelegations(t *testing.T) {
	plain := func(o ...any) func(*client) nfsv4.Nfsstat4 {
		return func(c *client) nfsv4.Nfsstat4 { return c.do(ops(o...)...).Status }
	}
	for name, conflict := range map[string]func(*client) nfsv4.Nfsstat4{
		"OPEN for reading":     plain(root(), open("r", rd, 0, nil, named("file"))),
		"OPEN by handle":       plain(at("file"), open("r", rd, 0, nil, nil)),
		"OPEN for writing":     plain(root(), open("w", wr, 0, nil, named("file"))),
		"OPEN that creates":    plain(root(), open("w", rw, 0, &nfsv4.Createhow4_UNCHECKED4{Createattrs: attrs()}, named("file"))),
		"READ":                 plain(at("file"), read(anonymous, 0, 10)),
		"READ with the bypass": plain(at("file"), read(state.Bypass, 0, 10)),
		"WRITE":                plain(at("file"), write(anonymous, 0, nfsv4.FILE_SYNC4, []byte("new"))),
		"SEEK": plain(at("file"), &nfsv4.NfsArgop4_OP_SEEK{Opseek: nfsv4.Seek4args{
			SaStateid: anonymous, SaWhat: nfsv4.NFS4_CONTENT_DATA,
		}}),
		"LOCKT": plain(at("file"), &nfsv4.NfsArgop4_OP_LOCKT{Oplockt: nfsv4.Lockt4args{
			Locktype: nfsv4.READ_LT, Length: 1, Owner: nfsv4.LockOwner4{Owner: []byte("o")},
		}}),
		"CLONE of it":    plain(at("file"), &nfsv4.NfsArgop4_OP_SAVEFH{}, at("other"), clone(anonymous, anonymous, 0, 0, 0)),
		"COPY of it":     plain(at("file"), &nfsv4.NfsArgop4_OP_SAVEFH{}, at("other"), copyArgs(anonymous, anonymous, 0, 0, 0, true)),
		"SETATTR":        plain(at("file"), setAttr(anonymous, attrs(nfsv4.FATTR4_MODE, uint32(0o600)))),
		"REMOVE":         plain(root(), remove("file")),
		"RENAME over it": plain(root(), &nfsv4.NfsArgop4_OP_SAVEFH{}, root(), rename("other", "file")),
		"LINK":           plain(at("file"), &nfsv4.NfsArgop4_OP_SAVEFH{}, root(), link("new")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorldThatDelegates(t, state.DelegateWrite)
			for _, n := range []string{"file", "other"} {
				ino := w.mk(vfs.RootIno, n, vfs.TypeFile, 0o666, 0)
				if _, _, err := w.fs.Write(t.Context(), &vfs.Root, ino, 0, pattern(100), vfs.FileSync); err != nil {
					t.Fatal(err)
				}
			}
			h, opened := w.holdForWriting("holder", "file")
			other := w.connect("other", 2)
			if st := conflict(other); st != nfsv4.NFS4ERR_DELAY {
				t.Fatalf("status %s, want DELAY", nfsv4.Nfsstat4_name[st])
			}
			h.wantRecall()
			// It opens anew what it had open, writes what it had not written, and returns it.
			claim := &nfsv4.OpenClaim4_CLAIM_DELEG_CUR_FH{OcDelegateStateid: h.id}
			again := openOK(last(h.ok(putFH(h.fh), open("o", rw, 0, nil, claim)))).Stateid
			if again.Other != opened.Other {
				t.Error("another open of the same owner")
			}
			h.ok(putFH(h.fh), write(h.id, 0, nfsv4.FILE_SYNC4, []byte("late")), closeFile(again))
			h.ok(putFH(h.fh), delegReturn(h.id))
			if st := conflict(other); st != nfsv4.NFS4_OK {
				t.Fatalf("status %s after DELEGRETURN", nfsv4.Nfsstat4_name[st])
			}
			if len(h.b.recalled) > 0 || h.asked() > 0 {
				t.Error("recalled again, or asked")
			}
		})
	}
}

// Others' GETATTR, READDIR and VERIFY leave the delegation where it is, and tell what its holder has not written yet.
func TestGetAttrOfDelegated(t *testing.T) {
	w := newWorldThatDelegates(t, state.DelegateWrite)
	ino := w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	h, _ := w.holdForWriting("holder", "file")
	other := w.connect("other", 2)
	numbers := func(a map[int]any) (change, size uint64, mtime time.Time) {
		return a[nfsv4.FATTR4_CHANGE].(uint64), a[nfsv4.FATTR4_SIZE].(uint64), a[nfsv4.FATTR4_TIME_MODIFY].(time.Time)
	}
	of := func(c *client) (uint64, uint64, time.Time) {
		t.Helper()
		return numbers(attrsOK(t, last(c.ok(putFH(h.fh), getAttr(nfsv4.FATTR4_CHANGE, nfsv4.FATTR4_SIZE, nfsv4.FATTR4_TIME_MODIFY)))))
	}
	change, size, mtime := of(h.client)
	if h.asked() != 0 {
		t.Fatal("the holder is asked for what it asks")
	}
	// Nothing is unwritten.
	h.answer(nfsv4.FATTR4_CHANGE, change, nfsv4.FATTR4_SIZE, size)
	if c, s, m := of(other); c != change || s != size || m != mtime {
		t.Errorf("change %d, size %d, %v; were %d, %d, %v", c, s, m, change, size, mtime)
	}
	if h.asked() != 1 {
		t.Fatalf("asked %d times", h.asked())
	}
	other.ok(putFH(h.fh), getAttr(nfsv4.FATTR4_MODE, nfsv4.FATTR4_FILEID))
	if h.asked() != 1 {
		t.Error("asked for what only the server changes")
	}
	// What was written by the delegation is known here.
	h.ok(putFH(h.fh), write(h.id, 0, nfsv4.FILE_SYNC4, []byte("some")))
	if c, s, _ := of(other); c <= change || s != 4 {
		t.Errorf("change %d, size %d after a write of 4 bytes at %d", c, s, change)
	}
	// Something is unwritten: each look shows another change value, which is never seen again.
	seen := map[uint64]bool{change: true}
	h.answer(nfsv4.FATTR4_CHANGE, change+1, nfsv4.FATTR4_SIZE, uint64(77))
	var newest uint64
	look := func(c, s uint64) {
		t.Helper()
		if seen[c] || s != 77 {
			t.Errorf("change %d, size %d; seen %v", c, s, seen)
		}
		seen[c], newest = true, c
	}
	for range 2 {
		c, s, _ := of(other)
		look(c, s)
	}
	names, _, list := entries(t, readDirOK(last(other.ok(ops(root(), readDir(0, [8]byte{}, 0, 8192, nfsv4.FATTR4_CHANGE, nfsv4.FATTR4_SIZE, nfsv4.FATTR4_TIME_MODIFY))...))))
	if len(names) != 1 {
		t.Fatal(names)
	}
	c, s, _ := numbers(list[0])
	look(c, s)
	other.fails(nfsv4.NFS4ERR_SAME, putFH(h.fh), &nfsv4.NfsArgop4_OP_NVERIFY{Opnverify: nfsv4.Nverify4args{ObjAttributes: attrs(nfsv4.FATTR4_SIZE, uint64(77))}})
	// Times that were not asked for do no harm.
	h.answer(nfsv4.FATTR4_CHANGE, change+1, nfsv4.FATTR4_SIZE, uint64(77), 84, make([]byte, 12), 85, make([]byte, 12))
	c, s, _ = of(other)
	look(c, s)
	if len(h.b.recalled) != 0 {
		t.Fatal("recalled")
	}
	if a, err := w.fs.GetAttr(t.Context(), ino); err != nil || a.Change < newest || a.Size != 4 {
		t.Errorf("%+v, %v: what was shown is not kept (change %d), or more than the times", a, err, newest)
	}
	// Once it is written and returned the change value is yet another.
	h.ok(putFH(h.fh), write(h.id, 0, nfsv4.FILE_SYNC4, pattern(77)), delegReturn(h.id))
	c, s, _ = of(other)
	look(c, s)
}

// A holder that does not answer as it should has the delegation recalled, and the other waits.
func TestGetAttrIsNotAnswered(t *testing.T) {
	for name, answer := range map[string]func(nfsv4.CbGetattr4args) nfsv4.CbGetattr4res{
		"an error": nil,
		"too few": func(nfsv4.CbGetattr4args) nfsv4.CbGetattr4res {
			return &nfsv4.CbGetattr4res_NFS4_OK{Resok4: nfsv4.CbGetattr4resok{ObjAttributes: attrs(nfsv4.FATTR4_SIZE, uint64(1))}}
		},
		"others": func(nfsv4.CbGetattr4args) nfsv4.CbGetattr4res {
			return &nfsv4.CbGetattr4res_NFS4_OK{Resok4: nfsv4.CbGetattr4resok{ObjAttributes: attrs(nfsv4.FATTR4_CHANGE, uint64(1), nfsv4.FATTR4_SIZE, uint64(1), nfsv4.FATTR4_MODE, uint32(1))}}
		},
		"too short": func(nfsv4.CbGetattr4args) nfsv4.CbGetattr4res {
			a := attrs(nfsv4.FATTR4_CHANGE, uint64(1), nfsv4.FATTR4_SIZE, uint64(1))
			a.AttrVals = a.AttrVals[:12]
			return &nfsv4.CbGetattr4res_NFS4_OK{Resok4: nfsv4.CbGetattr4resok{ObjAttributes: a}}
		},
		"too large": func(nfsv4.CbGetattr4args) nfsv4.CbGetattr4res {
			return &nfsv4.CbGetattr4res_NFS4_OK{Resok4: nfsv4.CbGetattr4resok{ObjAttributes: attrs(nfsv4.FATTR4_CHANGE, uint64(1), nfsv4.FATTR4_SIZE, ^uint64(0))}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldThatDelegates(t, state.DelegateWrite)
			w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
			h, _ := w.holdForWriting("holder", "file")
			h.b.mu.Lock()
			h.b.getattr = answer
			h.b.mu.Unlock()
			other := w.connect("other", 2)
			sizes := readDir(0, [8]byte{}, 0, 8192, nfsv4.FATTR4_SIZE)
			other.fails(nfsv4.NFS4ERR_DELAY, putFH(h.fh), getAttr(nfsv4.FATTR4_SIZE))
			h.wantRecall()
			other.fails(nfsv4.NFS4ERR_DELAY, ops(root(), sizes)...)
			h.ok(putFH(h.fh), delegReturn(h.id))
			other.ok(putFH(h.fh), getAttr(nfsv4.FATTR4_SIZE))
			other.ok(ops(root(), sizes)...)
		})
	}
}

// A directory of files that somebody has for writing is listed in pages, each of which asks for a few, and no file is missing.
func TestReadDirOfDelegated(t *testing.T) {
	const files = 150
	w := newWorldThatDelegates(t, state.DelegateWrite)
	h := &holder{}
	h.client, h.b = w.connectBack("holder")
	handles := map[string]uint64{} // the size that the holder says a file has
	for i := range files {
		name := fmt.Sprint("file", i)
		w.mk(vfs.RootIno, name, vfs.TypeFile, 0o666, 0)
		h.takeForWriting(name)
		handles[string(h.fh)] = uint64(1000 + i)
	}
	h.b.mu.Lock()
	h.b.getattr = func(a nfsv4.CbGetattr4args) nfsv4.CbGetattr4res {
		return &nfsv4.CbGetattr4res_NFS4_OK{Resok4: nfsv4.CbGetattr4resok{ObjAttributes: attrs(nfsv4.FATTR4_CHANGE, uint64(1<<60), nfsv4.FATTR4_SIZE, handles[string(a.Fh)])}}
	}
	h.b.mu.Unlock()
	other := w.connect("other", 2)
	got := map[string]uint64{}
	var cookie uint64
	var verf [8]byte
	for pages := 0; ; pages++ {
		res := readDirOK(last(other.ok(ops(root(), readDir(cookie, verf, 0, 1<<20, nfsv4.FATTR4_SIZE))...)))
		names, cookies, list := entries(t, res)
		for i, n := range names {
			got[n] = list[i][nfsv4.FATTR4_SIZE].(uint64)
			cookie = cookies[i]
		}
		verf = res.Cookieverf
		if res.Reply.Eof {
			break
		}
		if len(names) == 0 || pages > files {
			t.Fatal("no progress")
		}
	}
	for i := range files {
		if n := fmt.Sprint("file", i); got[n] != uint64(1000+i) {
			t.Errorf("%s: %d bytes", n, got[n])
		}
	}
	if len(h.b.recalled) != 0 {
		t.Error("recalled")
	}
}

// What a client wants of delegations for writing is respected, and it is told why it gets none.
func TestWriteDelegationWants(t *testing.T) {
	const (
		wantWrite = nfsv4.OPEN4_SHARE_ACCESS_WANT_WRITE_DELEG
		wantTimes = 1 << 20 // RFC 9754
	)
	w := newWorldThatDelegates(t, state.DelegateWrite)
	c, _ := w.connectBack("holder")
	deaf := w.connect("without a backchannel", 2)
	for i, x := range []struct {
		who         *client
		share, deny uint32
		kind        nfsv4.OpenDelegationType4
		why         nfsv4.WhyNoDelegation4 // of NONE_EXT
	}{
		{c, rw, 0, nfsv4.OPEN_DELEGATE_WRITE, 0},
		{c, rw | wantWrite, 0, nfsv4.OPEN_DELEGATE_WRITE, 0},
		{c, rw | wantWrite | wantTimes, 0, nfsv4.OPEN_DELEGATE_WRITE, 0},
		{c, rw | nfsv4.OPEN4_SHARE_ACCESS_WANT_ANY_DELEG, 0, nfsv4.OPEN_DELEGATE_WRITE, 0},
		{c, rw | nfsv4.OPEN4_SHARE_ACCESS_WANT_READ_DELEG, 0, nfsv4.OPEN_DELEGATE_NONE_EXT, nfsv4.WND4_CONTENTION},
		{c, rw | nfsv4.OPEN4_SHARE_ACCESS_WANT_NO_DELEG, 0, nfsv4.OPEN_DELEGATE_NONE_EXT, nfsv4.WND4_NOT_WANTED},
		{c, rw | wantWrite, nfsv4.OPEN4_SHARE_DENY_READ, nfsv4.OPEN_DELEGATE_NONE_EXT, nfsv4.WND4_CONTENTION},
		{c, wr | wantWrite, 0, nfsv4.OPEN_DELEGATE_NONE_EXT, nfsv4.WND4_RESOURCE}, // it could read by it
		{c, rd | wantWrite, 0, nfsv4.OPEN_DELEGATE_NONE_EXT, nfsv4.WND4_RESOURCE},
		{c, wr, 0, nfsv4.OPEN_DELEGATE_NONE, 0},
		{c, rd, 0, nfsv4.OPEN_DELEGATE_READ, 0},
		{deaf, rw | wantWrite, 0, nfsv4.OPEN_DELEGATE_NONE_EXT, nfsv4.WND4_RESOURCE},
	} {
		name := fmt.Sprint("file", i)
		w.mk(vfs.RootIno, name, vfs.TypeFile, 0o666, 0)
		d := x.who.delegationOf(x.share, x.deny, named(name))
		var why nfsv4.WhyNoDelegation4
		if e, is := d.(*nfsv4.OpenDelegation4_OPEN_DELEGATE_NONE_EXT); is {
			why = e.OdWhynone.GetOndWhy()
		}
		if d.GetDelegationType() != x.kind || why != x.why {
			t.Errorf("%#x %d: %+v", x.share, x.deny, d)
		}
	}
	// A file that it makes: it may have it at once.
	made := openOK(last(c.ok(ops(root(), open("o", rw|wantWrite, 0, &nfsv4.Createhow4_GUARDED4{Createattrs: attrs()}, named("made")))...)))
	if _, is := made.Delegation.(*nfsv4.OpenDelegation4_OPEN_DELEGATE_WRITE); !is {
		t.Errorf("a new file: %+v", made.Delegation)
	}
}
