package devcluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// walSegmentBytes is small: every replica of every shard preallocates one.
const walSegmentBytes = 16 << 20

// voter is one metadata node.
type voter struct {
	name   string
	addr   string
	server *raftmeta.Server // nil: it could not start
	err    error            // why
	hinter *atomic.Pointer[nodegroup.Hinter]
}

// voters are all of them. It is filled before the first connection is made and
// not changed after.
type voters struct{ all []voter }

// Resolve implements raftmeta.Resolver: the ports are new at each start.
func (v *voters) Resolve(_ context.Context, node string) (string, error) {
	for i := range v.all {
		if v.all[i].name == node {
			return v.all[i].addr, nil
		}
	}
	return "", vfs.Errorf(vfs.KindNotFound, "resolve", "no metadata node is called %q", node)
}

func (v *voters) names() []string {
	var out []string
	for _, x := range v.all {
		out = append(out, x.name)
	}
	return out
}

func (v *voters) close() error {
	errs := make([]error, len(v.all))
	done := make(chan struct{})
	for i := range v.all {
		go func() {
			defer func() { done <- struct{}{} }()
			if s := v.all[i].server; s != nil {
				errs[i] = s.Close()
			}
		}()
	}
	for range v.all {
		<-done
	}
	return errors.Join(errs...)
}

// formVoters makes the voters' directories and begins both shards. A crash in
// the middle is repaired by doing it again: nothing was served before all of it was done.
func formVoters(d *dataDir) error {
	shards := []uint16{clusterShard, namespaceShard}
	byShard := map[uint16][]raftmeta.Replica{}
	for i := range d.shape.Voters {
		replicas, err := raftmeta.Format(raftmeta.FormatOptions{
			Dir: d.sub(voterName(i)), Cluster: d.shape.clusterID(), Node: voterName(i),
			Shards: shards, Log: raftmeta.Backend(d.shape.LogStore), Files: d.files,
		})
		if err != nil {
			return vfs.Wrap("form metadata voters", err)
		}
		for _, r := range replicas {
			byShard[r.Shard] = append(byShard[r.Shard], r)
		}
	}
	for _, shard := range shards {
		if err := raftmeta.Bootstrap(d.files, d.sub(voterName(0)), shard, byShard[shard]); err != nil {
			return vfs.Wrap("form metadata voters", err)
		}
	}
	return nil
}

// startVoters starts all that can start; a majority must.
func (c *Cluster) startVoters() error {
	n := c.dir.shape.Voters
	var lost []string
	for i := range n {
		if !hasEntries(c.dir.sub(voterName(i))) {
			lost = append(lost, voterName(i))
		}
	}
	if len(lost) > (n-1)/2 { // nothing is made anew in their place
		return vfs.Errorf(vfs.KindUnavailable, "start metadata", "%d of %d voters are gone or empty (%s), which leaves no majority: bring their directories back", len(lost), n, strings.Join(lost, ", "))
	}
	c.voters.all = make([]voter, n)
	listeners := make([]net.Listener, n)
	for i := range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			for _, l := range listeners[:i] {
				l.Close()
			}
			return err
		}
		listeners[i] = ln
		c.voters.all[i] = voter{name: voterName(i), addr: ln.Addr().String(), hinter: new(atomic.Pointer[nodegroup.Hinter])}
	}
	var failures []error
	for i := range n {
		v := &c.voters.all[i]
		if v.server, v.err = c.startVoter(v, listeners[i]); v.err != nil {
			v.server = nil
			listeners[i].Close()
			failures = append(failures, fmt.Errorf("%s: %w", v.name, v.err))
			c.log.Error("a metadata voter does not start; the others serve without it", "node", v.name, "err", v.err)
		}
	}
	if len(failures) > (n-1)/2 {
		return vfs.Errorf(vfs.KindUnavailable, "start metadata", "%d of %d voters do not start, which leaves no majority: %w", len(failures), n, errors.Join(failures...))
	}
	return nil
}

func (c *Cluster) startVoter(v *voter, ln net.Listener) (*raftmeta.Server, error) {
	name := v.name
	if dir := c.dir.sub(name); !hasEntries(dir) {
		c.log.Warn("a metadata voter's directory is gone or empty: a new replica replaces it when the others serve", "node", name)
		// The node only. Its replicas are made by the server, when the others agree.
		_, err := raftmeta.Format(raftmeta.FormatOptions{Dir: dir, Cluster: c.dir.shape.clusterID(), Node: name, Log: raftmeta.Backend(c.dir.shape.LogStore)})
		if err != nil {
			return nil, err
		}
	}
	id, err := c.ca.Issue(name, []string{blockstore.RoleMeta}, nil, time.Now())
	if err != nil {
		return nil, err
	}
	return raftmeta.Open(raftmeta.Options{
		Dir: c.dir.sub(name), Listener: ln, Resolver: &c.voters, Logger: c.log.With("node", name),
		Security:        wire.Security{Mode: wire.ModeTLS, TLS: id.ServerTLS()},
		ClientSecurity:  func(node string) wire.Security { return wire.Security{Mode: wire.ModeTLS, TLS: id.ClientTLS(node)} },
		Registerer:      c.reg, // the server labels its metrics with the node
		Log:             raftmeta.Backend(c.dir.shape.LogStore),
		Shards:          []uint16{clusterShard, namespaceShard},
		Nodes:           c.voters.names(),
		WALSegmentBytes: walSegmentBytes,
		Grace:           c.cfg.GCGrace, MaxLevel: c.cfg.maxLevel, Level: cmp.Or(c.cfg.maxLevel, raftmeta.NewestLevel), Lease: c.cfg.metaLease, Linger: c.cfg.linger,
		OnDead: v.dead, Work: c.cfg.work, PieceAge: c.cfg.pieceAge,
		// Three voters and a gateway share the process: less for each.
		BlockCacheBytes: 32 << 20, RecordCacheBytes: 16 << 20, MemTableBytes: 8 << 20,
	})
}

// dead passes on what died. Stores find by themselves what dies before the cluster has started.
func (v *voter) dead(blocks []*metapb.DeadBlock) {
	if h := v.hinter.Load(); h != nil {
		h.Dead(blocks)
	}
}

// awaitLeaders waits until every shard has a leader that serves. Without it the
// first command would wait in silence for a majority that may never come.
func (c *Cluster) awaitLeaders(ctx context.Context) error {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	complain := time.NewTimer(leaderPatience)
	defer complain.Stop()
	for {
		if c.voters.serving() {
			return nil
		}
		select {
		case <-poll.C:
		case <-complain.C:
			c.log.Warn("still waiting for metadata leaders", "voters", c.voters.describe())
		case <-ctx.Done():
			return vfs.Errorf(vfs.KindUnavailable, "start metadata", "no leader after %v; voters: %s: %w", startTimeout, c.voters.describe(), context.Cause(ctx))
		}
	}
}

// leaderPatience is how long an election may take before it is worth a word.
const leaderPatience = 10 * time.Second

// serving reports whether each shard has a leader that answers.
func (v *voters) serving() bool {
	led := map[uint16]bool{}
	for i := range v.all {
		if v.all[i].server == nil {
			continue
		}
		for _, st := range v.all[i].server.Status() {
			led[st.Shard] = led[st.Shard] || st.Serving
		}
	}
	return led[clusterShard] && led[namespaceShard]
}

// describe says what each replica does and why it does not lead.
func (v *voters) describe() string {
	var parts []string
	for i := range v.all {
		x := &v.all[i]
		if x.server == nil {
			parts = append(parts, fmt.Sprintf("%s does not run (%v)", x.name, x.err))
			continue
		}
		for _, st := range x.server.Status() {
			s := fmt.Sprintf("%s shard %d: %s, term %d, committed %d, applied %d", x.name, st.Shard, st.Role, st.Term, st.Commit, st.Applied)
			if st.Err != "" {
				s += ", stopped: " + st.Err
			}
			if st.Keeping != "" {
				s += ", " + st.Keeping
			}
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, "; ")
}

// lacks says which replicas do not vote, and what is done about it.
func (v *voters) lacks() []string {
	var out []string
	for i := range v.all {
		x := &v.all[i]
		if x.server == nil {
			out = append(out, "metadata voter "+x.name+" does not run")
			continue
		}
		for _, st := range x.server.Status() {
			var s string
			switch {
			case st.Member == raftmeta.Lost:
				s = fmt.Sprintf("metadata voter %s lost its replica of shard %d (%s)", x.name, st.Shard, st.Err)
			case st.Member == raftmeta.NonVoter:
				s = fmt.Sprintf("metadata voter %s catches up with shard %d: applied %d of %d", x.name, st.Shard, st.Applied, st.Target)
			case st.Member == raftmeta.NoMember || st.Keeping != "":
				s = fmt.Sprintf("metadata voter %s does not vote on shard %d", x.name, st.Shard)
			default:
				continue
			}
			if st.Keeping != "" {
				s += ", " + st.Keeping
			}
			out = append(out, s)
		}
	}
	return out
}

// hasEntries reports whether a part was made before: an empty directory may be where a disk is not mounted.
func hasEntries(dir string) bool {
	es, err := os.ReadDir(dir)
	return err == nil && len(es) > 0
}
