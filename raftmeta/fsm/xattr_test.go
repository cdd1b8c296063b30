package fsm

import (
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// TestManyXattrs fills an inode with as many attributes as it may have, lists them, and shows that the inode's end and
// each Purge touch a bounded number of records.
func TestManyXattrs(t *testing.T) {
	for what, end := range map[string]func(r *rig){
		"directory": func(*rig) {},
		"file with cuts and many extents": func(r *rig) {
			c := createCmd(1, "f")
			c.GetCreate().Open = uint32(vfs.OpenWrite)
			r.ok(c)
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newNamespaceRig(t, Options{})
			r.raise()
			if end(r); what == "directory" {
				c := createCmd(1, "f")
				c.GetCreate().Type = uint32(vfs.TypeDir)
				r.ok(c)
			} else {
				for i := range uint64(100) {
					r.ok(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
						Ino: 2, Epoch: 1, Size: (i + 1) * pageSize, Extents: []*metapb.NewExtent{{Offset: i * pageSize, Length: 1, Inline: []byte{1}}},
					}}})
				}
				size := uint64(1)
				r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: 2, LeaseEpoch: 1, Set: &metapb.AttrSet{Size: &size}}}})
			}
			set := func(i int) *metapb.Command {
				return &metapb.Command{Op: &metapb.Command_SetXattr{SetXattr: &metapb.SetXattr{Ino: 2, Name: fmt.Appendf(nil, "%050d", i)}}}
			}
			for i := range vfs.XattrsMax {
				r.ok(set(i))
			}
			r.fails(vfs.KindNoSpace, set(vfs.XattrsMax))
			r.check()
			list := r.query(&metapb.Query{Q: &metapb.Query_ListXattrs{ListXattrs: &metapb.ListXattrsQ{Ino: 2}}}).GetListXattrs()
			if len(list.Names) != vfs.XattrsMax || !list.Eof {
				t.Fatalf("%d names, eof %v", len(list.Names), list.Eof)
			}
			before := len(r.state())
			r.ok(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: []byte("f")}}})
			r.check()
			if gone := before - len(r.state()); gone > levelLimits.extents {
				t.Fatalf("the removal took %d records with it", gone)
			}
			for {
				p := r.ok(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: 100}}}).GetPurge()
				if p.Keys > 100+purgeItems {
					t.Fatalf("one Purge touched %d records", p.Keys)
				}
				r.check()
				if !p.More {
					break
				}
			}
			for k := range r.state() {
				if k[0] == 'a' || k[0] == 'e' || k[0] == 'q' {
					t.Fatalf("left behind: %q", k)
				}
			}
		})
	}
}
