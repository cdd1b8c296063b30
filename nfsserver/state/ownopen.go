package state

import (
	"slices"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// An open that was adopted may have been closed by its client before (0088 in docs/decisions). Here it is decided whether an OPEN is one more of it, or comes in its place.

// ownOpen is the open of the same owner and file that the OPEN is one more of, nil if there is none. unsure are others, in whose place that one comes, or a new one.
//
// Of an open that was adopted nothing tells whether its client has closed it before, and with which seqid it knows it: I/O of Linux does not name one. A client that closed it waits for the first
// seqid, and one that has it open for the next one, or for the first of a stateid that it does not know: Linux does so for 5 s, with the request's slot. So the answer is such a one. The late
// end of an open that was closed does not name it either. Only if the client has told the seqid, and there is no other open that it could be about, it goes on.
func (s *State) ownOpen(c *client, a *OpenArgs) (own *open, unsure []*open) {
	take := func(o *open) {
		if o.loose {
			unsure = append(unsure, o)
		} else {
			own = o
		}
	}
	if o := c.opens[openKey{owner: string(a.Owner), file: a.File}]; o != nil {
		take(o)
	}
	if f := s.files[a.File]; c.revived > 0 && f != nil {
		f.ofOwner(c, ownerTag(string(a.Owner)), func(o *open) {
			if o.by == nil && o.key.revived != (vfs.StateID{}) {
				take(o)
			}
		})
	}
	if own == nil && len(unsure) == 1 && unsure[0].counted {
		return unsure[0], nil
	}
	return own, unsure
}

// ofOwner calls fn for the opens of f that are, by all that can be told, of one owner of c.
func (f *file) ofOwner(c *client, tag uint16, fn func(*open)) {
	for o := range f.opens {
		if o.client == c && tagOf(o.other) == tag {
			fn(o)
		}
	}
}

// setAside has o make way for by, a new open of its owner, which is one of the same file for both: I/O by its stateid goes on.
func (s *State) setAside(now time.Time, o, by *open, eff *Effects) {
	by.former = append(by.former, o)
	o.by, o.left = by, now
	s.former[o] = struct{}{}
	by.accessSeen |= o.accessSeen
	by.denySeen |= o.denySeen
	by.setShare(by.access|o.access, by.deny|o.deny)
	for flags, held := range o.held {
		if held && by.held[flags] {
			eff.Close = append(eff.Close, FileClose{o.file.key, vfs.OpenFlags(flags)})
		}
		by.held[flags] = by.held[flags] || held
		o.held[flags] = false
	}
}

// tickFormer ends opens in whose place others came, when their clients were heard of a lease after that: what they sent by them has come. Those that clients have locks by stay.
func (s *State) tickFormer(eff *Effects) {
	for o := range s.former {
		if len(o.locks) == 0 && o.client.renewed.Sub(o.left) > s.cfg.Lease {
			o.client.spend(o.other)
			o.by.former = slices.DeleteFunc(o.by.former, func(x *open) bool { return x == o })
			s.endOpen(o, eff, false)
		}
	}
}
