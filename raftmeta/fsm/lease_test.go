package fsm

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// seen is what users see of a file, which its holder answers from memory.
type seen struct {
	exists bool
	attr   vfs.Attr
	xattrs xattrs
	lease  lease
}

func (r *rig) seen(ino uint64) seen {
	r.t.Helper()
	n, err := r.m.overlay.inode(1, ino)
	if err != nil {
		r.t.Fatal(err)
	}
	if n == nil {
		return seen{}
	}
	s := seen{exists: true, attr: n.attr, xattrs: n.xattrs, lease: n.lease}
	s.attr.Atime, s.attr.Used = time.Time{}, 0 // the holder is not told of these
	return s
}

// epochOf is the inode and the epoch that a command names, if it is one that changes a file's bytes or lease.
func epochOf(c *metapb.Command) (ino uint64, epoch *uint64) {
	switch op := c.Op.(type) {
	case *metapb.Command_CommitData:
		return op.CommitData.Ino, &op.CommitData.Epoch
	case *metapb.Command_PunchHole:
		return op.PunchHole.Ino, &op.PunchHole.LeaseEpoch
	case *metapb.Command_Allocate:
		return op.Allocate.Ino, &op.Allocate.LeaseEpoch
	case *metapb.Command_SetAttr:
		if op.SetAttr.Set.GetSize() != 0 {
			return op.SetAttr.Ino, &op.SetAttr.LeaseEpoch
		}
	case *metapb.Command_ShareLease:
		return op.ShareLease.Ino, &op.ShareLease.Epoch
	case *metapb.Command_AcquireLease:
		if op.AcquireLease.Alone != 0 {
			return op.AcquireLease.Ino, &op.AcquireLease.Alone
		}
	}
	return 0, nil
}

// TestHeldAlone runs random histories of two gateways at level 6. As long as one has a file to itself nobody else changes what is seen of
// it, so it may answer from memory; bytes change only under the epoch that the command names; and who comes after a holder goes
// on above all change values that it may have shown.
func TestHeldAlone(t *testing.T) {
	held, shared, moved := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		h := rapidHistory(rt)
		h.raises, h.nfs = true, true
		h.begin()
		r := newNamespaceRig(t, Options{MaxLevel: Level, limits: tiny})
		origins := map[string]uint64{"a": 1, "b": r.register("b", 1)}
		for _, c := range h.cmds {
			r.apply(c)
		}
		r.raise()
		begins := h.num("begins shared", 0, 2) == 0
		if begins {
			for f := uint64(5); f <= 8; f++ {
				r.ok(&metapb.Command{Id: &metapb.Identity{Origin: 1, Slot: 2, Seq: f}, Op: &metapb.Command_ShareLease{ShareLease: &metapb.ShareLease{Ino: f, Epoch: 1}}})
			}
		}
		steps := h.num("commands", 40, 120)
		for seq := range steps {
			c := h.op()
			if h.num("of leases", 0, 3) == 0 {
				c = h.lease()
			}
			gateway := []string{"a", "a", "b"}[h.num("gateway", 0, 2)]
			switch {
			case seq == 0 && begins: // so that every history of these has one
				c, gateway = &metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
					Ino: 5, Epoch: 2, Size: 1, Extents: []*metapb.NewExtent{{Length: 1, Inline: []byte("x")}},
				}}}, "b"
			case seq == steps-1:
				c = &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
					Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "a", Incarnation: incarnation(99),
				}}}
			}
			if c.GetRaiseLevel() != nil {
				continue
			}
			if !idempotent(c) {
				c.Id = &metapb.Identity{Origin: origins[gateway], Slot: 1, Seq: seq + 1}
			}
			c.Time = &metapb.Time{Sec: int64(1000 + seq)}
			ino, epoch := epochOf(c)
			if epoch != nil && h.num("knows", 0, 3) > 0 {
				*epoch = r.seen(ino).lease.epoch
			}
			before := map[uint64]seen{}
			for f := uint64(2); f <= 130; f++ { // as many as commands can make
				before[f] = r.seen(f)
			}
			res := r.one(c)
			if o := res.GetOrigin(); o != nil && c.GetRegisterOrigin() != nil {
				origins[c.GetRegisterOrigin().Name] = o.Origin
			}
			what := fmt.Sprintf("%v of origin %d", c, c.Id.GetOrigin())
			for f, b := range before {
				a := r.seen(f)
				if a == b {
					continue
				}
				if a.exists && b.exists && a.attr.Change < b.attr.Change {
					rt.Fatalf("%s: inode %d goes back from change %d to %d", what, f, b.attr.Change, a.attr.Change)
				}
				if b.lease.origin == 0 || c.Id.GetOrigin() == b.lease.origin {
					continue
				}
				alive, err := r.m.registered(b.lease.origin)
				if err != nil {
					t.Fatal(err)
				}
				if b.attr.Nlink == 0 && !a.exists {
					continue // without a name, and who kept it has ended: nobody has it open
				}
				if alive {
					rt.Fatalf("%s: inode %d was\n%+v and is\n%+v", what, f, b, a)
				}
				moved++
				if a.exists && a.attr.Change <= b.lease.limit {
					rt.Fatalf("%s: inode %d has change %d, its holder may have shown %d", what, f, a.attr.Change, b.lease.limit)
				}
			}
			if res.GetHeld() != nil {
				held++
				if l := before[res.GetHeld().Ino].lease; l.origin != res.GetHeld().Origin || l.epoch != res.GetHeld().Epoch || l.origin == c.Id.Origin {
					rt.Fatalf("%s was answered %v under the lease %+v", what, res, l)
				}
			} else if epoch != nil && res.Kind == 0 && c.GetAcquireLease() == nil {
				l := before[ino].lease
				if l.epoch != *epoch || l.origin != 0 && l.origin != c.Id.Origin {
					rt.Fatalf("%s was done under the lease %+v", what, l)
				}
				if l.shared() {
					shared++
				}
			}
		}
		r.check()
	})
	if held == 0 || shared == 0 || moved == 0 {
		t.Fatalf("%d commands held, %d done under a shared lease, %d files of holders that ended: the histories show nothing", held, shared, moved)
	}
	t.Logf("%d commands held, %d done under a shared lease, %d files of holders that ended", held, shared, moved)
}

// TestListedAsAsked: a listing tells of a file, whoever has its lease, what a question for the file alone tells: a client that is shown a
// change value early takes what comes under that value for what it has.
func TestListedAsAsked(t *testing.T) {
	for _, cached := range []bool{false, true} {
		o := Options{}
		if cached {
			o.Cache = NewCache(1 << 20)
		}
		r := newNamespaceRig(t, o)
		r.raise()
		other := r.register("b", 1)
		for i, origin := range []uint64{r.me, r.me, other} {
			r.ok(&metapb.Command{Id: &metapb.Identity{Origin: origin, Slot: 2}, Op: &metapb.Command_Create{Create: &metapb.Create{
				Parent: 1, Name: fmt.Append(nil, "file", i), Attr: &metapb.AttrSet{}, Type: uint32(vfs.TypeFile), Open: uint32(vfs.OpenWrite),
			}}})
		}
		list := func() map[uint64]*metapb.Attr {
			all := map[uint64]*metapb.Attr{}
			q := &metapb.ReadDirQ{Dir: 1, Attrs: true}
			for _, e := range r.query(&metapb.Query{Cred: &metapb.Cred{}, Q: &metapb.Query_ReadDir{ReadDir: q}}).GetReadDir().GetEntries() {
				all[e.Ino] = e.Attr
			}
			if len(all) != 3 {
				t.Fatalf("%d files are listed", len(all))
			}
			return all
		}
		var shared uint64
		for ino := range list() {
			if l := r.seen(ino).lease; l.origin == r.me && shared == 0 {
				shared = ino
				r.ok(&metapb.Command{Op: &metapb.Command_ShareLease{ShareLease: &metapb.ShareLease{Ino: ino, Epoch: l.epoch}}})
			}
		}
		r.ok(&metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: other}}})
		for range 2 { // what the first one reads the second one finds in the cache
			for ino, a := range list() {
				if want := r.attr(ino).Attr; !proto.Equal(want, a) {
					t.Errorf("inode %d (shared: %v, cache: %v) is listed as\n%v and is\n%v", ino, ino == shared, cached, a, want)
				}
			}
		}
	}
}
