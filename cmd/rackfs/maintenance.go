package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/backup"
	"github.com/rackfs/rackfs/internal/clustercheck"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/internal/node"
	"github.com/rackfs/rackfs/vfs"
)

func newClusterCheckCommand() *cobra.Command {
	return action[*api.Report]{
		use: "check", short: "Verify every invariant of the running cluster",
		long: `Verify every invariant of the running cluster: the state of each metadata
shard, that all voters have the same, placement, the stores, and that stores have
exactly what files need. Ends with an error if something is wrong. What each
line means is in docs/operations.md.`,
		call: func(cmd *cobra.Command, c *api.Client, _ []string) (*api.Report, error) {
			return runCheck(cmd.Context(), c, cmd.ErrOrStderr())
		},
		print: writeReport,
		verdict: func(r *api.Report) error {
			if r.Errors > 0 {
				return vfs.Errorf(vfs.KindCorrupt, "check", "%d errors", r.Errors)
			}
			return nil
		},
	}.command()
}

// runCheck checks the cluster and tells progress on out.
func runCheck(ctx context.Context, c *api.Client, out io.Writer) (*api.Report, error) {
	return c.Check(ctx, func(p api.Progress) {
		switch {
		case p.Total > 0:
			fmt.Fprintf(out, "%s: %d%%\n", p.Step, 100*p.Done/p.Total)
		case p.Done > 0:
			fmt.Fprintf(out, "%s: %d\n", p.Step, p.Done)
		default:
			fmt.Fprintln(out, p.Step)
		}
	})
}

func writeReport(w io.Writer, r *api.Report) error {
	told := map[string]int{}
	for _, f := range r.Findings {
		told[f.Kind]++
		fmt.Fprintf(w, "%-6s  %-11s  %s\n", f.Severity, f.Kind, f.Text)
	}
	for kind, n := range r.Counts {
		if more := n - told[kind]; more > 0 {
			fmt.Fprintf(w, "        %-11s  %d more\n", kind, more)
		}
	}
	fmt.Fprintf(w, "%d errors, %d notices; %d inodes, %d blocks, %d shards looked at in %v\n", r.Errors, r.Notices, r.Inodes, r.Blocks, r.Shards, r.TookNanos.Round(time.Millisecond))
	if o := r.Orphans; o.Shards > 0 {
		fmt.Fprintf(w, "orphaned: %d blocks that no file has, %d shards, %d bytes\n", o.Blocks, o.Shards, o.Bytes)
	}
	if r.Deletion != clustercheck.DeletionOn {
		fmt.Fprintf(w, "deletion is stopped: the metadata (incarnation %d) was restored from a backup\n", r.Metadata)
	}
	return nil
}

// saved is a backup that was written to a file.
type saved struct {
	File        string    `json:"file"`
	Cluster     string    `json:"cluster"`
	Incarnation uint64    `json:"incarnation"`
	Shards      int       `json:"shards"`
	Bytes       int64     `json:"bytes"`
	GoodUntil   time.Time `json:"good_until"`
}

func newClusterBackupCommand() *cobra.Command {
	return action[*saved]{
		use: "backup FILE", short: "Write a backup of the metadata to a file", args: cobra.ExactArgs(1),
		long: `Write a backup of the metadata of all shards to a file, while the cluster goes
on. It is verified before it gets its name. Keys are in it: keep it as you keep
those. It needs the data in the block stores, and is good for as long as they have
what it names (meta.gc_grace).`,
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*saved, error) {
			head, shards, err := backup.Save(args[0], func(w io.Writer) error { return c.Backup(cmd.Context(), w) })
			if err != nil {
				return nil, err
			}
			s := &saved{File: args[0], Cluster: head.Cluster, Incarnation: head.Incarnation, Shards: len(shards), GoodUntil: head.GoodUntil}
			for _, x := range shards {
				s.Bytes += x.Bytes
			}
			return s, nil
		},
		print: func(w io.Writer, s *saved) error {
			return say(w, "%s: cluster %s, incarnation %d, %d shards, %d bytes\nfiles that are changed or deleted from now on are whole if it is restored until %s (meta.gc_grace)",
				s.File, s.Cluster, s.Incarnation, s.Shards, s.Bytes, s.GoodUntil.Local().Format(time.RFC3339))
		},
	}.command()
}

func newClusterRestoreCommand() *cobra.Command {
	var config, data string
	cmd := &cobra.Command{
		Use:   "restore FILE (--config FILE | --data DIR)",
		Short: "Form the metadata anew from a backup, on a node that does not run",
		Long: `Form the metadata of the cluster anew from a backup. No node of the cluster may
run, and the directory of this one's metadata (meta in its data directory) has to
be gone or empty. Block stores keep their disks; they delete nothing until
"rackfs cluster allow-deletion". NFS clients have to mount again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			var r node.Restored
			next := "start rackfs dev on " + data
			if data != "" {
				r.Restored, err = devcluster.Restore(data, f, log)
			} else {
				var c *node.Config
				if c, err = node.LoadConfig(config); err != nil {
					return err
				}
				r, err = node.Restore(cmd.Context(), c, f, log)
				next = "start this node: rackfs node --config " + config
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "restored: the metadata of %s, incarnation %d is now %d\n", r.Began.Local().Format(time.RFC3339), r.Incarnation, r.Now)
			if len(r.Others) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "start none of %s before this node serves: what is in their metadata is the cluster before, and they take this one's over when they see it\n", strings.Join(r.Others, ", "))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, then all others; look with `rackfs cluster check`; then `rackfs cluster allow-deletion`\n", next)
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", defaultConfig, "configuration file of this node")
	cmd.Flags().StringVar(&data, "data", "", "data directory of `rackfs dev`, instead of --config")
	return cmd
}

func newClusterAllowDeletionCommand() *cobra.Command {
	var (
		despite bool
		report  *api.Report // that was asked about
	)
	return action[*api.Report]{
		use: "allow-deletion", short: "After a restore: let block stores delete what the metadata does not know",
		long: `After a restore block stores delete nothing, for what the restored metadata does
not know may be what you miss. This checks the cluster, shows what is orphaned and,
if nothing else is wrong, lets the stores delete it. There is no way back.`,
		flags: func(f *pflag.FlagSet) {
			f.BoolVar(&despite, "despite-errors", false, "also if the check finds errors besides what is orphaned")
		},
		sure: func(cmd *cobra.Command, c *api.Client, _ []string) (string, error) {
			r, err := runCheck(cmd.Context(), c, cmd.ErrOrStderr())
			if err != nil {
				return "", err
			}
			report = r
			if err := writeReport(cmd.ErrOrStderr(), r); err != nil || r.Deletion == clustercheck.DeletionOn {
				return "", err
			}
			if other := r.Errors - r.Stopped; other > 0 && !despite {
				return "", vfs.Errorf(vfs.KindCorrupt, "allow-deletion", "%d errors besides what is orphaned: what they miss may be among it; put them right first, or say --despite-errors", other)
			}
			return fmt.Sprintf("Delete %d blocks (%d bytes) that the restored metadata does not know, for ever?", r.Orphans.Blocks, r.Orphans.Bytes), nil
		},
		call: func(cmd *cobra.Command, c *api.Client, _ []string) (*api.Report, error) {
			if report.Deletion == clustercheck.DeletionOn {
				return report, nil
			}
			return report, c.AllowDeletion(cmd.Context(), report.Metadata)
		},
		print: func(w io.Writer, r *api.Report) error {
			if r.Deletion == clustercheck.DeletionOn {
				return say(w, "all stores delete what the metadata does not know: there is nothing to allow")
			}
			return say(w, "allowed: stores begin to delete within some seconds, those that are away when they are back")
		},
	}.command()
}
