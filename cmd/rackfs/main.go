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
	return root
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version + " " + info.GoVersion
}
