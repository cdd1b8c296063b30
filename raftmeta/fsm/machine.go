package fsm

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// EntryFormat is the only value of metapb.Entry.Format this version applies.
const EntryFormat = 1

// Level is the newest feature level this version implements.
const Level = 1

// Options say which replica's state a Machine is.
type Options struct {
	Shard    uint16
	Cluster  []byte // the cluster id; a state of another cluster is refused
	MaxLevel uint32 // the newest feature level to apply; 0 means Level
	Cache    *Cache // shared with queries on this machine's store; may be nil
}

// Machine is the state machine of one shard's replica. See the package comment.
// All methods belong to one goroutine.
type Machine struct {
	view View
	opts Options

	fresh   bool // the store is empty: the first entry writes the format record
	applied uint64
	level   uint32
	digest  uint64
}

// Open reads the state in v. An empty v is the state before the first entry.
func Open(v View, o Options) (*Machine, error) {
	if o.MaxLevel == 0 {
		o.MaxLevel = Level
	}
	m := &Machine{view: v, opts: o, level: 1}
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
	if index <= m.applied {
		return nil, nil
	}
	var e metapb.Entry
	if err := e.UnmarshalVT(entry); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "entry %d: %w", index, err)
	}
	if e.Format != EntryFormat {
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "entry %d has format %d, this version applies %d: install a newer release", index, e.Format, EntryFormat)
	}
	results := make([]*metapb.Result, 0, len(e.Commands))
	for range e.Commands {
		results = append(results, &metapb.Result{Kind: uint32(vfs.KindNotSupported)})
	}
	d := newDigester(m.digest, index)
	set := func(k, v []byte) error {
		d.set(k, v)
		return w.Set(k, v)
	}
	if m.fresh {
		if err := set(keyFormat, encodeFormat(&m.opts)); err != nil {
			return nil, vfs.Wrap(op, err)
		}
	}
	sum := d.sum()
	if err := w.Set(keyState, encodeState(index, m.level, sum)); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	m.fresh, m.applied, m.digest = false, index, sum
	return results, nil
}

// Flushed tells that the writers given to all earlier Apply calls were
// committed to the View: what the machine kept of them may be dropped.
func (m *Machine) Flushed() {}

// digester chains the writes of one entry onto the digest before it.
type digester struct {
	h   *xxhash.Digest
	buf [16]byte
}

func newDigester(prev, index uint64) *digester {
	d := &digester{h: xxhash.New()}
	binary.BigEndian.PutUint64(d.buf[:8], prev)
	binary.BigEndian.PutUint64(d.buf[8:], index)
	_, _ = d.h.Write(d.buf[:])
	return d
}

// set adds a write; a nil v is a deletion.
func (d *digester) set(k, v []byte) {
	binary.BigEndian.PutUint32(d.buf[:4], uint32(len(k)))
	n := uint32(len(v))
	if v == nil {
		n = ^uint32(0)
	}
	binary.BigEndian.PutUint32(d.buf[4:8], n)
	_, _ = d.h.Write(d.buf[:8])
	_, _ = d.h.Write(k)
	_, _ = d.h.Write(v)
}

func (d *digester) sum() uint64 { return d.h.Sum64() }
