package fsm

import (
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// An open that denies something, from level 7 on among several gateways: who has the file alone is asked for it first, as it opens it without asking; as long as there is such an
// open nobody gets it alone, and who looks at the file to open it is told.
func TestDenyAmongSeveral(t *testing.T) {
	r := newNamespaceRig(t, Options{})
	for r.m.Level() < levelGateways {
		r.ok(raiseCmd(r.m.Level() + 1))
	}
	register := func(name string) uint64 {
		return r.ok(&metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
			Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: name, Incarnation: incarnation(1), Several: true,
		}}}).GetOrigin().Origin
	}
	a, b := register("p"), register("q")
	by := func(origin uint64, c *metapb.Command) *metapb.Result {
		r.me = origin
		return r.ok(c)
	}
	open := func(origin uint64, state string, access, deny uint32) *metapb.Result {
		return by(origin, &metapb.Command{Op: &metapb.Command_OpenFile{OpenFile: &metapb.OpenFile{Ino: 2, Flags: access, Share: &metapb.ClientOpen{
			Client: origin, Stateid: []byte(state), Owner: []byte(state), Access: access, Deny: deny,
		}}}})
	}
	acquire := func(origin uint64) *metapb.Lease {
		return by(origin, &metapb.Command{Op: &metapb.Command_AcquireLease{AcquireLease: &metapb.AcquireLease{Ino: 2}}}).GetLease().GetLease()
	}
	denies := func() bool {
		r.flush()
		res := Query(r.store, nil, &metapb.Query{Fs: 1, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: 2, Open: uint32(vfs.OpenRead)}}})
		if res.Kind != 0 {
			t.Fatal(res.Text)
		}
		return res.GetAttr().GetDenies()
	}
	shut := func(origin uint64, state string) {
		by(origin, &metapb.Command{Op: &metapb.Command_CloseFiles{CloseFiles: &metapb.CloseFiles{Files: []*metapb.FileClose{{Ino: 2, Client: origin, Stateid: []byte(state)}}}}})
	}
	by(a, createCmd(1, "f"))
	alone := acquire(a)
	if alone.GetOrigin() != a {
		t.Fatalf("lease %v", alone)
	}
	if res := open(b, "level 6.....", 1, 1); res.GetHeld() != nil || res.GetOpen().GetDenied() != nil {
		t.Fatalf("at level 6: %v", res)
	}
	shut(b, "level 6.....")
	r.ok(raiseCmd(levelHandover))
	if res := open(b, "level 7.....", 1, 1); res.GetHeld().GetOrigin() != a {
		t.Fatalf("the file is %d's alone: %v", a, res)
	}
	if res := open(b, "denies none.", 1, 0); res.GetHeld() != nil {
		t.Fatalf("an open that denies nothing is in nobody's way: %v", res)
	}
	if denies() {
		t.Error("an open that denies is told of, and there is none")
	}
	shut(b, "denies none.")
	by(a, &metapb.Command{Op: &metapb.Command_ReleaseLease{ReleaseLease: &metapb.ReleaseLease{Ino: 2, Epoch: alone.Epoch}}})
	if res := open(b, "level 7.....", 1, 1); res.GetHeld() != nil || res.GetOpen().GetDenied() != nil {
		t.Fatalf("nobody has it: %v", res)
	}
	if !denies() {
		t.Error("an open that denies is not told of")
	}
	if res := open(a, "of reading..", 1, 0); res.GetOpen().GetDenied().GetClient() != b {
		t.Fatalf("not denied: %v", res)
	}
	if l := acquire(a); l.GetOrigin() != 0 || l.GetEpoch() == 0 {
		t.Fatalf("while an open denies something: lease %v", l)
	}
	shut(b, "level 7.....")
	if l := acquire(a); l.GetOrigin() != a {
		t.Fatalf("nobody has it open: lease %v", l)
	}
	// From level 10 on an open that was made without a record gets one, unless another one denies it: who has that asks after it has the record.
	for r.m.Level() < levelLoose {
		r.ok(raiseCmd(r.m.Level() + 1))
	}
	keep := func(state string) []uint32 {
		return by(a, &metapb.Command{Op: &metapb.Command_KeepOpens{KeepOpens: &metapb.KeepOpens{Opens: []*metapb.ClientOpen{
			{Ino: 2, Client: a, Stateid: []byte(state), Owner: []byte(state), Access: 1},
		}}}}).GetKeepOpens().GetRefused()
	}
	if l := acquire(a); l.GetOrigin() != a {
		t.Fatalf("lease %v", l)
	}
	if no := keep("made before."); len(no) != 0 {
		t.Fatalf("refused %v", no)
	}
	by(a, &metapb.Command{Op: &metapb.Command_ReleaseLease{ReleaseLease: &metapb.ReleaseLease{Ino: 2, Epoch: acquire(a).Epoch}}})
	if res := open(b, "level 7.....", 1, 1); res.GetOpen().GetDenied().GetClient() != a {
		t.Fatalf("not denied by what was recorded later: %v", res)
	}
	shut(a, "made before.")
	if res := open(b, "level 7.....", 1, 1); res.GetOpen().GetDenied() != nil {
		t.Fatalf("denied: %v", res)
	}
	if no := keep("made before."); len(no) != 1 {
		t.Fatalf("an open that is denied was recorded")
	}
}
