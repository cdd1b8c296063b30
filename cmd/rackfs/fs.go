package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/filesystem"
)

func newFSCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fs", Short: "Look after file systems"}
	cmd.AddCommand(newFSListCommand(), newFSCreateCommand(), newFSShowCommand(), newFSSetCommand(), newFSDeleteCommand(), newFSUndeleteCommand(), newFSExportCommand(), newFSQuotaCommand())
	return cmd
}

// workspaceFlag is of commands about one file system.
func workspaceFlag(f *pflag.FlagSet, workspace *string) {
	f.StringVar(workspace, "workspace", filesystem.DefaultWorkspace, "workspace of the file system")
}

// writeFS shows a file system.
func writeFS(w io.Writer, fs api.FileSystem) error {
	return table(w, func(w io.Writer) {
		row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
		row("name", "%s", fs.Name)
		row("workspace", "%s", fs.Workspace)
		if fs.Group != "" {
			row("kind", "%s, of node group %s", fs.Kind, fs.Group)
		} else {
			row("kind", "%s", fs.Kind)
		}
		row("state", "%s", fs.State)
		if !fs.Deleted.IsZero() {
			row("kept until", "%s, and until the cluster has watched it that long", fs.PurgeAfter.Format(time.RFC3339))
		}
		row("path", "%s", fs.Path)
		if len(fs.Gateways) > 0 {
			row("gateways", "%s", strings.Join(fs.Gateways, ", "))
		}
		if fs.Kind == filesystem.Local {
			row("copies", "%s", fs.Unreplicated)
			row("may mount", "workloads of the node itself, and only the whole of it")
			for _, n := range fs.Nodes {
				row("on "+n.Node, "%s", localText(n))
			}
		} else {
			row("profile", "%s (pool %d)", fs.Profile, fs.Pool)
			row("used", "%s, %d inodes", formatBytes(fs.UsedBytes), fs.UsedInodes)
			row("quota", "%s", quotaText(fs.FileSystemSettings))
			row("free", "%s", freeText(fs))
			row("may mount", "%s", allowText(fs.Allow))
		}
		if fs.ReadOnly {
			row("read only", "yes")
		}
		if text := squashText(fs.FileSystemSettings); text != "" {
			row("squash", "%s", text)
		}
		if len(fs.Groups) > 0 {
			row("groups", "%s", strings.Trim(fmt.Sprint(fs.Groups), "[]"))
		}
		row("created", "%s", fs.Created.Format(time.RFC3339))
	})
}

// squashText is who becomes whom, "" if that is for the gateways to say.
func squashText(s api.FileSystemSettings) string {
	text := s.Squash
	if text == "" && s.AnonUID|s.AnonGID != 0 {
		text = "as the gateways do"
	}
	if s.AnonUID != 0 {
		text += fmt.Sprintf(", to user %d", s.AnonUID)
	}
	if s.AnonGID != 0 {
		text += fmt.Sprintf(", to group %d", s.AnonGID)
	}
	return text
}

// localText is one node's part of a file system of kind local.
func localText(v api.LocalVolume) string {
	s := fmt.Sprintf("%s free of %s, at %s", formatBytes(v.FreeBytes), formatBytes(v.TotalBytes), cmp.Or(v.Address, "no address"))
	if v.Problem != "" {
		s += ": " + v.Problem
	}
	return s
}

func quotaText(s api.FileSystemSettings) string {
	var parts []string
	if s.QuotaBytes != 0 {
		parts = append(parts, formatBytes(s.QuotaBytes))
	}
	if s.QuotaInodes != 0 {
		parts = append(parts, strconv.FormatUint(s.QuotaInodes, 10)+" inodes")
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func allowText(networks []string) string {
	if len(networks) == 0 {
		return "as the gateways allow"
	}
	return strings.Join(networks, ", ")
}

// freeText is what a file system may still take. Others on the same stores may take it too.
func freeText(fs api.FileSystem) string {
	if fs.CapacityBytes == 0 {
		return "not known now"
	}
	return fmt.Sprintf("%s of %s", formatBytes(fs.FreeBytes), formatBytes(fs.CapacityBytes))
}

// formatBytes is n with the largest binary unit that divides it, or rounded to a tenth of one.
func formatBytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i, whole := 0, n
	for whole >= 1024 && i+1 < len(units) {
		whole /= 1024
		i++
	}
	if shift := uint(10 * i); n == whole<<shift {
		return fmt.Sprintf("%d %s", whole, units[i])
	}
	return fmt.Sprintf("%.1f %s", float64(n)/float64(uint64(1)<<uint(10*i)), units[i])
}

func newFSListCommand() *cobra.Command {
	return action[[]api.FileSystem]{
		use: "list", short: "List the file systems of the cluster",
		call: func(cmd *cobra.Command, c *api.Client, _ []string) ([]api.FileSystem, error) {
			return c.FileSystems(cmd.Context())
		},
		print: listing("NAME\tWORKSPACE\tKIND\tGROUP\tSTATE\tPROFILE\tUSED\tFREE\tQUOTA\tPATH\tCREATED", func(fs api.FileSystem) []any {
			state := fs.State
			if !fs.Deleted.IsZero() {
				state += " until " + fs.PurgeAfter.Format(time.DateTime)
			}
			profile := fs.Profile
			if fs.Kind == filesystem.Local {
				profile = "unreplicated"
			}
			used, free := formatBytes(fs.UsedBytes), "" // of an unreplicated one each node says what it has
			switch {
			case fs.Kind == filesystem.Local:
				used = ""
			case fs.CapacityBytes != 0:
				free = formatBytes(fs.FreeBytes)
			}
			return []any{fs.Name, fs.Workspace, fs.Kind, fs.Group, state, profile, used, free, quotaText(fs.FileSystemSettings), fs.Path, fs.Created.Format(time.DateTime)}
		}),
	}.command()
}

func newFSCreateCommand() *cobra.Command {
	var (
		n     api.NewFileSystem
		quota string
	)
	return action[api.FileSystem]{
		use: "create NAME", short: "Create a file system", args: cobra.ExactArgs(1),
		long: `Create a file system. It is served as soon as the command has ended, under /NAME
in the workspace "default", else under /WORKSPACE/NAME.

Kinds: shared (any workload of the workspace, on the shared nodes), group (data
only on the nodes of a node group, served by the gateways of that group), local
(one volume on the disk of each node of a group that has the role local, for
workloads of that node only; unreplicated, and lost with the node).`,
		flags: func(f *pflag.FlagSet) {
			workspaceFlag(f, &n.Workspace)
			f.StringVar(&n.Kind, "kind", filesystem.Shared, "shared, group or local")
			f.StringVar(&n.Group, "group", "", "node group, of kinds group and local")
			f.StringVar(&n.Profile, "profile", "", "erasure code, data+parity shards, such as 4+2 (default: that of the first pool)")
			f.StringVar(&n.Domain, "domain", "", "failure domain, if a pool has to be made: disk, node, rack or zone (default: the widest that there are enough of)")
			f.StringVar(&quota, "quota", "0", "limit of bytes, such as 1TiB; 0 is none")
			f.Uint64Var(&n.QuotaInodes, "inodes", 0, "limit of inodes; 0 is none")
			f.StringSliceVar(&n.Allow, "allow", nil, "networks that may mount (default: those that the gateways allow)")
			f.BoolVar(&n.ReadOnly, "read-only", false, "let nobody write")
			squashFlags(f, &n.Squash, &n.AnonUID, &n.AnonGID)
			f.Var((*gids)(&n.Groups), "groups", groupsUsage)
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (fs api.FileSystem, err error) {
			n.Name = args[0]
			if n.QuotaBytes, err = filesystem.ParseBytes(quota); err != nil {
				return fs, err
			}
			return c.CreateFileSystem(cmd.Context(), n)
		},
		print: writeFS,
	}.command()
}

func newFSShowCommand() *cobra.Command {
	var workspace string
	return action[api.FileSystem]{
		use: "show NAME", short: "Show a file system and what it uses", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) { workspaceFlag(f, &workspace) },
		call: func(cmd *cobra.Command, c *api.Client, args []string) (api.FileSystem, error) {
			return c.FileSystem(cmd.Context(), workspace, args[0])
		},
		print: writeFS,
	}.command()
}

func newFSSetCommand() *cobra.Command {
	var (
		workspace string
		quota     string
		inodes    uint64
		allow     []string
		readOnly  bool
		squash    string
		uid, gid  uint32
		groups    gids
	)
	cmd := action[api.FileSystem]{
		use: "set NAME", short: "Change limits and access of a file system", args: cobra.ExactArgs(1),
		long: `Change limits and access of a file system. What is not named stays. A limit below
what is used lets nothing more be added. Gateways apply changes of access within
a second or two, also to clients that have it mounted.`,
		flags: func(f *pflag.FlagSet) {
			workspaceFlag(f, &workspace)
			f.StringVar(&quota, "quota", "", "limit of bytes, such as 1TiB; 0 is none")
			f.Uint64Var(&inodes, "inodes", 0, "limit of inodes; 0 is none")
			f.StringSliceVar(&allow, "allow", nil, "networks that may mount, separated by commas; empty: those that the gateways allow")
			f.BoolVar(&readOnly, "read-only", false, "let nobody write")
			squashFlags(f, &squash, &uid, &gid)
			f.Var(&groups, "groups", groupsUsage)
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (api.FileSystem, error) {
			var ch api.FileSystemChange
			f := cmd.Flags()
			if f.Changed("quota") {
				n, err := filesystem.ParseBytes(quota)
				if err != nil {
					return api.FileSystem{}, err
				}
				ch.QuotaBytes = &n
			}
			if f.Changed("inodes") {
				ch.QuotaInodes = &inodes
			}
			if f.Changed("allow") {
				if len(allow) == 1 && allow[0] == "" {
					allow = []string{}
				}
				ch.Allow = &allow
			}
			if f.Changed("read-only") {
				ch.ReadOnly = &readOnly
			}
			if f.Changed("squash") {
				ch.Squash = &squash
			}
			if f.Changed("anon-uid") {
				ch.AnonUID = &uid
			}
			if f.Changed("anon-gid") {
				ch.AnonGID = &gid
			}
			if f.Changed("groups") {
				ch.Groups = (*[]uint32)(&groups)
			}
			return c.ChangeFileSystem(cmd.Context(), workspace, args[0], ch)
		},
		print: writeFS,
	}.command()
	cmd.MarkFlagsOneRequired("quota", "inodes", "allow", "read-only", "squash", "anon-uid", "anon-gid", "groups")
	return cmd
}

const groupsUsage = "groups whose members may use it, as gids separated by commas; empty: anybody. Callers say themselves what they are in"

// squashFlags say who becomes the anonymous user.
func squashFlags(f *pflag.FlagSet, squash *string, uid, gid *uint32) {
	f.StringVar(squash, "squash", "", "whose identity becomes the anonymous one: none, root, all, or default (as the gateways are configured)")
	f.Uint32Var(uid, "anon-uid", 0, "the anonymous user; 0: 65534")
	f.Uint32Var(gid, "anon-gid", 0, "the anonymous group; 0: 65534")
}

// gids is a flag of numbers separated by commas.
type gids []uint32

// String implements pflag.Value.
func (g *gids) String() string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint([]uint32(*g)), "[]"), " ", ",")
}

// Type implements pflag.Value.
func (g *gids) Type() string { return "gids" }

// Set implements pflag.Value. The last value counts, so that an empty one takes all away.
func (g *gids) Set(s string) error {
	*g = gids{}
	for part := range strings.SplitSeq(s, ",") {
		if part == "" && s == "" {
			return nil
		}
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is no gid", part)
		}
		*g = append(*g, uint32(n))
	}
	return nil
}

func newFSDeleteCommand() *cobra.Command {
	var (
		workspace, days string
		keep            time.Duration
	)
	return action[api.FileSystem]{
		use: "delete NAME", short: "Stop serving a file system, and end it after a while", args: cobra.ExactArgs(1),
		long: `Stop serving a file system. Clients that have it mounted get "stale file handle".
Until --keep is over "fs undelete" brings it back as it was; then its data is
destroyed. Its name is free only then. Repeated for a deleted file system the
command sets anew how long it is kept: --keep 0s ends it now.`,
		flags: func(f *pflag.FlagSet) {
			workspaceFlag(f, &workspace)
			f.StringVar(&days, "keep", "7d", "how long it can be brought back: 7d, 12h, 0s")
		},
		sure: func(cmd *cobra.Command, c *api.Client, args []string) (_ string, err error) {
			if keep, err = parseKeep(days); err != nil {
				return "", err
			}
			fs, err := c.FileSystem(cmd.Context(), workspace, args[0])
			if err != nil {
				return "", err
			}
			until := "It can be brought back for " + days + "; then its data is destroyed."
			if keep == 0 {
				until = "Its data is destroyed at once. There is no way back."
			}
			return fmt.Sprintf("File system %s (%s) holds %s in %d inodes and will not be served any more. %s", fs.Name, fs.Path, formatBytes(fs.UsedBytes), fs.UsedInodes, until), nil
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (api.FileSystem, error) {
			return c.DeleteFileSystem(cmd.Context(), workspace, args[0], keep)
		},
		print: func(w io.Writer, fs api.FileSystem) error {
			if fs.State == "deleted" && keep > 0 {
				return say(w, "%s is deleted; until %s `rackfs fs undelete %s` brings it back", fs.Name, fs.PurgeAfter.Format(time.RFC3339), fs.Name)
			}
			return say(w, "%s is deleted and its data is being destroyed", fs.Name)
		},
	}.command()
}

// parseKeep reads a duration that may be a number of days.
func parseKeep(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if days, err := strconv.ParseUint(n, 10, 16); err == nil {
			return time.Duration(days) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("--keep %q: write 7d, 12h or 0s", s)
	}
	return d, nil
}

func newFSUndeleteCommand() *cobra.Command {
	var workspace string
	return action[api.FileSystem]{
		use: "undelete NAME", short: "Bring a deleted file system back", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) { workspaceFlag(f, &workspace) },
		call: func(cmd *cobra.Command, c *api.Client, args []string) (api.FileSystem, error) {
			return c.UndeleteFileSystem(cmd.Context(), workspace, args[0])
		},
		print: writeFS,
	}.command()
}
