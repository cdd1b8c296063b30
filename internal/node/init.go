package node

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

const (
	clusterShard   = provision.ClusterShard
	namespaceShard = provision.NamespaceShard

	// DefaultVoters is how many voters each shard gets as meta nodes join.
	DefaultVoters = 3
	// groupsPerStore placement groups for each store spread data and parity evenly
	// and give a failed write somewhere else to go.
	groupsPerStore = 8
)

// InitOptions are what a cluster begins with. Zero values mean defaults.
type InitOptions struct {
	Nodes   int    // with role block that the cluster is to have before it is used; default 1
	Profile string // default: what fits
	Domain  string // disk or node; default: what fits
	Voters  int    // default 3
	Encrypt bool
}

// Layout is a pool's profile and failure domain.
type Layout struct {
	placement.Profile
	Domain string
}

// layout decides what a pool over so many nodes with so many disks each can be, and refuses what it cannot.
func layout(o InitOptions, disks int) (Layout, error) {
	const op = "cluster init"
	bad := func(format string, args ...any) (Layout, error) {
		return Layout{}, vfs.Errorf(vfs.KindInvalid, op, format, args...)
	}
	nodes := o.Nodes
	if nodes == 0 {
		nodes = 1
	}
	if nodes < 1 || nodes > 4096 {
		return bad("--nodes %d: use 1 to 4096", o.Nodes)
	}
	have := map[string]int{"disk": nodes * disks, "node": nodes}
	l := Layout{Domain: o.Domain}
	if l.Domain != "" && have[l.Domain] == 0 {
		if _, ok := have[l.Domain]; !ok {
			return bad("--domain %q: use disk or node", o.Domain)
		}
	}
	if have["disk"] == 0 {
		return bad("the first node needs role block and a disk (block.disks): data would have no place")
	}
	if o.Profile != "" {
		p, err := placement.ParseProfile(o.Profile)
		if err != nil {
			return Layout{}, err
		}
		if l.Profile = p; l.Domain == "" {
			l.Domain = "node"
			if nodes < p.Width() {
				l.Domain = "disk"
			}
		}
		if n := have[l.Domain]; n < p.Width() {
			return bad("profile %v needs %d failure domains, one for each of %d data and %d parity shards, and %d node(s) with %d disk(s) each are %d of --domain %s: "+
				"say with --nodes how many nodes like this one there will be, or choose a smaller profile, such as %v", p, p.Width(), p.K, p.M, nodes, disks, n, l.Domain, placement.ProfileFor(n))
		}
		return l, nil
	}
	if l.Domain == "" {
		l.Domain = "disk"
		if nodes >= 3 {
			l.Domain = "node"
		}
	}
	l.Profile = placement.ProfileFor(have[l.Domain])
	return l, nil
}

// loss says what a layout survives.
func (l Layout) loss() string {
	if l.M == 0 {
		return fmt.Sprintf("the loss of a %s loses data", l.Domain)
	}
	return fmt.Sprintf("any %d %s(s) may be lost", l.M, l.Domain)
}

// Init makes the first node of a new cluster in its data directory. Repeated after a crash it goes on; of a node that is made it refuses.
func Init(c *Config, o InitOptions, now time.Time) (cluster string, l Layout, err error) {
	return initOn(vfile.OS{}, c, o, now)
}

func initOn(files vfile.FS, c *Config, o InitOptions, now time.Time) (cluster string, l Layout, err error) {
	const op = "cluster init"
	if !c.Has(RoleMeta) {
		return "", l, vfs.Errorf(vfs.KindInvalid, op, "the first node needs role meta: add it to roles")
	}
	if o.Voters == 0 {
		o.Voters = DefaultVoters
	}
	if o.Voters < 1 || o.Voters > 7 || o.Voters%2 == 0 {
		return "", l, vfs.Errorf(vfs.KindInvalid, op, "--voters %d: use 1, 3, 5 or 7 (an even number survives no more failures than one less)", o.Voters)
	}
	if l, err = layout(o, len(c.Disks)); err != nil {
		return "", l, err
	}
	d, err := openDataDir(files, c)
	if err != nil {
		return "", l, err
	}
	defer d.close()
	if d.state.Ready {
		return "", l, vfs.Errorf(vfs.KindExists, op, "%s is that of a node of cluster %s already: start it with `rackfs node --config FILE`", c.Data, d.state.Settings.Cluster)
	}
	if d.made && d.state.First == nil {
		return "", l, vfs.Errorf(vfs.KindExists, op, "%s is that of a node that was joining a cluster: empty it first", c.Data)
	}
	if !d.made {
		var id [clusterLen]byte
		rand.Read(id[:])
		d.state.Settings = Settings{Cluster: hex.EncodeToString(id[:]), Encrypt: o.Encrypt, Voters: o.Voters}
		d.state.First = &first{Pool: l.Profile.String(), Domain: l.Domain}
		if err := d.save(); err != nil {
			return "", l, err
		}
	}
	if err := d.state.Settings.check(); err != nil {
		return "", l, err
	}
	ca, err := pki.LoadOrCreateCA(d.files, d.sub(pkiDir), d.state.Settings.Cluster[:8], now)
	if err != nil {
		return "", l, err
	}
	id, err := ca.Issue(c.Name, c.Roles, nil, now)
	if err != nil {
		return "", l, err
	}
	if err := id.Save(d.files, d.sub(pkiDir)); err != nil {
		return "", l, err
	}
	// Both shards begin with one voter. Repeated it does nothing: the same replicas are found.
	replicas, err := raftmeta.Format(raftmeta.FormatOptions{
		Dir: d.sub(metaDir), Cluster: d.state.Settings.ID(), Node: c.Name,
		Shards: []uint16{clusterShard, namespaceShard}, Log: raftmeta.Backend(d.state.RaftLog), Files: d.files,
	})
	if err != nil {
		return "", l, vfs.Wrap(op, err)
	}
	for _, r := range replicas {
		if err := raftmeta.Bootstrap(d.files, d.sub(metaDir), r.Shard, []raftmeta.Replica{r}); err != nil {
			return "", l, vfs.Wrap(op, err)
		}
	}
	d.state.Ready = true
	return d.state.Settings.Cluster, l, d.save()
}

// Loss says what the layout of a new cluster survives.
func (l Layout) Loss() string { return l.loss() }
