package fsm

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// TestCallsHappenOnce runs a history of NFS clients' calls twice: once as it is, and once where other gateways send many of the calls
// again, some time later, before their slot is used for the next one, as happens when a gateway restarts or another one
// takes its clients over. Results and state are the same but for what belongs to the gateway itself.
func TestCallsHappenOnce(t *testing.T) {
	again := 0
	rapid.Check(t, func(rt *rapid.T) {
		h := rapidHistory(rt)
		h.nfs = true
		num := func(label string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(rt, label) }
		type slot struct {
			seq  uint64
			last *metapb.Command
		}
		slots := map[callKey]*slot{}
		var order []callKey
		once, twice := newNamespaceRig(t, Options{limits: tiny}), newNamespaceRig(t, Options{limits: tiny})
		both := func(c *metapb.Command) (a, b *metapb.Result) { return once.one(c.CloneVT()), twice.one(c.CloneVT()) }
		h.begin()
		for _, c := range h.cmds {
			c.Id = nil
			both(c)
		}
		twice.register("b", 1)
		once.register("b", 1)
		h.cmds = h.cmds[:0]
		for range num("commands", 10, 60) {
			c := h.nfsOp()
			if e := c.GetExpireOrigin(); e != nil {
				e.Origin = max(e.Origin, 3) // the one that sends again goes on; its records, which only one machine has, take no part of a purge
			}
			if idempotent(c) || c.GetCloseFiles() != nil || c.GetReleaseSlots() != nil {
				both(c)
				for k, s := range slots {
					if r := c.GetReleaseSlots(); r != nil && string(r.Session) == string(k.session[:]) && r.First <= k.slot && s.seq < r.BelowSeq {
						s.last = nil // nor what it has acknowledged
					}
					if r := c.GetReleaseSession(); r != nil && string(r.Session) == string(k.session[:]) {
						s.last = nil // a client does not send again what a session is over for
					}
				}
				continue
			}
			client := h.client()
			k := callKey{sessionID(h.session(client)), uint32(num("call slot", 0, 3))}
			s := slots[k]
			if s == nil {
				s = &slot{}
				slots[k] = s
				order = append(order, k)
			}
			s.seq += uint64(num("skipped", 1, 3))
			c.Call = &metapb.Call{Session: k.session[:], Client: client, Slot: k.slot, Seq: s.seq, OpIndex: uint32(num("op index", 0, 5))}
			c.Time = &metapb.Time{Sec: 5000}
			a, b := both(c)
			a.Text, b.Text = "", ""
			if !proto.Equal(a, b) {
				rt.Fatalf("%v: %v and %v", c, a, b)
			}
			s.last = c
			for range num("again", 0, 2) {
				for _, key := range order { // any that is left to be sent again
					s := slots[key]
					if s.last == nil || num("this one", 0, 1) == 0 {
						continue
					}
					r := s.last.CloneVT()
					r.Id = &metapb.Identity{Origin: 2}
					r.Time = &metapb.Time{Sec: 6000}
					if key.slot == 0 {
						twice.reopen()
					}
					twice.one(r)
					again++
				}
			}
			twice.check()
		}
		x, y := once.state(), twice.state()
		for _, m := range []map[string]string{x, y} {
			for k := range m {
				if k[:2] == "s/" {
					delete(m, k)
				}
			}
		}
		if d := diffStates(x, y); d != "" {
			rt.Fatalf("states differ:\n%s", d)
		}
	})
	if again == 0 {
		t.Fatal("no call came again")
	}
	t.Logf("%d calls came again", again)
}

// TestReplayedLease shows that a result that is told again does not tell of a lease that was given back meanwhile: what would be
// buffered under it could not be committed.
func TestReplayedLease(t *testing.T) {
	r := newNamespaceRig(t, Options{})
	r.raise()
	c := createCmd(1, "f")
	c.GetCreate().Open = uint32(vfs.OpenWrite)
	c.Call = &metapb.Call{Session: []byte("session-00000001"), Client: 7, Seq: 3}
	again := c.CloneVT()
	made := r.ok(c).GetCreate()
	r.ok(&metapb.Command{Op: &metapb.Command_ReleaseLease{ReleaseLease: &metapb.ReleaseLease{Ino: made.Attr.Ino, Epoch: made.Lease.Epoch}}})
	told := r.ok(again).GetCreate()
	if told.GetAttr().GetIno() != made.Attr.Ino || told.Lease != nil {
		t.Fatalf("told %v, was %v", told, made)
	}
}
