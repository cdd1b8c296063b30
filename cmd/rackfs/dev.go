package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/internal/filesystem"
)

// stopTimeout bounds a clean stop; what is not done then is as after a crash,
// which loses nothing acknowledged.
const stopTimeout = 30 * time.Second

func newDevCommand() *cobra.Command {
	var (
		cfg                           devcluster.Config
		allow, quotas, projects, dirs []string
		localClients                  []string
		level                         slog.Level
		levelS, replyCache            string
	)
	cmd := &cobra.Command{
		Use:   "dev --data DIR",
		Short: "Run a whole cluster in one process",
		Long: `Run a whole cluster in one process: metadata voters, block stores and an NFS
gateway on real sockets and real files. It creates the file system "default" on
the first start, prints "rackfs ready" and the mount command once it serves, and
keeps everything in the data directory. SIGTERM or Ctrl-C stops it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := level.UnmarshalText([]byte(levelS)); err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			var err error
			if cfg.Allow, err = networks("--allow", allow); err != nil {
				return err
			}
			if cfg.LocalClients, err = networks("--local-clients", localClients); err != nil {
				return err
			}
			if replyCache != "" {
				n, err := filesystem.ParseBytes(replyCache)
				if err != nil {
					return fmt.Errorf("--reply-cache: %w", err)
				}
				cfg.ReplyCache = n
			}
			for _, s := range quotas {
				q, err := devcluster.ParseQuota(s, false)
				if err != nil {
					return fmt.Errorf("--quota: %w", err)
				}
				cfg.Quotas = append(cfg.Quotas, q)
			}
			for _, s := range projects {
				q, err := devcluster.ParseQuota(s, true)
				if err != nil {
					return fmt.Errorf("--project-quota: %w", err)
				}
				cfg.Quotas = append(cfg.Quotas, q)
			}
			for _, s := range dirs {
				e, err := devcluster.ParseExport(s)
				if err != nil {
					return fmt.Errorf("--export: %w", err)
				}
				cfg.Exports = append(cfg.Exports, e)
			}
			cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			return devcluster.Run(cmd.Context(), cfg, cmd.OutOrStdout(), stopTimeout)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data", "", "data directory; made if it does not exist (required)")
	f.StringVar(&cfg.NFSAddr, "nfs", "127.0.0.1:2049", "address the NFS server listens on")
	f.StringVar(&cfg.NFS3Addr, "nfs3", "", "address of a read-only NFSv3 server, on which everybody is nobody; empty: none")
	f.StringVar(&cfg.HTTPAddr, "http", "127.0.0.1:7070", "address of /healthz, /status and /metrics; empty: none")
	f.StringVar(&cfg.LocalListen, "local", "", "address of a node with local volumes, such as 127.0.0.1:2050; makes a group \"local\" and a file system \"scratch\" of kind local; needs root (default: none)")
	f.StringArrayVar(&localClients, "local-clients", nil, "network of workloads that may mount local volumes, may be repeated (default: this machine only)")
	f.StringVar(&cfg.APIAddr, "api", "127.0.0.1:7443", "address of the HTTP API; TLS but on loopback; empty: none")
	f.StringSliceVar(&cfg.ImportAllow, "import-allow", nil, "networks, addresses or names of hosts that imports may come from besides public addresses with TLS")
	f.StringVar(&cfg.APICert, "api-cert", "", "certificate of the API, PEM (default: one of the cluster's CA)")
	f.StringVar(&cfg.APIKey, "api-key", "", "its key, PEM")
	f.IntVar(&cfg.Voters, "meta", 0, "metadata voters, an odd number; fixed when the data directory is made (default 3)")
	f.IntVar(&cfg.BlockStores, "block-stores", 0, "block stores; fixed when the data directory is made (default 6)")
	f.IntVar(&cfg.Gateways, "gateways", 1, "NFS gateways of the same file systems, on the ports from that of --nfs on")
	f.StringVar(&cfg.Profile, "profile", "", "erasure code, data+parity shards; fixed when the data directory is made (default 4+2)")
	f.StringArrayVar(&allow, "allow", nil, "network that may mount, may be repeated (default: this machine only)")
	f.StringArrayVar(&quotas, "quota", nil, "limit of a file system, FS=BYTES[,inodes=N], such as default=1TiB; 0 takes it away; kept until it is set anew")
	f.StringArrayVar(&projects, "project-quota", nil, "limit of a directory, FS:/DIR=BYTES[,inodes=N], such as default:/team=10GiB; makes the directory; may be repeated")
	f.StringArrayVar(&dirs, "export", nil, "offer a directory by itself, FS:/DIR[=NETWORK,...], to clients that may not mount the whole file system; makes the directory; stays until rackfs fs export delete; may be repeated")
	f.BoolVar(&cfg.RootSquash, "root-squash", false, "treat clients' root as nobody")
	f.BoolVar(&cfg.NoAtime, "noatime", false, "do not record times of access (default: as relatime, the first read after a change and one a day)")
	f.StringVar(&cfg.Delegations, "delegations", "read", "files given to clients to open and cache on their own until somebody is in conflict with that: read, write (for reading and writing) or none")
	f.StringVar(&replyCache, "reply-cache", "", "memory for the replies that NFS clients may ask for again, of all clients together (default 256MiB)")
	f.DurationVar(&cfg.Lease, "lease", devcluster.DefaultLease, "NFS lease: how long a silent client keeps its locks")
	f.DurationVar(&cfg.GCGrace, "gc-grace", devcluster.DefaultGCGrace, "how long data that no file uses any more stays on the block stores")
	f.BoolVar(&cfg.Encrypt, "encrypt", false, "encrypt block data between gateway and stores (it is always authenticated)")
	f.StringVar(&cfg.LogStore, "raft-log", "", "Raft log store, raft-wal or raft-boltdb; fixed when the data directory is made (default raft-wal)")
	f.StringVar(&levelS, "log-level", "warn", "debug, info, warn or error; logs go to standard error")
	_ = cmd.MarkFlagRequired("data")
	return cmd
}

// networks are those that a flag names.
func networks(flag string, list []string) (out []netip.Prefix, err error) {
	for _, s := range list {
		p, err := filesystem.ParseNetwork(s)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w; write a network such as 10.1.0.0/16, or an address", flag, s, err)
		}
		out = append(out, p)
	}
	return out, nil
}
