package v4_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"

	"github.com/rackfs/rackfs/vfs"
)

// holder is a client with a file, its backchannel, and the file's delegation.
type holder struct {
	*client
	b  *backchannel
	fh []byte
	id nfsv4.Stateid4
}

// hold makes a client that has name delegated and closed.
func (w *world) hold(owner, name string) *holder {
	w.t.Helper()
	h := &holder{}
	h.client, h.b = w.connectBack(owner)
	h.take(name)
	return h
}

func (h *holder) take(name string) {
	h.t.Helper()
	res := h.ok(ops(root(), open("o", rd, 0, nil, named(name)), &nfsv4.NfsArgop4_OP_GETFH{})...)
	ok := openOK(res[len(res)-2])
	d, is := ok.Delegation.(*nfsv4.OpenDelegation4_OPEN_DELEGATE_READ)
	if !is {
		h.t.Fatalf("%s: delegation %+v", name, ok.Delegation)
	}
	h.fh, h.id = fhOf(last(res)), d.Read.Stateid
	h.ok(putFH(h.fh), closeFile(ok.Stateid))
}

func (h *holder) wantRecall() {
	h.t.Helper()
	select {
	case r := <-h.b.recalled:
		if r.Stateid != h.id || !bytes.Equal(r.Fh, h.fh) || r.Truncate {
			h.t.Fatalf("recall %+v of %v %x", r, h.id, h.fh)
		}
	case <-time.After(5 * time.Minute):
		h.t.Fatal("no CB_RECALL")
	}
}

func delegReturn(id nfsv4.Stateid4) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_DELEGRETURN{Opdelegreturn: nfsv4.Delegreturn4args{DelegStateid: id}}
}

// delegationOf is how an OPEN by c was answered.
func (c *client) delegationOf(share, deny uint32, claim nfsv4.OpenClaim4) nfsv4.OpenDelegation4 {
	c.t.Helper()
	res := openOK(last(c.ok(ops(root(), open("x", share, deny, nil, claim))...)))
	return res.Delegation
}

// Whatever changes a file waits until others have returned it, is not done before, and is done then.
func TestConflictsRecallDelegations(t *testing.T) {
	plain := func(o ...any) func(*client) nfsv4.Nfsstat4 {
		return func(c *client) nfsv4.Nfsstat4 { return c.do(ops(o...)...).Status }
	}
	raw := func(op []byte) func(*client) nfsv4.Nfsstat4 {
		return func(c *client) nfsv4.Nfsstat4 { st, _ := c.xattr(at("file"), op); return st }
	}
	size := attrs(nfsv4.FATTR4_SIZE, uint64(1))
	for name, change := range map[string]func(*client) nfsv4.Nfsstat4{
		"OPEN for writing":      plain(root(), open("w", wr, 0, nil, named("file"))),
		"OPEN by handle":        plain(at("file"), open("w", rw, 0, nil, nil)),
		"OPEN with a deny mode": plain(root(), open("w", rd, nfsv4.OPEN4_SHARE_DENY_READ, nil, named("file"))),
		"OPEN that truncates":   plain(root(), open("w", rd, 0, &nfsv4.Createhow4_UNCHECKED4{Createattrs: attrs(nfsv4.FATTR4_SIZE, uint64(0))}, named("file"))),
		"SETATTR of the mode":   plain(at("file"), setAttr(anonymous, attrs(nfsv4.FATTR4_MODE, uint32(0o600)))),
		"SETATTR of the size":   plain(at("file"), setAttr(anonymous, size)),
		"WRITE":                 plain(at("file"), write(anonymous, 0, nfsv4.FILE_SYNC4, []byte("new"))),
		"ALLOCATE":              plain(at("file"), allocate(anonymous, 0, 10)),
		"DEALLOCATE":            plain(at("file"), deallocate(anonymous, 0, 10)),
		"CLONE":                 plain(at("other"), &nfsv4.NfsArgop4_OP_SAVEFH{}, at("file"), clone(anonymous, anonymous, 0, 0, 0)),
		"COPY":                  plain(at("other"), &nfsv4.NfsArgop4_OP_SAVEFH{}, at("file"), copyArgs(anonymous, anonymous, 0, 0, 0, true)),
		"REMOVE":                plain(root(), remove("file")),
		"RENAME of it":          plain(root(), &nfsv4.NfsArgop4_OP_SAVEFH{}, root(), rename("file", "new")),
		"RENAME over it":        plain(root(), &nfsv4.NfsArgop4_OP_SAVEFH{}, root(), rename("other", "file")),
		"LINK":                  plain(at("file"), &nfsv4.NfsArgop4_OP_SAVEFH{}, root(), link("new")),
		"SETXATTR":              raw(setXattr(0, "user.a", "v")),
		"REMOVEXATTR":           raw(removeXattr("user.was")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newDelegatingWorld(t)
			ino := w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
			w.mk(vfs.RootIno, "other", vfs.TypeFile, 0o666, 0)
			for _, ino := range []vfs.Ino{ino, lookupIno(t, w.fs, "other")} {
				if _, _, err := w.fs.Write(t.Context(), &vfs.Root, ino, 0, pattern(100), vfs.FileSync); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := w.fs.SetXattr(t.Context(), &vfs.Root, ino, "user.was", []byte("v"), vfs.XattrEither); err != nil {
				t.Fatal(err)
			}
			before, err := w.fs.GetAttr(t.Context(), ino)
			if err != nil {
				t.Fatal(err)
			}
			h := w.hold("holder", "file")
			other := w.connect("other", 2)
			if st := change(other); st != nfsv4.NFS4ERR_DELAY {
				t.Fatalf("status %s, want DELAY", nfsv4.Nfsstat4_name[st])
			}
			h.wantRecall()
			if now, err := w.fs.GetAttr(t.Context(), ino); err != nil || now.Change != before.Change {
				t.Fatalf("changed before the delegation was returned: %+v, %v", now, err)
			}
			h.ok(putFH(h.fh), read(h.id, 0, 10))
			h.ok(putFH(h.fh), delegReturn(h.id))
			if st := change(other); st != nfsv4.NFS4_OK {
				t.Fatalf("status %s after DELEGRETURN", nfsv4.Nfsstat4_name[st])
			}
			if len(h.b.recalled) > 0 {
				t.Error("recalled again")
			}
			// The delegation's open is closed.
			if err := w.fs.Close(t.Context(), ino, vfs.OpenRead); !strings.HasPrefix(name, "OPEN") && vfs.KindOf(err) != vfs.KindInvalid && vfs.KindOf(err) != vfs.KindStale {
				t.Errorf("it is still open: %v", err)
			}
		})
	}
}

// A client that returns a delegation at once delays nobody: the other's request is answered with success.
func TestRecallIsWaitedFor(t *testing.T) {
	w := newDelegatingWorld(t)
	w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	h := w.hold("holder", "file")
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-h.b.recalled
		h.ok(putFH(h.fh), delegReturn(h.id))
	}()
	other := w.connect("other", 2)
	for {
		res := other.do(ops(root(), open("w", wr, 0, nil, named("file")))...)
		if res.Status == nfsv4.NFS4_OK {
			break
		}
		other.want(res, nfsv4.NFS4ERR_DELAY) // a slow machine
	}
	<-done
	if d, is := h.delegationOf(rd, 0, named("file")).(*nfsv4.OpenDelegation4_OPEN_DELEGATE_NONE); !is {
		t.Fatalf("%+v while another writes", d)
	}
}

// What a client wants is respected, and it is told why it gets nothing.
func TestDelegationWants(t *testing.T) {
	w := newDelegatingWorld(t)
	for _, n := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		w.mk(vfs.RootIno, n, vfs.TypeFile, 0o666, 0)
	}
	c, _ := w.connectBack("holder")
	deaf := w.connect("without a backchannel", 2)
	for _, x := range []struct {
		who         *client
		name        string
		share, deny uint32
		why         nfsv4.WhyNoDelegation4 // of NONE_EXT
		given, ext  bool
	}{
		{c, "a", rd | nfsv4.OPEN4_SHARE_ACCESS_WANT_NO_DELEG, 0, nfsv4.WND4_NOT_WANTED, false, true},
		{c, "a", rd | nfsv4.OPEN4_SHARE_ACCESS_WANT_CANCEL, 0, nfsv4.WND4_CANCELLED, false, true},
		{c, "a", rd | nfsv4.OPEN4_SHARE_ACCESS_WANT_WRITE_DELEG, 0, nfsv4.WND4_WRITE_DELEG_NOT_SUPP_FTYPE, false, true},
		{c, "a", rd, 0, 0, true, false},
		{c, "a", rd | nfsv4.OPEN4_SHARE_ACCESS_WANT_READ_DELEG, 0, nfsv4.WND4_RESOURCE, false, true}, // it has it
		{c, "b", rd | nfsv4.OPEN4_SHARE_ACCESS_WANT_READ_DELEG, 0, 0, true, false},
		{c, "c", rd | nfsv4.OPEN4_SHARE_ACCESS_WANT_ANY_DELEG | nfsv4.OPEN4_SHARE_ACCESS_WANT_SIGNAL_DELEG_WHEN_RESRC_AVAIL, 0, 0, true, false},
		{c, "d", rw, 0, 0, false, false},
		{c, "e", rw | nfsv4.OPEN4_SHARE_ACCESS_WANT_ANY_DELEG, 0, nfsv4.WND4_CONTENTION, false, true},
		{c, "f", rd, nfsv4.OPEN4_SHARE_DENY_WRITE, 0, false, false},
		{deaf, "g", rd | nfsv4.OPEN4_SHARE_ACCESS_WANT_READ_DELEG, 0, nfsv4.WND4_RESOURCE, false, true},
		{deaf, "g", rd, 0, 0, false, false},
	} {
		var given, ext bool
		var why nfsv4.WhyNoDelegation4
		switch d := x.who.delegationOf(x.share, x.deny, named(x.name)).(type) {
		case *nfsv4.OpenDelegation4_OPEN_DELEGATE_READ:
			given = !d.Read.Recall
		case *nfsv4.OpenDelegation4_OPEN_DELEGATE_NONE_EXT:
			ext, why = true, d.OdWhynone.GetOndWhy()
		}
		if given != x.given || ext != x.ext || why != x.why {
			t.Errorf("%s %#x %d: given %v, reason %v %v", x.name, x.share, x.deny, given, ext, why)
		}
	}
}

// Before it returns a delegation a client turns what it opened by it into opens.
func TestClaimByDelegation(t *testing.T) {
	w := newDelegatingWorld(t)
	w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	w.mk(vfs.RootIno, "another", vfs.TypeFile, 0o666, 0)
	h := w.hold("holder", "file")
	other := w.connect("other", 2)
	other.fails(nfsv4.NFS4ERR_DELAY, ops(at("file"), open("w", wr, 0, nil, nil))...)
	h.wantRecall()
	byName := func(name string) nfsv4.OpenClaim4 {
		return &nfsv4.OpenClaim4_CLAIM_DELEGATE_CUR{DelegateCurInfo: nfsv4.OpenClaimDelegateCur4{DelegateStateid: h.id, File: name}}
	}
	byHandle := &nfsv4.OpenClaim4_CLAIM_DELEG_CUR_FH{OcDelegateStateid: h.id}
	first := openOK(last(h.ok(ops(root(), open("one", rd, 0, nil, byName("file")))...)))
	second := openOK(last(h.ok(putFH(h.fh), open("two", rd, 0, nil, byHandle))))
	for _, ok := range []nfsv4.Open4resok{first, second} {
		if _, is := ok.Delegation.(*nfsv4.OpenDelegation4_OPEN_DELEGATE_NONE); !is {
			t.Errorf("another delegation: %+v", ok.Delegation)
		}
	}
	h.fails(nfsv4.NFS4ERR_INVAL, putFH(h.fh), open("two", rw, 0, nil, byHandle))
	h.fails(nfsv4.NFS4ERR_BAD_STATEID, ops(root(), open("one", rd, 0, nil, byName("another")))...)
	h.ok(putFH(h.fh), delegReturn(h.id))
	h.fails(nfsv4.NFS4ERR_BAD_STATEID, putFH(h.fh), open("two", rd, 0, nil, byHandle))
	h.fails(nfsv4.NFS4ERR_BAD_STATEID, putFH(h.fh), delegReturn(h.id))
	h.fails(nfsv4.NFS4ERR_BAD_STATEID, putFH(h.fh), read(h.id, 0, 10))
	other.ok(ops(at("file"), open("w", wr, 0, nil, nil))...)
	h.ok(putFH(h.fh), read(first.Stateid, 0, 10), read(second.Stateid, 0, 10))
}

// A file that its own client unlinks stays readable by the delegation.
func TestDelegationKeepsTheFile(t *testing.T) {
	w := newDelegatingWorld(t)
	ino := w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	if _, _, err := w.fs.Write(t.Context(), &vfs.Root, ino, 0, []byte("content"), vfs.FileSync); err != nil {
		t.Fatal(err)
	}
	h := w.hold("holder", "file")
	h.ok(ops(root(), remove("file"))...)
	if got := readOK(last(h.ok(putFH(h.fh), read(h.id, 0, 10)))); string(got.Data) != "content" {
		t.Errorf("%q", got.Data)
	}
	h.fails(nfsv4.NFS4ERR_OPENMODE, putFH(h.fh), write(h.id, 0, nfsv4.FILE_SYNC4, []byte("x")))
	h.ok(putFH(h.fh), delegReturn(h.id))
	h.fails(nfsv4.NFS4ERR_STALE, putFH(h.fh), getAttr(nfsv4.FATTR4_SIZE))
}

// A delegation that is not returned is taken away after a lease.
func TestDelegationIsRevoked(t *testing.T) {
	w := newDelegatingWorld(t)
	w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	h := w.hold("holder", "file")
	other := w.connect("other", 2)
	other.fails(nfsv4.NFS4ERR_DELAY, ops(root(), remove("file"))...)
	h.wantRecall()
	for range 2 {
		w.advance(lease / 2)
		h.ok()
		other.ok()
	}
	other.ok(ops(root(), remove("file"))...)
	h.fails(nfsv4.NFS4ERR_DELEG_REVOKED, putFH(h.fh), read(h.id, 0, 10))
	h.ok(&nfsv4.NfsArgop4_OP_FREE_STATEID{OpfreeStateid: nfsv4.FreeStateid4args{FsaStateid: h.id}})
	h.fails(nfsv4.NFS4ERR_STALE, putFH(h.fh), getAttr(nfsv4.FATTR4_SIZE)) // nothing keeps it
}

// A client that is alive and cannot be called keeps others waiting for one lease, not for one at each file.
func TestHolderThatCannotBeCalled(t *testing.T) {
	w := newDelegatingWorld(t)
	for _, name := range []string{"file", "other"} {
		w.mk(vfs.RootIno, name, vfs.TypeFile, 0o666, 0)
	}
	h := w.hold("holder", "file")
	h.take("other")
	h.ok(&nfsv4.NfsArgop4_OP_BACKCHANNEL_CTL{OpbackchannelCtl: nfsv4.BackchannelCtl4args{
		BcaCbProgram: callbackProgram + 1, // which it does not serve
		BcaSecParms:  []nfsv4.CallbackSecParms4{&nfsv4.CallbackSecParms4_AUTH_NONE{}},
	}})
	other := w.connect("other", 2)
	w.state.CalledBack(w.clock(), h.client.id, false) // as after the first time
	for range 2 {
		w.advance(lease / 2)
		h.ok()
		other.ok()
	}
	for _, name := range []string{"file", "other"} { // while no time passes
		for limit := time.Now().Add(5 * time.Minute); ; {
			res := other.do(ops(root(), remove(name))...)
			if res.Status == nfsv4.NFS4_OK {
				break
			}
			if other.want(res, nfsv4.NFS4ERR_DELAY); time.Now().After(limit) {
				t.Fatal(name, "is waited for")
			}
		}
	}
	h.fails(nfsv4.NFS4ERR_DELEG_REVOKED, putFH(h.fh), delegReturn(h.id))
}

// A client that does not know what it is asked for does not keep others waiting for a lease.
func TestRecallOfTheUnknown(t *testing.T) {
	w := newDelegatingWorld(t)
	w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	h := w.hold("holder", "file")
	h.b.mu.Lock()
	h.b.recall = func(nfsv4.CbRecall4args) nfsv4.Nfsstat4 { return nfsv4.NFS4ERR_BAD_STATEID }
	h.b.mu.Unlock()
	other := w.connect("other", 2)
	limit := time.Now().Add(lease - time.Second)
	for {
		res := other.do(ops(root(), remove("file"))...)
		if res.Status == nfsv4.NFS4_OK {
			break
		}
		if other.want(res, nfsv4.NFS4ERR_DELAY); time.Now().After(limit) {
			t.Fatal("it is waited for")
		}
	}
	h.fails(nfsv4.NFS4ERR_DELEG_REVOKED, putFH(h.fh), delegReturn(h.id))
}

// A client whose backchannel had calls that this server does not know of is asked for another session, and called over that.
func TestBackchannelFault(t *testing.T) {
	w := newDelegatingWorld(t)
	w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	h := w.hold("holder", "file")
	h.b.mu.Lock()
	h.b.seqs[0] = 5
	h.b.mu.Unlock()
	other := w.connect("other", 2)
	flags := func() uint32 {
		res := h.raw(h.minor, h.sequence())
		h.want(res, nfsv4.NFS4_OK)
		return res.Resarray[0].(*nfsv4.NfsResop4_OP_SEQUENCE).Opsequence.(*nfsv4.Sequence4res_NFS4_OK).SrResok4.SrStatusFlags
	}
	if f := flags(); f != 0 {
		t.Fatalf("flags %#x", f)
	}
	other.fails(nfsv4.NFS4ERR_DELAY, ops(root(), remove("file"))...)
	for limit := time.Now().Add(5 * time.Minute); flags() != nfsv4.SEQ4_STATUS_BACKCHANNEL_FAULT; {
		if time.Now().After(limit) {
			t.Fatal("the client is not told")
		}
	}
	h.b.mu.Lock()
	h.b.seqs[0] = 0 // of the new session
	h.b.mu.Unlock()
	h.backSession(2)
	h.wantRecall()
	h.ok(putFH(h.fh), delegReturn(h.id))
	other.ok(ops(root(), remove("file"))...)
}

// Callbacks have the credentials that the client asked for last.
func TestRecallCredentials(t *testing.T) {
	w := newDelegatingWorld(t)
	w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	h := w.hold("holder", "file")
	h.ok(&nfsv4.NfsArgop4_OP_BACKCHANNEL_CTL{OpbackchannelCtl: nfsv4.BackchannelCtl4args{
		BcaCbProgram: callbackProgram,
		BcaSecParms:  []nfsv4.CallbackSecParms4{&nfsv4.CallbackSecParms4_AUTH_SYS{CbspSysCred: rpcv2.AuthsysParms{Machinename: "me", Uid: 17, Gid: 19}}},
	}})
	w.connect("other", 2).fails(nfsv4.NFS4ERR_DELAY, ops(root(), remove("file"))...)
	h.wantRecall()
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	if c := h.b.creds[0]; c.UID != 17 || c.GID != 19 {
		t.Errorf("called as %+v", c)
	}
}
