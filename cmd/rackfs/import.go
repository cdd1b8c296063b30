package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// jobEvery is between looks at a job that is waited for.
	jobEvery = 500 * time.Millisecond
	// maxCredentials bounds a file of keys.
	maxCredentials = 1 << 20
)

func newImportCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "import", Short: "Import the objects of a bucket of S3 or R2 into a directory", Long: `Import the objects of a bucket into a directory of a file system. A gateway does it, as a job, which goes on when this command or the gateway ends.

Keys come from --credentials FILE, as AWS's tools keep it, else from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, else they are asked for.
They are not taken from the command line, where other users see them.`}
	cmd.AddCommand(newImportSourceCommand(cloudimport.S3), newImportSourceCommand(cloudimport.R2), newImportListCommand(), newImportShowCommand(), newImportCancelCommand())
	return cmd
}

func newImportSourceCommand(source string) *cobra.Command {
	var (
		in              = api.NewImport{Source: source}
		p               place
		detach          bool
		credentials, of string
	)
	short, long := "Import from Amazon S3, or with --endpoint from anything that speaks its protocol", ""
	if source == cloudimport.R2 {
		short, long = "Import from Cloudflare R2", "Import from Cloudflare R2. The endpoint is https://ACCOUNT.r2.cloudflarestorage.com, without the bucket's name."
	}
	return storage(&p, action[*api.Job]{
		use: source + " DIRECTORY", short: short, long: long, args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&in.Bucket, "bucket", "", "name of the bucket (required)")
			f.StringVar(&in.Prefix, "prefix", "", "import only objects whose key begins so; the directory that it names is cut off")
			f.StringVar(&in.Endpoint, "endpoint", "", "URL of the endpoint, without the bucket's name (default for s3: Amazon's)")
			f.StringVar(&in.Region, "region", "", "region of the bucket (default: found out, or the usual one)")
			f.StringVar(&in.Conflict, "conflict", string(cloudimport.Skip), "if there is a file already: skip, overwrite or if-newer")
			f.BoolVar(&in.DryRun, "dry-run", false, "only list, and say how much would be imported")
			f.BoolVar(&in.NoETagCheck, "no-etag-check", false, "do not compare content with ETags: of an endpoint whose ETags look like an MD5 and are none")
			f.StringVar(&credentials, "credentials", "", "file with the keys, as ~/.aws/credentials")
			f.StringVar(&of, "profile", "default", "profile in that file")
			f.BoolVar(&detach, "detach", false, "do not wait until it is done")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.Job, error) {
			if credentials == "" && cmd.Flags().Changed("profile") {
				return nil, vfs.Errorf(vfs.KindInvalid, "import", "--profile is of the file that --credentials names: use both")
			}
			keys, err := importKeys(cmd, credentials, of)
			if err != nil {
				return nil, err
			}
			in.AccessKey, in.SecretKey, in.SessionToken = keys.AccessKey, keys.SecretKey, keys.SessionToken
			to, err := p.end(c, args[0])
			if err != nil {
				return nil, err
			}
			j, err := to.Tree.Import(cmd.Context(), to.Path, in)
			if err != nil || detach {
				return &j, err
			}
			return waitForJob(cmd, c, j.ID)
		},
		print:   printImport,
		verdict: importVerdict,
	})
}

// goesOn tells of a job that is not waited for any more, because of err.
func goesOn(cmd *cobra.Command, id uint64, err error) {
	if err != nil && (cmd.Context().Err() != nil || vfs.KindOf(err).Retryable()) {
		fmt.Fprintf(cmd.ErrOrStderr(), "\njob %d goes on: `rackfs storage import show %d` shows it, `rackfs storage import cancel %d` ends it\n", id, id, id)
	}
}

// waitForJob waits until a job is over, and shows its progress to who looks.
func waitForJob(cmd *cobra.Command, c *api.Client, id uint64) (*api.Job, error) {
	w, shown := cmd.ErrOrStderr(), false
	f, ok := w.(*os.File)
	tty := ok && isTerminal(f)
	for {
		j, err := c.Job(cmd.Context(), id)
		if err != nil {
			goesOn(cmd, id, err)
			return nil, err
		}
		over := j.State != "queued" && j.State != "running"
		if tty {
			total := ""
			if j.ItemsTotal > 0 {
				total = fmt.Sprintf(" of %d, %s", j.ItemsTotal, formatBytes(j.BytesTotal))
			}
			fmt.Fprintf(w, "\r\033[K%s: %d objects, %s%s", j.State, j.ItemsDone, formatBytes(j.BytesDone), total)
			shown = true
		}
		if over {
			if shown {
				fmt.Fprintln(w)
			}
			return &j, nil
		}
		select {
		case <-time.After(jobEvery):
		case <-cmd.Context().Done():
		}
	}
}

func printImport(w io.Writer, j *api.Job) error {
	err := table(w, func(w io.Writer) {
		fmt.Fprintf(w, "job\t%d\n", j.ID)
		fmt.Fprintf(w, "state\t%s\n", j.State)
		r := j.Import
		if r == nil {
			return
		}
		fmt.Fprintf(w, "from\t%s\n", r.From)
		fmt.Fprintf(w, "to\t%s of %s\n", j.Path, j.FileSystem)
		if j.State == "queued" {
			return
		}
		what := "imported"
		if r.DryRun {
			what = "would be imported"
		}
		fmt.Fprintf(w, "objects\t%d, %s\n", r.Objects, formatBytes(r.Bytes))
		fmt.Fprintf(w, "%s\t%d, %s\n", what, r.Imported, formatBytes(r.ImportedBytes))
		fmt.Fprintf(w, "skipped\t%d, %s\n", r.Skipped, formatBytes(r.SkippedBytes))
		fmt.Fprintf(w, "directories\t%d\n", r.Directories)
		fmt.Fprintf(w, "refused\t%d\n", r.Refused)
		fmt.Fprintf(w, "failed\t%d\n", r.Failed)
		if !r.DryRun {
			fmt.Fprintf(w, "verified\t%d by checksum or ETag, %d by size only\n", r.Verified, r.BySizeOnly)
		}
	})
	if err != nil || j.Import == nil {
		return err
	}
	for _, k := range j.Import.Keys {
		if err := say(w, "%s: %s: %s", k.Outcome, k.Key, k.Why); err != nil {
			return err
		}
	}
	if n := j.Import.KeysLeftOut; n > 0 {
		return say(w, "and %d more", n)
	}
	return nil
}

func importVerdict(j *api.Job) error {
	switch {
	case j.State == "failed":
		return vfs.Errorf(vfs.KindIO, "import", "job %d failed: %s", j.ID, j.Error)
	case j.State == "canceled":
		return vfs.Errorf(vfs.KindCanceled, "import", "job %d was canceled; what it has imported stays", j.ID)
	case j.State == "done" && j.ItemsFailed > 0:
		return &leftOut{int(j.ItemsFailed), int(j.ItemsDone + j.ItemsFailed)}
	}
	return nil
}

func newImportListCommand() *cobra.Command {
	return action[[]api.Job]{
		files: true, use: "list", short: "List imports, newest first",
		call: func(cmd *cobra.Command, c *api.Client, _ []string) ([]api.Job, error) {
			out := []api.Job{}
			for before := uint64(0); ; {
				page, err := c.Jobs(cmd.Context(), false, before)
				if err != nil {
					return nil, err
				}
				for _, j := range page.Jobs {
					if j.Kind == api.JobImport {
						out = append(out, j)
					}
				}
				if before = page.Next; before == 0 {
					return out, nil
				}
			}
		},
		print: listing("JOB\tSTATE\tFILE SYSTEM\tPATH\tOBJECTS\tBYTES\tNOT IMPORTED\tERROR", func(j api.Job) []any {
			return []any{j.ID, j.State, j.FileSystem, j.Path, j.ItemsDone, formatBytes(j.BytesDone), j.ItemsFailed, j.Error}
		}),
	}.command()
}

func jobID(args []string) (uint64, error) {
	id, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return 0, vfs.Errorf(vfs.KindInvalid, "job", "%q is no number of a job: `rackfs storage import list` shows them", args[0])
	}
	return id, nil
}

func newImportShowCommand() *cobra.Command {
	return action[*api.Job]{
		files: true, use: "show JOB", short: "Show an import: how far it is, and what became of its objects", args: cobra.ExactArgs(1), watch: true,
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.Job, error) {
			id, err := jobID(args)
			if err != nil {
				return nil, err
			}
			j, err := c.Job(cmd.Context(), id)
			return &j, err
		},
		print: func(w io.Writer, j *api.Job) error {
			if err := printImport(w, j); err != nil || j.Error == "" {
				return err
			}
			return say(w, "error: %s", j.Error)
		},
	}.command()
}

func newImportCancelCommand() *cobra.Command {
	return action[*api.Job]{
		files: true, use: "cancel JOB", short: "Have an import end; what it has imported stays", args: cobra.ExactArgs(1),
		call: func(cmd *cobra.Command, c *api.Client, args []string) (*api.Job, error) {
			id, err := jobID(args)
			if err != nil {
				return nil, err
			}
			j, err := c.CancelJob(cmd.Context(), id)
			return &j, err
		},
		print: func(w io.Writer, j *api.Job) error {
			if j.Canceling {
				return say(w, "job %d ends soon", j.ID)
			}
			return say(w, "job %d is %s", j.ID, j.State)
		},
	}.command()
}

// importKeys finds the keys: in a file, in the environment, or by asking.
func importKeys(cmd *cobra.Command, file, profile string) (k cloudimport.Secrets, err error) {
	if file != "" {
		return readCredentials(file, profile)
	}
	k = cloudimport.Secrets{AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: os.Getenv("AWS_SESSION_TOKEN")}
	if k.AccessKey != "" && k.SecretKey != "" {
		return k, nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !isTerminal(in) {
		return k, vfs.Errorf(vfs.KindInvalid, "import", "the keys are missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file with --credentials")
	}
	k.SessionToken = "" // that of the environment is of other keys
	ask := func(what string, quiet bool) (string, error) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: ", what)
		return readLine(cmd.Context(), in, quiet)
	}
	if k.AccessKey, err = ask("Access key ID", false); err != nil {
		return k, err
	}
	k.SecretKey, err = ask("Secret access key (not shown)", true)
	fmt.Fprintln(cmd.ErrOrStderr())
	return k, err
}

// readCredentials reads a profile of a file as AWS's tools keep it.
func readCredentials(file, profile string) (k cloudimport.Secrets, err error) {
	const op = "import"
	f, err := os.Open(file)
	if err != nil {
		return k, vfs.Errorf(vfs.KindInvalid, op, "--credentials: %w", err)
	}
	defer f.Close()
	found, in := false, false
	lines := bufio.NewScanner(io.LimitReader(f, maxCredentials))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if name, ok := strings.CutPrefix(line, "["); ok {
			in = strings.TrimSpace(strings.TrimSuffix(name, "]")) == profile
			found = found || in
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !in || !ok || strings.HasPrefix(line, "#") {
			continue
		}
		switch value = strings.TrimSpace(value); strings.ToLower(strings.TrimSpace(name)) {
		case "aws_access_key_id":
			k.AccessKey = value
		case "aws_secret_access_key":
			k.SecretKey = value
		case "aws_session_token":
			k.SessionToken = value
		}
	}
	switch {
	case lines.Err() != nil:
		return k, vfs.Errorf(vfs.KindInvalid, op, "--credentials %s: %w", file, lines.Err())
	case !found:
		return k, vfs.Errorf(vfs.KindInvalid, op, "--credentials %s has no profile [%s]: --profile chooses another", file, profile)
	case k.AccessKey == "" || k.SecretKey == "":
		return k, vfs.Errorf(vfs.KindInvalid, op, "--credentials %s: profile [%s] has no aws_access_key_id and aws_secret_access_key", file, profile)
	}
	return k, nil
}
