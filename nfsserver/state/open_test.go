package state_test

import (
	"fmt"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// RFC 8881, 9.7: every pair of access and deny of two opens.
func TestShareReservations(t *testing.T) {
	for access1 := uint32(1); access1 <= 3; access1++ {
		for deny1 := range uint32(4) {
			for access2 := uint32(1); access2 <= 3; access2++ {
				for deny2 := range uint32(4) {
					t.Run(fmt.Sprintf("%d deny %d then %d deny %d", access1, deny1, access2, deny2), func(t *testing.T) {
						w := newWorld(t)
						a, b := w.client("a"), w.client("b")
						id := a.open(fileA, access1, deny1, ok)
						want := state.Status(ok)
						if access1&deny2 != 0 || access2&deny1 != 0 {
							want = nfsv4.NFS4ERR_SHARE_DENIED
						}
						b.open(fileB, access2, deny2, ok) // another file
						b.open(fileA, access2, deny2, want)
						eff, st := w.s.OpenAllowed(w.now, b.openArgs(fileA, access2, deny2))
						w.must(eff)
						w.wantStatus("OpenAllowed", st, want)
						a.close(fileA, id, ok)
						b.open(fileA, access2, deny2, ok)
					})
				}
			}
		}
	}
}

// One owner's opens of a file are one state; its vfs opens are closed exactly once.
func TestOpenUpgradeAndDowngrade(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	first := a.open(fileA, read, none, ok)
	if first.Seqid != 1 {
		t.Errorf("first seqid %d", first.Seqid)
	}
	a.io(fileA, first, vfs.OpenWrite, nfsv4.NFS4ERR_OPENMODE)
	second := a.open(fileA, both, nfsv4.OPEN4_SHARE_DENY_WRITE, ok)
	if second.Other != first.Other || second.Seqid != 2 {
		t.Errorf("upgrade gave %v after %v", second, first)
	}
	a.open(fileA, both, none, ok) // adds nothing
	w.wantOpen("10:1", "10:3")
	a.io(fileA, second, vfs.OpenWrite, nfsv4.NFS4ERR_OLD_STATEID)
	second.Seqid = 3
	a.io(fileA, second, vfs.OpenWrite, ok)
	second.Seqid = 4
	a.io(fileA, second, vfs.OpenWrite, nfsv4.NFS4ERR_BAD_STATEID)
	second.Seqid = 0 // the most recent (RFC 8881, 8.2.2)
	a.io(fileA, second, vfs.OpenWrite, ok)

	a.downgrade(fileA, second, write, none, nfsv4.NFS4ERR_INVAL) // never opened for write alone
	a.downgrade(fileA, second, 0, none, nfsv4.NFS4ERR_INVAL)
	a.downgrade(fileA, second, read, read, nfsv4.NFS4ERR_INVAL) // not denied before
	down := a.downgrade(fileA, second, read, none, ok)
	if down.Seqid != 4 {
		t.Errorf("seqid after downgrade %d", down.Seqid)
	}
	w.wantOpen("10:1")
	a.io(fileA, down, vfs.OpenWrite, nfsv4.NFS4ERR_OPENMODE)
	w.client("b").open(fileA, write, none, ok) // nothing is denied any more
	a.close(fileA, down, ok)
	a.close(fileA, down, nfsv4.NFS4ERR_BAD_STATEID)
	w.wantOpen("10:2")
}

// A vfs open for both stays when it is the only one: the remaining access needs it.
func TestDowngradeKeepsWhatIsNeeded(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	args := a.openArgs(fileA, read, none)
	args.Held = 0 // a caller that needed no vfs open of its own
	id, eff, st := w.s.Open(w.now, args)
	w.must(eff)
	w.wantStatus("OPEN", st, ok)
	a.open(fileA, both, none, ok)
	id.Seqid = 0
	id = a.downgrade(fileA, id, read, none, ok)
	w.wantOpen("10:3")
	a.close(fileA, id, ok)
	w.wantOpen()
}

func TestOwnersAndClientsAreDistinct(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	first := a.open(fileA, read, none, ok)
	args := a.openArgs(fileA, read, none)
	args.Owner = []byte("another")
	second := a.doOpen(args, ok)
	third := b.open(fileA, read, none, ok)
	if first.Other == second.Other || first.Other == third.Other {
		t.Error("stateids are shared")
	}
	w.wantOpen("10:110:110:1")
	b.io(fileA, first, vfs.OpenRead, nfsv4.NFS4ERR_BAD_STATEID) // not b's
	a.io(fileB, first, vfs.OpenRead, nfsv4.NFS4ERR_BAD_STATEID) // not of that file
	a.close(fileA, first, ok)
	w.wantOpen("10:110:1")
}

// RFC 8881, 8.2.3 and 8.2.4.
func TestStateids(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	id := a.open(fileA, both, nfsv4.OPEN4_SHARE_DENY_WRITE, ok)
	foreign := id
	foreign.Other[3]++ // another server instance
	never := id
	never.Other[7] = 200 // a client number not given out yet
	random := id
	random.Other[11]++
	for _, tc := range []struct {
		name string
		id   state.Stateid
		want state.Status
	}{
		{"valid", id, ok},
		{"earlier server instance", foreign, nfsv4.NFS4ERR_STALE_STATEID},
		{"never given out", never, nfsv4.NFS4ERR_BAD_STATEID},
		{"wrong random bits", random, nfsv4.NFS4ERR_BAD_STATEID},
		{"current, not replaced by the caller", state.Current, nfsv4.NFS4ERR_BAD_STATEID},
		{"invalid", state.Invalid, nfsv4.NFS4ERR_BAD_STATEID},
		{"all ones with a wrong seqid", state.Stateid{Seqid: 7, Other: state.Bypass.Other}, nfsv4.NFS4ERR_BAD_STATEID},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := w.s.TestStateid(a.id, tc.id); got != tc.want {
				t.Errorf("TEST_STATEID %v, want %v", got, tc.want)
			}
			_, _, st := w.s.CheckIO(w.now, a.id, fileA, tc.id, vfs.OpenRead)
			if st != tc.want {
				t.Errorf("READ %v, want %v", st, tc.want)
			}
		})
	}
	if got := w.s.TestStateid(a.id, state.Anonymous); got != nfsv4.NFS4ERR_BAD_STATEID {
		t.Errorf("TEST_STATEID of the anonymous stateid: %v", got)
	}

	// Without an open only share reservations count.
	b := w.client("b")
	b.io(fileA, state.Anonymous, vfs.OpenWrite, nfsv4.NFS4ERR_LOCKED)
	b.io(fileA, state.Bypass, vfs.OpenWrite, nfsv4.NFS4ERR_LOCKED)
	if io := b.io(fileA, state.Anonymous, vfs.OpenRead, ok); !io.Special {
		t.Error("the caller must check the credentials")
	}
	b.io(fileB, state.Anonymous, vfs.OpenWrite, ok)
	b.open(fileB, read, read, ok)
	a.io(fileB, state.Anonymous, vfs.OpenRead, nfsv4.NFS4ERR_LOCKED)
	a.io(fileB, state.Bypass, vfs.OpenRead, ok)

	// Reading through an open for writing is allowed, for partial pages.
	c := w.client("c")
	writer := c.open(fileB, write, none, ok)
	c.io(fileB, writer, vfs.OpenRead, ok)

	// The stateids of a client that has ended.
	again := w.peer("a")
	again.verf = 2
	again.connect()
	again.io(fileA, id, vfs.OpenRead, nfsv4.NFS4ERR_EXPIRED)
}

func TestOpenLimitsAndBadArguments(t *testing.T) {
	w := newWorld(t)
	w.limit.OpensPerClient = 1
	w.restart()
	a := w.client("a")
	a.open(fileA, read, none, ok)
	a.open(fileA, both, none, ok) // the same state
	a.open(fileB, read, none, nfsv4.NFS4ERR_DELAY)
	for _, bad := range [][2]uint32{{0, 0}, {4, 0}, {1, 4}} {
		_, eff, st := w.s.Open(w.now, state.OpenArgs{Client: a.id, File: fileA, Access: bad[0], Deny: bad[1]})
		w.must(eff)
		w.wantStatus(fmt.Sprint(bad), st, nfsv4.NFS4ERR_INVAL)
	}
	_, eff, st := w.s.Open(w.now, state.OpenArgs{Client: a.id, File: fileA, Access: read, Owner: make([]byte, 1025)})
	w.must(eff)
	w.wantStatus("owner of 1025 bytes", st, nfsv4.NFS4ERR_INVAL)
	w.wantOpen("10:1", "10:3")
}
