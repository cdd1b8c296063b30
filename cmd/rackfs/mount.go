package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/mount"
	"github.com/rackfs/rackfs/vfs"
)

func newMountCommand() *cobra.Command {
	var (
		to                   connection
		workspace            string
		only, fstab, systemd bool
		req                  mount.Request
	)
	cmd := &cobra.Command{
		Use: "mount NAME[:/FROM] AS", Short: "Mount a file system on this machine", Args: cobra.ExactArgs(2),
		Long: `Mount a file system, or a directory FROM of it, on the directory AS of this
machine, which is made if it does not exist. The server is the nearest gateway
that exports it: on this machine, in its rack, in its zone, anywhere.

It needs root, mount.nfs and NFSv4 in the kernel, and says what is missing.
--print shows the command, or what --fstab and --systemd would write, and
changes nothing. --fstab adds a line to /etc/fstab, --systemd writes a unit, for
the boots to come; neither mounts now.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.run(func(c *api.Client) error {
				host := mount.ThisHost()
				m, err := planMount(cmd, c, &host, workspace, args[0], args[1], req)
				if err != nil {
					return err
				}
				w := cmd.OutOrStdout()
				switch {
				case only && fstab:
					_, err = fmt.Fprint(w, m.FSTab())
				case only && systemd:
					name, text := m.Unit()
					_, err = fmt.Fprintf(w, "# /etc/systemd/system/%s\n%s", name, text)
				case only:
					err = say(w, "%s", m.String())
				case fstab:
					err = putFSTab(cmd, &host, &m)
				case systemd:
					err = putUnit(cmd, &host, &m)
				default:
					err = mountNow(cmd, &host, &m)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	to.flags(f)
	cmd.MarkFlagsMutuallyExclusive(connectionFlags...)
	f.StringVar(&workspace, "workspace", "", "workspace of the file system (default: default)")
	f.BoolVar(&req.ReadOnly, "read-only", false, "mount it read-only")
	f.StringSliceVar(&req.Options, "options", nil, "further options of mount, such as noatime; they win over those that are chosen")
	f.BoolVar(&only, "print", false, "print what would be done and do nothing")
	f.BoolVar(&fstab, "fstab", false, "add it to /etc/fstab")
	f.BoolVar(&systemd, "systemd", false, "write a systemd mount unit")
	cmd.MarkFlagsMutuallyExclusive("fstab", "systemd")
	return cmd
}

// planMount plans the mount of NAME[:/FROM] on a directory of this machine.
func planMount(cmd *cobra.Command, c *api.Client, host *mount.Host, workspace, what, as string, req mount.Request) (m mount.Mount, err error) {
	name, from, found := strings.Cut(what, ":")
	fs, err := c.FileSystem(cmd.Context(), workspace, name)
	if err != nil {
		return m, err
	}
	if from, err = mountFrom(fs, from, found); err != nil {
		return m, err
	}
	if from != "" {
		d, err := c.FindDirectory(cmd.Context(), workspace, name, from)
		if err != nil {
			return m, fmt.Errorf("there is nothing to mount: %w", err)
		}
		req.Path = d.Mount
	} else {
		req.Path = fs.Path
	}
	if req.Own, err = mount.Addresses(); err != nil {
		return m, err
	}
	if req.Servers, err = servers(fs, req.Own); err != nil {
		return m, err
	}
	if req.Target, err = filepath.Abs(as); err != nil {
		return m, err
	}
	req.ReadOnly = req.ReadOnly || fs.ReadOnly
	req.Kernel = host.Kernel
	return mount.Plan(req)
}

// mountFrom is the directory of a file system that is to be mounted, "" for the whole, unless it cannot be.
func mountFrom(fs api.FileSystem, from string, found bool) (string, error) {
	const op = "mount"
	if fs.State != "active" {
		return "", vfs.Errorf(vfs.KindInvalid, op, "file system %s is %s and is not exported", fs.Name, fs.State)
	}
	if found && !strings.HasPrefix(from, "/") {
		return "", vfs.Errorf(vfs.KindInvalid, op, "%q: write NAME:/DIRECTORY", fs.Name+":"+from)
	}
	if from = path.Clean("/" + from); from == "/" {
		from = ""
	}
	if err := filesystem.MountFrom(fs.Kind, fs.Name, from); err != nil {
		return "", err
	}
	return from, nil
}

// servers are those that export a file system to a machine with these addresses: of kind local only the machine's own.
func servers(fs api.FileSystem, own []netip.Addr) (out []mount.Server, err error) {
	const op = "mount"
	if fs.Kind == filesystem.Local {
		var nodes []string
		for _, n := range fs.Nodes {
			nodes = append(nodes, n.Node)
			if isOwn(n.Address, own) {
				return []mount.Server{{Address: n.Address, Near: "node"}}, nil
			}
		}
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%s is of kind local (%s): it is mounted on the node that has it, one of %s, and this machine is none of them", fs.Name, filesystem.Unreplicated, cmp.Or(strings.Join(nodes, ", "), "none yet"))
	}
	if len(fs.Servers) == 0 {
		where := "the shared part of the cluster"
		if fs.Group != "" {
			where = "node group " + fs.Group
		}
		return nil, vfs.Errorf(vfs.KindUnavailable, op, "no gateway exports %s: %s has no node with the role gateway", fs.Name, where)
	}
	for _, s := range fs.Servers {
		out = append(out, mount.Server{Address: s.Address, Near: s.Near})
	}
	return out, nil
}

// isOwn reports whether host:port is of a machine with these addresses. A host may be a name.
func isOwn(address string, own []netip.Addr) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	found, err := net.LookupHost(host) // an address is found as itself
	if err != nil {
		return false
	}
	return slices.ContainsFunc(found, func(s string) bool {
		a, err := netip.ParseAddr(s)
		return err == nil && (a.IsLoopback() || slices.Contains(own, a.Unmap()))
	})
}

func putFSTab(cmd *cobra.Command, host *mount.Host, m *mount.Mount) error {
	added, err := host.WriteFSTab(m)
	if err != nil {
		return err
	}
	if !added {
		return say(cmd.OutOrStdout(), "/etc/fstab has it already")
	}
	return say(cmd.OutOrStdout(), "added to /etc/fstab; `mount %s` mounts it now", m.Target)
}

func putUnit(cmd *cobra.Command, host *mount.Host, m *mount.Mount) error {
	name, err := host.WriteUnit(m)
	if err != nil {
		return err
	}
	return say(cmd.OutOrStdout(), "written to /etc/systemd/system; `systemctl daemon-reload && systemctl enable --now '%s'` mounts it now and at each boot", name)
}

func mountNow(cmd *cobra.Command, host *mount.Host, m *mount.Mount) error {
	if err := host.Check(); err != nil {
		return err
	}
	if err := host.MakeTarget(m); err != nil {
		return err
	}
	line := m.Command()
	x := exec.CommandContext(cmd.Context(), line[0], line[1:]...)
	x.Stdin, x.Stdout, x.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := x.Run(); err != nil {
		return fmt.Errorf("%s: %w", m, err)
	}
	return nil
}
