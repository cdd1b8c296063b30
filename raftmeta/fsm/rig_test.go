package fsm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

var testCluster = []byte("test cluster id.")

// rig is a machine over a MemStore that sees writes only after flush, as a
// pebble batch does.
type rig struct {
	t     testing.TB
	opts  Options
	store *MemStore
	m     *Machine
	index uint64
	batch []write
	seqs  map[slotKey]uint64
	clock int64
	me    uint64 // the origin of commands that name none
}

type write struct {
	k, v []byte // v nil: delete
}

func (r *rig) Set(k, v []byte) error {
	r.batch = append(r.batch, write{bytes.Clone(k), append([]byte{}, v...)})
	return nil
}

func (r *rig) Delete(k []byte) error {
	r.batch = append(r.batch, write{bytes.Clone(k), nil})
	return nil
}

func newRig(t testing.TB, o Options) *rig {
	t.Helper()
	if o.Cluster == nil {
		o.Cluster = testCluster
	}
	r := &rig{t: t, opts: o, store: NewMemStore(), seqs: make(map[slotKey]uint64), clock: 1000, me: 1}
	r.open()
	return r
}

// newNamespaceRig has file system 1 on shard 1 and the gateway "a" as origin 1.
func newNamespaceRig(t testing.TB, o Options) *rig {
	t.Helper()
	o.Shard = 1
	r := newRig(t, o)
	r.ok(&metapb.Command{Op: &metapb.Command_CreateNamespace{CreateNamespace: testNamespace()}})
	if id := r.register("a", 1); id != 1 {
		t.Fatalf("origin %d", id)
	}
	return r
}

func testNamespace() *metapb.CreateNamespace {
	return &metapb.CreateNamespace{RootMode: 0o777, HashKey: []byte("0123456789abcdef")}
}

func incarnation(n uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 8), n) }

func (r *rig) register(name string, inc uint64) uint64 {
	r.t.Helper()
	return r.ok(&metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: name, Incarnation: incarnation(inc),
	}}}).GetOrigin().Origin
}

func (r *rig) open() {
	r.t.Helper()
	m, err := Open(r.store, r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.m = m
}

// raise sets the newest feature level, and one above if the machine is told that it may apply that.
func (r *rig) raise() {
	r.t.Helper()
	for l := r.m.Level() + 1; l <= max(Level, r.opts.MaxLevel); l++ {
		r.ok(raiseCmd(l))
	}
}

func raiseCmd(level uint32) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: level}}}
}

// flush commits what was applied.
func (r *rig) flush() {
	for _, w := range r.batch {
		if w.v == nil {
			_ = r.store.Delete(w.k)
		} else {
			_ = r.store.Set(w.k, w.v)
		}
	}
	r.batch = nil
	r.m.Flushed()
}

// reopen forgets everything but the store.
func (r *rig) reopen() {
	r.t.Helper()
	r.flush()
	if r.opts.Cache != nil {
		r.opts.Cache = NewCache(1 << 20)
	}
	r.open()
}

// stamp fills what a command leaves out: time, file system, identity.
func (r *rig) stamp(c *metapb.Command) *metapb.Command {
	if c.Time == nil {
		r.clock++
		c.Time = &metapb.Time{Sec: r.clock}
	}
	if c.Fs == 0 {
		c.Fs = 1
	}
	if c.Id == nil && (!idempotent(c) || levelOf(c) > 1) {
		c.Id = &metapb.Identity{Origin: r.me}
	}
	if c.Id.GetOrigin() != 0 && c.Id.Seq == 0 {
		k := slotKey{c.Id.Origin, c.Id.Slot}
		r.seqs[k]++
		c.Id.Seq = r.seqs[k]
	}
	return c
}

func encodeEntry(t testing.TB, cmds ...*metapb.Command) []byte {
	t.Helper()
	b, err := (&metapb.Entry{Format: EntryFormat, Commands: cmds}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// apply runs one entry.
func (r *rig) apply(cmds ...*metapb.Command) []*metapb.Result {
	r.t.Helper()
	for _, c := range cmds {
		r.stamp(c)
	}
	r.index++
	res, err := r.m.Apply(r.index, encodeEntry(r.t, cmds...), r)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(res) != len(cmds) {
		r.t.Fatalf("%d results for %d commands", len(res), len(cmds))
	}
	return res
}

func (r *rig) one(c *metapb.Command) *metapb.Result {
	r.t.Helper()
	return r.apply(c)[0]
}

func (r *rig) ok(c *metapb.Command) *metapb.Result {
	r.t.Helper()
	res := r.one(c)
	if res.Kind != 0 {
		r.t.Fatalf("%v: %s %s", c, vfs.Kind(res.Kind), res.Text)
	}
	return res
}

func (r *rig) fails(want vfs.Kind, c *metapb.Command) {
	r.t.Helper()
	if res := r.one(c); vfs.Kind(res.Kind) != want {
		r.t.Fatalf("%v: %s %s, want %s", c, vfs.Kind(res.Kind), res.Text, want)
	}
}

// query flushes and reads.
func (r *rig) query(q *metapb.Query) *metapb.QueryResult {
	r.t.Helper()
	r.flush()
	if q.Fs == 0 {
		q.Fs = 1
	}
	hash := r.opts.hash
	if hash == nil {
		hash = nameHash
	}
	return queryWith(r.store, r.opts.Cache, q, hash)
}

func (r *rig) attr(ino uint64) *metapb.AttrR {
	r.t.Helper()
	res := r.query(&metapb.Query{Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: ino}}})
	if res.Kind != 0 {
		r.t.Fatalf("inode %d: %s %s", ino, vfs.Kind(res.Kind), res.Text)
	}
	return res.GetAttr()
}

// drain purges until the queue is empty.
func (r *rig) drain(maxKeys uint32) {
	r.t.Helper()
	for range 100_000 {
		if !r.ok(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: maxKeys}}}).GetPurge().More {
			return
		}
	}
	r.t.Fatal("the purge queue does not drain")
}

// state lists all keys but those of the machine's progress.
func (r *rig) state() map[string]string {
	r.flush()
	all := make(map[string]string)
	_ = r.store.Scan(nil, []byte{0xff}, func(k, v []byte) bool {
		if string(k) != string(keyState) {
			all[string(k)] = string(v)
		}
		return true
	})
	return all
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}

func diffStates(a, b map[string]string) string {
	var out bytes.Buffer
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if va, oka := a[k]; true {
			if vb, okb := b[k]; oka != okb || va != vb {
				fmt.Fprintf(&out, "%q: %v %q != %v %q\n", k, oka, va, okb, vb)
			}
		}
	}
	return out.String()
}

// TestRigState makes sure that a difference is seen.
func TestRigState(t *testing.T) {
	a, b := newNamespaceRig(t, Options{}), newNamespaceRig(t, Options{})
	if d := diffStates(a.state(), b.state()); d != "" {
		t.Fatal(d)
	}
	a.register("b", 1)
	if diffStates(a.state(), b.state()) == "" {
		t.Fatal("a registration is not in the state")
	}
}
