package fsm

import (
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// emitter gives the writes of one entry to the store and to the digest.
type emitter struct {
	w   Writer
	d   *digester
	err error
}

func (e *emitter) set(k, v []byte) {
	if e.err != nil {
		return
	}
	e.d.set(k, v)
	e.err = e.w.Set(k, v)
}

func (e *emitter) del(k []byte) {
	if e.err != nil {
		return
	}
	e.d.del(k)
	e.err = e.w.Delete(k)
}

// emit writes what the present entry changed, every record once, and the state
// record. The order is that of the first writes, table by table: it depends on
// the commands only, not on what happened to be in a cache.
func (m *Machine) emit(w Writer) error {
	e := &emitter{w: w, d: newDigester(m.digest, m.entry, m.level)}
	if m.fresh {
		e.set(keyFormat, encodeFormat(&m.opts))
	}
	if err := m.emitRecords(e); err != nil {
		return err
	}
	sum := e.d.sum()
	if e.err == nil {
		e.err = w.Set(keyState, encodeState(m.entry, m.level, sum))
	}
	if e.err != nil {
		return fatal(e.err)
	}
	m.fresh, m.applied, m.digest = false, m.entry, sum
	m.publish()
	return nil
}

func (m *Machine) emitRecords(e *emitter) error {
	var key []byte
	for _, k := range m.kv.dirty {
		key = append(key[:0], k...)
		if v := m.kv.rows[k].v; v != nil {
			e.set(key, v)
		} else {
			e.del(key)
		}
	}
	for _, k := range m.inodes.dirty {
		key = appendInode(key[:0], k.fs, k.ino)
		n := m.inodes.rows[k].v
		if n == nil {
			e.del(key)
			continue
		}
		b, err := m.codec.encode(n)
		if err != nil {
			return fatal(err)
		}
		e.set(key, b)
	}
	for _, k := range m.slots.dirty {
		key = appendSlot(key[:0], k.origin, k.slot)
		if r := m.slots.rows[k].v; r != nil {
			e.set(key, r.enc)
		} else {
			e.del(key)
		}
	}
	for _, k := range m.usages.dirty {
		u := m.usages.rows[k].v
		if u.gone {
			e.del(k.append(key[:0]))
			continue
		}
		b, err := (&metapb.UsageRecord{
			Bytes: u.bytes, Inodes: u.inodes, Reserved: u.reserved,
			LimitBytes: u.limitBytes, LimitInodes: u.limitInodes, Dir: u.dir, LimitsVersion: u.limitsVersion,
		}).MarshalVT()
		if err != nil {
			return fatal(err)
		}
		e.set(k.append(key[:0]), b)
	}
	for _, k := range m.counts.dirty {
		n := m.counts.rows[k].v
		if k.what == counterIno && n == 0 { // removed with its file system
			e.del(k.append(key[:0]))
			continue
		}
		e.set(k.append(key[:0]), binary.BigEndian.AppendUint64(nil, n))
	}
	for _, k := range m.origins.dirty {
		key = appendID(key[:0], "g/", k)
		r := m.origins.rows[k].v
		if r == nil {
			e.del(key)
			continue
		}
		b, err := r.MarshalVT()
		if err != nil {
			return fatal(err)
		}
		e.set(key, b)
	}
	for _, k := range m.spaces.dirty {
		if sp := m.spaces.rows[k].v; sp != nil {
			e.set(appendFS(key[:0], "n/", k), sp.enc)
		} else {
			e.del(appendFS(key[:0], "n/", k))
		}
	}
	for _, k := range m.calls.dirty {
		key = appendCall(key[:0], k)
		r := m.calls.rows[k].v
		if r == nil {
			e.del(key)
			continue
		}
		b, err := r.record()
		if err != nil {
			return err
		}
		e.set(key, b)
	}
	for _, k := range m.clients.dirty {
		key = appendKnown(key[:0], k)
		r := m.clients.rows[k].v
		if r == nil {
			e.del(key)
			continue
		}
		b, err := r.encode()
		if err != nil {
			return fatal(err)
		}
		e.set(key, b)
	}
	return nil
}

// publish tells the cache what the entry changed, before the store does: see
// Cache.
func (m *Machine) publish() {
	if m.cache != nil {
		for _, k := range m.kv.dirty {
			if k[0] != 'd' {
				continue
			}
			if v := m.kv.rows[k].v; v != nil {
				m.cache.replace(direntCacheKeyOf(k), v, m.entry)
			} else {
				m.cache.invalidate(direntCacheKeyOf(k), m.entry)
			}
		}
		for _, k := range m.inodes.dirty {
			if n := m.inodes.rows[k].v; n != nil {
				m.rec = n.appendCached(m.rec[:0])
				m.cache.replace(inodeCacheKey(k.fs, k.ino), m.rec, m.entry)
			} else {
				m.cache.invalidate(inodeCacheKey(k.fs, k.ino), m.entry)
			}
		}
		for _, k := range m.origins.dirty {
			m.cache.invalidate(originCacheKey(k), m.entry)
		}
		for _, k := range m.spaces.dirty {
			m.cache.invalidate(spaceCacheKey(k), m.entry)
		}
	}
	m.kv.dirty = m.kv.dirty[:0]
	m.inodes.dirty = m.inodes.dirty[:0]
	m.slots.dirty = m.slots.dirty[:0]
	m.usages.dirty = m.usages.dirty[:0]
	m.counts.dirty = m.counts.dirty[:0]
	m.origins.dirty = m.origins.dirty[:0]
	m.spaces.dirty = m.spaces.dirty[:0]
	m.calls.dirty = m.calls.dirty[:0]
	m.clients.dirty = m.clients.dirty[:0]
}
