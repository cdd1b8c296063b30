package state_test

import (
	"context"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// sharedFiles keeps what it is told last of each open, and lets something happen before.
type sharedFiles struct {
	noFiles
	shares map[vfs.StateID]vfs.Share
	before func()
}

func (f *sharedFiles) Share(_ context.Context, s state.FileShare) error {
	if b := f.before; b != nil {
		f.before = nil
		b()
	}
	f.shares[s.Share.State] = s.Share
	return nil
}

// What an OPEN owes of an open is carried out as it is then, and does not undo what another OPEN of the same owner has recorded meanwhile, whichever of the two package state hears of first.
func TestLateShare(t *testing.T) {
	const denyWrite = nfsv4.OPEN4_SHARE_DENY_WRITE
	for _, when := range []string{"opened before", "opened while it is recorded", "opened after", "closed"} {
		t.Run(when, func(t *testing.T) {
			w := newKeptWorld(t)
			p := w.keptClient("a")
			files := &sharedFiles{shares: map[vfs.StateID]vfs.Share{}}
			apply := func(eff state.Effects) {
				t.Helper()
				eff.Sessions, eff.Record = nil, nil // which this world has no store for
				if err := eff.Apply(t.Context(), w, files); err != nil {
					t.Fatal(err)
				}
			}
			one := p.plan(fileA, read, none)
			other := p.plan(fileA, write, none)
			_, eff, st := w.s.Open(w.now, other)
			w.wantStatus("OPEN", st, ok)
			apply(eff)
			id, owes, st := w.s.Open(w.now, one) // which planned another one
			w.wantStatus("OPEN", st, ok)
			if len(owes.Share) != 1 {
				t.Fatalf("owes %+v", owes)
			}
			if when == "closed" {
				_, eff, st := w.s.Close(w.now, p.id, fileA, id)
				w.wantStatus("CLOSE", st, ok)
				apply(eff)
				apply(owes)
				if len(files.shares) != 0 {
					t.Errorf("kept %+v", files.shares)
				}
				return
			}
			two := p.plan(fileA, read, denyWrite)
			files.shares[two.Plan.Share.State] = two.Plan.Share
			open := func() {
				_, eff, st := w.s.Open(w.now, two)
				w.wantStatus("OPEN", st, ok)
				apply(eff)
			}
			switch when {
			case "opened before":
				open()
				apply(owes)
			case "opened while it is recorded":
				files.before = open
				apply(owes)
			case "opened after":
				apply(owes)
				open()
			}
			if s := files.shares[id.Other]; s.Access != vfs.OpenRead|vfs.OpenWrite || s.Deny != vfs.OpenWrite {
				t.Errorf("kept %+v", s)
			}
		})
	}
}
