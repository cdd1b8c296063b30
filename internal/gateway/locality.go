package gateway

import (
	"context"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// traffic counts the bytes of shards between this gateway and stores, by how far those are.
type traffic struct {
	node       string
	zone, rack func() string // "": not known

	read, written [stripe.Distances]prometheus.Counter
}

func newTraffic(node string, zone, rack func() string, r prometheus.Registerer) *traffic {
	t := &traffic{node: node, zone: zone, rack: rack}
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rackfs_gateway_shard_bytes_total",
		Help: "Bytes of shards that this gateway read from stores or wrote to them, by where those are: on its own node, in its rack, in its zone, elsewhere in the cluster.",
	}, []string{"direction", "where"})
	for d := range stripe.Distances {
		t.read[d] = bytes.WithLabelValues("read", d.String())
		t.written[d] = bytes.WithLabelValues("written", d.String())
	}
	if r != nil {
		r.MustRegister(bytes)
	}
	return t
}

// of is how far the node of a store is.
func (t *traffic) of(s *metapb.Store) stripe.Distance {
	same := func(own func() string, its string) bool { return own != nil && its != "" && own() == its }
	switch zone := same(t.zone, s.Zone); {
	case s.Node == t.node:
		return stripe.SameNode
	case same(t.rack, s.Rack) && (zone || s.Zone == "" || t.zone == nil || t.zone() == ""):
		return stripe.SameRack
	case zone:
		return stripe.SameZone
	}
	return stripe.Elsewhere
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

// callers makes the callers of a map's nodes count, and says how far those are. Of a nil t all are elsewhere, and nothing is counted.
func (t *traffic) callers(raw *metapb.ClusterMapR, all map[string]stripe.Caller) map[string]stripe.Distance {
	if t == nil {
		return nil
	}
	far := map[string]stripe.Distance{}
	for _, s := range raw.GetStores() {
		if _, done := far[s.Node]; done || all[s.Node] == nil || s.State == metapb.StoreState_STORE_LOST {
			continue
		}
		d := t.of(s)
		all[s.Node], far[s.Node] = &counted{all[s.Node], t.read[d], t.written[d]}, d
	}
	return far
}
