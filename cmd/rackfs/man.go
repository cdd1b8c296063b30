package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/rackfs/rackfs/vfs"
)

func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write manual pages of all commands into a directory", Args: cobra.ExactArgs(1),
		Long: `Write manual pages of all commands into a directory, one for each: "man -l DIR/rackfs-storage-sync.1" shows one; in /usr/local/share/man/man1 all are found.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return vfs.Errorf(vfs.KindIO, "man", "%w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same release writes the same pages
			if err := doc.GenManTree(root, &doc.GenManHeader{Title: "RACKFS", Section: "1", Source: "rackfs", Manual: "rackfs"}, args[0]); err != nil {
				return vfs.Errorf(vfs.KindIO, "man", "%w", err)
			}
			return nil
		},
	}
}
