package fsm

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// check fails the test if an invariant of the state does not hold.
func (r *rig) check() {
	r.t.Helper()
	r.flush()
	hash := r.opts.hash
	if hash == nil {
		hash = nameHash
	}
	if err := check(r.store, hash); err != nil {
		r.t.Fatalf("invariant: %v", err)
	}
	if r.index%8 != 0 {
		return // it takes three times as long
	}
	whole, parts := found(r, hash, 0), found(r, hash, 1+r.store.Len()/7)
	if !slices.Equal(whole, parts) {
		r.t.Fatalf("looked at as a whole the state has %q, in parts %q", whole, parts)
	}
}

// found is what a check finds that keeps so many records at once.
func found(r *rig, hash hashFunc, records int) (out []string) {
	r.t.Helper()
	rep, err := checkParts(context.Background(), r.store, hash, CheckOptions{Most: 1000, Records: records})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, v := range rep.Violations {
		out = append(out, v.Error())
	}
	slices.Sort(out)
	return out
}

// TestCheckerFails shows that the checker sees what it looks for.
func TestCheckerFails(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"usage": func(r *rig) {
			b, _ := (&metapb.UsageRecord{Bytes: 1, Inodes: 2}).MarshalVT()
			_ = r.store.Set(usageKey{fs: 1}.append(nil), b)
		},
		"dangling entry": func(r *rig) { _ = r.store.Delete(appendInode(nil, 1, 2)) },
		"queue length": func(r *rig) {
			_ = r.store.Set(counterKey{what: counterQueueLen}.append(nil), binary.BigEndian.AppendUint64(nil, 1))
		},
		"reserved without record": func(r *rig) {
			b, _ := (&metapb.UsageRecord{Inodes: 2, Reserved: 1}).MarshalVT()
			_ = r.store.Set(usageKey{fs: 1}.append(nil), b)
		},
		"reservation of nobody": func(r *rig) {
			b, _ := (&metapb.UsageRecord{Inodes: 2, Reserved: 1}).MarshalVT()
			_ = r.store.Set(usageKey{fs: 1}.append(nil), b)
			b, _ = (&metapb.ReservationRecord{Bytes: 1}).MarshalVT()
			_ = r.store.Set(appendReservation(nil, 9, usageKey{fs: 1}), b)
		},
		"project usage": func(r *rig) {
			b, _ := (&metapb.UsageRecord{Inodes: 1, Dir: 2}).MarshalVT()
			_ = r.store.Set(usageKey{1, 1}.append(nil), b)
		},
		"block": func(r *rig) {
			b, _ := (&metapb.BlockRecord{Refs: 1}).MarshalVT()
			_ = r.store.Set(appendID(nil, "b/", 1), b)
		},
		"number without block": func(r *rig) {
			_ = r.store.Set(appendID(nil, "y/", 1), binary.BigEndian.AppendUint64(nil, 1))
		},
		"dying without number": func(r *rig) { _ = r.store.Set(appendID(nil, "x/", 1<<blockShardShift|1<<blockUnitShift), nil) },
		"reaped and live": func(r *rig) {
			_, b, _ := liveBlock(r)
			g := metapb.RangeRecord{Origin: 1, Count: 8}
			setReaped(&g, b)
			enc, _ := g.MarshalVT()
			_ = r.store.Set(appendID(nil, "r/", 1), enc)
		},
		"range without holder": func(r *rig) { liveBlock(r); _ = r.store.Delete(appendRangeOf(nil, 1, 1)) },
		"holder without range": func(r *rig) { liveBlock(r); _ = r.store.Delete(appendID(nil, "r/", 1)) },
		"block elsewhere": func(r *rig) {
			ino, b, _ := liveBlock(r)
			enc, _ := (&metapb.BlockRecord{Fs: 1, Ino: ino, Offset: 1, Length: 100, Refs: 1}).MarshalVT()
			_ = r.store.Set(appendID(nil, "b/", b), enc)
		},
		"attributes uncounted": func(r *rig) {
			b, _ := (&metapb.XattrRecord{Cookie: 1}).MarshalVT()
			_ = r.store.Set(appendXattr(nil, 1, 2, "a"), b)
		},
		"attributes missing": func(r *rig) { setXattr(r, "a"); _ = r.store.Delete(appendXattr(nil, 1, 2, "a")) },
		"attributes of nobody": func(r *rig) {
			b, _ := (&metapb.XattrRecord{Cookie: 1}).MarshalVT()
			_ = r.store.Set(appendXattr(nil, 1, 99, "a"), b)
		},
		"attributes with one cookie": func(r *rig) {
			setXattr(r, "a")
			setXattr(r, "b")
			b, _, _ := r.store.Get(appendXattr(nil, 1, 2, "a"))
			_ = r.store.Set(appendXattr(nil, 1, 2, "b"), b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{TB: t}
			r := newNamespaceRig(t, Options{})
			r.raise()
			r.ok(createCmd(1, "f"))
			r.check()
			spoil(r)
			r.t = rec
			func() {
				defer func() { _ = recover() }()
				r.check()
			}()
			if rec.failed == "" {
				t.Fatal("not seen")
			}
			r.t = t
			whole := found(r, nameHash, 0)
			for records := 1; records < 8; records++ {
				if parts := found(r, nameHash, records); len(whole) == 0 || !slices.Equal(whole, parts) {
					t.Fatalf("looked at as a whole the state has %q, in parts of %d records %q", whole, records, parts)
				}
			}
		})
	}
}

// setXattr gives file 2 an extended attribute.
func setXattr(r *rig, name string) {
	r.t.Helper()
	r.ok(&metapb.Command{Op: &metapb.Command_SetXattr{SetXattr: &metapb.SetXattr{Ino: 2, Name: []byte(name)}}})
	r.flush()
}

// liveBlock makes a file of one block of 100 bytes.
func liveBlock(r *rig) (ino, block, epoch uint64) {
	r.t.Helper()
	c := createCmd(1, "blockfile")
	c.GetCreate().Open = uint32(vfs.OpenWrite)
	f := r.ok(c).GetCreate()
	ino, epoch = f.Attr.Ino, f.Lease.Epoch
	block = r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 8}}}).GetBlocks().First
	r.ok(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{Ino: ino, Epoch: epoch, Size: 100, Extents: []*metapb.NewExtent{
		{Length: 100, Block: block, ProfileK: 4, ProfileM: 2},
	}}}})
	r.flush()
	return ino, block, epoch
}

// recorder catches the failure of a test.
type recorder struct {
	testing.TB
	failed string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	panic(r.failed)
}

func createCmd(parent uint64, name string) *metapb.Command {
	mode := uint32(0o644)
	return &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: parent, Name: []byte(name), Type: uint32(vfs.TypeFile), Attr: &metapb.AttrSet{Mode: &mode},
	}}}
}
