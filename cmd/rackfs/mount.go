package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/vfs"
)

func newMountCommand() *cobra.Command {
	var (
		to        connection
		workspace string
		only      bool
	)
	cmd := &cobra.Command{
		Use: "mount FS[:/DIRECTORY] DIRECTORY", Short: "Mount a file system on this machine", Args: cobra.ExactArgs(2),
		Long: `Mount a file system, or a directory of it, on this machine with the kernel's NFS
client, from a gateway that exports it: one on this machine if there is one. It
needs root and mount.nfs; --print shows the command instead of running it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return to.run(func(c *api.Client) error {
				name, from, _ := strings.Cut(args[0], ":")
				fs, err := c.FileSystem(cmd.Context(), workspace, name)
				if err != nil {
					return err
				}
				own, err := ownAddresses()
				if err != nil {
					return err
				}
				line, err := mountCommand(fs, from, args[1], own)
				if err != nil {
					return err
				}
				if only {
					_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(line, " "))
					return err
				}
				x := exec.CommandContext(cmd.Context(), line[0], line[1:]...)
				x.Stdin, x.Stdout, x.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
				if err := x.Run(); err != nil {
					return fmt.Errorf("%s: %w", strings.Join(line, " "), err)
				}
				return nil
			})
		},
	}
	to.flags(cmd.Flags())
	cmd.Flags().StringVar(&workspace, "workspace", "", "workspace of the file system (default: default)")
	cmd.Flags().BoolVar(&only, "print", false, "print the mount command and do nothing")
	return cmd
}

// ownAddresses are those of this machine.
func ownAddresses() (out []netip.Addr, err error) {
	list, err := net.InterfaceAddrs()
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out, err
}

// mountCommand is the command that mounts a directory of fs on a machine with these addresses.
func mountCommand(fs api.FileSystem, from, as string, own []netip.Addr) ([]string, error) {
	if fs.State != "active" {
		return nil, vfs.Errorf(vfs.KindInvalid, "mount", "file system %s is %s and is not exported", fs.Name, fs.State)
	}
	if len(fs.Gateways) == 0 {
		where := "the shared part of the cluster"
		if fs.Group != "" {
			where = "node group " + fs.Group
		}
		return nil, vfs.Errorf(vfs.KindUnavailable, "mount", "no gateway exports %s: %s has no node with the role gateway", fs.Name, where)
	}
	if from != "" && !strings.HasPrefix(from, "/") {
		return nil, vfs.Errorf(vfs.KindInvalid, "mount", "%q: write FS:/DIRECTORY", from)
	}
	address := fs.Gateways[rand.IntN(len(fs.Gateways))]
	for _, a := range fs.Gateways {
		if at, err := netip.ParseAddrPort(a); err == nil && (at.Addr().IsUnspecified() || slices.Contains(own, at.Addr())) {
			address = a
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "mount", "address %q of a gateway: %w", address, err)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() { // it listens on all, this machine's own among them
		host = "127.0.0.1"
		if ip.Is6() {
			host = "::1"
		}
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return []string{"mount", "-t", "nfs", "-o", "vers=4.2,proto=tcp,port=" + port + ",hard", host + ":" + path.Join(fs.Path, path.Clean("/"+from)), as}, nil
}
