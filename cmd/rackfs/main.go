// Command rackfs is the only binary of rackfs: daemons, cluster
// administration, files and benchmarks. Commands are thin; what they do is in
// the packages they call.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// errNo ends a command with code 1 whose output has the answer.
var errNo = errors.New("no")

func main() {
	// The first signal asks for a clean stop; a second one, once the context
	// is released, kills as usual.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop()
	}()
	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, errNo) {
			fmt.Fprintln(os.Stderr, "rackfs:", err)
		}
		os.Exit(exitStatus(err, ctx.Err() != nil))
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "rackfs",
		Short:         "A distributed POSIX file system mounted over NFS",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.AddCommand(newDevCommand(), newNodeCommand(), newClusterCommand(), newFSCommand(), newGroupCommand(), newWorkspaceCommand(), newTokenCommand(), newLoginCommand(), newLogoutCommand(), newStorageCommand(), newMountCommand(), newBenchCommand(), newSimCommand(), newManCommand())
	refuseUnknown(root)
	return root
}

// refuseUnknown has commands that only have others below them refuse words that name none: by itself cobra shows help then, and ends well, which a script takes for
// "yes".
func refuseUnknown(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		refuseUnknown(c)
	}
	if !cmd.HasParent() || !cmd.HasSubCommands() || cmd.Runnable() { // cobra refuses what the root does not know
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("%q is no command of %q: `%s --help` lists them", args[0], cmd.CommandPath(), cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version + " " + info.GoVersion
}
