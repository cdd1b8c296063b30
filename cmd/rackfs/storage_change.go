package main

import (
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/transfer"
	"github.com/rackfs/rackfs/vfs"
)

func newStorageMkdirCommand() *cobra.Command {
	var p place
	var parents bool
	return storage(&p, action[struct{}]{
		use: "mkdir PATH...", short: "Make directories", args: cobra.MinimumNArgs(1), noJSON: true,
		flags: func(f *pflag.FlagSet) {
			f.BoolVarP(&parents, "parents", "p", false, "make those above them too; it is no error if they are there")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (struct{}, error) {
			return struct{}{}, eachArgument(cmd, &p, c, args, func(e transfer.End) error {
				_, err := e.Tree.Mkdir(cmd.Context(), e.Path, parents)
				if vfs.KindOf(err) == vfs.KindNotFound {
					err = fmt.Errorf("%w; -p makes the directories above it too", err)
				}
				return err
			})
		},
	})
}

func newStorageTouchCommand() *cobra.Command {
	var p place
	return storage(&p, action[struct{}]{
		use: "touch PATH...", short: "Make empty files, or set the time of change of those that are there to now", args: cobra.MinimumNArgs(1), noJSON: true,
		call: func(cmd *cobra.Command, c *api.Client, args []string) (struct{}, error) {
			return struct{}{}, eachArgument(cmd, &p, c, args, func(e transfer.End) error {
				_, err := e.Tree.Upload(cmd.Context(), e.Path, nil, api.Put{Keep: true})
				if k := vfs.KindOf(err); k == vfs.KindExists || k == vfs.KindIsDir {
					now := time.Now()
					_, err = e.Tree.Change(cmd.Context(), e.Path, api.FileChange{Mtime: &now})
				}
				return err
			})
		},
	})
}

func newStorageRmdirCommand() *cobra.Command {
	var p place
	return storage(&p, action[struct{}]{
		use: "rmdir PATH...", short: "Remove empty directories", args: cobra.MinimumNArgs(1), noJSON: true,
		call: func(cmd *cobra.Command, c *api.Client, args []string) (struct{}, error) {
			return struct{}{}, eachArgument(cmd, &p, c, args, func(e transfer.End) error {
				err := e.Tree.DeleteDirectory(cmd.Context(), e.Path)
				if vfs.KindOf(err) == vfs.KindNotEmpty {
					err = fmt.Errorf("%w; `rackfs storage rm -r` removes it with all that is in it", err)
				}
				return err
			})
		},
	})
}

func newStorageRemoveCommand() *cobra.Command {
	var p place
	var recursive bool
	return storage(&p, action[struct{}]{
		use: "rm PATH...", short: "Remove files, with -r also directories with all that is in them", args: cobra.MinimumNArgs(1), noJSON: true,
		long:  "Remove files. With -r directories go with all that is in them: a job of the gateway does it, which is waited for; if this command ends before, the job goes on.",
		flags: func(f *pflag.FlagSet) { f.BoolVarP(&recursive, "recursive", "r", false, "directories, too") },
		sure: func(cmd *cobra.Command, c *api.Client, args []string) (string, error) {
			var dirs []string
			for _, arg := range args {
				e, err := p.end(c, arg)
				if err != nil {
					return "", err
				}
				if !recursive {
					continue
				}
				if f, err := e.Tree.Stat(cmd.Context(), e.Path); err == nil && f.Type == "directory" {
					dirs = append(dirs, arg)
				}
			}
			if len(dirs) == 0 {
				return "", nil
			}
			return "All that is in " + strings.Join(dirs, ", ") + " is removed.", nil
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (struct{}, error) {
			return struct{}{}, eachArgument(cmd, &p, c, args, func(e transfer.End) error {
				if recursive {
					if _, err := e.Tree.Stat(cmd.Context(), e.Path); err != nil {
						return err
					}
					var job uint64
					err := transfer.RemoveAll(cmd.Context(), c, e.Tree, e.Path, func(j api.Job) { job = j.ID })
					if job != 0 {
						goesOn(cmd, job, err)
					}
					return err
				}
				f, err := e.Tree.Stat(cmd.Context(), e.Path)
				if err != nil {
					return err
				}
				if f.Type == "directory" {
					return vfs.Errorf(vfs.KindIsDir, "rm", "%s: rm -r removes it with all that is in it, rmdir if it is empty", e.Path)
				}
				return e.Tree.Delete(cmd.Context(), e.Path)
			})
		},
	})
}

func newStorageMoveCommand() *cobra.Command {
	var p place
	var keep bool
	return storage(&p, action[api.FileInfo]{
		use: "mv FROM TO", short: "Rename a file or directory, or move it into a directory", args: cobra.ExactArgs(2),
		long: "Rename a file or directory. If TO is a directory that is there, or ends with a slash, it comes into that. A file that is in the way is replaced, unless --no-replace.",
		flags: func(f *pflag.FlagSet) {
			f.BoolVarP(&keep, "no-replace", "n", false, "fail if there is something at TO")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (f api.FileInfo, err error) {
			from, err := p.end(c, args[0])
			if err != nil {
				return f, err
			}
			to, err := p.end(c, args[1])
			if err != nil {
				return f, err
			}
			if from.FileSystem != to.FileSystem {
				return f, vfs.Errorf(vfs.KindXDev, "mv", "%s and %s are in two file systems: download, upload, and remove", args[0], args[1])
			}
			at, err := to.Tree.Stat(cmd.Context(), to.Path)
			if err != nil && vfs.KindOf(err) != vfs.KindNotFound {
				return f, err
			}
			if err == nil && at.Type == "directory" || strings.HasSuffix(to.Path, "/") {
				to.Path = path.Join(to.Path, path.Base(from.Path))
			}
			return from.Tree.Rename(cmd.Context(), from.Path, to.Path, keep)
		},
		print: func(io.Writer, api.FileInfo) error { return nil },
	})
}
