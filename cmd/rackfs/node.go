package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/internal/node"
)

// configFlag adds --config.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "config", "/etc/rackfs/node.yaml", "configuration file")
}

func newNodeCommand() *cobra.Command {
	var (
		path    string
		print   bool
		replace []string
	)
	cmd := &cobra.Command{
		Use:   "node --config FILE",
		Short: "Run a node of a cluster",
		Long: `Run this machine as a node of a cluster, in the roles that its configuration
says. It belongs to one: "rackfs cluster init" began it here, or "rackfs node
join" let this node join. It prints "rackfs ready" once it serves; SIGTERM or
Ctrl-C stops it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if print {
				_, err := fmt.Fprint(cmd.OutOrStdout(), node.Example())
				return err
			}
			c, err := node.LoadConfig(path)
			if err != nil {
				return err
			}
			o := node.Options{ReplaceDisks: replace, Release: version(), Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.LogLevel}))}
			return node.Run(cmd.Context(), c, o, cmd.OutOrStdout(), stopTimeout)
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().BoolVar(&print, "print-config", false, "print a configuration file that documents every key, and end")
	cmd.Flags().StringArrayVar(&replace, "replace-disk", nil, "directory of block.disks whose store is lost: make a new one in its place; may be repeated")
	cmd.AddCommand(newNodeJoinCommand(), newNodeListCommand(), newNodeShowCommand(), newNodeDrainCommand(), newNodeUndrainCommand(), newNodeRemoveCommand())
	return cmd
}

func newNodeJoinCommand() *cobra.Command {
	var path, token string
	cmd := &cobra.Command{
		Use:   "join --token TOKEN --config FILE",
		Short: "Make this machine a node of a cluster",
		Long: `Make this machine a node of the cluster that the token is for; "rackfs cluster
token" on a meta node prints one. What was interrupted is done again with the
same token.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := node.LoadConfig(path)
			if err != nil {
				return err
			}
			if err := node.Join(cmd.Context(), c, token, version()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "node %s joined; start it with: rackfs node --config %s\n", c.Name, path)
			return nil
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().StringVar(&token, "token", "", "what `rackfs cluster token` printed (required)")
	_ = cmd.MarkFlagRequired("token")
	return cmd
}

func newClusterInitCommand() *cobra.Command {
	var (
		path string
		o    node.InitOptions
	)
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Begin a new cluster with this machine as its first node",
		Long: `Begin a new cluster with this machine as its first node: cluster id, certificate
authority, one metadata voter, and what the first pool is to be. Further nodes
join with tokens. Metadata gets more voters as meta nodes join.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := node.LoadConfig(path)
			if err != nil {
				return err
			}
			id, l, err := node.Init(c, o, time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster %s\npool    profile %v, failure domain %s: %s\nstart   rackfs node --config %s\n", id, l.Profile, l.Domain, l.Loss(), path)
			return nil
		},
	}
	configFlag(cmd, &path)
	f := cmd.Flags()
	f.IntVar(&o.Nodes, "nodes", 1, "nodes like this one that there will be when the cluster is used; the profile has to be possible with them")
	f.StringVar(&o.Profile, "profile", "", "erasure code of the pool, data+parity shards; never changes (default: what fits)")
	f.StringVar(&o.Domain, "domain", "", "failure domain of the pool, disk or node; never changes (default: node if there are enough)")
	f.IntVar(&o.Voters, "voters", node.DefaultVoters, "metadata voters that the cluster gets as meta nodes join, an odd number")
	f.BoolVar(&o.Encrypt, "encrypt", false, "encrypt block data between nodes (it is always authenticated); never changes")
	return cmd
}
