package relay

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

// What became of a request, as metrics say it.
const (
	answered  = "answered"
	elsewhere = "elsewhere" // who was asked does not serve the client any more, and has done nothing
	failed    = "failed"    // it is not known
)

// Metrics counts what is carried.
type Metrics struct {
	sent, received *prometheus.CounterVec
}

// NewMetrics registers them, also for a gateway that has nobody to carry requests to: who looks at metrics finds zeros there, not nothing.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help string, outcomes ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"outcome"})
		for _, o := range outcomes {
			c.WithLabelValues(o)
		}
		return c
	}
	m := &Metrics{
		sent:     counter("rackfs_relay_sent_total", "NFS requests that were carried to another gateway, which serves their client, by outcome.", answered, elsewhere, failed),
		received: counter("rackfs_relay_received_total", "NFS requests that other gateways carried here, by outcome.", answered, elsewhere),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.sent, m.received} {
		if err := r.Register(c); err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, "relay.metrics", "%w", err)
		}
	}
	return m, nil
}

func outcome(o rpc.CarriedOutcome) string {
	if o == rpc.CarriedElsewhere {
		return elsewhere
	}
	return answered
}
