package placement

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rackfs/rackfs/vfs"
)

// Bounds of a profile.
const (
	MaxData   = 16
	MaxParity = 8
)

// Profile is the erasure code of a pool: K data and M parity shards.
type Profile struct {
	K, M int
}

// Validate reports whether the profile is one that rackfs supports.
func (p Profile) Validate() error {
	if p.K < 1 || p.K > MaxData || p.M < 0 || p.M > MaxParity {
		return vfs.Errorf(vfs.KindInvalid, "placement.profile",
			"profile %d+%d is outside 1..%d data and 0..%d parity shards", p.K, p.M, MaxData, MaxParity)
	}
	return nil
}

func (p Profile) String() string { return fmt.Sprintf("%d+%d", p.K, p.M) }

// Width is the number of slots, and of failure domains a pool needs at least.
func (p Profile) Width() int { return p.K + p.M }

// ProfileFor is the profile of a pool with n failure domains, if nobody says another.
func ProfileFor(n int) Profile {
	switch {
	case n >= 6:
		return Profile{K: 4, M: 2}
	case n == 5:
		return Profile{K: 3, M: 2}
	case n == 4:
		return Profile{K: 2, M: 2}
	case n == 3:
		return Profile{K: 2, M: 1}
	case n == 2:
		return Profile{K: 1, M: 1}
	}
	return Profile{K: 1, M: 0}
}

// ParseProfile reads "K+M", such as "4+2".
func ParseProfile(s string) (Profile, error) {
	ks, ms, ok := strings.Cut(s, "+")
	k, err1 := strconv.ParseUint(ks, 10, 8)
	m, err2 := strconv.ParseUint(ms, 10, 8)
	if !ok || err1 != nil || err2 != nil || strconv.FormatUint(k, 10) != ks || strconv.FormatUint(m, 10) != ms {
		return Profile{}, vfs.Errorf(vfs.KindInvalid, "placement.profile",
			"%q is no erasure profile; write data+parity shards, such as 4+2", s)
	}
	p := Profile{K: int(k), M: int(m)}
	return p, p.Validate()
}

// Target is one disk of one node: what holds shards.
type Target struct {
	Node string
	Disk uint32
}

func (t Target) String() string { return t.Node + "/" + strconv.FormatUint(uint64(t.Disk), 10) }

// Slot is one position of a PG. While a slot moves, Previous is where its
// shards were; readers try both until it is back-filled. While it is Filling, Target may lack shards of
// blocks that exist.
type Slot struct {
	Target   Target
	Previous *Target
	Filling  bool
}

// PG is a placement group. Slots has K+M entries.
type PG struct {
	ID     uint32
	Epoch  uint32
	K, M   int
	Closed bool // takes no new blocks
	Slots  []Slot
}

// Profile is the erasure code of the group.
func (pg *PG) Profile() Profile { return Profile{K: pg.K, M: pg.M} }

// Validate checks what every PG fulfils whatever its pool: the profile, one
// slot per shard, no target twice.
func (pg *PG) Validate() error {
	if err := pg.Profile().Validate(); err != nil {
		return err
	}
	if len(pg.Slots) != pg.K+pg.M {
		return vfs.Errorf(vfs.KindInvalid, "placement.pg", "pg %d has %d slots, its profile %v needs %d", pg.ID, len(pg.Slots), pg.Profile(), pg.K+pg.M)
	}
	seen := make(map[Target]bool, len(pg.Slots))
	for _, s := range pg.Slots {
		if seen[s.Target] {
			return vfs.Errorf(vfs.KindInvalid, "placement.pg", "pg %d names target %v twice", pg.ID, s.Target)
		}
		seen[s.Target] = true
	}
	return nil
}

// Pool is the set of placement groups of one node group with one profile. File
// systems of the node group with that profile write into it.
type Pool struct {
	ID      uint32
	Group   string // node group; "" is the default one
	Profile Profile
	PGs     []uint32
}
