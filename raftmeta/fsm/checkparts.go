package fsm

import (
	"context"
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// DefaultCheckRecords is how many records a check keeps at once by default: about 240 MiB of memory.
const DefaultCheckRecords = 1 << 20

// CheckOptions bound a check of a state.
type CheckOptions struct {
	// Records is about how many inodes, blocks and entries are kept in memory at once; 0: all. A larger state is scanned once for each
	// such part of it.
	Records int
	// Most is how many violations are told of; others are counted. 0: 1.
	Most int
	// Progress, if set, is told now and then how many records were looked at, of how many.
	Progress func(done, total uint64)
}

// CheckReport is what a check found.
type CheckReport struct {
	Violations []error // the first ones
	Found      int     // all
	Namespaces []uint32
	Inodes     uint64
	Blocks     uint64 // live
	Parts      int
}

// CheckState checks every invariant that a state has by itself: links, sizes, usage, references and back references of blocks, leased ids, queues,
// counts, what NFS clients have. The error says that the state could not be read.
func CheckState(ctx context.Context, v View, o CheckOptions) (CheckReport, error) {
	return checkParts(ctx, v, nameHash, o)
}

// part is the share of inodes and blocks that a scan looks at.
type part struct{ at, of uint64 }

func (p part) first() bool { return p.at == 0 }
func (p part) last() bool  { return p.at == p.of-1 }

func (p part) mine(k inoKey) bool {
	if p.of == 1 {
		return true
	}
	var b [12]byte
	binary.BigEndian.PutUint32(b[:], k.fs)
	binary.BigEndian.PutUint64(b[4:], k.ino)
	return xxhash.Sum64(b[:])%p.of == p.at
}

func (p part) mineBlock(id uint64) bool {
	return p.of == 1 || xxhash.Sum64(binary.BigEndian.AppendUint64(nil, id))%p.of == p.at
}

// shared is what the scans of all parts have in common.
type shared struct {
	most   int
	report CheckReport
	broken error // the state cannot be read

	total map[usageKey]usage // as inodes add up
	usage map[usageKey]usage // as counted
	held  map[usageKey]uint64
	count map[uint64]*knownClient // what clients have, as files add up
}

func (s *shared) note(err error) {
	for _, v := range s.report.Violations {
		if v.Error() == err.Error() {
			return // of what every part looks at
		}
	}
	s.report.Found++
	if len(s.report.Violations) < s.most {
		s.report.Violations = append(s.report.Violations, err)
	}
}

func checkParts(ctx context.Context, v View, hash hashFunc, o CheckOptions) (CheckReport, error) {
	// How often ctx and Progress are looked at.
	const pace = 1 << 14
	s := &shared{most: max(o.Most, 1), total: map[usageKey]usage{}, usage: map[usageKey]usage{}, held: map[usageKey]uint64{}, count: map[uint64]*knownClient{}}
	parts, records := uint64(1), uint64(0)
	if o.Records > 0 || o.Progress != nil {
		kept := uint64(0)
		err := v.Scan([]byte("C/"), []byte{0xff}, func(k, _ []byte) bool {
			records++
			switch k[0] {
			case 'i', 'd', 'b', 'x', 'a':
				kept++
			}
			return records%pace != 0 || ctx.Err() == nil
		})
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return s.report, vfs.Wrap("fsm.check", err)
		}
		if o.Records > 0 {
			parts = kept/uint64(o.Records) + 1
		}
	}
	s.report.Parts = int(parts)
	looked := uint64(0)
	for at := range parts {
		if err := newChecker(v, hash, s, part{at, parts}).scan(ctx, func() error {
			if looked++; looked%pace == 0 {
				if o.Progress != nil {
					o.Progress(looked, max(records*parts, looked))
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
			}
			return nil
		}); err != nil {
			return s.report, err
		}
	}
	return s.report, nil
}

func newChecker(v View, hash hashFunc, s *shared, p part) *checker {
	return &checker{
		part: p, shared: s, view: v, level: 1, hash: hash,
		inodes: map[inoKey]*inode{}, links: map[inoKey]uint32{}, subdirs: map[inoKey]uint32{}, entries: map[inoKey]uint64{},
		used: map[inoKey]uint64{}, live: map[inoKey]extent{}, refs: map[uint64]uint32{},
		backs: map[backKey]uint32{}, found: map[backKey]uint32{},
		blocks: map[uint64]*metapb.BlockRecord{}, dying: map[uint64]*metapb.DyingRecord{}, orphans: map[inoKey]int{}, holders: map[uint64]inoKey{}, origins: map[uint64]bool{},
		numbers: map[uint64]uint64{}, ranges: map[uint64]*metapb.RangeRecord{}, leased: map[uint64]uint64{},
		queue: map[inoKey]int{}, ending: map[uint64]bool{}, counts: map[string]uint64{},
		xattrs: map[inoKey]xattrs{}, cookies: map[xattrCookie]bool{}, deleted: map[uint32]bool{}, ended: map[uint32]int{},
	}
}
