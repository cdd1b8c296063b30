package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/internal/devcluster"
)

// stopTimeout bounds a clean stop; what is not done then is as after a crash,
// which loses nothing acknowledged.
const stopTimeout = 30 * time.Second

func newDevCommand() *cobra.Command {
	var (
		cfg    devcluster.Config
		allow  []string
		level  slog.Level
		levelS string
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
			for _, s := range allow {
				p, err := parsePrefix(s)
				if err != nil {
					return fmt.Errorf("--allow %q: %w; write a network such as 10.1.0.0/16, or an address", s, err)
				}
				cfg.Allow = append(cfg.Allow, p)
			}
			cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			return devcluster.Run(cmd.Context(), cfg, cmd.OutOrStdout(), stopTimeout)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data", "", "data directory; made if it does not exist (required)")
	f.StringVar(&cfg.NFSAddr, "nfs", "127.0.0.1:2049", "address the NFS server listens on")
	f.StringVar(&cfg.HTTPAddr, "http", "127.0.0.1:7070", "address of /healthz, /status and /metrics; empty: none")
	f.IntVar(&cfg.Voters, "meta", 0, "metadata voters, an odd number; fixed when the data directory is made (default 3)")
	f.IntVar(&cfg.BlockStores, "block-stores", 0, "block stores; fixed when the data directory is made (default 6)")
	f.IntVar(&cfg.Gateways, "gateways", 1, "NFS gateways")
	f.StringVar(&cfg.Profile, "profile", "", "erasure code, data+parity shards; fixed when the data directory is made (default 4+2)")
	f.StringArrayVar(&allow, "allow", nil, "network that may mount, may be repeated (default: this machine only)")
	f.BoolVar(&cfg.RootSquash, "root-squash", false, "treat clients' root as nobody")
	f.BoolVar(&cfg.NoAtime, "noatime", false, "do not record times of access (default: as relatime, the first read after a change and one a day)")
	f.DurationVar(&cfg.Lease, "lease", devcluster.DefaultLease, "NFS lease: how long a silent client keeps its locks")
	f.DurationVar(&cfg.GCGrace, "gc-grace", devcluster.DefaultGCGrace, "how long data that no file uses any more stays on the block stores")
	f.BoolVar(&cfg.Encrypt, "encrypt", false, "encrypt block data between gateway and stores (it is always authenticated)")
	f.StringVar(&cfg.LogStore, "raft-log", "", "Raft log store, raft-wal or raft-boltdb; fixed when the data directory is made (default raft-wal)")
	f.StringVar(&levelS, "log-level", "warn", "debug, info, warn or error; logs go to standard error")
	_ = cmd.MarkFlagRequired("data")
	return cmd
}

func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
