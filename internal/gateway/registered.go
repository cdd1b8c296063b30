package gateway

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// registered remembers the metrics of a gateway, so that one which could not start leaves none: another attempt registers them again.
type registered struct {
	prometheus.Registerer

	mu  sync.Mutex // guards all
	all []prometheus.Collector
}

// Register implements prometheus.Registerer, as does MustRegister.
func (r *registered) Register(c prometheus.Collector) error {
	err := r.Registerer.Register(c)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all = append(r.all, c)
	}
	return err
}

func (r *registered) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// undo takes them back.
func (r *registered) undo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.all {
		r.Unregister(c)
	}
	r.all = nil
}
