package fsm

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func deleteSpaceCmd(fs uint32) *metapb.Command {
	return &metapb.Command{Fs: fs, Id: &metapb.Identity{}, Op: &metapb.Command_DeleteNamespace{DeleteNamespace: &metapb.DeleteNamespace{}}}
}

func purgeCmd(keys uint32) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: keys}}}
}

// ofFS are the records of a file system, by key; block records and indexes by client and origin among them.
func (r *rig) ofFS(fs uint32) map[string]string {
	out := map[string]string{}
	for k, v := range r.state() {
		at := 2
		switch k[0] {
		case 'n', 'c', 'u', 'i', 'd', 'a', 'e', 'o', 'O', 'L':
		case 'v', 'h':
			at = 10
		case 'w':
			if len(k) != clientFileLen {
				continue
			}
			at = knownLen
		case 'b':
			var b metapb.BlockRecord
			if len(k) > 10 || b.UnmarshalVT([]byte(v)) != nil || b.Fs != fs {
				continue
			}
			out[k] = v
			continue
		default:
			continue
		}
		if binary.BigEndian.Uint32([]byte(k)[at:]) == fs {
			out[k] = v
		}
	}
	return out
}

// TestDeletedNamespace deletes one of two file systems at any point of a history with everything in it, while clients and origins end, in
// pieces of any size, with restarts in between. After every command the invariants hold; in the end nothing of it is left, and of the other
// one nothing is missing.
func TestDeletedNamespace(t *testing.T) {
	emptied, most := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		h := rapidHistory(rt)
		h.raises, h.nfs = true, true
		h.begin()
		r := newNamespaceRig(t, Options{limits: tiny})
		r.register("b", 1)
		for _, c := range h.cmds {
			r.apply(c)
		}
		r.raise()
		// The other one has a bit of everything that lies beside records of the first.
		const other = 2
		r.ok(&metapb.Command{Fs: other, Op: &metapb.Command_CreateNamespace{CreateNamespace: testNamespace()}})
		for _, name := range []string{"x", "y"} {
			c := createCmd(1, name)
			c.Fs, c.Id = other, &metapb.Identity{Origin: 1, Slot: 9}
			r.ok(c)
		}
		kept := r.ofFS(other)
		for range h.num("commands", 10, 80) {
			h.step()
			c := h.cmds[len(h.cmds)-1]
			if _, ok := c.Op.(*metapb.Command_RaiseLevel); !ok {
				r.apply(c)
			}
		}
		most = max(most, len(r.ofFS(1)))
		r.ok(deleteSpaceCmd(1))
		r.fails(vfs.KindStale, &metapb.Command{Id: &metapb.Identity{Origin: r.register("c", 1)}, Op: &metapb.Command_AcquireLease{AcquireLease: &metapb.AcquireLease{Ino: 5}}})
		r.fails(vfs.KindExists, &metapb.Command{Op: &metapb.Command_CreateNamespace{CreateNamespace: testNamespace()}})
		for {
			if h.num("flush", 0, 2) == 0 {
				r.flush()
			}
			if h.num("reopen", 0, 3) == 0 {
				r.reopen()
			}
			switch h.num("meanwhile", 0, 5) {
			case 0:
				r.ok(&metapb.Command{Id: &metapb.Identity{}, Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{h.num("client", 1, 3)}}}})
			case 1:
				r.ok(&metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: h.num("ended", 1, 2)}}})
			case 2:
				r.ok(deleteSpaceCmd(1))
			case 3:
				h.step()
				if c := h.cmds[len(h.cmds)-1]; levelOf(c) > 1 || !idempotent(c) {
					r.apply(c)
				}
			}
			if !r.ok(purgeCmd(uint32(h.num("keys", 1, 40)))).GetPurge().More {
				break
			}
		}
		for k := range r.ofFS(1) {
			rt.Fatalf("%q is left", k)
		}
		if d := diffStates(kept, r.ofFS(other)); d != "" {
			rt.Fatalf("the other file system changed:\n%s", d)
		}
		ns := r.query(&metapb.Query{Q: &metapb.Query_Namespace{Namespace: &metapb.NamespaceQ{}}}).GetNamespace()
		if ns.Exists || !ns.Deleted || ns.Purging {
			rt.Fatalf("the shard says %v", ns)
		}
		if res := r.query(&metapb.Query{Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: 1}}}); vfs.Kind(res.Kind) != vfs.KindStale {
			rt.Fatalf("a query: %v", res)
		}
		r.fails(vfs.KindExists, &metapb.Command{Op: &metapb.Command_CreateNamespace{CreateNamespace: testNamespace()}})
		r.check()
		emptied++
	})
	if emptied == 0 || most < 30 {
		t.Fatalf("%d file systems were deleted, of at most %d records: that shows nothing", emptied, most)
	}
	t.Logf("%d file systems were deleted, of at most %d records", emptied, most)
}

// TestCheckOfDeletedNamespace shows that Check finds what a purge would have forgotten.
func TestCheckOfDeletedNamespace(t *testing.T) {
	for _, key := range [][]byte{
		appendInode(nil, 1, 7), appendDirent(nil, 1, 1, 512), appendXattr(nil, 1, 7, "a"), appendExtent(nil, 1, 7, 4096), usageKey{fs: 1}.append(nil),
		usageKey{1, 3}.append(nil), counterKey{counterIno, 1}.append(nil), appendHold(nil, 1, 7, 1), append(appendOpens(nil, 1, 7, 3), make([]byte, stateidLen)...),
		append(appendLocks(nil, 1, 7, 3), 'o'), appendClientFile(nil, 3, 1, 7), appendReservation(nil, 1, usageKey{fs: 1}), appendFS(nil, "n/", 1),
	} {
		r := newNamespaceRig(t, Options{})
		r.raise()
		r.ok(createCmd(1, "f"))
		r.ok(deleteSpaceCmd(1))
		for r.ok(purgeCmd(0)).GetPurge().More {
		}
		r.check()
		r.flush()
		v := []byte{}
		if key[0] == 'c' {
			v = binary.BigEndian.AppendUint64(nil, 9)
		}
		_ = r.store.Set(key, v)
		if err := Check(r.store); err == nil || !bytes.Contains([]byte(err.Error()), []byte("was deleted")) {
			t.Errorf("with %q: %v", key, err)
		}
	}
}
