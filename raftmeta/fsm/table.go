package fsm

// table is one kind of record in the overlay: what the commands since the last
// Flushed wrote, decoded, so that a record which many commands of an entry
// touch is encoded and written once. A row may also be clean: read from the
// store and kept.
//
// Values are immutable: a change sets another one.
type table[K comparable, V any] struct {
	rows  map[K]row[V]
	dirty []K            // written by the present entry, in order of first write
	undo  []before[K, V] // of the present command
}

type row[V any] struct {
	v     V
	entry uint64 // the last entry that wrote it; 0: clean
}

// before is what a set replaced.
type before[K comparable, V any] struct {
	k   K
	row row[V]
	had bool
}

func newTable[K comparable, V any]() table[K, V] {
	return table[K, V]{rows: make(map[K]row[V])}
}

func (t *table[K, V]) get(k K) (V, bool) {
	r, ok := t.rows[k]
	return r.v, ok
}

// keep remembers what the store holds.
func (t *table[K, V]) keep(k K, v V) { t.rows[k] = row[V]{v: v} }

// set writes v as part of entry.
func (t *table[K, V]) set(entry uint64, k K, v V) {
	old, had := t.rows[k]
	t.undo = append(t.undo, before[K, V]{k, old, had})
	if old.entry != entry {
		t.dirty = append(t.dirty, k)
	}
	t.rows[k] = row[V]{v, entry}
}

// accept ends a command that succeeded.
func (t *table[K, V]) accept() {
	clear(t.undo)
	t.undo = t.undo[:0]
}

// rollback takes back the sets since the last accept or rollback.
func (t *table[K, V]) rollback(entry uint64) {
	for i := len(t.undo) - 1; i >= 0; i-- {
		b := &t.undo[i]
		if b.row.entry != entry { // the set that made it dirty, so the last of dirty
			t.dirty = t.dirty[:len(t.dirty)-1]
		}
		if b.had {
			t.rows[b.k] = b.row
		} else {
			delete(t.rows, b.k)
		}
	}
	t.accept()
}

// forget drops all rows: the store has them.
func (t *table[K, V]) forget() {
	const largeRows = 1 << 14 // clearing a map costs what it once held
	if len(t.rows) > largeRows {
		t.rows = make(map[K]row[V])
		return
	}
	clear(t.rows)
}
