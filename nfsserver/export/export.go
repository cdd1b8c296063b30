package export

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/rackfs/rackfs/vfs"
)

// Access says what a rule lets clients do.
type Access uint8

const (
	ReadOnly Access = iota
	ReadWrite
)

// Squash says whose identity a rule replaces by the anonymous one.
type Squash uint8

const (
	SquashRoot Squash = iota // uid 0, and gid 0 in any place
	SquashNone
	SquashAll
)

// AnonID is the conventional uid and gid of nobody (65534).
const AnonID = 65534

// Rule grants access to the clients in a prefix.
type Rule struct {
	Clients netip.Prefix
	Access  Access
	Squash  Squash
	AnonUID uint32 // squashed users; AnonID by convention
	AnonGID uint32
}

// Everyone are the two prefixes that contain every address.
func Everyone(access Access, squash Squash) []Rule {
	r := Rule{Access: access, Squash: squash, AnonUID: AnonID, AnonGID: AnonID}
	r4, r6 := r, r
	r4.Clients = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	r6.Clients = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	return []Rule{r4, r6}
}

// Export offers a directory of a file system under a path.
type Export struct {
	ID   uint32  // unique for all time: handles name it
	FSID uint32  // id of the file system, the same in each of its exports
	Path string  // "/default", "/research/images"
	FS   vfs.FS  // what it exports
	Root vfs.Ino // its root directory; 0 means vfs.RootIno
	// Project, if not 0, secures the export: handles used through it name inodes of that project, of which Root is the directory.
	Project uint32
	Rules   []Rule
	// Within, if not empty, limits all rules: clients outside of these prefixes have none.
	Within []netip.Prefix
	// Groups, if not empty, are those whose members may use the export; see Admits. Ascending.
	Groups []uint32
}

// RootIno is the inode of the export's root directory.
func (e *Export) RootIno() vfs.Ino {
	if e.Root == 0 {
		return vfs.RootIno
	}
	return e.Root
}

// Rule is the first rule for a client, nil if there is none.
func (e *Export) Rule(client netip.Addr) *Rule {
	client = client.Unmap()
	if len(e.Within) > 0 && !slices.ContainsFunc(e.Within, func(p netip.Prefix) bool { return p.Contains(client) }) {
		return nil
	}
	for i := range e.Rules {
		if e.Rules[i].Clients.Contains(client) {
			return &e.Rules[i]
		}
	}
	return nil
}

// Cred is who c is under the rule. The result does not share memory with c
// where it differs.
func (r *Rule) Cred(c *vfs.Cred) vfs.Cred {
	switch r.Squash {
	case SquashAll:
		return vfs.Cred{UID: r.AnonUID, GID: r.AnonGID}
	case SquashNone:
		return *c
	}
	out := *c
	if out.UID == 0 {
		// A superuser's groups say nothing about the anonymous user.
		return vfs.Cred{UID: r.AnonUID, GID: r.AnonGID}
	}
	if out.GID == 0 {
		out.GID = r.AnonGID
	}
	for i, g := range c.Groups {
		if g == 0 {
			out.Groups = make([]uint32, 0, len(c.Groups))
			out.Groups = append(out.Groups, c.Groups[:i]...)
			for _, g := range c.Groups[i:] {
				if g != 0 {
					out.Groups = append(out.Groups, g)
				}
			}
			break
		}
	}
	return out
}

// Admission is what an export with Groups lets a caller do.
type Admission uint8

const (
	Refused  Admission = iota
	Mounting           // look at attributes and names, as the user who mounts has to
	Admitted
)

// Admits says whether a caller under rule r may use the export. c is who it says it is, before squashing: a member by its group or any of
// the further ones that it names (AUTH_SYS carries 16). Root may mount, also where it is squashed; where it is not, it is everybody's superior and admitted.
func (e *Export) Admits(r *Rule, c *vfs.Cred) Admission {
	switch {
	case len(e.Groups) == 0, c.UID == 0 && r.Squash == SquashNone:
		return Admitted
	case e.member(c.GID) || slices.ContainsFunc(c.Groups, e.member):
		return Admitted
	case c.UID == 0:
		return Mounting
	}
	return Refused
}

func (e *Export) member(gid uint32) bool {
	_, ok := slices.BinarySearch(e.Groups, gid)
	return ok
}

// Set is the current table. It is safe for concurrent use.
type Set struct{ p atomic.Pointer[Table] }

// NewSet returns a set that starts with t.
func NewSet(t *Table) *Set {
	s := &Set{}
	s.p.Store(t)
	return s
}

// Table is the current snapshot.
func (s *Set) Table() *Table { return s.p.Load() }

// Replace makes t current for requests that begin from now on.
func (s *Set) Replace(t *Table) { s.p.Store(t) }
