package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/vfs"
)

func newFSExportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "export", Short: "Look after directories that are exported by themselves",
		Long: `Look after secure exports: directories of projects that are offered by themselves,
to clients that need not be allowed the whole file system. Who mounts one
reaches nothing outside of it, also not with a file handle from elsewhere.

To mount a directory as a convenience no export is needed: mount NAME:/DIRECTORY.`,
	}
	cmd.AddCommand(newFSExportCreateCommand(), newFSExportListCommand(), newFSExportDeleteCommand())
	return cmd
}

func newFSExportCreateCommand() *cobra.Command {
	var (
		workspace string
		secure    bool
		n         api.NewExport
	)
	return action[api.Export]{
		use: "create NAME:/DIRECTORY --secure", short: "Export a directory so that who mounts it cannot leave it", args: cobra.ExactArgs(1),
		long: `Export a directory so that who mounts it cannot leave it. It becomes a project
directory: it is made if it does not exist, and has to be empty if it belongs to
no project yet. Names cannot be moved or linked across its border.`,
		flags: func(f *pflag.FlagSet) {
			workspaceFlag(f, &workspace)
			f.BoolVar(&secure, "secure", false, "make it a project directory that cannot be left (required)")
			f.StringSliceVar(&n.Allow, "allow", nil, "networks that may mount it (default: those of the file system)")
			f.BoolVar(&n.ReadOnly, "read-only", false, "let nobody write through it")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (e api.Export, err error) {
			name, dir, err := filesystem.SplitDir(args[0])
			if err != nil {
				return e, err
			}
			if !secure {
				return e, vfs.Errorf(vfs.KindInvalid, "export", "%s can be mounted as it is, by whoever may mount %s: `rackfs mount %s AS`; --secure exports it to others, who cannot leave it", args[0], name, args[0])
			}
			n.Path = dir
			return c.CreateExport(cmd.Context(), workspace, name, n)
		},
		print: func(w io.Writer, e api.Export) error {
			return say(w, "%s is exported as %s, project %d, to %s", e.Path, e.Mount, e.Project, exportAllow(e))
		},
	}.command()
}

func exportAllow(e api.Export) string {
	if len(e.Allow) == 0 {
		return "whoever may mount the file system"
	}
	return strings.Join(e.Allow, ", ")
}

func newFSExportListCommand() *cobra.Command {
	var workspace string
	return action[[]api.Export]{
		use: "list NAME", short: "List the secure exports of a file system", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) { workspaceFlag(f, &workspace) },
		call: func(cmd *cobra.Command, c *api.Client, args []string) ([]api.Export, error) {
			return c.Exports(cmd.Context(), workspace, args[0])
		},
		print: listing("DIRECTORY\tMOUNT\tPROJECT\tMAY MOUNT\tREAD ONLY", func(e api.Export) []any {
			only := ""
			if e.ReadOnly {
				only = "yes"
			}
			return []any{e.Path, e.Mount, e.Project, exportAllow(e), only}
		}),
	}.command()
}

func newFSExportDeleteCommand() *cobra.Command {
	var workspace string
	return action[struct{}]{
		use: "delete NAME:/DIRECTORY", short: "End a secure export; the directory stays", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) { workspaceFlag(f, &workspace) },
		sure: func(_ *cobra.Command, _ *api.Client, args []string) (string, error) {
			return fmt.Sprintf("Clients that have %s mounted by its export will get \"stale file handle\".", args[0]), nil
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (struct{}, error) {
			name, dir, err := filesystem.SplitDir(args[0])
			if err != nil {
				return struct{}{}, err
			}
			return struct{}{}, c.DeleteExport(cmd.Context(), workspace, name, dir)
		},
	}.command()
}

func newFSQuotaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "quota", Short: "Look after limits of directories"}
	cmd.AddCommand(newFSQuotaListCommand(), newFSQuotaSetCommand())
	return cmd
}

func quotaRow(q api.Quota) []any {
	path := q.Path
	if path == "" {
		path = "inode " + strconv.FormatUint(q.Directory, 10)
	}
	limit := func(n uint64, text string) string {
		if n == 0 {
			return "none"
		}
		return text
	}
	return []any{
		path, q.Project, formatBytes(q.UsedBytes), limit(q.LimitBytes, formatBytes(q.LimitBytes)), q.UsedInodes, limit(q.LimitInodes, strconv.FormatUint(q.LimitInodes, 10)),
	}
}

const quotaHeader = "DIRECTORY\tPROJECT\tUSED\tLIMIT\tINODES\tLIMIT"

func newFSQuotaListCommand() *cobra.Command {
	var workspace string
	return action[[]api.Quota]{
		use: "list NAME", short: "List the limits and the usage of a file system and of its project directories", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) { workspaceFlag(f, &workspace) },
		call: func(cmd *cobra.Command, c *api.Client, args []string) ([]api.Quota, error) {
			return c.Quotas(cmd.Context(), workspace, args[0])
		},
		print: listing(quotaHeader, quotaRow),
	}.command()
}

func newFSQuotaSetCommand() *cobra.Command {
	var (
		workspace, size string
		inodes          uint64
	)
	cmd := action[api.Quota]{
		use: "set NAME:/DIRECTORY", short: "Set the limits of a directory", args: cobra.ExactArgs(1),
		long: `Set the limits of a directory. It becomes a project directory: it is made if it
does not exist, and has to be empty if it belongs to no project yet. Both limits
are set: one that is not named is none. The limits of a whole file system are
set with "fs set".`,
		flags: func(f *pflag.FlagSet) {
			workspaceFlag(f, &workspace)
			f.StringVar(&size, "quota", "0", "limit of bytes, such as 1TiB; 0 is none")
			f.Uint64Var(&inodes, "inodes", 0, "limit of inodes; 0 is none")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (q api.Quota, err error) {
			name, dir, err := filesystem.SplitDir(args[0])
			if err != nil {
				return q, err
			}
			bytes, err := filesystem.ParseBytes(size)
			if err != nil {
				return q, err
			}
			return c.SetQuota(cmd.Context(), workspace, name, api.QuotaChange{Path: dir, Bytes: bytes, Inodes: inodes})
		},
		print: func(w io.Writer, q api.Quota) error { return listing(quotaHeader, quotaRow)(w, []api.Quota{q}) },
	}.command()
	cmd.MarkFlagsOneRequired("quota", "inodes")
	return cmd
}
