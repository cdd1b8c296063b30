package fsm

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// EntryFormat is the only value of metapb.Entry.Format this version applies.
const EntryFormat = 1

// Options say which replica's state a Machine is.
type Options struct {
	Shard    uint16
	Cluster  []byte // the cluster id; a state of another cluster is refused
	MaxLevel uint32 // the newest feature level to apply; 0 means Level
	Cache    *Cache // shared with queries on this machine's store; may be nil

	limits limits   // zero: levelLimits
	hash   hashFunc // nil: nameHash
}

// limits bound what one command touches. They decide what a command does, so
// they are part of the feature level.
type limits struct {
	extents     int    // records that truncate and unlink remove themselves; more are left to Purge
	cuts        int    // cuts of one inode that wait for Purge
	keys        int    // records a command may write
	ranges      int    // records a command for a range of a file writes before it leaves the rest to the next
	scan        int    // records a command may look at in one file
	reap        int    // blocks that one ReapBlocks ends
	depth       int    // directories above another one that a rename walks
	changeRange uint64 // change values of a write lease

	clients     int // NFS clients of the shard
	opens       int // records of opens of one file; as many of lock-owners, and ranges
	ownerRanges int // ranges of one lock-owner on one file
	clientOpens int // records of opens of one client; as many of lock-owners, and ranges
}

var levelLimits = limits{
	extents:     64,
	cuts:        64,
	keys:        4000,
	ranges:      1000,
	scan:        16000,
	reap:        1000,
	depth:       4096,
	changeRange: 1 << 20,

	clients:     1 << 16,
	opens:       4096,
	ownerRanges: 1024,
	clientOpens: 1 << 16,
}

// Machine is the state machine of one shard's replica. See the package comment.
// All methods belong to one goroutine.
type Machine struct {
	overlay
	opts Options

	fresh   bool // the store is empty: the first entry writes the format record
	applied uint64
	level   uint32
	digest  uint64
	failed  error // Apply failed, so the overlay may hold half an entry
}

// Open reads the state in v. An empty v is the state before the first entry.
func Open(v View, o Options) (*Machine, error) {
	if o.MaxLevel == 0 {
		o.MaxLevel = Level
	}
	if o.limits == (limits{}) {
		o.limits = levelLimits
	}
	if o.hash == nil {
		o.hash = nameHash
	}
	m := &Machine{overlay: newOverlay(v, o.Cache), opts: o, level: 1}
	if err := m.load(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Machine) load() error {
	const op = "fsm.open"
	f, ok, err := m.view.Get(keyFormat)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	if !ok {
		m.fresh = true
		return nil
	}
	if err := checkFormat(f, &m.opts); err != nil {
		return vfs.Wrap(op, err)
	}
	s, ok, err := m.view.Get(keyState)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	if !ok {
		return vfs.Errorf(vfs.KindCorrupt, op, "the state record is missing")
	}
	m.applied, m.level, m.digest, err = decodeState(s)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	if m.level > m.opts.MaxLevel {
		return levelError(op, m.level, m.opts.MaxLevel)
	}
	return nil
}

// Applied is the Raft index of the last applied entry.
func (m *Machine) Applied() uint64 { return m.applied }

// Level is the shard's feature level.
func (m *Machine) Level() uint32 { return m.level }

// Digest is the chained digest of the writes of all applied entries. Replicas
// with equal Applied have equal digests.
func (m *Machine) Digest() []byte { return binary.BigEndian.AppendUint64(nil, m.digest) }

// Apply runs the commands of one log entry and gives their writes to w. Results
// are in the order of the commands. An entry at or below Applied is skipped and
// answered nil. After an error nothing of the entry counts and the replica must
// stop: it does not know what its peers know.
func (m *Machine) Apply(index uint64, entry []byte, w Writer) ([]*metapb.Result, error) {
	const op = "fsm.apply"
	if m.failed != nil {
		return nil, vfs.Errorf(vfs.KindInternal, op, "this machine stopped before entry %d: %w", index, m.failed)
	}
	if index <= m.applied {
		return nil, nil
	}
	results, err := m.applyEntry(index, entry, w)
	if err != nil {
		m.failed = vfs.Errorf(vfs.KindOf(err), op, "entry %d: %w", index, err)
		return nil, m.failed
	}
	return results, nil
}

func (m *Machine) applyEntry(index uint64, entry []byte, w Writer) ([]*metapb.Result, error) {
	const op = "fsm.apply"
	var e metapb.Entry
	if err := e.UnmarshalVT(entry); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%w", err)
	}
	if e.Format != EntryFormat {
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "format %d, this version applies %d: install a newer release", e.Format, EntryFormat)
	}
	level := m.level
	for _, c := range e.Commands {
		// Decided before anything runs: a voter stops in front of what it does not know.
		if r := c.GetRaiseLevel(); r != nil && r.Level == level+1 {
			if level = r.Level; level > m.opts.MaxLevel {
				return nil, levelError(op, level, m.opts.MaxLevel)
			}
		}
	}
	m.entry = index
	results := make([]*metapb.Result, len(e.Commands))
	for i, c := range e.Commands {
		r, err := m.exec(c)
		if err != nil {
			return nil, err
		}
		results[i] = r
	}
	if err := m.emit(w); err != nil {
		return nil, err
	}
	return results, nil
}

// Flushed tells that the writers given to all earlier Apply calls were
// committed to the View: what the machine kept of them is dropped.
func (m *Machine) Flushed() { m.flushed() }

// digester chains the writes of one entry onto the digest before it.
type digester struct {
	h   *xxhash.Digest
	buf [20]byte
}

func newDigester(prev, index uint64, level uint32) *digester {
	d := &digester{h: xxhash.New()}
	binary.BigEndian.PutUint64(d.buf[:8], prev)
	binary.BigEndian.PutUint64(d.buf[8:], index)
	binary.BigEndian.PutUint32(d.buf[16:], level)
	_, _ = d.h.Write(d.buf[:])
	return d
}

// set adds a write.
func (d *digester) set(k, v []byte) {
	binary.BigEndian.PutUint32(d.buf[:4], uint32(len(k)))
	binary.BigEndian.PutUint32(d.buf[4:8], uint32(len(v)))
	_, _ = d.h.Write(d.buf[:8])
	_, _ = d.h.Write(k)
	_, _ = d.h.Write(v)
}

// del adds a deletion.
func (d *digester) del(k []byte) {
	binary.BigEndian.PutUint32(d.buf[:4], uint32(len(k)))
	binary.BigEndian.PutUint32(d.buf[4:8], ^uint32(0))
	_, _ = d.h.Write(d.buf[:8])
	_, _ = d.h.Write(k)
}

func (d *digester) sum() uint64 { return d.h.Sum64() }
