package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/vfs"
)

// confirm asks whether to do what text says, unless yes was given.
func confirm(cmd *cobra.Command, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), format+"\nType yes to go on: ", args...)
	line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if strings.TrimSpace(line) == "yes" {
		return nil
	}
	return vfs.Errorf(vfs.KindCanceled, "", "nothing was changed; --yes goes on without asking")
}
