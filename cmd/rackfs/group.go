package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/vfs"
)

func newGroupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "group", Short: "Look after node groups and the racks reserved for them", Long: `A node group is a set of nodes apart from the shared part of the cluster. Data of its file systems is only on
its nodes, and its nodes hold no other data. A rack that is reserved for a group holds nothing else either.`}
	cmd.AddCommand(newGroupListCommand(), newGroupShowCommand(), newGroupCreateCommand(), newGroupDeleteCommand(),
		groupChange("reserve NAME RACK...", "Reserve racks for a group: what else is there moves away", 2, func(ctx context.Context, c *api.Client, args []string, force bool) (*api.GroupChange, error) {
			return c.ReserveRacks(ctx, args[0], args[1:], force)
		}, "also if a pool cannot keep its profile, or has no room, without the rack (what cannot move stays, and new data goes to narrower groups), or no node is in the rack"),
		groupChange("release RACK...", "Release reserved racks", 1, func(ctx context.Context, c *api.Client, args []string, force bool) (*api.GroupChange, error) {
			return c.ReleaseRacks(ctx, args, force)
		}, "also if a pool cannot keep its profile, or would have no room, without the racks"),
		groupChange("add NAME NODE...", "Put nodes into a group: what they hold of the shared part moves away", 2, func(ctx context.Context, c *api.Client, args []string, force bool) (*api.GroupChange, error) {
			return c.AddNodes(ctx, args[0], args[1:], force)
		}, "also if a pool cannot keep its profile, or has no room, without the nodes, a node is in another group, or its rack is reserved for one"),
		groupChange("remove NAME NODE...", "Put nodes of a group back into the shared part of the cluster", 2, func(ctx context.Context, c *api.Client, args []string, force bool) (*api.GroupChange, error) {
			return c.RemoveNodes(ctx, args[0], args[1:], force)
		}, "also if a pool of the group cannot keep its profile, or has no room, without the nodes"))
	return cmd
}

func newGroupListCommand() *cobra.Command {
	return action[[]api.Group]{
		use: "list", short: "List the groups",
		call: func(cmd *cobra.Command, c *api.Client, _ []string) ([]api.Group, error) {
			return c.Groups(cmd.Context())
		},
		print: listing("NAME\tNODES\tRESERVED RACKS\tPOOLS\tFOREIGN SLOTS", func(g api.Group) []any {
			var racks, pools []string
			left := 0
			for _, r := range g.Racks {
				racks = append(racks, r.Name)
				left += r.Leaving + r.Waiting
			}
			for _, p := range g.Pools {
				pools = append(pools, p.Name)
			}
			return []any{g.Name, len(g.Nodes), strings.Join(racks, ","), strings.Join(pools, ","), left}
		}),
	}.command()
}

func newGroupShowCommand() *cobra.Command {
	return action[*api.Group]{
		use: "show NAME", short: "Show a group: its nodes, racks and pools, and what still moves", args: cobra.ExactArgs(1), watch: true,
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.Group, error) {
			return c.Group(cmd.Context(), args[0])
		},
		print: showGroup,
	}.command()
}

func newGroupCreateCommand() *cobra.Command {
	return action[*api.Group]{
		use: "create NAME", short: "Make a group", args: cobra.ExactArgs(1),
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.Group, error) {
			return c.CreateGroup(cmd.Context(), args[0])
		},
		print: func(w io.Writer, g *api.Group) error {
			return say(w, "group %s made; put nodes into it with `rackfs group add %s NODE...`", g.Name, g.Name)
		},
	}.command()
}

// groupPoll is how often a command that waits for the end of a group looks.
const groupPoll = time.Second

func newGroupDeleteCommand() *cobra.Command {
	var leave bool
	return action[struct{}]{
		use: "delete NAME", short: "Delete a group without nodes, racks and file systems, and wait until it is gone", args: cobra.ExactArgs(1),
		long: `Delete a group that has neither nodes nor racks nor file systems (whose data may still be being destroyed). It is gone when
nothing is in its pools any more; the command waits for that. The cluster goes on with it also if the command is interrupted.`,
		flags: func(f *pflag.FlagSet) { f.BoolVar(&leave, "no-wait", false, "do not wait until it is gone") },
		call: func(cmd *cobra.Command, c *api.Client, args []string) (struct{}, error) {
			err := c.DeleteGroup(cmd.Context(), args[0])
			if err != nil || leave {
				return struct{}{}, err
			}
			return struct{}{}, awaitGone(cmd.Context(), c, args[0], cmd.ErrOrStderr())
		},
	}.command()
}

// awaitGone waits until a group that is being deleted is gone, and says on out what it waits for.
func awaitGone(ctx context.Context, c *api.Client, name string, out io.Writer) error {
	for told := ""; ; {
		g, err := c.Group(ctx, name)
		if vfs.KindOf(err) == vfs.KindNotFound || err == nil && !g.Deleting { // or somebody has made a new one
			return nil
		}
		if err != nil {
			return err
		}
		if text := waits(g); text != told {
			told = text
			fmt.Fprintln(out, text)
		}
		select {
		case <-time.After(groupPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waits says what a group that is being deleted waits for.
func waits(g *api.Group) string {
	var pools []string
	for _, p := range g.Pools {
		pools = append(pools, fmt.Sprintf("pool %s, %d placement groups", p.Name, p.Groups))
	}
	if len(pools) == 0 {
		return fmt.Sprintf("group %s goes when the stores of its last nodes are given up", g.Name)
	}
	return fmt.Sprintf("group %s goes when nothing is in its pools any more: %s", g.Name, strings.Join(pools, "; "))
}

// groupChange is a command that changes racks or nodes of a group; forced says what --force does.
func groupChange(use, short string, atLeast int, change func(context.Context, *api.Client, []string, bool) (*api.GroupChange, error), forced string) *cobra.Command {
	var force bool
	return action[*api.GroupChange]{
		use: use, short: short, args: cobra.MinimumNArgs(atLeast),
		flags: func(f *pflag.FlagSet) { f.BoolVar(&force, "force", false, forced) },
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.GroupChange, error) {
			return change(cmd.Context(), c, args, force)
		},
		print: func(w io.Writer, change *api.GroupChange) error {
			for _, e := range change.Effects {
				fmt.Fprintln(w, e.Text)
			}
			for _, n := range change.Notes {
				fmt.Fprintln(w, "note:", n)
			}
			return nil
		},
	}.command()
}

func showGroup(out io.Writer, g *api.Group) error {
	fmt.Fprintf(out, "group %s, made %s\n", g.Name, g.Created.Format(time.DateTime))
	if g.Deleting {
		fmt.Fprintln(out, waits(g))
	}
	return table(out, func(w io.Writer) {
		fmt.Fprintln(w, "\nNODE\tRACK\tSTORES\tCAPACITY\tNOTE")
		for _, n := range g.Nodes {
			note := ""
			if !n.Usable {
				note = "its rack is reserved for another group: it holds nobody's data"
			}
			cells(w, n.Name, n.Rack, n.Stores, gib(n.Bytes), note)
		}
		fmt.Fprintln(w, "\nRESERVED RACK\tSINCE\tFOREIGN SLOTS\tNODES NOT IN THE GROUP")
		for _, r := range g.Racks {
			cells(w, r.Name, r.Since.Format(time.DateTime), slots(r.Leaving, r.Waiting), strings.Join(r.Idle, ","))
		}
		fmt.Fprintln(w, "\nPOOL\tPROFILE\tDOMAIN\tPLACEMENT GROUPS\tSLOTS ELSEWHERE")
		for _, p := range g.Pools {
			cells(w, p.Name, p.Profile, p.Domain, p.Groups, slots(p.Leaving, p.Waiting))
		}
	})
}

// slots says how many are where they may not be.
func slots(leaving, waiting int) string {
	switch {
	case leaving+waiting == 0:
		return "none"
	case waiting == 0:
		return fmt.Sprintf("%d leaving", leaving)
	}
	return fmt.Sprintf("%d leaving, %d with nowhere to go yet", leaving, waiting)
}
