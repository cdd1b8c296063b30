package filesystem

import (
	"cmp"
	"context"
	"math/bits"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Fixed ids of every cluster.
const (
	clusterShard   = 0
	namespaceShard = 1
	// DefaultWorkspace is the workspace of file systems that name none.
	DefaultWorkspace = "default"
)

// Kinds of file systems.
const (
	Shared = "shared"
	Group  = "group"
	Local  = "local"
)

const (
	// DefaultKeep is how long a deleted file system is kept, MaxKeep how long at most.
	DefaultKeep = 7 * 24 * time.Hour
	MaxKeep     = 10 * 365 * 24 * time.Hour
	maxAllow    = 256
	// maxLimit bounds limits of bytes and inodes.
	maxLimit = 1 << 62
)

// Meta is the metadata client.
type Meta interface {
	Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error)
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// Request says what a new file system is to be. Zero values mean defaults.
type Request struct {
	Name, Workspace string
	Kind            string // default Shared
	Group           string // of kinds Group and Local
	Profile         string // "4+2"; default: that of the pool
	Domain          string // failure domain of a new pool; default: the coarsest that there are enough of
	Settings
}

// Settings are what may change of a file system.
type Settings struct {
	QuotaBytes, QuotaInodes uint64 // 0: no limit
	Allow                   []string
	ReadOnly                bool

	Squash           Squash
	AnonUID, AnonGID uint32   // who a squashed caller is; 0: 65534
	Groups           []uint32 // whose members may use it; none: anybody
}

// SettingsOf are those of a record.
func SettingsOf(fs *metapb.FileSystem) Settings {
	return Settings{
		QuotaBytes: fs.QuotaBytes, QuotaInodes: fs.QuotaInodes, Allow: fs.Allow, ReadOnly: fs.ReadOnly,
		Squash: squashOf(fs.Squash), AnonUID: fs.AnonUid, AnonGID: fs.AnonGid, Groups: fs.Groups,
	}
}

// put writes them into a record.
func (s *Settings) put(fs *metapb.FileSystem) {
	fs.QuotaBytes, fs.QuotaInodes, fs.Allow, fs.ReadOnly = s.QuotaBytes, s.QuotaInodes, s.Allow, s.ReadOnly
	fs.Squash, fs.AnonUid, fs.AnonGid, fs.Groups = squashes[s.Squash], s.AnonUID, s.AnonGID, s.Groups
}

// goodName is what a file system or a workspace may be called: it is a part of a path that people type.
var goodName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

func (r *Request) check(op string) error {
	r.Workspace, r.Kind = cmp.Or(r.Workspace, DefaultWorkspace), cmp.Or(r.Kind, Shared)
	for what, name := range map[string]string{"name": r.Name, "workspace": r.Workspace} {
		if !goodName.MatchString(name) {
			return vfs.Errorf(vfs.KindInvalid, op, "%s %q: use letters, digits, '-', '_' and '.', at most 63 of them, the first a letter or a digit", what, name)
		}
	}
	switch r.Kind {
	case Shared:
		if r.Group != "" {
			return vfs.Errorf(vfs.KindInvalid, op, "a shared file system belongs to no group: leave --group out, or use --kind group")
		}
	case Group:
		if r.Group == "" {
			return vfs.Errorf(vfs.KindInvalid, op, "kind group needs the node group whose nodes hold the data: --group NAME")
		}
	case Local:
		if err := r.checkLocal(op); err != nil {
			return err
		}
	default:
		return vfs.Errorf(vfs.KindInvalid, op, "kind %q: use shared, group or local", r.Kind)
	}
	if r.Profile != "" {
		if _, err := placement.ParseProfile(r.Profile); err != nil {
			return err
		}
	}
	return r.Settings.check(op)
}

func (s *Settings) check(op string) error {
	if s.QuotaBytes > maxLimit || s.QuotaInodes > maxLimit {
		return vfs.Errorf(vfs.KindInvalid, op, "a limit is at most %d; 0 is none", uint64(maxLimit))
	}
	var err error
	if s.Allow, err = networks(s.Allow, op); err != nil {
		return err
	}
	return s.checkExport(op)
}

// networks are those that are named, as records have them.
func networks(list []string, op string) ([]string, error) {
	if len(list) > maxAllow {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d networks, at most %d", len(list), maxAllow)
	}
	out := make([]string, 0, len(list))
	for _, n := range list {
		p, err := ParseNetwork(n)
		if err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "%q is no network: write 10.1.0.0/16, or an address", n)
		}
		out = append(out, p.String())
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// ParseNetwork reads a network or an address.
func ParseNetwork(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a.WithZone(""), a.BitLen()), nil
}

// Path is where gateways export a file system: /NAME in the workspace default, else /WORKSPACE/NAME.
func Path(fs *metapb.FileSystem) string {
	if fs.Workspace == "" || fs.Workspace == DefaultWorkspace {
		return "/" + fs.Name
	}
	return "/" + fs.Workspace + "/" + fs.Name
}

// ParseBytes reads a number of bytes with a binary unit.
func ParseBytes(s string) (uint64, error) {
	number, shift := s, 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			number, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(number, 10, 62)
	if err != nil || bits.Len64(n)+shift > 62 {
		return 0, vfs.Errorf(vfs.KindInvalid, "quota", "%q is no number of bytes: write 500MiB, 10GiB or 1TiB; 0 is no limit", s)
	}
	return n << shift, nil
}
