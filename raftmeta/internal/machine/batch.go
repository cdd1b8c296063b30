package machine

import (
	"bytes"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// batch collects the writes of a round. The store gets them sorted by key, and of each key the last one only: keys that follow each other are
// inserted into a memtable for a fraction of what a search from its top costs. A round is one Pebble batch, so nobody sees another order.
type batch struct {
	buf    []byte // keys and values
	writes []write
}

// write is a key and its value in batch.buf; value -1 long: the key is removed.
type write struct{ key, keyLen, valueLen int }

const removed = -1

func (b *batch) key(w write) []byte   { return b.buf[w.key : w.key+w.keyLen] }
func (b *batch) value(w write) []byte { return b.buf[w.key+w.keyLen:][:w.valueLen] }

// Set implements fsm.Writer.
func (b *batch) Set(k, v []byte) error {
	b.writes = append(b.writes, write{len(b.buf), len(k), len(v)})
	b.buf = append(append(b.buf, k...), v...)
	return nil
}

// Delete implements fsm.Writer.
func (b *batch) Delete(k []byte) error {
	b.writes = append(b.writes, write{len(b.buf), len(k), removed})
	b.buf = append(b.buf, k...)
	return nil
}

// size is about that of the Pebble batch.
func (b *batch) size() int { return len(b.buf) }

func (b *batch) empty() bool { return len(b.writes) == 0 }

// into adds the writes to p.
func (b *batch) into(p *pebble.Batch) error {
	slices.SortFunc(b.writes, func(x, y write) int {
		if c := bytes.Compare(b.key(x), b.key(y)); c != 0 {
			return c
		}
		return x.key - y.key // in the order of writing
	})
	for i, w := range b.writes {
		k := b.key(w)
		if i+1 < len(b.writes) && bytes.Equal(k, b.key(b.writes[i+1])) {
			continue
		}
		var err error
		if w.valueLen == removed {
			err = p.Delete(k, nil)
		} else {
			err = p.Set(k, b.value(w), nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxKeptBatch is how much memory a batch keeps for the next round.
const maxKeptBatch = 4 << 20

// reset empties the batch.
func (b *batch) reset() {
	if cap(b.buf) > maxKeptBatch {
		*b = batch{}
		return
	}
	b.buf, b.writes = b.buf[:0], b.writes[:0]
}
