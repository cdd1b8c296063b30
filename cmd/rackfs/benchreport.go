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
	var out, goalsFile string
	var markdown bool
	cmd := &cobra.Command{
		Use: "report RESULTS.json...", Short: "Make one HTML page of results, with plots and ratios",
		Long: "Makes one HTML page, which needs nothing else, of results that `rackfs bench run` and `compare` wrote with --json.\nRatios are to the first target of the first file, or of the same file where that has nothing to compare with. --goals names a JSON list of goals, which are compared with what was measured.",
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
			var goals []report.Goal
			if goalsFile != "" {
				raw, err := os.ReadFile(goalsFile)
				if err != nil {
					return err
				}
				if goals, err = report.ReadGoals(raw); err != nil {
					return fmt.Errorf("%s: %w", goalsFile, err)
				}
			}
			if markdown {
				_, err := fmt.Fprint(cmd.OutOrStdout(), report.Markdown(goals, all))
				return err
			}
			page, err := report.HTML(all, goals)
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
	cmd.Flags().StringVar(&goalsFile, "goals", "", "file of goals")
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print the table of goals as Markdown, and write no page")
	return cmd
}
