package nfsserver

import (
	"strings"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
)

// maxOp is above the highest operation number that has a counter of its own.
const maxOp = 80

// metrics counts operations. It implements v4.Observer.
type metrics struct {
	ops     *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	bytes   *prometheus.CounterVec

	// The children that every request needs, looked up once.
	ok            [maxOp]prometheus.Counter
	took          [maxOp]prometheus.Observer
	read, written prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		ops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rackfs_nfs_operations_total", Help: "NFSv4 operations by name and status.",
		}, []string{"op", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rackfs_nfs_operation_seconds", Help: "Time that NFSv4 operations took at the server.",
			Buckets: prometheus.ExponentialBuckets(10e-6, 4, 12), // 10 µs to 42 s
		}, []string{"op"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rackfs_nfs_data_bytes_total", Help: "File data read and written through NFS.",
		}, []string{"direction"}),
	}
	for i := range m.ok {
		name := opName(nfsv4.NfsOpnum4(i))
		m.ok[i] = m.ops.WithLabelValues(name, "OK")
		m.took[i] = m.seconds.WithLabelValues(name)
	}
	m.read, m.written = m.bytes.WithLabelValues("read"), m.bytes.WithLabelValues("write")
	return m
}

// opName is an operation as a label. Numbers that clients make up share one.
func opName(op nfsv4.NfsOpnum4) string {
	if name, ok := nfsv4.NfsOpnum4_name[op]; ok {
		return strings.TrimPrefix(name, "OP_")
	}
	return "ILLEGAL"
}

func statusName(st nfsv4.Nfsstat4) string {
	if name, ok := nfsv4.Nfsstat4_name[st]; ok {
		return strings.TrimPrefix(strings.TrimPrefix(name, "NFS4ERR_"), "NFS4_")
	}
	return "OTHER"
}

// Op implements v4.Observer.
func (m *metrics) Op(op nfsv4.NfsOpnum4, st nfsv4.Nfsstat4, d time.Duration) {
	known := op >= 0 && op < maxOp
	if known && st == nfsv4.NFS4_OK {
		m.ok[op].Inc()
	} else {
		m.ops.WithLabelValues(opName(op), statusName(st)).Inc()
	}
	if known {
		m.took[op].Observe(d.Seconds())
	}
}

// Data implements v4.Observer.
func (m *metrics) Data(read, written int) {
	if read > 0 {
		m.read.Add(float64(read))
	}
	if written > 0 {
		m.written.Add(float64(written))
	}
}

// register adds the counters and what transport and state tell on request.
func (m *metrics) register(r prometheus.Registerer, t *rpc.Server, st *state.State) error {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	counter := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f)
	}
	for _, c := range []prometheus.Collector{
		m.ops, m.seconds, m.bytes,
		gauge("rackfs_nfs_connections", "Open connections.", func() float64 { return float64(t.Stats().Conns) }),
		gauge("rackfs_nfs_calls_running", "RPC calls being served.", func() float64 { return float64(t.Stats().Running) }),
		counter("rackfs_nfs_calls_total", "RPC calls received.", func() float64 { return float64(t.Stats().Calls) }),
		counter("rackfs_nfs_received_bytes_total", "Bytes received.", func() float64 { return float64(t.Stats().BytesRead) }),
		counter("rackfs_nfs_sent_bytes_total", "Bytes sent.", func() float64 { return float64(t.Stats().BytesWritten) }),
		gauge("rackfs_nfs_clients", "Client ids.", func() float64 { return float64(st.Stats().Clients) }),
		gauge("rackfs_nfs_clients_courteous", "Clients whose lease ran out and whose state nobody wanted yet.", func() float64 { return float64(st.Stats().Courteous) }),
		gauge("rackfs_nfs_sessions", "Sessions.", func() float64 { return float64(st.Stats().Sessions) }),
		gauge("rackfs_nfs_opens", "Open states.", func() float64 { return float64(st.Stats().Opens) }),
		gauge("rackfs_nfs_locks", "Byte-range locks.", func() float64 { return float64(st.Stats().Locks) }),
		gauge("rackfs_nfs_delegations", "Delegations that clients have.", func() float64 { return float64(st.Stats().Delegations) }),
		counter("rackfs_nfs_delegated_total", "Delegations given.", func() float64 { return float64(st.Stats().Delegated) }),
		counter("rackfs_nfs_recalls_total", "Delegations recalled.", func() float64 { return float64(st.Stats().Recalls) }),
		counter("rackfs_nfs_revoked_total", "Delegations taken from clients that did not return them.", func() float64 { return float64(st.Stats().Revoked) }),
		gauge("rackfs_nfs_reply_cache_bytes", "Cached replies.", func() float64 { return float64(st.Stats().CachedBytes) }),
		gauge("rackfs_nfs_slots", "Slots of sessions.", func() float64 { return float64(st.Stats().Slots) }),
		gauge("rackfs_nfs_slots_asked", "Slots that clients are asked to give back.", func() float64 { return float64(st.Stats().SlotsAsked) }),
		gauge("rackfs_nfs_slot_bytes", "Memory set aside for slots and the replies that each may have to keep.", func() float64 { return float64(st.Stats().SlotBytes) }),
		gauge("rackfs_nfs_slot_limit_bytes", "What of that there may be.", func() float64 { return float64(st.Limits().ReplyCache) }),
		counter("rackfs_nfs_slots_grown_total", "Slots that sessions got because they used all they had.", func() float64 { return float64(st.Stats().SlotsGrown) }),
		counter("rackfs_nfs_slots_freed_total", "Slots that clients gave back.", func() float64 { return float64(st.Stats().SlotsFreed) }),
		counter("rackfs_nfs_sessions_refused_total", "New sessions that had to wait for memory.", func() float64 { return float64(st.Stats().SessionsRefused) }),
		counter("rackfs_nfs_replays_total", "Retries answered from the reply cache.", func() float64 { return float64(st.Stats().Replays) }),
		counter("rackfs_nfs_expired_total", "Clients whose state was taken away.", func() float64 { return float64(st.Stats().Expired) }),
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}
