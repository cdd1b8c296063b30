package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/api"
)

func newNodeListCommand() *cobra.Command {
	var (
		to  connection
		raw bool
	)
	cmd := &cobra.Command{
		Use: "list", Short: "List the nodes of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return to.run(func(c *api.Client) error {
				all, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				if raw {
					return printJSON(cmd.OutOrStdout(), all)
				}
				return writeNodes(cmd.OutOrStdout(), all)
			})
		},
	}
	to.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "as JSON")
	return cmd
}

// writeNodes prints the nodes as a table.
func writeNodes(out io.Writer, all []api.NodeStatus) error {
	return table(out, func(w io.Writer) {
		fmt.Fprintln(w, "NODE\tROLES\tADDRESS\tZONE\tRACK\tGOSSIP\tLIFE\tSTATE")
		for _, n := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, strings.Join(n.Roles, ","), n.Address, cmp.Or(n.Zone, "-"), cmp.Or(n.Rack, "-"), cmp.Or(n.Gossip, "-"), cmp.Or(n.Life, "-"), n.State)
		}
	})
}

func newNodeShowCommand() *cobra.Command {
	var (
		to         connection
		raw, watch bool
	)
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show all about one node, and how far it is drained", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.run(func(c *api.Client) error {
				return repeat(cmd.Context(), watch, func() error {
					n, err := c.Node(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					return writeNode(cmd.OutOrStdout(), n, raw)
				})
			})
		},
	}
	to.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "as JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "again and again, until Ctrl-C")
	return cmd
}

func writeNode(out io.Writer, n *api.NodeDetail, raw bool) error {
	if raw {
		return printJSON(out, n)
	}
	fmt.Fprintf(out, "node     %s, id %s, release %s\nroles    %s\nplace    zone %s, rack %s\nlife     %s\nstate    %s\n", n.Name, cmp.Or(n.ID, "-"), cmp.Or(n.Release, "-"),
		strings.Join(n.Roles, ", "), cmp.Or(n.Zone, "-"), cmp.Or(n.Rack, "-"), cmp.Or(n.Life, "-"), n.State)
	for _, v := range n.Votes {
		what := "votes on"
		if !v.Voter {
			what = "stands by for"
		}
		fmt.Fprintf(out, "metadata %s shard %d: %s\n", what, v.Shard, cmp.Or(v.Trouble, "ok"))
	}
	if n.Life != api.LifeIn && n.Life != "" {
		left := fmt.Sprintf("%d slots left", n.SlotsLeft)
		if n.SlotsLeft > 0 {
			left += fmt.Sprintf(", about %.1f GiB", float64(n.BytesLeft)/(1<<30))
		}
		if n.ETA > 0 {
			left += fmt.Sprintf(", %.1f slots a minute, done in about %v", n.SlotsPerMinute, (time.Duration(n.ETA) * time.Second).Round(time.Second))
		}
		fmt.Fprintf(out, "drain    %s\n", left)
		for _, w := range n.Waits {
			fmt.Fprintf(out, "waits    %s\n", w)
		}
		if len(n.Waits) == 0 {
			fmt.Fprintf(out, "next     rackfs node remove %s\n", n.Name)
		}
	}
	fmt.Fprintln(out)
	return table(out, func(w io.Writer) {
		fmt.Fprintln(w, "STORE\tRECORD\tSTATE\tSLOTS\tUSED\tCAPACITY")
		for _, s := range n.Stores {
			fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%.1f GiB\t%.1f GiB\n", s.ID, s.Record, s.State, s.Slots, float64(s.Used)/(1<<30), float64(s.Capacity)/(1<<30))
		}
	})
}

func newNodeDrainCommand() *cobra.Command {
	var (
		to    connection
		force bool
	)
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Move away what a node has: its data, and its votes",
		Long: `Move away what a node has: its stores take no new data, what they hold is copied to
others, and another node that stands by takes over its vote on the metadata. Nothing is less redundant while that
goes on. "rackfs node show NAME" says how far it is; "undrain" ends it; "remove" comes after it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.run(func(c *api.Client) error {
				n, err := c.DrainNode(cmd.Context(), args[0], force)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "node %s is %s: %d slots to move; `rackfs node show %s --watch` shows how far it is\n", n.Name, n.Life, n.SlotsLeft, n.Name)
				return nil
			})
		},
	}
	to.flags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "even if a pool cannot keep its profile without the node")
	return cmd
}

func newNodeUndrainCommand() *cobra.Command {
	var to connection
	cmd := &cobra.Command{
		Use: "undrain NAME", Short: "Let a node that is drained take its share again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.run(func(c *api.Client) error {
				n, err := c.UndrainNode(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "node %s is %s\n", n.Name, n.Life)
				return nil
			})
		},
	}
	to.flags(cmd)
	return cmd
}

func newNodeRemoveCommand() *cobra.Command {
	var (
		to  connection
		r   api.RemoveRequest
		yes bool
	)
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a drained node, or one that is lost, for good",
		Long: `Remove a node for good: its certificate is refused from then on, and its machine comes
back only as a new node. It has to be drained. With --lost it is one whose machine is gone: what it had is rebuilt
from the others, and a node that stands by takes over its vote.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.run(func(c *api.Client) error {
				n, err := c.Node(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				what := fmt.Sprintf("remove node %s (%s) for good: its certificate is refused from then on", n.Name, strings.Join(n.Roles, ", "))
				if r.Lost {
					what += fmt.Sprintf("; what its %d store(s) held, %d slots, is rebuilt from the others", len(n.Stores), n.SlotsLeft)
				}
				if err := confirm(cmd, yes, "%s", what); err != nil {
					return err
				}
				if err := c.RemoveNode(cmd.Context(), args[0], r); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "node %s was removed\n", n.Name)
				return nil
			})
		},
	}
	to.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&r.Lost, "lost", false, "the machine is gone")
	f.BoolVar(&r.Force, "force", false, "even if the metadata gets fewer voters by that or, with --lost, data is lost")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
