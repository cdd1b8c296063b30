package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/internal/transfer"
	"github.com/rackfs/rackfs/vfs"
)

// journalEnv names the directory of the journal of transfers, in place of the user's own.
const journalEnv = "RACKFS_JOURNAL"

// transferFlags are those of commands that move contents.
type transferFlags struct {
	o                       transfer.Options
	recursive, bars, listed bool
}

func (t *transferFlags) flags(f *pflag.FlagSet) {
	f.IntVar(&t.o.Parallel, "parallel", transfer.DefaultParallel, fmt.Sprintf("files at once, at most %d", transfer.MaxParallel))
	f.BoolVarP(&t.bars, "progress", "p", false, "show progress bars")
	f.BoolVarP(&t.listed, "verbose", "v", false, "name every file on standard error")
	f.BoolVar(&t.o.DryRun, "dry-run", false, "say what would be done, and do nothing")
}

func (t *transferFlags) more(f *pflag.FlagSet) {
	t.flags(f)
	f.BoolVarP(&t.recursive, "recursive", "r", false, "directories, with all that is in them")
	f.BoolVar(&t.o.Sync, "rsync", false, "send only what differs in size or time of change, and keep mode and time")
	f.BoolVar(&t.o.Checksum, "checksum", false, "with --rsync: compare contents in place of times")
}

// journal is the user's own; without a place for it nothing is resumed, which is no error.
func journal(w io.Writer) *transfer.Journal {
	dir := os.Getenv(journalEnv)
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil
		}
		dir = filepath.Join(cache, "rackfs", "transfers")
	}
	j, err := transfer.OpenJournal(dir)
	if err != nil {
		fmt.Fprintln(w, "rackfs: a transfer that breaks off will begin again:", err)
		return nil
	}
	return j
}

// run runs a transfer, and tells what it does on standard error, for the summary is what the command answers.
func (t *transferFlags) run(cmd *cobra.Command, fn func(transfer.Options) (transfer.Summary, error)) (transfer.Summary, error) {
	o := t.o
	if o.Checksum && !o.Sync {
		return transfer.Summary{}, vfs.Errorf(vfs.KindInvalid, "transfer", "--checksum says how --rsync compares: use both")
	}
	var out io.Writer = cmd.ErrOrStderr()
	if !o.DryRun {
		o.Journal = journal(out)
	}
	if t.bars && !o.DryRun && shows(out) { // elsewhere bars are nothing that can be read, and would take what else is told with them
		b := newBars(context.WithoutCancel(cmd.Context()), out) // they end when the transfer has, with the summary
		defer b.end()
		out, o.Begin = b, b.begin
	}
	o.Did = func(a transfer.Action, err error) {
		switch p := files.Path(a.Path).Shown(); {
		case err != nil:
			fmt.Fprintf(out, "rackfs: %s: %v\n", p, err)
		case o.DryRun || t.listed:
			if a.Dir {
				p += "/"
			}
			fmt.Fprintf(out, "%s %s (%s)\n", a.Does, p, a.Why)
		}
	}
	sum, err := fn(o)
	var partial *transfer.Partial
	if errors.As(err, &partial) {
		return sum, nil // told by the verdict, after the summary
	}
	if err != nil && sum.Sent+sum.Removed+sum.Dirs > 0 {
		_ = writeSummary(out, sum)
	}
	return sum, err
}

func writeSummary(w io.Writer, s transfer.Summary) error {
	var parts []string
	add := func(n int64, what string, more ...any) {
		if n != 0 {
			parts = append(parts, fmt.Sprintf("%d ", n)+fmt.Sprintf(what, more...))
		}
	}
	size := formatBytes(uint64(s.Bytes))
	if s.Resumed > 0 {
		size += ", and " + formatBytes(uint64(s.Resumed)) + " were there from before"
	}
	add(s.Sent, "sent (%s)", size)
	add(s.Same, "the same")
	add(s.Changed, "with another mode or time")
	add(s.Dirs, "directories made")
	add(s.Removed, "removed")
	add(s.Refused, "refused")
	add(s.Failed, "failed")
	if len(parts) == 0 {
		parts = []string{"nothing to do"}
	}
	text := strings.Join(parts, "; ")
	if s.DryRun {
		text = "dry run, nothing was changed: " + text
	}
	return say(w, "%s", text)
}

func transferCommand(p *place, t *transferFlags, a action[transfer.Summary]) *cobra.Command {
	a.args, a.print = cobra.ExactArgs(2), writeSummary
	a.verdict = func(s transfer.Summary) error { return s.Err() }
	return storage(p, a)
}

func newStorageUploadCommand() *cobra.Command {
	var p place
	var t transferFlags
	return transferCommand(&p, &t, action[transfer.Summary]{
		use: "upload LOCAL REMOTE", short: "Send a file, or with -r a directory",
		long: `Send a file, or with -r a directory with all that is in it. A file becomes REMOTE, or comes into it if that is a directory or ends with a slash. The content of a directory becomes
that of REMOTE, which is made. LOCAL "-" is standard input, which may take its time to begin, but not pause for a minute later. Files appear whole or not at all. Large ones that broke off go on from there when the same
command is run again within a day. With --rsync only what differs is sent, so a whole tree goes on.

Symbolic links, devices and files that cannot be read are named and left out, the others are sent, and the exit status is 3.`,
		flags: t.more,
		call: func(cmd *cobra.Command, c *api.Client, args []string) (transfer.Summary, error) {
			to, err := p.end(c, args[1])
			if err != nil {
				return transfer.Summary{}, err
			}
			if args[0] == "-" {
				if t.o.DryRun || t.o.Sync || t.recursive {
					return transfer.Summary{}, vfs.Errorf(vfs.KindInvalid, "upload", "-r, --rsync and --dry-run are not for standard input")
				}
				in, err := begun(cmd.Context(), cmd.InOrStdin())
				if err != nil {
					return transfer.Summary{}, err
				}
				f, err := to.Tree.Upload(cmd.Context(), to.Path, in, api.Put{Length: -1, Parents: true})
				if err != nil {
					return transfer.Summary{}, err
				}
				return transfer.Summary{Sent: 1, Bytes: int64(f.Size)}, nil
			}
			return t.run(cmd, func(o transfer.Options) (transfer.Summary, error) {
				return transfer.Upload(cmd.Context(), args[0], to, t.recursive, o)
			})
		},
	})
}

func newStorageDownloadCommand() *cobra.Command {
	var p place
	var t transferFlags
	return transferCommand(&p, &t, action[transfer.Summary]{
		use: "download REMOTE LOCAL", short: "Get a file, or with -r a directory",
		long: `Get a file, or with -r a directory with all that is in it. A file becomes LOCAL, or comes into it if that is a directory or ends with a slash. The content of a directory
becomes that of LOCAL, which is made. Files appear whole or not at all; what is under way is in hidden files beside them, and large files that broke off go on from there when the same
command is run again. With --rsync only what differs is sent.`,
		flags: t.more,
		call: func(cmd *cobra.Command, c *api.Client, args []string) (transfer.Summary, error) {
			from, err := p.end(c, args[0])
			if err != nil {
				return transfer.Summary{}, err
			}
			return t.run(cmd, func(o transfer.Options) (transfer.Summary, error) {
				return transfer.Download(cmd.Context(), from, args[1], t.recursive, o)
			})
		},
	})
}

// shows reports whether what is written to w is seen as it is written.
func shows(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isTerminal(f)
}

// begun waits for the first byte of in, or its end: a gateway that is sent nothing for a minute gives up, and whoever writes here may have to work before.
func begun(ctx context.Context, in io.Reader) (io.Reader, error) {
	b := bufio.NewReader(in)
	done := make(chan error, 1)
	go func() {
		_, err := b.Peek(1)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, vfs.Errorf(vfs.KindIO, "upload", "standard input: %w", err)
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// remoteArgument reports whether an argument of sync names a path in a file system.
func remoteArgument(arg string) bool {
	name, _, ok := strings.Cut(arg, ":/")
	return ok && !strings.Contains(name, "/")
}

func newStorageSyncCommand() *cobra.Command {
	var p place
	t := transferFlags{recursive: true}
	t.o.Sync = true
	return transferCommand(&p, &t, action[transfer.Summary]{
		use: "sync SRC DST", short: "Make a directory like another one, here or there",
		long: `Make the content of directory DST that of SRC: what differs in size or time of change is sent, and mode and time are kept. One of them is in a file system and is written as
FILESYSTEM:/PATH, or :/PATH for that of --fs; the other one is on this machine.

With --delete, what is not in SRC is removed from DST, after everything else, and only if nothing failed. --dry-run says what would be done.`,
		flags: func(f *pflag.FlagSet) {
			t.flags(f)
			f.BoolVar(&t.o.Checksum, "checksum", false, "compare contents in place of times")
			f.BoolVar(&t.o.Delete, "delete", false, "remove from DST what is not in SRC")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (transfer.Summary, error) {
			up := remoteArgument(args[1])
			if up == remoteArgument(args[0]) {
				return transfer.Summary{}, vfs.Errorf(vfs.KindInvalid, "sync", "one of SRC and DST has to be in a file system: write it as FILESYSTEM:/PATH, or :/PATH; a local path that looks like that as ./PATH")
			}
			there, here := args[0], args[1]
			if up {
				there, here = here, there
			}
			e, err := p.end(c, there)
			if err != nil {
				return transfer.Summary{}, err
			}
			return t.run(cmd, func(o transfer.Options) (transfer.Summary, error) {
				if up {
					return transfer.Upload(cmd.Context(), here, e, true, o)
				}
				return transfer.Download(cmd.Context(), e, here, true, o)
			})
		},
	})
}
