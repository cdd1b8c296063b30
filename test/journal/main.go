//go:build linux

package journal

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Main has the subcommands of the package comment.
func Main(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: write|verify [flags]")
		return 2
	}
	run := map[string]func([]string) error{"write": mainWrite, "verify": mainVerify}[args[0]]
	if run == nil {
		fmt.Fprintf(os.Stderr, "unknown subcommand %q\n", args[0])
		return 2
	}
	if err := run(args[1:]); err != nil {
		fmt.Printf("error: %v\n", err)
		return 1
	}
	return 0
}

func mainWrite(args []string) error {
	f := flag.NewFlagSet("write", flag.ContinueOnError)
	var o WriterOptions
	f.StringVar(&o.Dir, "dir", "", "directory on the mount under test; must exist")
	f.StringVar(&o.Journal, "journal", "", "journal to create, on another disk")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of everything that is random")
	f.IntVar(&o.Workers, "workers", 4, "workers, each with a directory of its own")
	f.IntVar(&o.LargeMiB, "large-mib", 4, "size of a large write; 0 for none")
	f.BoolVar(&o.ExactlyOnce, "exactly-once", false, "no repeated call may be answered as already done")
	f.DurationVar(&o.Pause, "pause", 0, "of each worker between two changes")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.Dir == "" || o.Journal == "" || o.Workers < 1 {
		return errors.New("-dir, -journal and -workers are needed")
	}
	unix.Umask(0) // modes are compared
	return Write(o, os.Stdin, os.Stdout)
}

func mainVerify(args []string) error {
	f := flag.NewFlagSet("verify", flag.ContinueOnError)
	dir := f.String("dir", "", "directory of the writer")
	file := f.String("journal", "", "its journal")
	forget := f.Bool("drop-caches", false, "drop the kernel's caches first")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *forget {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			return err
		}
	}
	differences, records, err := Verify(*dir, *file)
	if err != nil {
		return err
	}
	for _, d := range differences {
		fmt.Println("differs:", d)
	}
	if len(differences) > 0 {
		return fmt.Errorf("%d differences after %d acknowledged changes", len(differences), records)
	}
	fmt.Printf("verified %d acknowledged changes\n", records)
	return nil
}
