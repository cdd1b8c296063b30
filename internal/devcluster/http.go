package devcluster

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/volume/rewrite"

	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/blockstore/upkeep"
)

// status answers GET /status.
type status struct {
	Cluster  string         `json:"cluster"`
	Profile  string         `json:"profile"`
	Shards   []shardStatus  `json:"shards"`
	Stores   []storeStatus  `json:"stores"`
	Exports  []exportStatus `json:"exports"`
	API      *apiStatus     `json:"api,omitempty"` // of the network
	NFSState any            `json:"nfs_state"`
	// Quotas are the limits of the file system (project 0) and its projects, and what they use; null while the metadata does not answer.
	Quotas []quotaStatus `json:"quotas"`
	// Placement is how stores and groups stand, as the leader sees it; null while there is none.
	Placement *nodegroup.Status `json:"placement"`
	// Work is the background work of stores and gateways that runs or waits, as the shards' leaders know it: those tasks that run first.
	Work []shardWork `json:"work"`
	// Hints is what stores were told of dead blocks.
	Hints nodegroup.HintStatus `json:"hints"`
	// Rewriting is what the gateway's background rewriters did, by what they do.
	Rewriting map[string]rewrite.Stats `json:"rewriting"`
}

// shardWork is a task and the shard whose leader lets it run.
type shardWork struct {
	Shard uint16 `json:"shard"`
	ledger.Entry
}

type shardStatus struct {
	Node   string `json:"node"`
	Shard  uint16 `json:"shard"`
	Status any    `json:"status"`
}

type storeStatus struct {
	Node   string         `json:"node"`
	ID     uint32         `json:"id"`
	Info   any            `json:"info"`
	Upkeep *upkeep.Status `json:"upkeep,omitempty"`
}

type quotaStatus struct {
	FS            uint32 `json:"fs"`
	Project       uint32 `json:"project"`
	Dir           uint64 `json:"dir,omitempty"` // inode
	UsedBytes     uint64 `json:"used_bytes"`
	ReservedBytes uint64 `json:"reserved_bytes"`
	LimitBytes    uint64 `json:"limit_bytes"` // 0: none
	UsedInodes    uint64 `json:"used_inodes"`
	LimitInodes   uint64 `json:"limit_inodes"`
}

type exportStatus struct {
	Path string `json:"path"`
	FS   uint32 `json:"fs"`
}

// health answers GET /healthz: 503 if nothing can be served, else 200, and a
// line that says "ok" or what is missing.
type health struct {
	serving bool
	text    string
}

// serveHTTP serves health, status and metrics. That changes nothing and tells no secrets.
func serveHTTP(ln net.Listener, g prometheus.Gatherer, check func() health, snapshot func() status, log *slog.Logger) *api.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h := check()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if !h.serving {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write([]byte(h.text + "\n"))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(snapshot()); err != nil {
			log.Debug("http: status", "err", err)
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	return api.Serve(ln, mux, log)
}
