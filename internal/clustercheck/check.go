package clustercheck

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const clusterShard = 0

// Metadata asks leaders. *raftmeta.Client is one.
type Metadata interface {
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// Replicas has one of every shard. *raftmeta.Server is it.
type Replicas interface {
	CheckShard(ctx context.Context, shard uint16, applied uint64, o raftmeta.CheckOptions) (raftmeta.CheckReport, error)
	CompareVoters(ctx context.Context, shard uint16) ([]raftmeta.Compared, error)
}

// Defaults of Options.
const (
	DefaultBlocks  = 1 << 20 // 32 MiB
	DefaultRecords = 1 << 20 // 240 MiB
)

// Options of a check. Those of the first group are required.
type Options struct {
	Meta     Metadata
	Replicas Replicas
	Shards   []uint16 // all that the cluster has
	Connect  func(node, address string) Conn

	Blocks   int              // live blocks whose inventory is taken at once
	Records  int              // records of a state that are kept in memory at once
	Progress func(p Progress) // nil: nobody is told
}

// Progress is how far a check is.
type Progress struct {
	Step  string `json:"step" doc:"What is looked at"`
	Done  uint64 `json:"done"`
	Total uint64 `json:"total" doc:"0: not known"`
}

// checker is one check.
type checker struct {
	o       Options
	report  Report
	cmap    *metapb.ClusterMapR
	used    map[uint32]bool // pools in which a file system keeps data
	cluster []byte
	infos   map[uint16]*metapb.ShardInfoR
	stores  map[uint32]*storeConn
	conns   []Conn
}

func (c *checker) r() *Report { return &c.report }

// Run checks a cluster. An error says that the check could not be made; what is wrong with the cluster is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Blocks <= 0 {
		o.Blocks = DefaultBlocks
	}
	if o.Records <= 0 {
		o.Records = DefaultRecords
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	o.Shards = slices.Sorted(slices.Values(o.Shards))
	began := time.Now()
	c := &checker{o: o, infos: map[uint16]*metapb.ShardInfoR{}, stores: map[uint32]*storeConn{}}
	defer func() {
		for _, conn := range c.conns {
			conn.Close()
		}
	}()
	if err := c.run(ctx); err != nil {
		return nil, vfs.Wrap("check", err)
	}
	c.report.TookNanos = time.Since(began)
	return &c.report, nil
}

func (c *checker) run(ctx context.Context) error {
	namespaces := map[uint32]uint16{}
	for i, shard := range c.o.Shards {
		if err := c.shard(ctx, shard, namespaces, i); err != nil {
			return err
		}
	}
	c.report.Metadata = c.infos[clusterShard].Incarnation
	c.report.Deletion = DeletionOn
	for _, shard := range c.o.Shards {
		if i := c.infos[shard]; i.Incarnation != c.report.Metadata || string(i.Cluster) != string(c.cluster) {
			c.r().add(Error, KindState, "shard %d is of incarnation %d of cluster %x, shard 0 of %d of %x", shard, i.Incarnation, i.Cluster, c.report.Metadata, c.cluster)
		}
	}
	if err := c.fileSystems(ctx, namespaces); err != nil {
		return err
	}
	if err := c.closed(ctx); err != nil {
		return err
	}
	Placement(c.cmap, c.used, c.r())
	c.o.Progress(Progress{Step: "stores"})
	c.connect(ctx)
	return c.inventory(ctx)
}

// shard checks the state of one shard.
func (c *checker) shard(ctx context.Context, shard uint16, namespaces map[uint32]uint16, n int) error {
	step := fmt.Sprintf("metadata of shard %d", shard)
	c.o.Progress(Progress{Step: step})
	info, err := c.info(ctx, shard)
	if err != nil {
		return err
	}
	c.infos[shard] = info
	if shard == clusterShard {
		c.cluster = info.Cluster
	}
	r, err := c.o.Replicas.CheckShard(ctx, shard, info.Applied, raftmeta.CheckOptions{
		Records: c.o.Records, Most: findingsKept,
		Progress: func(done, total uint64) { c.o.Progress(Progress{step, done, total}) },
	})
	if err != nil {
		return err
	}
	for _, v := range r.Violations {
		c.r().add(Error, KindState, "shard %d: %v", shard, v)
	}
	if more := r.Found - len(r.Violations); more > 0 {
		c.r().add(Error, KindState, "shard %d: %d further violations", shard, more)
	}
	c.report.Inodes += r.Inodes
	for _, fs := range r.Namespaces {
		if other, had := namespaces[fs]; had {
			c.r().add(Error, KindFileSystem, "file system %d has a namespace on the shards %d and %d", fs, other, shard)
		}
		namespaces[fs] = shard
	}
	voters, err := c.o.Replicas.CompareVoters(ctx, shard)
	if err != nil {
		return err
	}
	for _, v := range voters {
		switch {
		case v.Err != nil:
			c.r().add(Error, KindDigest, "shard %d: the state of the voter on node %s cannot be compared: %v", shard, v.Node, v.Err)
		case !v.Same:
			c.r().add(Error, KindDigest, "shard %d: the voter on node %s has another state at entry %d: a bug or failing memory: report it", shard, v.Node, v.Index)
		}
	}
	return nil
}

func (c *checker) info(ctx context.Context, shard uint16) (*metapb.ShardInfoR, error) {
	r, err := c.o.Meta.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	if err == nil && r.GetShardInfo() == nil {
		err = vfs.Errorf(vfs.KindInternal, "", "shard %d does not say what it is", shard)
	}
	return r.GetShardInfo(), err
}

func (c *checker) readMap(ctx context.Context) error {
	r, err := c.o.Meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	if err == nil {
		c.cmap = r.GetClusterMap()
	}
	return err
}

const (
	// closeTimeout is how long the leader may take to close placement groups after a rack was reserved or a node moved, and closePoll how often
	// it is looked whether it has.
	closeTimeout = 5 * time.Second
	closePoll    = 100 * time.Millisecond
)

// closed reads the map and, if placement groups take new blocks on stores that may not hold them, again until the leader has closed them: from a
// reservation to its next look they do.
func (c *checker) closed(ctx context.Context) error {
	exposed := func(x nodegroup.Misplaced) bool { return x.Place == nodegroup.Exposed }
	for end := time.Now().Add(closeTimeout); ; {
		if err := c.readMap(ctx); err != nil {
			return err
		}
		if !slices.ContainsFunc(nodegroup.Exclusive(c.cmap), exposed) || time.Now().After(end) {
			return nil
		}
		select {
		case <-time.After(closePoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fileSystems compares the records of shard 0 with the namespaces that there were before. One that ended or began since is neither.
func (c *checker) fileSystems(ctx context.Context, namespaces map[uint32]uint16) error {
	if err := c.readMap(ctx); err != nil {
		return err
	}
	r, err := c.o.Meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{}}})
	if err != nil {
		return err
	}
	pools := map[uint32]bool{0: true}
	for _, p := range c.cmap.GetPools() {
		pools[p.Id] = true
	}
	known := map[uint32]bool{}
	c.used = map[uint32]bool{}
	for _, f := range r.GetFileSystems().GetFileSystems() {
		known[f.Id] = true
		if !filesystem.Ends(f) {
			c.used[f.Pool] = true
		}
		if f.Kind == filesystem.Local { // its nodes have it, the metadata only its record
			continue
		}
		if !pools[f.Pool] {
			c.r().add(Error, KindFileSystem, "file system %s is in pool %d, which does not exist", f.Name, f.Pool)
		}
		shard, has := namespaces[f.Id]
		switch {
		case f.State == metapb.FileSystemState_FS_ACTIVE && !has:
			// It may have been made after its shard was looked at: ask now.
			_, err := c.o.Meta.Query(ctx, uint16(f.Shard), &metapb.Query{Fs: f.Id, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: uint64(vfs.RootIno)}}})
			if vfs.KindOf(err) == vfs.KindStale {
				c.r().add(Error, KindFileSystem, "file system %s (%d) is active and has no namespace on shard %d", f.Name, f.Id, f.Shard)
			} else if err != nil {
				return err
			}
		case has && uint32(shard) != f.Shard:
			c.r().add(Error, KindFileSystem, "file system %s (%d) is on shard %d, its namespace on %d", f.Name, f.Id, f.Shard, shard)
		}
	}
	for fs, shard := range namespaces {
		if !known[fs] {
			c.r().add(Error, KindFileSystem, "shard %d has a namespace of file system %d, which shard 0 does not know", shard, fs)
		}
	}
	return nil
}
