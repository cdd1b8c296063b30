package fsm

import (
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// The length of a lease is in the registration from level 7 on, through a restart, and one too short, or of what is not leased, is refused.
func TestLeaseLength(t *testing.T) {
	r := newNamespaceRig(t, Options{})
	register := func(name string, ms uint32, leased bool) *metapb.Command {
		return &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
			Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: name, Incarnation: incarnation(1), Leased: leased, LeaseMilliseconds: ms,
		}}}
	}
	lengthOf := func(id uint64) time.Duration {
		t.Helper()
		r.reopen()
		o, ok, err := FindOrigin(r.store, id)
		if err != nil || !ok || !o.Leased {
			t.Fatalf("origin %d: %+v %v %v", id, o, ok, err)
		}
		return o.Lease
	}
	for r.m.Level() < levelGateways {
		r.ok(raiseCmd(r.m.Level() + 1))
	}
	if got := lengthOf(r.ok(register("before", 4000, true)).GetOrigin().Origin); got != 0 {
		t.Errorf("at level 6 a registration has a lease of %v", got)
	}
	r.ok(raiseCmd(levelHandover))
	if got := lengthOf(r.ok(register("b", 4000, true)).GetOrigin().Origin); got != 4*time.Second {
		t.Errorf("a lease of %v, want 4 s", got)
	}
	if got := lengthOf(r.ok(register("c", 0, true)).GetOrigin().Origin); got != 0 {
		t.Errorf("one that says nothing has a lease of %v", got)
	}
	for _, c := range []*metapb.Command{register("d", 999, true), register("e", 4000, false)} {
		if res := r.one(c); vfs.Kind(res.Kind) != vfs.KindInvalid {
			t.Errorf("%v: %v, want a refusal", c, res)
		}
	}
}
