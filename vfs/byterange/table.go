package byterange

// Table are the locks of one file in memory, by owner. Ranges of different owners overlap only if all are read locks; the table does
// not enforce it, the caller asks Conflicts first. The zero value is empty.
type Table[O comparable] struct {
	owners map[O]Set
}

// Conflicts calls yield with one range in the way for each owner but self that has any, in no order, until yield
// returns false.
func (t *Table[O]) Conflicts(self O, first, last uint64, write bool, yield func(O, Range) bool) {
	for owner, s := range t.owners {
		if owner == self {
			continue
		}
		if r, ok := s.Conflict(first, last, write); ok && !yield(owner, r) {
			return
		}
	}
}

// Set gives owner a lock on first to last, replacing what it has there, and returns by how many its ranges grew.
func (t *Table[O]) Set(owner O, first, last uint64, write bool) int {
	before := len(t.owners[owner])
	s := t.owners[owner].Set(first, last, write)
	if t.owners == nil {
		t.owners = make(map[O]Set)
	}
	t.owners[owner] = s
	return len(s) - before
}

// Clear takes away what owner has on first to last and returns by how many its ranges grew: a split makes one more.
func (t *Table[O]) Clear(owner O, first, last uint64) int {
	before := len(t.owners[owner])
	s := t.owners[owner].Clear(first, last)
	if len(s) == 0 {
		delete(t.owners, owner)
	} else {
		t.owners[owner] = s
	}
	return len(s) - before
}

// Holds is how many ranges owner has.
func (t *Table[O]) Holds(owner O) int { return len(t.owners[owner]) }

// Ranges are those of owner; the caller does not change them.
func (t *Table[O]) Ranges(owner O) Set { return t.owners[owner] }
