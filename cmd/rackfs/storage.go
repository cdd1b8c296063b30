package main

import "github.com/spf13/cobra"

func newStorageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "storage", Short: "Look after files"}
	cmd.AddCommand(newImportCommand())
	return cmd
}
