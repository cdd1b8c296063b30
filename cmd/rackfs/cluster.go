package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/node"
)

// watchEvery is how often --watch asks again.
const watchEvery = 2 * time.Second

func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Begin and look after a cluster"}
	cmd.AddCommand(newClusterInitCommand(), newClusterTokenCommand(), newClusterStatusCommand(), newClusterVotersCommand(), newClusterLevelCommand(), newClusterCanStopCommand(),
		newClusterCheckCommand(), newClusterBackupCommand(), newClusterRestoreCommand(), newClusterAllowDeletionCommand())
	return cmd
}

func newClusterTokenCommand() *cobra.Command {
	var (
		to    connection
		roles []string
		ttl   time.Duration
	)
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print a token with which one node can join",
		Long:  `Print a token with which one node can join, once, until it expires. It is as good as a key: whoever has it first joins.`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return to.run(func(c *api.Client) error {
				t, err := c.NewToken(cmd.Context(), roles, ttl)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "for one node with roles among %v, until %s\n", roles, t.Expires.Format(time.RFC3339))
				fmt.Fprintln(cmd.OutOrStdout(), t.Token)
				return nil
			})
		},
	}
	to.flags(cmd)
	cmd.Flags().StringSliceVar(&roles, "roles", []string{node.RoleMeta, node.RoleBlock}, "roles that the node may have")
	cmd.Flags().DurationVar(&ttl, "ttl", node.DefaultTokenTTL, "how long the token can be used")
	return cmd
}

func newClusterStatusCommand() *cobra.Command {
	var (
		to         connection
		raw, watch bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, metadata voters, pools and stores",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return to.run(func(c *api.Client) error {
				return repeat(cmd.Context(), watch, func() error {
					st, err := c.Status(cmd.Context())
					if err != nil {
						return err
					}
					if raw {
						return printJSON(cmd.OutOrStdout(), st)
					}
					return writeStatus(cmd.OutOrStdout(), st)
				})
			})
		},
	}
	to.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "as JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "again and again, until Ctrl-C")
	return cmd
}

// repeat calls fn once or, to watch, until ctx ends; what it says then is shown and does not end it.
func repeat(ctx context.Context, watch bool, fn func() error) error {
	for {
		if err := fn(); err != nil && (!watch || ctx.Err() != nil) {
			return err
		} else if err != nil {
			fmt.Println(err)
		}
		if !watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
		fmt.Println()
	}
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
	return table(out, func(w io.Writer) {
		fmt.Fprintln(w, "STORE\tNODE\tRECORD\tSTATE\tSLOTS\tLAST ERROR")
		for _, x := range s.Placement.Stores {
			fmt.Fprintf(w, "%d\t%s\t%s\t%v\t%d\t%s\n", x.ID, x.Node, strings.ToLower(strings.TrimPrefix(x.Record, "STORE_")), x.State, x.Slots, x.LastErr)
		}
	})
}

func newClusterVotersCommand() *cobra.Command {
	var (
		to  connection
		raw bool
	)
	cmd := &cobra.Command{
		Use:   "voters",
		Short: "Show who votes on the metadata, who stands by, and how many may fail",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return to.run(func(c *api.Client) error {
				all, err := c.Voters(cmd.Context())
				if err != nil {
					return err
				}
				if raw {
					return printJSON(cmd.OutOrStdout(), all)
				}
				for _, s := range all {
					fmt.Fprintf(cmd.OutOrStdout(), "shard %d: %s\n", s.Shard, s.Text())
				}
				return table(cmd.OutOrStdout(), func(w io.Writer) {
					fmt.Fprintln(w, "SHARD\tNODE\tREPLICA\tVOTES\tSTATE")
					for _, s := range all {
						for _, r := range s.Replicas {
							votes := "yes"
							if !r.Voter {
								votes = "stands by"
							}
							fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", s.Shard, r.Node, r.ID, votes, cmp.Or(r.Trouble, "ok"))
						}
					}
				})
			})
		},
	}
	to.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "as JSON")
	return cmd
}

func newClusterLevelCommand() *cobra.Command {
	var (
		to         connection
		level      uint32
		raw, check bool
		yes        bool
	)
	cmd := &cobra.Command{
		Use:   "upgrade-level",
		Short: "Raise the feature level of the metadata, after all nodes run the newer release",
		Long: `Raise the feature level of the metadata. Until then the nodes can go back to the
older release; after that they cannot, for it would not understand what the metadata holds.
--check shows the level of each shard, and what each voter supports, and changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return to.run(func(c *api.Client) error {
				now, err := c.Levels(cmd.Context())
				if err != nil {
					return err
				}
				if !check {
					if !raw {
						if err := writeLevels(cmd.OutOrStdout(), now); err != nil {
							return err
						}
					}
					if err := confirm(cmd, yes, "raise the level; nodes cannot go back to an older release after that"); err != nil {
						return err
					}
					if now, err = c.RaiseLevel(cmd.Context(), level); err != nil {
						return err
					}
				}
				if raw {
					return printJSON(cmd.OutOrStdout(), now)
				}
				return writeLevels(cmd.OutOrStdout(), now)
			})
		},
	}
	to.flags(cmd)
	f := cmd.Flags()
	f.Uint32Var(&level, "to", 0, "level (default: the newest that all voters support)")
	f.BoolVar(&check, "check", false, "show levels and change nothing")
	f.BoolVar(&raw, "json", false, "as JSON")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func writeLevels(out io.Writer, l *api.Levels) error {
	return table(out, func(w io.Writer) {
		fmt.Fprintln(w, "SHARD\tLEVEL\tCAN BE\tVOTERS SUPPORT")
		for _, s := range l.Shards {
			var voters []string
			for _, v := range s.Voters {
				voters = append(voters, fmt.Sprintf("%s %s", v.Node, cmp.Or(v.Trouble, fmt.Sprint(v.Max))))
			}
			fmt.Fprintf(w, "%d\t%d\t%d\t%s\n", s.Shard, s.Level, s.CanBe, cmp.Or(s.Err, strings.Join(voters, ", ")))
		}
	})
}

func newClusterCanStopCommand() *cobra.Command {
	var (
		to  connection
		raw bool
	)
	cmd := &cobra.Command{
		Use:   "can-stop NODE|RACK...",
		Short: "Say whether nodes, or all of racks, can be stopped for a while",
		Long: `Say whether nodes, or all nodes of racks, can be stopped for a while, together: whether
meanwhile all could be read, new data written with the full profile, and the metadata changed. The exit code is 0 if so, else 1.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.run(func(c *api.Client) error {
				s, err := c.CanStop(cmd.Context(), args...)
				if err != nil {
					return err
				}
				if raw {
					err = printJSON(cmd.OutOrStdout(), s)
				} else {
					_, err = io.WriteString(cmd.OutOrStdout(), s.Text())
				}
				if err == nil && !s.OK {
					return errNo
				}
				return err
			})
		},
	}
	to.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "as JSON")
	return cmd
}
