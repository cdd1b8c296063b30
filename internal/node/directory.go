package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/nodegroup/gossip"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	nodesFile = "nodes.json"
	// directoryInterval is how often the nodes' records are asked for.
	directoryInterval = 2 * time.Second
)

// peer is a node as nodes.json has it.
type peer struct {
	Name    string   `json:"name"`
	ID      string   `json:"id"`
	Roles   []string `json:"roles"`
	Control string   `json:"control,omitempty"`
	Meta    string   `json:"meta,omitempty"`
	Block   string   `json:"block,omitempty"`
	NFS     string   `json:"nfs,omitempty"`
}

func peerOf(n *metapb.Node) peer {
	return peer{Name: n.Name, ID: hex.EncodeToString(n.Id), Roles: n.Roles, Control: n.Control, Meta: n.Meta, Block: n.Block, NFS: n.Nfs}
}

// directory is what this node knows of the others' addresses.
type directory struct {
	dir    *dataDir
	log    *slog.Logger
	revoke func([]pki.Revocation) // is told who was removed
	// hint is what gossip says of a node that is alive.
	hint  func(name string) (gossip.Member, bool)
	again chan struct{} // the records are to be asked for now

	mu    sync.Mutex
	self  peer
	nodes []*metapb.Node // as shard 0 has them; nil: not known in this process yet
	peers []peer         // by name, with self as it is now
	gone  []pki.Revocation
}

func openDirectory(d *dataDir, self peer, revoke func([]pki.Revocation), hint func(string) (gossip.Member, bool), log *slog.Logger) (*directory, error) {
	x := &directory{dir: d, log: log, self: self, revoke: revoke, hint: hint, again: make(chan struct{}, 1)}
	if _, err := d.loadJSON(nodesFile, &x.peers); err != nil {
		return nil, err
	}
	x.peers = withSelf(x.peers, self)
	if _, err := d.loadJSON(removedFile, &x.gone); err != nil {
		return nil, err
	}
	revoke(x.gone)
	return x, nil
}

// withSelf is the list in which this node is as it is now, whatever its record says.
func withSelf(peers []peer, self peer) []peer {
	out := slices.DeleteFunc(slices.Clone(peers), func(p peer) bool { return p.Name == self.Name })
	out = append(out, self)
	slices.SortFunc(out, func(a, b peer) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Resolve implements raftmeta.Resolver. What a node that is alive says itself is newer than any record; whether it is that node is seen by its
// certificate.
func (x *directory) Resolve(_ context.Context, node string) (string, error) {
	if m, ok := x.hint(node); ok && m.Ports.Meta != 0 {
		return m.Address(m.Ports.Meta), nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.peers {
		if p.Name == node && p.Meta != "" {
			return p.Meta, nil
		}
	}
	return "", vfs.Errorf(vfs.KindNotFound, "resolve", "no address of metadata node %s is known here", node)
}

// metaNodes are the names of the nodes that may have voters. There is one at least: a node joined through it.
func (x *directory) metaNodes() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []string
	for _, p := range x.peers {
		if p.Meta != "" {
			out = append(out, p.Name)
		}
	}
	return out
}

// controls are the control addresses of the meta nodes, with their names.
func (x *directory) controls() []peer {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(x.peers), func(p peer) bool { return p.Control == "" })
}

// all are the nodes with their addresses.
func (x *directory) all() []peer {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.peers)
}

// host is where a node is, whatever its roles.
func (p peer) host() string {
	host, _, err := net.SplitHostPort(cmp.Or(p.Control, p.Block, p.NFS, p.Meta))
	if err != nil {
		return ""
	}
	return host
}

// lookAgain asks for the records soon.
func (x *directory) lookAgain() {
	select {
	case x.again <- struct{}{}:
	default:
	}
}

// records are the nodes as shard 0 had them last; nil before it was asked.
func (x *directory) records() []*metapb.Node {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.nodes
}

// learn takes what shard 0 says, and keeps it on disk if it is news.
func (x *directory) learn(nodes []*metapb.Node) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.nodes != nil && slices.EqualFunc(x.nodes, nodes, func(a, b *metapb.Node) bool { return proto.Equal(a, b) }) {
		return
	}
	var peers []peer
	for _, n := range nodes {
		peers = append(peers, peerOf(n))
	}
	x.nodes, x.peers = nodes, withSelf(peers, x.self)
	if err := x.dir.saveJSON(nodesFile, x.peers); err != nil {
		x.log.Warn("the nodes' addresses are not remembered over a restart", "err", err)
	}
}

// learnRemoved takes whom shard 0 says to be removed. It is in force at once, and kept on disk.
func (x *directory) learnRemoved(gone []pki.Revocation) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if sameRevocations(x.gone, gone) {
		return
	}
	x.gone = gone
	x.revoke(gone)
	if err := x.dir.saveJSON(removedFile, gone); err != nil {
		x.log.Warn("who was removed is not remembered over a restart", "err", err)
	}
}

// revocations are the nodes that were removed.
func (x *directory) revocations() []pki.Revocation {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.gone
}

// removed reports whether a node with this id was.
func (x *directory) removed(id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(x.gone, func(r pki.Revocation) bool { return r.ID == id })
}

// querier is the metadata client.
type querier interface {
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// refresh asks shard 0.
func (x *directory) refresh(ctx context.Context, meta querier) error {
	gone, err := retired(ctx, meta)
	if err != nil {
		return err
	}
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
	if err != nil {
		return err
	}
	x.learnRemoved(revocations(gone, r.GetNodes().GetNodes()))
	if nodes := r.GetNodes().GetNodes(); len(nodes) > 0 {
		x.learn(nodes)
	}
	return nil
}

// run keeps the directory new until ctx ends, and tells seen how each look went.
func (x *directory) run(ctx context.Context, meta querier, seen func(context.Context, error)) {
	tick := time.NewTicker(directoryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-x.again:
		}
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := x.refresh(ask, meta)
		cancel()
		if err != nil {
			x.log.Debug("nodes", "err", err)
		}
		seen(ctx, err)
	}
}
