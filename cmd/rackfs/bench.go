package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/bench"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/login"
	"github.com/rackfs/rackfs/vfs"
)

const benchTargets = `A target is [NAME=]KIND:PLACE:
  dir:PATH                             a directory of any mounted file system
  dir-sync:PATH                        the same, with an fsync of the directory after each change of names
  nfs:HOST:PORT/EXPORT[/DIRECTORY]     an NFS export, by a client without a kernel
  api:https://HOST:PORT/WORKSPACE/FS   a file system by the storage API
  dev:PATH, dev-api:PATH               a cluster that is started in a directory for this, by NFS or by the API`

func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure file systems: this one and others, in the same way"}
	cmd.AddCommand(newBenchRunCommand(), newBenchCompareCommand(), newBenchGrowthCommand(), newBenchMeterCommand(), newBenchReportCommand(), newBenchListCommand())
	return cmd
}

func newBenchListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the workloads", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return table(cmd.OutOrStdout(), func(w io.Writer) {
				fmt.Fprintln(w, "WORKLOAD\tWORKERS\tWHAT IT DOES")
				for _, x := range bench.Workloads() {
					cells(w, x.Name, strings.Trim(fmt.Sprint(x.Workers), "[]"), x.About)
				}
			})
		},
	}
}

func newBenchRunCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use: "run TARGET", Short: "Measure one file system",
		Long: "Runs workloads on a file system and prints what it did. All data is verified when it is read.\n\n" + benchTargets, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.flags(cmd.Flags())
	return cmd
}

func newBenchCompareCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use: "compare TARGET TARGET...", Short: "Measure file systems in turn and print the ratios to the first",
		Long: "Runs workloads on several file systems, interleaved: what changes on the machine meanwhile hits all of them.\n" +
			"Phases with a number of operations do all of them, whatever --time says.\n\n" + benchTargets, Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.flags(cmd.Flags())
	return cmd
}

func newBenchGrowthCommand() *cobra.Command {
	f := benchFlags{growth: true, factor: 10}
	cmd := &cobra.Command{
		Use: "growth TARGET", Short: "Measure one file system with sizes and with ten times the sizes, in turn",
		Long: "Runs workloads with the sizes that were asked for (x1) and with ten times as many files, entries and bytes (x10), interleaved, and prints the ratios.\n" +
			"Phases with a number of operations do all of them, whatever --time says.\n\n" + benchTargets,
		Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.flags(cmd.Flags())
	cmd.Flags().IntVar(&f.factor, "factor", f.factor, "how many times as large")
	return cmd
}

// benchFlags are the flags of run, compare and growth.
type benchFlags struct {
	workloads                   []string
	workers                     []int
	repeats, sessions           int
	short, drop                 bool
	dropCommand, json, token    string
	ca                          string
	durability, metrics, pids   []string
	clientPIDs                  []string
	growth                      bool
	factor                      int // of growth
	devFlags                    []string
	options                     bench.Options // what is not zero replaces that of the preset
	fileSize, stream, randomS   string
	shardS, recordS, checkpoint string
}

func (b *benchFlags) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&b.workloads, "workload", nil, "workloads to run (default: all; see rackfs bench list)")
	f.IntSliceVar(&b.workers, "workers", nil, "numbers of workers, one after another (default: what each workload has)")
	f.IntVar(&b.repeats, "repeat", 0, "how often everything is measured (default 3 to compare, else 1)")
	f.BoolVar(&b.short, "short", false, "small sizes and half a second for each phase")
	f.DurationVar(&b.options.Time, "time", 0, "how long a phase takes that has no end of its own (default 10s)")
	f.IntVar(&b.options.Rate, "rate", 0, "operations of all workers in a second, at most (default 0: as many as they can)")
	f.Uint64Var(&b.options.Seed, "seed", 0, "of data and order (default 1)")
	f.IntVar(&b.options.Files, "files", 0, "files of each worker (default 400)")
	f.IntVar(&b.options.TreeFiles, "tree-files", 0, "files of the tree (default 2000)")
	f.IntVar(&b.options.Entries, "entries", 0, "entries of the large directory (default 100000)")
	f.IntVar(&b.options.Shards, "shards", 0, "shards of training data (default 8)")
	f.StringVar(&b.fileSize, "file-size", "", "of a small file (default 16KiB)")
	f.StringVar(&b.stream, "stream-size", "", "of each stream (default 256MiB)")
	f.StringVar(&b.randomS, "random-size", "", "of the file that is read and written at random (default 256MiB)")
	f.StringVar(&b.shardS, "shard-size", "", "of a shard (default 32MiB)")
	f.StringVar(&b.recordS, "record-size", "", "of a record of a shard (default 128KiB)")
	f.StringVar(&b.checkpoint, "checkpoint-size", "", "of a rank's checkpoint (default 128MiB)")
	f.BoolVar(&b.drop, "drop-caches", false, "drop this machine's page cache before phases that read; needs root")
	f.StringVar(&b.dropCommand, "drop-command", "", "shell command that drops caches wherever they are, before phases that read")
	f.StringArrayVar(&b.durability, "durability", nil, "what a target promises, [NAME=]names=memory|disk,data=memory|disk,losses=N (default: looked for)")
	f.StringArrayVar(&b.metrics, "metrics", nil, "metrics of a process of a target for its CPU, [NAME=]http://HOST:PORT/metrics")
	f.StringArrayVar(&b.pids, "pid", nil, "process of a target on this machine for its CPU, [NAME=]PID")
	f.StringArrayVar(&b.clientPIDs, "client-pid", nil, "process that works for a target's client, such as the daemon of a FUSE mount, for its CPU, [NAME=]PID")
	f.IntVar(&b.sessions, "sessions", 4, "NFS sessions, each with a connection")
	f.StringVar(&b.token, "token", "", "token of the API (default $RACKFS_TOKEN)")
	f.StringVar(&b.ca, "ca", "", "SHA-256 of the CA of the API's certificate (default: one that this machine trusts)")
	f.StringArrayVar(&b.devFlags, "dev-flag", nil, "flag of rackfs dev for clusters that are started, [NAME=]FLAG, such as --encrypt")
	f.StringVar(&b.json, "json", "", "file for the results as lines of JSON; - prints them instead of the table")
	f.SortFlags = false
}

// maxFactor keeps sizes in their range.
const maxFactor = 1000

// of are the values of a flag for a target: those without a name are for all.
func of(values []string, target string, names []string) (out []string) {
	for _, v := range values {
		if name, rest, ok := strings.Cut(v, "="); ok && slices.Contains(names, name) {
			if name != target {
				continue
			}
			v = rest
		}
		out = append(out, v)
	}
	return out
}

func (b *benchFlags) specs(args []string) ([]bench.Spec, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var specs []bench.Spec
	var names []string
	for _, a := range args {
		s, err := bench.ParseSpec(a)
		if err != nil {
			return nil, err
		}
		specs, names = append(specs, s), append(names, s.Name)
	}
	for i := range specs {
		s := &specs[i]
		s.Sessions, s.Token, s.CA, s.Binary, s.DevFlags = b.sessions, cmp.Or(b.token, os.Getenv(login.EnvToken)), b.ca, self, of(b.devFlags, s.Name, names)
		for _, d := range of(b.durability, s.Name, names) {
			x, err := bench.ParseDurability(d)
			if err != nil {
				return nil, err
			}
			s.Durability = &x
		}
		s.Metrics = of(b.metrics, s.Name, names)
		for _, x := range []struct {
			flag   string
			values []string
			to     *[]int
		}{{"pid", b.pids, &s.PIDs}, {"client-pid", b.clientPIDs, &s.ClientPIDs}} {
			for _, p := range of(x.values, s.Name, names) {
				n, err := strconv.Atoi(p)
				if err != nil || n < 1 {
					return nil, fmt.Errorf("--%s %q: write [NAME=]PID", x.flag, p)
				}
				*x.to = append(*x.to, n)
			}
		}
	}
	return specs, nil
}

// sizes are the preset with what the flags say.
func (b *benchFlags) sizes() (bench.Options, error) {
	o := bench.Standard
	if b.short {
		o = bench.Short
	}
	set := func(to *int, v int) {
		if v != 0 {
			*to = v
		}
	}
	set(&o.Files, b.options.Files)
	set(&o.TreeFiles, b.options.TreeFiles)
	set(&o.Entries, b.options.Entries)
	set(&o.Shards, b.options.Shards)
	set(&o.Rate, b.options.Rate)
	if b.options.Seed != 0 {
		o.Seed = b.options.Seed
	}
	if b.options.Time != 0 {
		o.Time = b.options.Time
	}
	for _, x := range []struct {
		flag, v string
		to      *int64
	}{
		{"file-size", b.fileSize, &o.FileSize}, {"stream-size", b.stream, &o.StreamSize}, {"random-size", b.randomS, &o.RandomSize},
		{"shard-size", b.shardS, &o.ShardSize}, {"record-size", b.recordS, &o.RecordSize}, {"checkpoint-size", b.checkpoint, &o.CheckpointSize},
	} {
		if x.v == "" {
			continue
		}
		n, err := filesystem.ParseBytes(x.v)
		if err != nil {
			return o, fmt.Errorf("--%s: %w", x.flag, err)
		}
		*x.to = int64(min(n, 1<<62))
	}
	return o, nil
}

func (b *benchFlags) run(cmd *cobra.Command, args []string) (err error) {
	ctx := cmd.Context()
	chosen := bench.WorkloadsNamed
	if b.growth {
		chosen = bench.GrowthWorkloads
		if b.factor < 2 || b.factor > maxFactor {
			return fmt.Errorf("--factor %d: use 2 to %d", b.factor, maxFactor)
		}
	}
	workloads, err := chosen(b.workloads)
	if err != nil {
		return err
	}
	options, err := b.sizes()
	if err != nil {
		return err
	}
	specs, err := b.specs(args)
	if err != nil {
		return err
	}
	r := bench.Run{Workloads: workloads, Options: options, Workers: b.workers, Repeats: b.repeats, Command: withoutToken(os.Args), Release: version()}
	r.Left = func(what string) { fmt.Fprintln(cmd.ErrOrStderr(), what) }
	compares := len(args) > 1 || b.growth
	r.Options.Complete = len(args) > 1 // what comes after is to work on as much with each
	if r.Repeats == 0 {
		r.Repeats = 1
		if compares {
			r.Repeats = 3
		}
	}
	if b.drop || b.dropCommand != "" {
		r.Drop = b.dropCaches
	}
	for i := range specs {
		t, end, err := specs[i].Open(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", specs[i].Name, err)
		}
		defer func() {
			if cerr := end(context.WithoutCancel(ctx)); err == nil {
				err = cerr
			}
		}()
		r.Targets = append(r.Targets, t)
	}
	if b.growth {
		small, large := bench.Grow(r.Targets[0], options, b.factor)
		r.Targets = []*bench.Target{small, large}
	}
	if err := r.Check(); err != nil {
		return err
	}
	show := newBenchScreen(cmd.OutOrStdout(), cmd.ErrOrStderr(), compares)
	sinks := []func(bench.Record) error{show.record}
	r.Watch = show.progress
	if b.json != "" {
		out := cmd.OutOrStdout()
		if b.json == "-" {
			sinks = nil
		} else {
			f, err := os.Create(b.json)
			if err != nil {
				return err
			}
			defer func() {
				if cerr := f.Close(); err == nil {
					err = cerr
				}
			}()
			out = f
		}
		enc := json.NewEncoder(out)
		sinks = append(sinks, func(x bench.Record) error { return enc.Encode(x) })
	}
	r.Emit = func(x bench.Record) error {
		var errs []error
		for _, s := range sinks {
			errs = append(errs, s(x))
		}
		return errors.Join(errs...)
	}
	if err := r.Do(ctx); err != nil {
		return err
	}
	if b.json == "-" {
		return nil
	}
	return show.end()
}

// withoutToken is a command line as it may be shown and kept.
func withoutToken(args []string) []string {
	out := slices.Clone(args)
	for i, a := range out {
		switch {
		case a == "--token" && i+1 < len(out):
			out[i+1] = "***"
		case strings.HasPrefix(a, "--token="):
			out[i] = "--token=***"
		}
	}
	return out
}

// dropCaches drops what this machine keeps of files, or does what was asked for.
func (b *benchFlags) dropCaches(ctx context.Context) error {
	if b.dropCommand != "" {
		if out, err := exec.CommandContext(ctx, "sh", "-c", b.dropCommand).CombinedOutput(); err != nil {
			return vfs.Errorf(vfs.KindIO, "--drop-command", "%w: %s", err, out)
		}
	}
	if !b.drop {
		return nil
	}
	return bench.DropPageCache()
}
