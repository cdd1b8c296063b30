package gateway

import (
	"context"
	"maps"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// answering answers with as many bytes as it was given room for.
type answering struct{ err error }

func (a answering) Call(_ context.Context, _ wire.Op, _ []byte, _ net.Buffers, into []byte) (*wire.Reply, error) {
	return &wire.Reply{Payload: into}, a.err
}

// The rack's and the zone's names say how far a node is, and what is not said is no match.
func TestLocality(t *testing.T) {
	reg := prometheus.NewRegistry()
	tr := newTraffic("g", func() string { return "z1" }, func() string { return "r1" }, reg)
	m := &metapb.ClusterMapR{Stores: []*metapb.Store{
		{Id: 1, Node: "g", Rack: "r1"}, {Id: 2, Node: "g", Rack: "r1"}, {Id: 3, Node: "near", Rack: "r1", Zone: "z1"}, {Id: 4, Node: "far", Rack: "r2", Zone: "z2"},
		{Id: 7, Node: "zone", Rack: "r3", Zone: "z1"}, {Id: 5, Node: "bare"}, {Id: 6, Node: "lost", Rack: "r1", State: metapb.StoreState_STORE_LOST},
	}}
	all := map[string]stripe.Caller{"g": answering{}, "near": answering{}, "far": answering{}, "zone": answering{}, "bare": answering{vfs.KindUnavailable.Err("test")}}
	far := tr.callers(m, all)
	if want := map[string]stripe.Distance{"g": stripe.SameNode, "near": stripe.SameRack, "zone": stripe.SameZone, "far": stripe.Elsewhere, "bare": stripe.Elsewhere}; !maps.Equal(far, want) {
		t.Errorf("%v, want %v", far, want)
	}
	for _, c := range []struct {
		node        string
		write, read int
	}{{"g", 100, 7}, {"near", 20, 5}, {"far", 3, 1}, {"far", 4, 1}, {"zone", 50, 4}, {"bare", 1000, 1000}} {
		_, _ = all[c.node].Call(t.Context(), 0, nil, net.Buffers{make([]byte, c.write/2), make([]byte, c.write-c.write/2)}, make([]byte, c.read))
	}
	want := map[string]float64{"written node": 100, "read node": 7, "written rack": 20, "read rack": 5, "written zone": 50, "read zone": 4, "written cluster": 7, "read cluster": 2}
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || len(families[0].GetMetric()) != len(want) {
		t.Fatalf("%v %v", families, err)
	}
	for _, m := range families[0].GetMetric() {
		name := m.GetLabel()[0].GetValue() + " " + m.GetLabel()[1].GetValue()
		if got := m.GetCounter().GetValue(); got != want[name] {
			t.Errorf("%s: %v, want %v", name, got, want[name])
		}
	}
	var none *traffic
	none.callers(m, all)
}
