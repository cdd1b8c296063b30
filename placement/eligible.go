package placement

import (
	"fmt"
	"slices"

	"github.com/rackfs/rackfs/vfs"
)

// Level is a level of failure domains, from the narrowest to the widest. No two slots of a group are in one domain of
// their pool's level.
type Level uint8

const (
	Disk Level = iota
	Node
	Rack
	Zone
	levels
)

func (l Level) String() string { return [...]string{"disk", "node", "rack", "zone"}[min(l, Zone)] }

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Level) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLevel(string(b))
	return err
}

// ParseLevel reads the name of a level. "" is the disk: of pools whose record names none.
func ParseLevel(s string) (Level, error) {
	if s == "" {
		return Disk, nil
	}
	for l := Disk; l < levels; l++ {
		if l.String() == s {
			return l, nil
		}
	}
	return Disk, vfs.Errorf(vfs.KindInvalid, "placement.level", "failure domain %q: use disk, node, rack or zone", s)
}

// Location is where a store is. The names of nodes, racks and zones are each unique in the cluster. Stores without a name of some
// level are in one domain of that level: who does not say which racks there are has one.
type Location struct {
	Node, Rack, Zone string
}

// At is the name of the domain of some level that a store is in; only disks have none of their own.
func (l Location) At(level Level) string {
	return [...]string{"", l.Node, l.Rack, l.Zone}[level]
}

// Reservations say for which node group a rack is reserved, by the rack's name. A rack that is not in it is for all.
type Reservations map[string]string

// Eligible reports whether stores of a node may hold data of the pools of a node group; "" is the shared part of the cluster. group is
// that of the node, rack the name of its rack. Reserved racks are exclusive both ways: they hold their group's data only, and what is
// in one and not of its group holds nobody's.
func (r Reservations) Eligible(pool, group, rack string) bool {
	reserved := r[rack]
	if rack == "" {
		reserved = "" // no rack is no rack that can be reserved
	}
	return pool == group && (reserved == "" || reserved == group)
}

// ChooseLevel is the failure domain of a pool with this profile over stores at these places: the coarsest of zone, rack, node and
// disk of which there are at least k+m. The text says why. KindInvalid: not even the disks suffice.
func ChooseLevel(p Profile, stores []Location) (Level, string, error) {
	if err := p.Validate(); err != nil {
		return Disk, "", err
	}
	have := Members(stores)
	for l := Zone; ; l-- {
		if have[l] >= p.Width() {
			text := fmt.Sprintf("%v has %d shards, each in another %s: there are %s", p, p.Width(), l, counted(have, l))
			if l < Zone {
				text += fmt.Sprintf(", and not %d in %s", p.Width(), counted(have, l+1))
			}
			return l, text, nil
		}
		if l == Disk {
			break
		}
	}
	next := fmt.Sprintf("add %d", p.Width()-have[Disk])
	if k := have[Disk] - p.M; k >= 1 {
		next += fmt.Sprintf(", or choose a profile of at most %d shards, such as %v", have[Disk], Profile{K: k, M: p.M})
	}
	return Disk, "", vfs.Errorf(vfs.KindInvalid, "placement.level", "%v needs %d disks that may hold this pool's data, one for each shard, and there are %s on %s in %s: %s",
		p, p.Width(), counted(have, Disk), counted(have, Node), counted(have, Rack), next)
}

// CheckLevel refuses a level that has fewer domains than the profile has shards.
func CheckLevel(p Profile, level Level, stores []Location) error {
	if have := Members(stores); have[level] < p.Width() {
		return vfs.Errorf(vfs.KindInvalid, "placement.level", "%v needs %d domains of level %s, one for each shard, and there are %s that may hold this pool's data: add %d, or choose a narrower level",
			p, p.Width(), level, counted(have, level), p.Width()-have[level])
	}
	return nil
}

// Members counts the domains of each level.
func Members(stores []Location) (have [levels]int) {
	have[Disk] = len(stores)
	for l := Node; l < levels; l++ {
		names := make([]string, len(stores))
		for i, s := range stores {
			names[i] = s.At(l)
		}
		slices.Sort(names)
		have[l] = len(slices.Compact(names))
	}
	return have
}

// counted is "3 racks".
func counted(have [levels]int, l Level) string {
	if have[l] == 1 {
		return "1 " + l.String()
	}
	return fmt.Sprintf("%d %ss", have[l], l)
}
