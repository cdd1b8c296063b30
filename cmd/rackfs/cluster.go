package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/node"
	"github.com/rackfs/rackfs/nodegroup"
)

func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Begin and look after a cluster"}
	cmd.AddCommand(newClusterInitCommand(), newClusterTokenCommand(), newClusterStatusCommand(), newClusterVotersCommand(), newClusterLevelCommand(), newClusterCanStopCommand(),
		newClusterCheckCommand(), newClusterBackupCommand(), newClusterRestoreCommand(), newClusterAllowDeletionCommand(), newClusterGossipKeyCommand())
	return cmd
}

func newClusterTokenCommand() *cobra.Command {
	var (
		roles []string
		ttl   time.Duration
	)
	return action[*api.JoinToken]{
		use: "token", short: "Print a token with which one node can join",
		long: `Print a token with which one node can join, once, until it expires. It is as good as a key: whoever has it first joins.`,
		flags: func(f *pflag.FlagSet) {
			f.StringSliceVar(&roles, "roles", []string{node.RoleMeta, node.RoleBlock}, "roles that the node may have")
			f.DurationVar(&ttl, "ttl", node.DefaultTokenTTL, "how long the token can be used")
		},
		call: func(cmd *cobra.Command, c *api.Client, _ []string) (*api.JoinToken, error) {
			t, err := c.NewToken(cmd.Context(), roles, ttl)
			if err == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "for one node with roles among %v, until %s\n", roles, t.Expires.Format(time.RFC3339))
			}
			return t, err
		},
		print: func(w io.Writer, t *api.JoinToken) error { return say(w, "%s", t.Token) },
	}.command()
}

func newClusterStatusCommand() *cobra.Command {
	return action[*api.ClusterStatus]{
		use: "status", short: "Show nodes, metadata voters, pools and stores", watch: true,
		call: func(cmd *cobra.Command, c *api.Client, _ []string) (*api.ClusterStatus, error) {
			return c.Status(cmd.Context())
		},
		print: writeStatus,
	}.command()
}

// writeStatus prints the status for people.
func writeStatus(out io.Writer, s *api.ClusterStatus) error {
	fmt.Fprintf(out, "cluster %s\nhealth  %s\n", s.Cluster, s.Health)
	for _, n := range s.Notes {
		fmt.Fprintf(out, "note    %s\n", n)
	}
	fmt.Fprintln(out)
	if err := writeNodes(out, s.Nodes); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, sh := range s.Shards {
		fmt.Fprintf(out, "metadata shard %d: leader %s, voters %s, feature level %d\n", sh.Shard, sh.Leader, strings.Join(sh.Voters, " "), sh.Level)
	}
	for _, n := range s.Nodes {
		for _, v := range n.LocalVolumes {
			fmt.Fprintf(out, "local volume %s on %s: %s; unreplicated, lost with the node\n", v.FS, n.Name, localText(v))
		}
	}
	if s.Placement == nil {
		return nil
	}
	for _, p := range s.Placement.Pools {
		fmt.Fprintf(out, "pool %s: profile %s, %d groups, new blocks are %s; if one more store is lost, %s\n", p.Name, p.Profile, p.Groups, cmp.Or(p.Writes, "waiting"), p.Next)
		for _, l := range p.Losses {
			if l.Name != "" { // else there are no names of that level, and so there is one of it
				fmt.Fprintf(out, "  %v\n", l)
			}
		}
	}
	fmt.Fprintln(out)
	return listing("STORE\tNODE\tRECORD\tSTATE\tSLOTS\tLAST ERROR", func(x nodegroup.StoreStatus) []any {
		return []any{x.ID, x.Node, strings.ToLower(strings.TrimPrefix(x.Record, "STORE_")), x.State, x.Slots, x.LastErr}
	})(out, s.Placement.Stores)
}

func newClusterVotersCommand() *cobra.Command {
	return action[[]api.ShardVoters]{
		use: "voters", short: "Show who votes on the metadata, who stands by, and how many may fail",
		call: func(cmd *cobra.Command, c *api.Client, _ []string) ([]api.ShardVoters, error) {
			return c.Voters(cmd.Context())
		},
		print: func(out io.Writer, all []api.ShardVoters) error {
			for _, s := range all {
				fmt.Fprintf(out, "shard %d: %s\n", s.Shard, s.Text())
			}
			return table(out, func(w io.Writer) {
				fmt.Fprintln(w, "SHARD\tNODE\tREPLICA\tVOTES\tSTATE")
				for _, s := range all {
					for _, r := range s.Replicas {
						votes := "yes"
						if !r.Voter {
							votes = "stands by"
						}
						cells(w, s.Shard, r.Node, r.ID, votes, cmp.Or(r.Trouble, "ok"))
					}
				}
			})
		},
	}.command()
}

func newClusterLevelCommand() *cobra.Command {
	var (
		level uint32
		check bool
	)
	return action[*api.Levels]{
		use: "upgrade-level", short: "Raise the feature level of the metadata, after all nodes run the newer release",
		long: `Raise the feature level of the metadata. Until then the nodes can go back to the
older release; after that they cannot, for it would not understand what the metadata holds.
--check shows the level of each shard, and what each voter supports, and changes nothing.`,
		flags: func(f *pflag.FlagSet) {
			f.Uint32Var(&level, "to", 0, "level (default: the newest that all voters support)")
			f.BoolVar(&check, "check", false, "show levels and change nothing")
		},
		sure: func(cmd *cobra.Command, c *api.Client, _ []string) (string, error) {
			if check {
				return "", nil
			}
			now, err := c.Levels(cmd.Context())
			if err == nil {
				err = writeLevels(cmd.ErrOrStderr(), now)
			}
			return "raise the level; nodes cannot go back to an older release after that", err
		},
		call: func(cmd *cobra.Command, c *api.Client, _ []string) (*api.Levels, error) {
			if check {
				return c.Levels(cmd.Context())
			}
			return c.RaiseLevel(cmd.Context(), level)
		},
		print: writeLevels,
	}.command()
}

func writeLevels(out io.Writer, l *api.Levels) error {
	return listing("SHARD\tLEVEL\tCAN BE\tVOTERS SUPPORT", func(s api.ShardLevel) []any {
		var voters []string
		for _, v := range s.Voters {
			voters = append(voters, fmt.Sprintf("%s %s", v.Node, cmp.Or(v.Trouble, fmt.Sprint(v.Max))))
		}
		return []any{s.Shard, s.Level, s.CanBe, cmp.Or(s.Err, strings.Join(voters, ", "))}
	})(out, l.Shards)
}

func newClusterGossipKeyCommand() *cobra.Command {
	return action[struct{}]{
		use: "rotate-gossip-key", short: "Make a new key for what nodes tell each other of who is alive",
		long: `Make a new key for gossip, as after a node that had the old one was stolen. Nodes change to it by themselves: within half a
minute they understand it, two minutes later they encrypt with it, and ten minutes later they understand nothing else. A node
that is away meanwhile asks for it when it is back. The metric rackfs_gossip_keys of a node is 1 when it has changed.`,
		call: func(cmd *cobra.Command, c *api.Client, _ []string) (struct{}, error) {
			return struct{}{}, c.RotateGossipKey(cmd.Context())
		},
		print: func(w io.Writer, _ struct{}) error {
			return say(w, "a new key is made: nodes encrypt with it in about three minutes, and understand no other in a quarter of an hour")
		},
	}.command()
}

func newClusterCanStopCommand() *cobra.Command {
	return action[*api.CanStop]{
		use: "can-stop NODE|RACK...", short: "Say whether nodes, or all of racks, can be stopped for a while",
		long: `Say whether nodes, or all nodes of racks, can be stopped for a while, together: whether
meanwhile all could be read, new data written with the full profile, and the metadata changed. The exit code is 0 if so, else 1.`,
		args: cobra.MinimumNArgs(1),
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.CanStop, error) {
			return c.CanStop(cmd.Context(), args...)
		},
		print: func(w io.Writer, s *api.CanStop) error { return say(w, "%s", strings.TrimSuffix(s.Text(), "\n")) },
		verdict: func(s *api.CanStop) error {
			if s.OK {
				return nil
			}
			return errNo
		},
	}.command()
}
