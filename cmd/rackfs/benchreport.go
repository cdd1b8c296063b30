package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/bench"
	"github.com/rackfs/rackfs/bench/report"
)

func newBenchReportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "report RESULTS.json...", Short: "Make one HTML page of results, with plots and ratios",
		Long: "Makes one HTML page, which needs nothing else, of results that `rackfs bench run` and `compare` wrote with --json.\nRatios are to the first target of the first file.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []*bench.Results
			for _, name := range args {
				f, err := os.Open(name)
				if err != nil {
					return err
				}
				r, err := bench.ReadResults(f)
				f.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				all = append(all, r)
			}
			page, err := report.HTML(all)
			if err != nil {
				return err
			}
			tmp := out + ".tmp"
			if err := os.WriteFile(tmp, page, 0o644); err != nil {
				return err
			}
			if err := os.Rename(tmp, out); err != nil {
				return err
			}
			abs, err := filepath.Abs(out)
			if err != nil {
				return err
			}
			return say(cmd.OutOrStdout(), "file://%s", abs)
		},
	}
	cmd.Flags().StringVar(&out, "out", "bench.html", "file to write")
	return cmd
}
