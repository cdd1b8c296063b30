package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
)

// watchEvery is how often --watch asks again.
const watchEvery = 2 * time.Second

// action is a command that calls the API and shows the answer: for people, or with --json as the API gave it. Every command about a
// running cluster is one, so that all have the same flags and say things the same way.
type action[T any] struct {
	use, short, long string
	args             cobra.PositionalArgs // none by default
	flags            func(*pflag.FlagSet)
	// sure, if set, says what is about to happen; the command goes on when whoever runs it says yes, or said --yes. "" asks nothing.
	sure func(cmd *cobra.Command, c *api.Client, args []string) (string, error)
	call func(cmd *cobra.Command, c *api.Client, args []string) (T, error)
	// print shows the answer for people; nil shows nothing.
	print func(w io.Writer, v T) error
	// verdict ends the command with an error after the answer was shown.
	verdict func(v T) error
	watch   bool // it has --watch
	noJSON  bool // it answers nothing
	files   bool // it is about files: whoever is logged in means those there
	// complete are words that an argument may be, of those that begin with word.
	complete func(cmd *cobra.Command, c *api.Client, word string) []string
}

// command is the command of a.
func (a action[T]) command() *cobra.Command {
	var (
		to              connection
		raw, watch, yes bool
	)
	cmd := &cobra.Command{Use: a.use, Short: a.short, Long: a.long, Args: a.args}
	if a.args == nil {
		cmd.Args = cobra.NoArgs
	}
	to.files = a.files
	if a.complete != nil {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, word string) (words []string, _ cobra.ShellCompDirective) {
			_ = to.run(func(c *api.Client) error { // a completion has nobody to tell of errors
				words = a.complete(cmd, c, word)
				return nil
			})
			return words, cobra.ShellCompDirectiveNoSpace
		}
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return to.run(func(c *api.Client) error {
			if a.sure != nil {
				what, err := a.sure(cmd, c, args)
				if err != nil {
					return err
				}
				if what != "" {
					if err := confirm(cmd, yes, "%s", what); err != nil {
						return err
					}
				}
			}
			return repeat(cmd, watch, func() error {
				v, err := a.call(cmd, c, args)
				if err != nil {
					return err
				}
				if raw {
					err = printJSON(cmd.OutOrStdout(), v)
				} else if a.print != nil {
					err = a.print(cmd.OutOrStdout(), v)
				}
				if err == nil && a.verdict != nil {
					err = a.verdict(v)
				}
				return err
			})
		})
	}
	f := cmd.Flags()
	if a.flags != nil {
		a.flags(f)
	}
	to.flags(f)
	cmd.MarkFlagsMutuallyExclusive(connectionFlags...)
	if !a.noJSON {
		f.BoolVar(&raw, "json", false, "print JSON")
	}
	if a.watch {
		f.BoolVar(&watch, "watch", false, "again and again, until Ctrl-C")
	}
	if a.sure != nil {
		f.BoolVar(&yes, "yes", false, "do not ask")
	}
	return cmd
}

// repeat calls fn once or, to watch, until the command is interrupted; an error is shown then and does not end it.
func repeat(cmd *cobra.Command, watch bool, fn func() error) error {
	for ctx := cmd.Context(); ; {
		if err := fn(); err != nil && (!watch || ctx.Err() != nil) {
			return err
		} else if err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), err)
		}
		if !watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
		fmt.Fprintln(cmd.OutOrStdout())
	}
}

// listing shows a list as a table, a row for each element.
func listing[T any](header string, row func(T) []any) func(io.Writer, []T) error {
	return func(out io.Writer, all []T) error {
		return table(out, func(w io.Writer) {
			fmt.Fprintln(w, header)
			for _, x := range all {
				cells(w, row(x)...)
			}
		})
	}
}

// cells prints a row of a table; one that is empty is a dash.
func cells(w io.Writer, row ...any) {
	var b strings.Builder
	for i, x := range row {
		if i > 0 {
			b.WriteByte('\t')
		}
		s := fmt.Sprint(x)
		if s == "" {
			s = "-"
		}
		b.WriteString(s)
	}
	fmt.Fprintln(w, b.String())
}

// table prints rows for people; cells are separated by tabs.
func table(w io.Writer, rows func(io.Writer)) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(tw)
	return tw.Flush()
}

// say prints a line.
func say(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format+"\n", args...)
	return err
}
