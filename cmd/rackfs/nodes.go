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
)

func newNodeListCommand() *cobra.Command {
	return action[[]api.NodeStatus]{
		use: "list", short: "List the nodes of the cluster",
		call: func(cmd *cobra.Command, c *api.Client, _ []string) ([]api.NodeStatus, error) {
			return c.Nodes(cmd.Context())
		},
		print: writeNodes,
	}.command()
}

// writeNodes prints the nodes as a table.
func writeNodes(out io.Writer, all []api.NodeStatus) error {
	return listing("NODE\tROLES\tADDRESS\tZONE\tRACK\tGROUP\tGOSSIP\tLIFE\tSTATE", func(n api.NodeStatus) []any {
		return []any{n.Name, strings.Join(n.Roles, ","), n.Address, n.Zone, n.Rack, n.Group, n.Gossip, n.Life, n.State}
	})(out, all)
}

func newNodeShowCommand() *cobra.Command {
	return action[*api.NodeDetail]{
		use: "show NAME", short: "Show all about one node, and how far it is drained", args: cobra.ExactArgs(1), watch: true,
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.NodeDetail, error) {
			return c.Node(cmd.Context(), args[0])
		},
		print: writeNode,
	}.command()
}

func writeNode(out io.Writer, n *api.NodeDetail) error {
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
	return listing("STORE\tRECORD\tSTATE\tSLOTS\tUSED\tCAPACITY", func(s api.NodeStore) []any {
		return []any{s.ID, s.Record, s.State, s.Slots, gib(s.Used), gib(s.Capacity)}
	})(out, n.Stores)
}

// gib is a size in GiB.
func gib[N int64 | uint64](bytes N) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

func newNodeDrainCommand() *cobra.Command {
	var force bool
	return action[*api.NodeDetail]{
		use: "drain NAME", short: "Move away what a node has: its data, and its votes", args: cobra.ExactArgs(1),
		long: `Move away what a node has: its stores take no new data, what they hold is copied to
others, and another node that stands by takes over its vote on the metadata. Nothing is less redundant while that
goes on. "rackfs node show NAME" says how far it is; "undrain" ends it; "remove" comes after it.`,
		flags: func(f *pflag.FlagSet) {
			f.BoolVar(&force, "force", false, "even if a pool cannot keep its profile without the node")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.NodeDetail, error) {
			return c.DrainNode(cmd.Context(), args[0], force)
		},
		print: func(w io.Writer, n *api.NodeDetail) error {
			return say(w, "node %s is %s: %d slots to move; `rackfs node show %s --watch` shows how far it is", n.Name, n.Life, n.SlotsLeft, n.Name)
		},
	}.command()
}

func newNodeUndrainCommand() *cobra.Command {
	return action[*api.NodeDetail]{
		use: "undrain NAME", short: "Let a node that is drained take its share again", args: cobra.ExactArgs(1),
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.NodeDetail, error) {
			return c.UndrainNode(cmd.Context(), args[0])
		},
		print: func(w io.Writer, n *api.NodeDetail) error { return say(w, "node %s is %s", n.Name, n.Life) },
	}.command()
}

func newNodeRemoveCommand() *cobra.Command {
	var r api.RemoveRequest
	return action[*api.NodeDetail]{
		use: "remove NAME", short: "Remove a drained node, or one that is lost, for good", args: cobra.ExactArgs(1),
		long: `Remove a node for good: its certificate is refused from then on, and its machine comes
back only as a new node. It has to be drained. With --lost it is one whose machine is gone: what it had is rebuilt
from the others, and a node that stands by takes over its vote. --json prints the node as it was.`,
		flags: func(f *pflag.FlagSet) {
			f.BoolVar(&r.Lost, "lost", false, "the machine is gone")
			f.BoolVar(&r.Force, "force", false, "even if the metadata gets fewer voters by that or, with --lost, data is lost")
		},
		sure: func(cmd *cobra.Command, c *api.Client, args []string) (string, error) {
			n, err := c.Node(cmd.Context(), args[0])
			if err != nil {
				return "", err
			}
			what := fmt.Sprintf("remove node %s (%s) for good: its certificate is refused from then on", n.Name, strings.Join(n.Roles, ", "))
			if r.Lost {
				what += fmt.Sprintf("; what its %d store(s) held, %d slots, is rebuilt from the others", len(n.Stores), n.SlotsLeft)
			}
			return what, nil
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.NodeDetail, error) {
			n, err := c.Node(cmd.Context(), args[0])
			if err != nil {
				return nil, err
			}
			return n, c.RemoveNode(cmd.Context(), args[0], r)
		},
		print: func(w io.Writer, n *api.NodeDetail) error { return say(w, "node %s was removed", n.Name) },
	}.command()
}
