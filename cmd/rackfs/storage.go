package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/transfer"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// defaultFS is the file system of commands about files that name none.
	defaultFS = "default"
	fsEnv     = "RACKFS_FS"
)

func newStorageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "storage", Short: "Look after files: list, upload, download, synchronize", Long: `Look after the files of a file system through the HTTP API, as whom "rackfs login" says.

Paths are those in the file system; a "/" in front may be left out. --fs chooses the file system, FILESYSTEM:/PATH names it in place of that. Symbolic links are
not followed. A name that cannot be shown is written percent-encoded in listings.

Exit status: 0 all was done; 1 nothing, or the command failed; 3 some files were left out, which are named on standard error, and the others are done;
130 interrupted: the same command goes on from there.`}
	cmd.AddCommand(newStorageListCommand(), newStorageStatCommand(), newStorageCatCommand(), newStorageFindCommand(), newStorageUsageCommand(),
		newStorageMkdirCommand(), newStorageTouchCommand(), newStorageRmdirCommand(), newStorageRemoveCommand(), newStorageMoveCommand(),
		newStorageUploadCommand(), newStorageDownloadCommand(), newStorageSyncCommand(), newImportCommand())
	return cmd
}

// place says which file system paths are in.
type place struct{ fs, workspace string }

func (p *place) flags(f *pflag.FlagSet) {
	f.StringVar(&p.fs, "fs", cmp.Or(os.Getenv(fsEnv), defaultFS), "file system (default $"+fsEnv+", else "+defaultFS+")")
	workspaceFlag(f, &p.workspace)
}

// end is what an argument names.
func (p *place) end(c *api.Client, arg string) (transfer.End, error) {
	if arg == "" {
		return transfer.End{}, vfs.Errorf(vfs.KindBadName, "path", "a path is empty; / is the top of the file system")
	}
	fs, at := p.fs, arg
	if name, rest, ok := strings.Cut(arg, ":/"); ok && !strings.Contains(name, "/") {
		fs, at = cmp.Or(name, fs), "/"+rest
	}
	if !strings.HasPrefix(at, "/") {
		at = "/" + at
	}
	if _, err := files.ParsePath(at); err != nil {
		return transfer.End{}, err
	}
	ws := cmp.Or(p.workspace, filesystem.DefaultWorkspace)
	return transfer.End{Client: c, Tree: c.Tree(ws, fs), FileSystem: ws + "/" + fs, Path: at}, nil
}

// argument is the i-th one, or the root.
func argument(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return "/"
}

// storage is the command of an action about files.
func storage[T any](p *place, a action[T]) *cobra.Command {
	a.files = true
	flags := a.flags
	a.flags = func(f *pflag.FlagSet) {
		p.flags(f)
		if flags != nil {
			flags(f)
		}
	}
	if a.complete == nil {
		a.complete = p.words
	}
	return a.command()
}

// words are paths that begin with word.
func (p *place) words(cmd *cobra.Command, c *api.Client, word string) (out []string) {
	const most = 200
	dir, name := path.Split(word)
	e, err := p.end(c, cmp.Or(dir, "/"))
	if err != nil {
		return nil
	}
	l, err := e.Tree.List(cmd.Context(), strings.TrimSuffix(e.Path, "/")+"/", "", 10000)
	if err != nil {
		return nil
	}
	for _, f := range l.Files {
		if f.Escaped == "" && strings.HasPrefix(f.Name, name) && len(out) < most {
			w := dir + f.Name
			if f.Type == "directory" {
				w += "/"
			}
			out = append(out, w)
		}
	}
	slices.Sort(out)
	return out
}

// leftOut is the error of a command that did some of what it was asked.
type leftOut struct{ n, of int }

func (l *leftOut) Error() string {
	return fmt.Sprintf("%d of %d failed, see above", l.n, l.of)
}

// unread are directories that could not be read on a walk, which are told of.
type unread struct{ n, of int }

// see counts what is met.
func (u *unread) see(f *api.FileInfo) {
	if f.Type == "directory" {
		u.of++
	}
}

func (u *unread) denied(cmd *cobra.Command) func(p string, err error) {
	return func(p string, err error) {
		u.n++
		fmt.Fprintf(cmd.ErrOrStderr(), "rackfs: %s: %v\n", files.Path(p).Shown(), err)
	}
}

func (u *unread) err() error {
	if u.n == 0 {
		return nil
	}
	return &leftOut{u.n, u.of}
}

// eachArgument calls fn for what every argument names; what fails is told, and the others go on.
func eachArgument(cmd *cobra.Command, p *place, c *api.Client, args []string, fn func(transfer.End) error) error {
	failed := 0
	for _, arg := range args {
		e, err := p.end(c, arg)
		if err == nil {
			err = fn(e)
		}
		if err == nil {
			continue
		}
		if len(args) == 1 || cmd.Context().Err() != nil {
			return err
		}
		failed++
		fmt.Fprintln(cmd.ErrOrStderr(), "rackfs:", err)
	}
	if failed > 0 {
		return &leftOut{failed, len(args)}
	}
	return nil
}

// found is a file with its path.
type found struct {
	Path string `json:"path"`
	api.FileInfo
}

// shownName is a name for people.
func shownName(f *api.FileInfo) string {
	name := cmp.Or(f.Escaped, f.Name)
	if f.Type == "directory" {
		name += "/"
	}
	return name
}

func writeFiles(w io.Writer, long bool, all []api.FileInfo) error {
	if !long {
		for i := range all {
			fmt.Fprintln(w, shownName(&all[i]))
		}
		return nil
	}
	return table(w, func(w io.Writer) {
		for i := range all {
			f := &all[i]
			name := shownName(f)
			if f.Target != "" {
				name += " -> " + f.Target
			}
			cells(w, f.Type, f.Mode, f.UID, f.GID, f.Size, f.Mtime.Local().Format("2006-01-02 15:04:05"), name)
		}
	})
}

func newStorageListCommand() *cobra.Command {
	var p place
	var long bool
	return storage(&p, action[[]api.FileInfo]{
		use: "ls [PATH]", short: "List a directory", args: cobra.MaximumNArgs(1),
		long:  "List a directory, by name. Names of directories end with a slash. With -l: type, mode, owner, group, bytes, time of change, name.",
		flags: func(f *pflag.FlagSet) { f.BoolVarP(&long, "long", "l", false, "with mode, owner, size and time") },
		call: func(cmd *cobra.Command, c *api.Client, args []string) ([]api.FileInfo, error) {
			e, err := p.end(c, argument(args, 0))
			if err != nil {
				return nil, err
			}
			out := []api.FileInfo{}
			for after := ""; ; {
				l, err := e.Tree.List(cmd.Context(), e.Path, after, 0)
				if vfs.KindOf(err) == vfs.KindNotDir {
					f, serr := e.Tree.Stat(cmd.Context(), e.Path)
					if serr != nil {
						return nil, err
					}
					return []api.FileInfo{f}, nil
				}
				if err != nil {
					return nil, err
				}
				out = append(out, l.Files...)
				if after = l.Next; after == "" {
					break
				}
			}
			slices.SortFunc(out, func(a, b api.FileInfo) int {
				return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Escaped, b.Escaped))
			})
			return out, nil
		},
		print: func(w io.Writer, all []api.FileInfo) error { return writeFiles(w, long, all) },
	})
}

func newStorageStatCommand() *cobra.Command {
	var p place
	return storage(&p, action[api.FileInfo]{
		use: "stat PATH", short: "Show a file: type, mode, owner, size, times", args: cobra.ExactArgs(1),
		call: func(cmd *cobra.Command, c *api.Client, args []string) (f api.FileInfo, err error) {
			e, err := p.end(c, args[0])
			if err != nil {
				return f, err
			}
			return e.Tree.Stat(cmd.Context(), e.Path)
		},
		print: func(w io.Writer, f api.FileInfo) error {
			return table(w, func(w io.Writer) {
				row := func(name string, v any) { fmt.Fprintf(w, "%s\t%v\n", name, v) }
				row("name", cmp.Or(f.Escaped, f.Name, "/"))
				row("type", f.Type)
				if f.Target != "" {
					row("leads to", f.Target)
				}
				row("mode", f.Mode)
				row("owner", asText(f.UID, f.GID))
				row("size", fmt.Sprintf("%d bytes (%s)", f.Size, formatBytes(f.Size)))
				row("takes", formatBytes(f.Used))
				row("links", f.Links)
				row("inode", f.Inode)
				row("changed", f.Mtime.Format(time.RFC3339Nano))
				row("attributes", f.Ctime.Format(time.RFC3339Nano))
				row("made", f.Btime.Format(time.RFC3339Nano))
				row("etag", f.ETag)
			})
		},
	})
}

func newStorageCatCommand() *cobra.Command {
	var p place
	a := action[struct{}]{
		use: "cat PATH...", short: "Write files to standard output", args: cobra.MinimumNArgs(1),
		call: func(cmd *cobra.Command, c *api.Client, args []string) (struct{}, error) {
			return struct{}{}, eachArgument(cmd, &p, c, args, func(e transfer.End) error {
				in, err := e.Tree.Download(cmd.Context(), e.Path, 0, "")
				if err != nil {
					return err
				}
				defer in.Close()
				if n, err := io.Copy(cmd.OutOrStdout(), in); err != nil {
					return vfs.Errorf(vfs.KindIO, "cat", "%s broke off after %d bytes: %w", e.Path, n, err)
				}
				return nil
			})
		},
		noJSON: true,
	}
	return storage(&p, a)
}

func newStorageFindCommand() *cobra.Command {
	var p place
	var name, kind, larger, smaller string
	var newer, older time.Duration
	var left unread
	types := map[string]string{"f": "file", "d": "directory", "l": "symlink", "": ""}
	return storage(&p, action[[]found]{
		use: "find [PATH]", short: "Find files in a directory and all below it", args: cobra.MaximumNArgs(1),
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&name, "name", "", "pattern that the name matches: *, ? and [a-z] as the shell has them")
			f.StringVar(&kind, "type", "", "f (files), d (directories) or l (symbolic links)")
			f.StringVar(&larger, "larger", "", "more bytes than this, such as 10MiB")
			f.StringVar(&smaller, "smaller", "", "fewer bytes than this")
			f.DurationVar(&newer, "newer", 0, "changed within this time, such as 24h")
			f.DurationVar(&older, "older", 0, "not changed for this time")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) ([]found, error) {
			e, err := p.end(c, argument(args, 0))
			if err != nil {
				return nil, err
			}
			want, ok := types[kind]
			if !ok {
				return nil, vfs.Errorf(vfs.KindInvalid, "find", "--type %q: use f, d or l", kind)
			}
			if _, err := path.Match(name, ""); err != nil {
				return nil, vfs.Errorf(vfs.KindInvalid, "find", "--name %q: %w", name, err)
			}
			var low, high uint64
			for s, to := range map[*string]*uint64{&larger: &low, &smaller: &high} {
				if *s != "" {
					if *to, err = filesystem.ParseBytes(*s); err != nil {
						return nil, err
					}
				}
			}
			out, now := []found{}, time.Now()
			err = transfer.Walk(cmd.Context(), e.Tree, e.Path, func(at string, f *api.FileInfo) error {
				left.see(f)
				matched, _ := path.Match(name, path.Base(at))
				switch age := now.Sub(f.Mtime); {
				case name != "" && !matched, want != "" && f.Type != want, larger != "" && f.Size <= low, smaller != "" && f.Size >= high, newer > 0 && age > newer, older > 0 && age < older:
				default:
					out = append(out, found{files.Path(at).Shown(), *f})
				}
				return nil
			}, left.denied(cmd))
			return out, err
		},
		verdict: func([]found) error { return left.err() },
		print: func(w io.Writer, all []found) error {
			for _, f := range all {
				fmt.Fprintln(w, f.Path)
			}
			return nil
		},
	})
}

// usage is what a directory and all below it has.
type usage struct {
	Path        string `json:"path"`
	Files       int64  `json:"files"`
	Directories int64  `json:"directories"`
	Bytes       uint64 `json:"bytes"`
	Used        uint64 `json:"used"` // bytes, before coding
}

func newStorageUsageCommand() *cobra.Command {
	var p place
	var total bool
	var left unread
	return storage(&p, action[[]usage]{
		use: "du [PATH]", short: "Add up what is in a directory, and in each of the directories in it", args: cobra.MaximumNArgs(1),
		flags: func(f *pflag.FlagSet) { f.BoolVarP(&total, "summarize", "s", false, "the total only") },
		call: func(cmd *cobra.Command, c *api.Client, args []string) ([]usage, error) {
			e, err := p.end(c, argument(args, 0))
			if err != nil {
				return nil, err
			}
			top := path.Clean(e.Path)
			out := []usage{{Path: files.Path(top).Shown()}}
			at := map[string]int{}
			err = transfer.Walk(cmd.Context(), e.Tree, top, func(name string, f *api.FileInfo) error {
				left.see(f)
				into := []*usage{&out[0]}
				rel := strings.TrimPrefix(strings.TrimPrefix(name, top), "/")
				if first, _, deeper := strings.Cut(rel, "/"); !total && rel != "" && (deeper || f.Type == "directory") {
					i, ok := at[first]
					if !ok {
						i = len(out)
						out, at[first] = append(out, usage{Path: files.Path(path.Join(top, first)).Shown()}), i
					}
					into = []*usage{&out[0], &out[i]}
				}
				for _, u := range into {
					if u.Used += f.Used; f.Type == "directory" {
						u.Directories++
						continue
					}
					u.Files++
					u.Bytes += f.Size
				}
				return nil
			}, left.denied(cmd))
			slices.SortFunc(out[1:], func(a, b usage) int { return strings.Compare(a.Path, b.Path) })
			return out, err
		},
		verdict: func([]usage) error { return left.err() },
		print: listing("BYTES\tTAKES\tFILES\tDIRECTORIES\tPATH", func(u usage) []any {
			return []any{formatBytes(u.Bytes), formatBytes(u.Used), u.Files, u.Directories, u.Path}
		}),
	})
}

// exitStatus is what the process ends with.
func exitStatus(err error, interrupted bool) int {
	var partial *transfer.Partial
	var left *leftOut
	switch {
	case err == nil:
		return 0
	case interrupted:
		return 130
	case errors.As(err, &partial), errors.As(err, &left):
		return 3
	}
	return 1
}
