package gateway

import (
	"context"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// distance says how far from this gateway a store is.
type distance uint8

const (
	sameNode distance = iota
	sameRack
	elsewhere
	distances
)

func (d distance) String() string { return [...]string{"node", "rack", "cluster"}[d] }

// traffic counts the bytes of shards between this gateway and stores, by how far those are.
type traffic struct {
	node string
	rack func() string // "": not known

	read, written [distances]prometheus.Counter
}

func newTraffic(node string, rack func() string, r prometheus.Registerer) *traffic {
	t := &traffic{node: node, rack: rack}
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rackfs_gateway_shard_bytes_total",
		Help: "Bytes of shards that this gateway read from stores or wrote to them, by where those are: on its own node, in its rack, elsewhere in the cluster.",
	}, []string{"direction", "where"})
	for d := range distances {
		t.read[d] = bytes.WithLabelValues("read", d.String())
		t.written[d] = bytes.WithLabelValues("written", d.String())
	}
	if r != nil {
		r.MustRegister(bytes)
	}
	return t
}

// of is how far a node is whose stores are in a rack.
func (t *traffic) of(s *metapb.Store) distance {
	own := ""
	if t.rack != nil {
		own = t.rack()
	}
	switch {
	case s.Node == t.node:
		return sameNode
	case own != "" && s.Rack == own:
		return sameRack
	}
	return elsewhere
}

// counted is the way to a node whose bytes are counted.
type counted struct {
	stripe.Caller
	read, written prometheus.Counter
}

// Call implements stripe.Caller.
func (c *counted) Call(ctx context.Context, op wire.Op, meta []byte, payload net.Buffers, into []byte) (*wire.Reply, error) {
	n := 0
	for _, b := range payload {
		n += len(b)
	}
	r, err := c.Caller.Call(ctx, op, meta, payload, into)
	if err == nil {
		c.written.Add(float64(n))
		c.read.Add(float64(len(r.Payload)))
	}
	return r, err
}

// callers makes the callers of a map's nodes count, if t is not nil.
func (t *traffic) callers(raw *metapb.ClusterMapR, all map[string]stripe.Caller) {
	if t == nil {
		return
	}
	done := map[string]bool{}
	for _, s := range raw.GetStores() {
		if c := all[s.Node]; c != nil && !done[s.Node] && s.State != metapb.StoreState_STORE_LOST {
			d := t.of(s)
			all[s.Node], done[s.Node] = &counted{c, t.read[d], t.written[d]}, true
		}
	}
}
