package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
)

func newWorkspaceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "workspace", Short: "Look after workspaces", Long: `A workspace is a set of file systems with those who use them: tokens are limited to it, its networks
limit which NFS clients see its file systems, and features can be switched off for it. The workspace "default" always is there.`}
	cmd.AddCommand(newWorkspaceListCommand(), newWorkspaceCreateCommand(), newWorkspaceSetCommand(), newWorkspaceDeleteCommand())
	return cmd
}

// offText are the features that are off.
func offText(w api.Workspace) string {
	var off []string
	for f, on := range w.Features {
		if !on {
			off = append(off, f)
		}
	}
	slices.Sort(off)
	return strings.Join(off, ",")
}

func workspaceTable(out io.Writer, all []api.Workspace) error {
	return listing("NAME\tNETWORKS\tSWITCHED OFF\tCREATED", func(w api.Workspace) []any {
		return []any{w.Name, strings.Join(w.Networks, ","), offText(w), w.Created.Format(time.DateOnly)}
	})(out, all)
}

func writeWorkspace(out io.Writer, w api.Workspace) error {
	return workspaceTable(out, []api.Workspace{w})
}

func newWorkspaceListCommand() *cobra.Command {
	return action[[]api.Workspace]{
		use: "list", short: "List the workspaces",
		call: func(cmd *cobra.Command, c *api.Client, _ []string) ([]api.Workspace, error) {
			return c.Workspaces(cmd.Context())
		},
		print: workspaceTable,
	}.command()
}

// features is which are to be on and off.
func features(on, off []string) map[string]bool {
	out := map[string]bool{}
	for _, f := range on {
		out[f] = true
	}
	for _, f := range off {
		out[f] = false
	}
	return out
}

func newWorkspaceCreateCommand() *cobra.Command {
	var networks, off []string
	return action[api.Workspace]{
		use: "create NAME", short: "Create a workspace", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) {
			f.StringSliceVar(&networks, "network", nil, "network of its NFS clients, may be repeated (default: those that the gateways allow)")
			f.StringSliceVar(&off, "off", nil, "feature that is switched off: rsync, group-filesystems or cloud-import")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (api.Workspace, error) {
			return c.CreateWorkspace(cmd.Context(), api.NewWorkspace{Name: args[0], Networks: networks, Features: features(nil, off)})
		},
		print: writeWorkspace,
	}.command()
}

func newWorkspaceSetCommand() *cobra.Command {
	var networks, on, off []string
	return action[api.Workspace]{
		use: "set NAME", short: "Change networks and features of a workspace", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) {
			f.StringSliceVar(&networks, "network", nil, "networks of its NFS clients, in place of those before; --network '' for those that the gateways allow")
			f.StringSliceVar(&on, "on", nil, "feature that is switched on")
			f.StringSliceVar(&off, "off", nil, "feature that is switched off: rsync, group-filesystems or cloud-import")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (api.Workspace, error) {
			ch := api.WorkspaceChange{Features: features(on, off)}
			if cmd.Flags().Changed("network") {
				list := slices.DeleteFunc(slices.Clone(networks), func(s string) bool { return s == "" })
				ch.Networks = &list
			} else if len(ch.Features) == 0 {
				return api.Workspace{}, fmt.Errorf("nothing to change: --network, --on or --off says what")
			}
			return c.ChangeWorkspace(cmd.Context(), args[0], ch)
		},
		print: writeWorkspace,
	}.command()
}

func newWorkspaceDeleteCommand() *cobra.Command {
	return action[struct{}]{
		use: "delete NAME", short: "Delete a workspace that has no file systems", args: cobra.ExactArgs(1),
		sure: func(_ *cobra.Command, _ *api.Client, args []string) (string, error) {
			return "Tokens for workspace " + args[0] + " are good for it no more; those that are for nothing else end.", nil
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (struct{}, error) {
			return struct{}{}, c.DeleteWorkspace(cmd.Context(), args[0])
		},
	}.command()
}
