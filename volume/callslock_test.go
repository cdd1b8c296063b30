package volume_test

import (
	"testing"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
	"github.com/rackfs/rackfs/volume"
)

// The LOCKU or LOCK of a gateway that stood still, and whose origin at this shard lives on, comes after another gateway has done it and the client has gone on: what is locked stays so, and nothing
// is that is not.
func TestLateLockChangesNothing(t *testing.T) {
	owner := vfs.LockOwner{Client: 7, Owner: "process"}
	all := byterange.Range{Last: 1<<64 - 1, Write: true}
	do := func(p *pair, i int, ino vfs.Ino, call *vfs.Call, unlock bool) error {
		ctx := vfs.WithCall(t.Context(), call)
		if unlock {
			return p.vols[i].Unlock(ctx, ino, owner, all.First, all.Last)
		}
		c, err := p.vols[i].Lock(ctx, ino, owner, vfs.LockState{State: vfs.StateID{2, 7, byte(i)}, Open: vfs.StateID{1, 7}}, all)
		if c != nil {
			t.Fatalf("denied by %v", c)
		}
		return err
	}
	for name, unlock := range map[string]bool{"LOCK": false, "LOCKU": true} {
		for _, next := range []bool{false, true} { // the slot has had another request
			p := newPair(t, volume.Config{})
			ino := p.file("f")
			p.share(ino)
			if unlock {
				if err := do(p, 0, ino, calling(4, false), false); err != nil {
					t.Fatal(err)
				}
			}
			goOn := p.late(5, func(call *vfs.Call) error { return do(p, 0, ino, call, unlock) })
			if err := do(p, 1, ino, calling(5, true), unlock); err != nil {
				t.Fatal(err)
			}
			if err := do(p, 1, ino, otherCall(next), !unlock); err != nil {
				t.Fatal(err)
			}
			// A LOCK is told the other gateway's name of it: then it is not this one that tells the client.
			want := vfs.KindOK
			if next {
				want = vfs.KindSuperseded
			} else if !unlock {
				want = vfs.KindUnavailable
			}
			if err := goOn(); vfs.KindOf(err) != want {
				t.Errorf("%s: the late one is told %v", name, err)
			}
			c, err := p.vols[1].TestLock(t.Context(), ino, vfs.LockOwner{Client: 8, Owner: "another"}, all)
			if err != nil || (c != nil) != unlock {
				t.Errorf("%s: after the late one the lock of another client would meet %v, %v", name, c, err)
			}
		}
	}
}

// A LOCK was carried out under the stateid of a gateway that stood still, after another one had looked what the client has and before that one did it too: what it names it by there is what ends it.
func TestLockHasTheStateidOfWhoTells(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	p.share(ino)
	owner := vfs.LockOwner{Client: 7, Owner: "process"}
	all := byterange.Range{Last: 1<<64 - 1, Write: true}
	for i, state := range []vfs.StateID{{2, 0, 0, 1}, {2, 0, 0, 2}} {
		if c, err := p.vols[i].Lock(vfs.WithCall(t.Context(), calling(5, i > 0)), ino, owner, vfs.LockState{State: state}, all); c != nil || err != nil {
			t.Fatal(c, err)
		}
	}
	end := vfs.Closing{Locks: []vfs.HeldLocks{{Ino: ino, Owner: owner, LockState: vfs.LockState{State: vfs.StateID{2, 0, 0, 2}}}}, Now: true}
	if err := p.vols[1].Unshare(t.Context(), ino, end); err != nil {
		t.Fatal(err)
	}
	if c, err := p.vols[1].TestLock(t.Context(), ino, vfs.LockOwner{Client: 8, Owner: "another"}, all); c != nil || err != nil {
		t.Errorf("after the end of the lock-owner there is %v, %v", c, err)
	}
}
