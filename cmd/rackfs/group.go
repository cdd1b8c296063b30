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

func newGroupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "group", Short: "Look after node groups and the racks reserved for them", Long: `A node group is a set of nodes apart from the shared part of the cluster. Data of its file systems is only on
its nodes, and its nodes hold no other data. A rack that is reserved for a group holds nothing else either.`}
	cmd.AddCommand(newGroupListCommand(), newGroupShowCommand(),
		groupCommand("create NAME", "Make a group", cobra.ExactArgs(1), func(cmd *cobra.Command, c *api.Client, args []string, _ bool) (*api.GroupChange, error) {
			g, err := c.CreateGroup(cmd.Context(), args[0])
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "group %s made; put nodes into it with `rackfs group add %s NODE...`\n", g.Name, g.Name)
			}
			return nil, err
		}, ""),
		groupCommand("delete NAME", "Delete a group without nodes, racks and pools", cobra.ExactArgs(1), func(cmd *cobra.Command, c *api.Client, args []string, _ bool) (*api.GroupChange, error) {
			return nil, c.DeleteGroup(cmd.Context(), args[0])
		}, ""),
		groupCommand("reserve NAME RACK...", "Reserve racks for a group: what else is there moves away", cobra.MinimumNArgs(2), func(cmd *cobra.Command, c *api.Client, args []string, force bool) (*api.GroupChange, error) {
			return c.ReserveRacks(cmd.Context(), args[0], args[1:], force)
		}, "also if a pool cannot keep its profile without the rack (what cannot move stays, and new data goes to narrower groups), or no node is in the rack"),
		groupCommand("release RACK...", "Release reserved racks", cobra.MinimumNArgs(1), func(cmd *cobra.Command, c *api.Client, args []string, _ bool) (*api.GroupChange, error) {
			return c.ReleaseRacks(cmd.Context(), args)
		}, ""),
		groupCommand("add NAME NODE...", "Put nodes into a group: what they hold of the shared part moves away", cobra.MinimumNArgs(2), func(cmd *cobra.Command, c *api.Client, args []string, force bool) (*api.GroupChange, error) {
			return c.AddNodes(cmd.Context(), args[0], args[1:], force)
		}, "also if a pool cannot keep its profile without the nodes, or a node's rack is reserved for another group"),
		groupCommand("remove NAME NODE...", "Put nodes of a group back into the shared part of the cluster", cobra.MinimumNArgs(2), func(cmd *cobra.Command, c *api.Client, args []string, force bool) (*api.GroupChange, error) {
			return c.RemoveNodes(cmd.Context(), args[0], args[1:], force)
		}, "also if a pool of the group cannot keep its profile without the nodes"))
	return cmd
}

// groupCommand is a command that changes something; it has --force if forced says what that does.
func groupCommand(use, short string, args cobra.PositionalArgs, run func(*cobra.Command, *api.Client, []string, bool) (*api.GroupChange, error), forced string) *cobra.Command {
	var (
		to    connection
		force bool
	)
	cmd := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		return to.run(func(c *api.Client) error {
			change, err := run(cmd, c, args, force)
			if err != nil || change == nil {
				return err
			}
			for _, e := range change.Effects {
				fmt.Fprintln(cmd.OutOrStdout(), e.Text)
			}
			for _, n := range change.Notes {
				fmt.Fprintln(cmd.OutOrStdout(), "note:", n)
			}
			return nil
		})
	}}
	to.flags(cmd)
	if forced != "" {
		cmd.Flags().BoolVar(&force, "force", false, forced)
	}
	return cmd
}

func newGroupListCommand() *cobra.Command {
	var (
		to  connection
		raw bool
	)
	cmd := &cobra.Command{Use: "list", Short: "List the groups", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return to.run(func(c *api.Client) error {
			all, err := c.Groups(cmd.Context())
			if err != nil {
				return err
			}
			if raw {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return table(cmd.OutOrStdout(), func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tNODES\tRESERVED RACKS\tPOOLS\tFOREIGN SLOTS")
				for _, g := range all {
					var racks, pools []string
					left := 0
					for _, r := range g.Racks {
						racks = append(racks, r.Name)
						left += r.Leaving + r.Waiting
					}
					for _, p := range g.Pools {
						pools = append(pools, p.Name)
					}
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\n", g.Name, len(g.Nodes), cmp.Or(strings.Join(racks, ","), "-"), cmp.Or(strings.Join(pools, ","), "-"), left)
				}
			})
		})
	}}
	to.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "as JSON")
	return cmd
}

func newGroupShowCommand() *cobra.Command {
	var (
		to  connection
		raw bool
	)
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a group: its nodes, racks and pools, and what still moves", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return to.run(func(c *api.Client) error {
			g, err := c.Group(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if raw {
				return printJSON(cmd.OutOrStdout(), g)
			}
			return showGroup(cmd.OutOrStdout(), g)
		})
	}}
	to.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "as JSON")
	return cmd
}

func showGroup(out io.Writer, g *api.Group) error {
	fmt.Fprintf(out, "group %s, made %s\n", g.Name, g.Created.Format(time.DateTime))
	return table(out, func(w io.Writer) {
		fmt.Fprintln(w, "\nNODE\tRACK\tSTORES\tCAPACITY\t")
		for _, n := range g.Nodes {
			note := ""
			if !n.Usable {
				note = "its rack is reserved for another group: it holds nobody's data"
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%.1f GiB\t%s\n", n.Name, cmp.Or(n.Rack, "-"), n.Stores, float64(n.Bytes)/(1<<30), note)
		}
		fmt.Fprintln(w, "\nRESERVED RACK\tSINCE\tFOREIGN SLOTS\tNODES NOT IN THE GROUP")
		for _, r := range g.Racks {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, r.Since.Format(time.DateTime), slots(r.Leaving, r.Waiting), cmp.Or(strings.Join(r.Idle, ","), "-"))
		}
		fmt.Fprintln(w, "\nPOOL\tPROFILE\tDOMAIN\tPLACEMENT GROUPS\tSLOTS ELSEWHERE")
		for _, p := range g.Pools {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", p.Name, p.Profile, p.Domain, p.Groups, slots(p.Leaving, p.Waiting))
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
