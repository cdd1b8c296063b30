package state

import (
	"github.com/rackfs/rackfs/vfs"
)

// An open that was adopted may have been closed by its client before (0088 in docs/decisions). Here it is decided whether an OPEN is one more of it, or comes in its place.

// ownOpen is the open of the same owner and file that the client knows, nil if there is none. unsure are others that it may have closed: an
// OPEN makes a state of its own in their place, if there is none that the client knows.
func (s *State) ownOpen(c *client, a *OpenArgs) (own *open, unsure []*open) {
	f := s.files[a.File]
	var locked []*open // which the client knows, or another one in its place
	take := func(o *open) {
		switch {
		case o.known(a):
			own = o
		case o.locked():
			locked = append(locked, o)
		default:
			unsure = append(unsure, o)
		}
	}
	if o := c.opens[openKey{owner: string(a.Owner), file: a.File}]; o != nil {
		take(o)
	}
	if c.revived > 0 && f != nil {
		f.ofOwner(c, ownerTag(string(a.Owner)), func(o *open) {
			if !o.aside && o.key.revived != (vfs.StateID{}) {
				take(o)
			}
		})
	}
	if own == nil && len(locked) == 1 && len(unsure) == 0 {
		return locked[0], nil
	}
	return own, append(unsure, locked...)
}

// ofOwner calls fn for the opens of f that are, by all that can be told, of one owner of c.
func (f *file) ofOwner(c *client, tag uint16, fn func(*open)) {
	for o := range f.opens {
		if o.client == c && tagOf(o.other) == tag {
			fn(o)
		}
	}
}

// known reports whether the OPEN that a describes is one more of o. One that was adopted, and that the client has not named since, it may have closed before, with nothing left
// that says so. Then it waits for the first seqid, and if it has not, for one that is not known here: a Linux client does so for 5 s. A stateid that is new it
// takes in both cases. And the late end of the one that it closed does not name the new one.
func (o *open) known(a *OpenArgs) bool {
	return !o.loose || o.named || o.deny != 0 || a.Deny != 0
}

// locked reports whether o has lock states that the client knows.
func (o *open) locked() bool {
	for l := range o.locks {
		if !l.mayBeFreed() {
			return true
		}
	}
	return false
}

// setAside has o make way for by, a new open of its owner, which is one of the same file for both: I/O by its stateid goes on.
func (s *State) setAside(o, by *open, eff *Effects) {
	by.former = append(by.former, o)
	o.by = by
	by.accessSeen |= o.accessSeen
	by.setShare(by.access|o.access, by.deny)
	for flags, held := range o.held {
		if held && by.held[flags] {
			eff.Close = append(eff.Close, FileClose{o.file.key, vfs.OpenFlags(flags)})
		}
		by.held[flags] = by.held[flags] || held
		o.held[flags] = false
	}
}
