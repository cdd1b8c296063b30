package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/backup"
	"github.com/rackfs/rackfs/internal/clustercheck"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/internal/node"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// maxPassphrase bounds a file with a passphrase.
const maxPassphrase = 4 << 10

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
	Keys        string    `json:"keys,omitempty"` // file of the encrypted keys
	Cluster     string    `json:"cluster"`
	Incarnation uint64    `json:"incarnation"`
	Shards      int       `json:"shards"`
	Bytes       int64     `json:"bytes"`
	GoodUntil   time.Time `json:"good_until"`
}

func newClusterBackupCommand() *cobra.Command {
	var withCA bool
	var passphrase string
	return action[*saved]{
		use: "backup FILE", short: "Write a backup of the metadata to a file", args: cobra.ExactArgs(1),
		long: `Write a backup of the metadata of all shards to a file, while the cluster goes
on. It is verified before it gets its name. Keys are in it: keep it as you keep
those. It needs the data in the block stores, and is good for as long as they have
what it names (meta.gc_grace).

With --with-ca there is a second file, FILE` + backup.KeysSuffix + `, with the cluster's CA and this node's
identity, encrypted by a passphrase (of age, age-encryption.org). With both the metadata
is restored on a machine that has nothing of the cluster. Keep the passphrase elsewhere.`,
		flags: func(f *pflag.FlagSet) {
			f.BoolVar(&withCA, "with-ca", false, "also a copy of the CA's key and of this node's identity, encrypted")
			f.StringVar(&passphrase, "passphrase-file", "", "file with the passphrase for it, instead of asking")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*saved, error) {
			var secret string
			if passphrase != "" && !withCA {
				return nil, vfs.Errorf(vfs.KindInvalid, "backup", "--passphrase-file is of the keys, which --with-ca writes: use both")
			}
			if withCA {
				var err error
				if c.Socket() == "" {
					return nil, vfs.Errorf(vfs.KindInvalid, "backup", "keys leave a node only by its own hand: run this on a meta node, by its socket")
				}
				if secret, err = readPassphrase(cmd, passphrase, true); err != nil {
					return nil, err
				}
			}
			head, shards, err := backup.Save(args[0], func(w io.Writer) error { return c.Backup(cmd.Context(), w) })
			if err != nil {
				return nil, err
			}
			s := &saved{File: args[0], Cluster: head.Cluster, Incarnation: head.Incarnation, Shards: len(shards), GoodUntil: head.GoodUntil}
			for _, x := range shards {
				s.Bytes += x.Bytes
			}
			if withCA {
				s.Keys = s.File + backup.KeysSuffix
				k, err := backup.ReadKeys(vfile.OS{}, filepath.Dir(c.Socket()), head.Cluster)
				if err == nil {
					err = k.Save(s.Keys, secret)
				}
				if err != nil {
					return nil, vfs.Errorf(vfs.KindOf(err), "", "%s is a whole backup, but the keys are not beside it: %w", s.File, err)
				}
			}
			return s, nil
		},
		print: func(w io.Writer, s *saved) error {
			if s.Keys != "" {
				if err := say(w, "%s: the CA and the identity of this node, encrypted", s.Keys); err != nil {
					return err
				}
			}
			return say(w, "%s: cluster %s, incarnation %d, %d shards, %d bytes\nfiles that are changed or deleted from now on are whole if it is restored until %s (meta.gc_grace)",
				s.File, s.Cluster, s.Incarnation, s.Shards, s.Bytes, s.GoodUntil.Local().Format(time.RFC3339))
		},
	}.command()
}

func newClusterRestoreCommand() *cobra.Command {
	var config, data, passphrase string
	var withCA bool
	cmd := &cobra.Command{
		Use:   "restore FILE (--config FILE | --data DIR)",
		Short: "Form the metadata anew from a backup, on a node that does not run",
		Long: `Form the metadata of the cluster anew from a backup. No node of the cluster may
run, and the directory of this one's metadata (meta in its data directory) has to
be gone or empty. Block stores keep their disks; they delete nothing until
"rackfs cluster allow-deletion". NFS clients have to mount again.

The node's data directory has to be there (node.json and pki, of dev rackfs.json and
pki). If it is lost on all meta nodes, and FILE was made --with-ca: --with-ca makes it
anew from FILE` + backup.KeysSuffix + `, with the passphrase, as the node that the backup was
made at, whose name the configuration has to have.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if passphrase != "" && !withCA {
				return vfs.Errorf(vfs.KindInvalid, "restore", "--passphrase-file is of the keys, which --with-ca uses: use both")
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if withCA {
				if err := restoreKeys(cmd, f, config, data, passphrase); err != nil {
					return err
				}
			}
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
			if withCA && len(r.Others) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "the other nodes are not known here, so nobody looked whether one runs: stop rackfs on all of them")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, then all others; look with `rackfs cluster check`; then `rackfs cluster allow-deletion`\n", next)
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", defaultConfig, "configuration file of this node")
	cmd.Flags().StringVar(&data, "data", "", "data directory of `rackfs dev`, instead of --config")
	cmd.Flags().BoolVar(&withCA, "with-ca", false, "also make the lost data directory anew, from the encrypted keys beside the backup")
	cmd.Flags().StringVar(&passphrase, "passphrase-file", "", "file with their passphrase, instead of asking")
	return cmd
}

// restoreKeys makes a data directory of the keys beside a backup.
func restoreKeys(cmd *cobra.Command, f *os.File, config, data, passphrase string) error {
	dir := data
	if dir == "" {
		c, err := node.LoadConfig(config)
		if err != nil {
			return err
		}
		dir = c.Data
	}
	r, err := backup.NewReader(f)
	if err != nil {
		return err
	}
	secret, err := readPassphrase(cmd, passphrase, false)
	if err != nil {
		return err
	}
	k, err := backup.LoadKeys(f.Name()+backup.KeysSuffix, secret)
	if err != nil {
		return err
	}
	if k.Cluster != r.Cluster {
		return vfs.Errorf(vfs.KindIncompatible, "restore", "the keys are those of cluster %s, and the backup is of cluster %s", k.Cluster, r.Cluster)
	}
	if err := k.Put(vfile.OS{}, dir); err != nil {
		return err
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// readPassphrase reads the passphrase of keys from a file that others cannot read, or asks for it, twice if it is a new one.
func readPassphrase(cmd *cobra.Command, file string, isNew bool) (string, error) {
	const op = "passphrase"
	longEnough := func(secret string) (string, error) { // said before a backup is written, not after it
		if isNew && len(secret) < backup.MinPassphrase {
			return "", vfs.Errorf(vfs.KindInvalid, op, "%d bytes are guessed too soon: use %d or more", len(secret), backup.MinPassphrase)
		}
		return secret, nil
	}
	if file != "" {
		st, err := os.Stat(file)
		if err != nil {
			return "", vfs.Errorf(vfs.KindInvalid, op, "--passphrase-file: %w", err)
		}
		if st.Mode().Perm()&0o077 != 0 {
			return "", vfs.Errorf(vfs.KindAccess, op, "%s can be read by others (mode %#o): set it to 0600", file, st.Mode().Perm())
		}
		b, err := vfile.ReadFile(vfile.OS{}, file, maxPassphrase+1)
		if err == nil && len(b) > maxPassphrase {
			err = vfs.Errorf(vfs.KindTooMany, "", "%s has more than %d bytes", file, maxPassphrase)
		}
		if err != nil {
			return "", vfs.Errorf(vfs.KindInvalid, op, "--passphrase-file: %w", err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		return longEnough(strings.TrimSuffix(line, "\r"))
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !isTerminal(in) {
		return "", vfs.Errorf(vfs.KindInvalid, op, "there is no terminal to ask for the passphrase: name a file with --passphrase-file")
	}
	ask := func(what string) (string, error) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s (not shown): ", what)
		s, err := readLine(cmd.Context(), in, true)
		fmt.Fprintln(cmd.ErrOrStderr())
		return s, err
	}
	secret, err := ask("Passphrase of the keys")
	if err != nil || !isNew {
		return secret, err
	}
	if _, err := longEnough(secret); err != nil {
		return "", err
	}
	again, err := ask("Once more")
	if err == nil && again != secret {
		err = vfs.Errorf(vfs.KindInvalid, op, "the two differ")
	}
	return secret, err
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
