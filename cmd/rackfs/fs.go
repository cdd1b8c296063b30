package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/api"
)

func newFSCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fs", Short: "Look after file systems"}
	cmd.AddCommand(newFSListCommand())
	return cmd
}

func newFSListCommand() *cobra.Command {
	var (
		to  connection
		raw bool
	)
	cmd := &cobra.Command{
		Use: "list", Short: "List the file systems of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return to.run(func(c *api.Client) error {
				all, err := c.FileSystems(cmd.Context())
				if err != nil {
					return err
				}
				if raw {
					return printJSON(cmd.OutOrStdout(), all)
				}
				return table(cmd.OutOrStdout(), func(w io.Writer) {
					fmt.Fprintln(w, "NAME\tWORKSPACE\tKIND\tSTATE\tCREATED")
					for _, fs := range all {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", fs.Name, fs.Workspace, fs.Kind, fs.State, fs.Created.Format(time.DateTime))
					}
				})
			})
		},
	}
	to.flags(cmd)
	cmd.Flags().BoolVar(&raw, "json", false, "as JSON")
	return cmd
}
