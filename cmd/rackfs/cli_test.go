package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/vfs"
)

// cli is a small cluster in this process, and runs commands against its socket.
type cli struct {
	t       *testing.T
	socket  string
	cluster *devcluster.Cluster
}

func newCLI(t *testing.T) *cli {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	c, err := devcluster.Start(t.Context(), devcluster.Config{DataDir: dir, NFSAddr: "127.0.0.1:0", APIAddr: "0.0.0.0:0", Voters: 1, BlockStores: 3, Profile: "2+1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return &cli{t: t, socket: filepath.Join(dir, api.SocketName), cluster: c}
}

// answer is what a command did.
type answer struct {
	out, errs string
	err       error
}

// run runs "rackfs LINE"; stdin is what the operator types.
func (c *cli) run(stdin, line string) answer {
	c.t.Helper()
	cmd := newRootCommand()
	args := strings.Fields(line)
	var out, errs bytes.Buffer
	cmd.SetArgs(append(args, "--socket", c.socket))
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err := cmd.ExecuteContext(c.t.Context())
	return answer{out.String(), errs.String(), err}
}

// TestCommands runs every command about a running cluster: what it prints for people and for programs, what it refuses and with which words,
// and that nothing is destroyed that nobody agreed to.
func TestCommands(t *testing.T) {
	c := newCLI(t)
	const asks = "Type yes to go on"
	keys := importCredentials(t)
	for _, x := range []struct {
		line, stdin string
		out, errs   string // parts that are in the output
		refused     string // part of the error; "" if there is none
		kind        vfs.Kind
	}{
		{line: "fs list", out: "NAME     WORKSPACE  KIND    GROUP  STATE   PROFILE  USED  FREE"},
		{line: "workspace list", out: "default"},
		{line: "fs create x --workspace lab", refused: "rackfs workspace create", kind: vfs.KindNotFound},
		{line: "workspace create lab --network 10.1.2.3", out: "10.1.2.3/32"},
		{line: "workspace create lab", refused: "already", kind: vfs.KindExists},
		{line: "workspace create nets --network lots", refused: "lots"},
		{line: "workspace set lab", refused: "nothing to change"},
		{line: "workspace set lab --off telepathy", refused: "cloud-import"},
		{line: "workspace set lab --off group-filesystems --network=", out: "group-filesystems"},
		{line: "fs create x --workspace lab --kind group --group g", refused: "group-filesystems is switched off in the workspace lab", kind: vfs.KindPerm},
		{line: "fs create x --workspace lab --kind local --group g", refused: "group-filesystems is switched off in the workspace lab", kind: vfs.KindPerm},
		{line: "fs create x --workspace lab", out: "/lab/x"},
		{line: "fs create lab", refused: "name of a workspace", kind: vfs.KindExists},
		{line: "workspace delete lab --yes", refused: "has 1 file systems", kind: vfs.KindBusy},
		{line: "workspace delete default --yes", refused: "stays", kind: vfs.KindPerm},
		{line: "workspace delete lab", errs: asks, refused: "nothing was changed"},
		{line: "fs delete x --workspace lab --keep 0s --yes", out: "x"},
		{line: "token create ci --role writer", refused: "editor"},
		{line: "token create ci --expires -1h", refused: "--expires -1h0m0s: use 1s or more", kind: vfs.KindInvalid},
		{line: "token create ci --expires 500ms", refused: "use 1s or more", kind: vfs.KindInvalid},
		{line: "fs list --login lab", refused: "[login socket] were all set"},
		{line: "cluster backup /nowhere/b --passphrase-file p", refused: "--with-ca writes: use both", kind: vfs.KindInvalid},
		{line: "storage ls --fs default :/x/", refused: "/x", kind: vfs.KindNotFound},
		{line: "storage import s3 /d --bucket b --profile p", refused: "use both", kind: vfs.KindInvalid},
		{line: "token create ci --scope lab:x", refused: "WORKSPACE"},
		{line: "token create ci --scope ghost", refused: "ghost", kind: vfs.KindNotFound},
		{line: "token create ci --role editor --scope lab/x:/in --uid 5 --expires 1h", out: "for lab/x:/in, until 2"},
		{line: "token create ci", refused: "already", kind: vfs.KindExists},
		{line: "token list", out: "lab/x:/in"},
		{line: "token revoke ci", errs: asks, refused: "nothing was changed"},
		{line: "token revoke ci --yes", out: "is revoked"},
		{line: "token revoke ci --yes", refused: "rackfs token list", kind: vfs.KindNotFound},
		{line: "fs list extra", refused: `unknown command "extra"`},
		{line: "fs create scratch --quota 1GiB", out: "quota      1 GiB"},
		{line: "fs create scratch", refused: "scratch", kind: vfs.KindExists},
		{line: "fs create x --quota lots", refused: "lots"},
		{line: "fs create x --profile 4+2", refused: "4+2"},
		{line: "fs create x --kind group", refused: "group"},
		{line: "fs set scratch", refused: "at least one of the flags in the group [quota inodes allow read-only squash anon-uid anon-gid groups] is required"},
		{line: "fs set scratch --inodes 5 --read-only", out: "quota      1 GiB, 5 inodes"},
		{line: "fs show scratch", out: "read only  yes"},
		{line: "fs show nothing", refused: "nothing", kind: vfs.KindNotFound},
		{line: "fs delete scratch", stdin: "no\n", errs: asks, refused: "nothing was changed", kind: vfs.KindCanceled},
		{line: "fs delete scratch", errs: asks, refused: "nothing was changed", kind: vfs.KindCanceled},
		{line: "fs delete scratch --keep 1week", refused: "write 7d, 12h or 0s"},
		{line: "fs show scratch", out: "state      active"},
		{line: "fs delete scratch --keep 1h", stdin: "yes\n", errs: "File system scratch (/scratch) holds 0 B", out: "`rackfs fs undelete scratch` brings it back"},
		{line: "fs list", out: "deleted until"},
		{line: "mount scratch /mnt --print", refused: "is deleted and is not exported"},
		{line: "fs undelete scratch", out: "state      active"},
		{line: "mount scratch:/a /mnt --print", refused: "scratch has no /a", kind: vfs.KindNotFound},
		{line: "mount scratch /mnt --print", out: "127.0.0.1:/scratch /mnt"},
		{line: "fs set scratch --read-only=false --inodes 0 --squash all --anon-uid 7 --groups 5,9", out: "squash     all, to user 7"},
		{line: "fs show scratch", out: "groups     5 9"},
		{line: "fs set scratch --squash some", refused: "expected value to be one of", kind: vfs.KindInvalid},
		{line: "fs set scratch --groups x", refused: `"x" is no gid`},
		{line: "fs export create scratch:/team/a", refused: "--secure exports it to others", kind: vfs.KindInvalid},
		{line: "fs export create scratch --secure", refused: "write FILESYSTEM:/DIRECTORY", kind: vfs.KindInvalid},
		{line: "fs export create scratch:/team/a --secure --allow 192.0.2.0/24 --read-only", out: "/team/a is exported as /scratch/team/a, project 1, to 192.0.2.0/24"},
		{line: "fs export create scratch:/team/a --secure", refused: "exported already", kind: vfs.KindExists},
		{line: "fs export create scratch:/b --secure --allow x", refused: `"x" is no network`, kind: vfs.KindInvalid},
		{line: "fs export list scratch", out: "/team/a    /scratch/team/a  1        192.0.2.0/24  yes"},
		{line: "fs quota set scratch:/team/a --quota 1GiB", out: "/team/a    1        0 B   1 GiB  1       none"},
		{line: "fs quota set scratch:/team --quota 1GiB", refused: "scratch:/team has files that belong to no project", kind: vfs.KindNotEmpty},
		{line: "fs quota set scratch:/c", refused: "at least one of the flags in the group [quota inodes] is required"},
		{line: "fs quota set scratch:/c/d --inodes 100", out: "/c/d       2        0 B   none   1       100"},
		{line: "fs quota list scratch", out: "/team/a    1        0 B   1 GiB  1       none"},
		{line: "mount scratch:/team/a /mnt --print --read-only", out: ",ro 127.0.0.1:/scratch/team/a /mnt"},
		{line: "mount scratch:/team/a /mnt --print --fstab", out: ",_netdev,nofail 0 0"},
		{line: "mount scratch:/c /mnt/c --print --systemd", out: "# /etc/systemd/system/mnt-c.mount\n[Unit]"},
		{line: "mount scratch /mnt --fstab --systemd", refused: "none of the others can be"},
		{line: "fs export delete scratch:/team/b --yes", refused: "no secure export", kind: vfs.KindNotFound},
		{line: "fs export delete scratch:/team/a", errs: asks, refused: "nothing was changed", kind: vfs.KindCanceled},
		{line: "fs export delete scratch:/team/a --yes"},
		{line: "mount nothing /mnt --print", refused: "nothing", kind: vfs.KindNotFound},
		{line: "fs delete scratch --keep 0s --yes", out: "its data is being destroyed"},

		{line: "group list", out: "NAME  NODES  RESERVED RACKS  POOLS  FOREIGN SLOTS"},
		{line: "group create gpu", out: "group gpu made; put nodes into it with `rackfs group add gpu NODE...`"},
		{line: "group create gpu", refused: "there is a group gpu already", kind: vfs.KindExists},
		{line: "group show gpu", out: "POOL  PROFILE"},
		{line: "group show cpu", refused: "there is no group cpu, only gpu", kind: vfs.KindNotFound},
		{line: "group add gpu", refused: "requires at least 2 arg(s)"},
		{line: "group add gpu elsewhere", refused: "elsewhere", kind: vfs.KindNotFound},
		{line: "group reserve gpu r9", refused: "--force", kind: vfs.KindNotFound},
		{line: "group reserve gpu r9 --force"},
		{line: "group list", out: "gpu   0      r9"},
		{line: "group delete gpu", refused: "rackfs group release", kind: vfs.KindBusy},
		{line: "group release r8", refused: "rack r8 is not reserved", kind: vfs.KindNotFound},
		{line: "group release r9"},
		{line: "group delete gpu"},
		{line: "group delete gpu", refused: "there is no group gpu", kind: vfs.KindNotFound},

		{line: "node list", out: "store-3"},
		{line: "node show store-1", out: "STORE  RECORD  STATE"},
		{line: "node show x", refused: "no record of a node x", kind: vfs.KindNotFound},
		{line: "node drain x", refused: "no record of a node x", kind: vfs.KindNotFound},
		{line: "node undrain x", refused: "no record of a node x", kind: vfs.KindNotFound},
		{line: "node remove x --yes", refused: "no record of a node x", kind: vfs.KindNotFound},

		{line: "storage import s3 /in --bucket b-1", refused: "set AWS_ACCESS_KEY_ID", kind: vfs.KindInvalid},
		{line: "storage import s3 /in --bucket b-1 --credentials " + keys + " --profile other", refused: "no profile [other]", kind: vfs.KindInvalid},
		{line: "storage import s3 /in --bucket b-1 --endpoint https://10.0.0.1 --credentials " + keys, refused: "internal address", kind: vfs.KindPerm},
		{line: "storage import r2 /in --bucket b-1 --credentials " + keys, refused: "without the bucket", kind: vfs.KindInvalid},
		{line: "storage import r2 /in --bucket b-1 --endpoint https://x.example/b-1 --credentials " + keys, refused: "https://x.example is the endpoint", kind: vfs.KindInvalid},
		{line: "storage import s3 /in --bucket b-1 --endpoint https://name.invalid --detach --credentials " + keys, out: "from   b-1/ at name.invalid"},
		{line: "storage import s3 /in --bucket b-1 --conflict maybe --credentials " + keys, refused: "conflict"},
		{line: "storage import list", out: "/in"},
		{line: "storage import show 1", out: "default"},
		{line: "storage import show x", refused: "storage import list", kind: vfs.KindInvalid},
		{line: "storage import show 77", refused: "no job 77", kind: vfs.KindNotFound},
		{line: "storage import cancel 1", out: "job 1"},
		{line: "workspace set default --off cloud-import"},
		{line: "storage import s3 /in --bucket b-1 --credentials " + keys, refused: "cloud-import is switched off in the workspace default", kind: vfs.KindPerm},
		{line: "workspace set default --on cloud-import"},

		{line: "cluster status", out: "metadata shard 1: leader"},
		{line: "cluster voters", out: "shard 0: 1 of 1 voters healthy"},
		{line: "cluster token", refused: "which no node joins", kind: vfs.KindNotSupported},
		{line: "cluster rotate-gossip-key", refused: "nobody to gossip with", kind: vfs.KindNotSupported},
		{line: "cluster upgrade-level --check", out: "SHARD  LEVEL  CAN BE"},
		{line: "cluster upgrade-level", errs: asks, refused: "nothing was changed", kind: vfs.KindCanceled},
		{line: "cluster upgrade-level --yes", out: "SHARD  LEVEL  CAN BE"},
		{line: "cluster upgrade-level --to 1 --yes", refused: "a level is never lowered", kind: vfs.KindInvalid},
		{line: "cluster can-stop meta-1", out: "no: meta-1", refused: errNo.Error()},
		{line: "cluster can-stop nobody", refused: "no node or rack", kind: vfs.KindNotFound},
		{line: "cluster can-stop", refused: "requires at least 1 arg(s)"},
		{line: "cluster check", out: "0 errors"},
		{line: "cluster allow-deletion --yes", errs: "0 errors", out: "there is nothing to allow"},
		{line: "cluster backup " + filepath.Join(t.TempDir(), "backup"), out: "2 shards"},
		{line: "cluster backup /does/not/exist/backup", refused: "/does/not/exist", kind: vfs.KindNotFound},
	} {
		a := c.run(x.stdin, x.line)
		if !strings.Contains(a.out, x.out) || !strings.Contains(a.errs, x.errs) {
			t.Errorf("%s printed\n%s\nand on standard error\n%s\nwant %q and %q", x.line, a.out, a.errs, x.out, x.errs)
		}
		switch {
		case x.refused == "" && a.err != nil:
			t.Errorf("%s: %v", x.line, a.err)
		case x.refused != "" && (a.err == nil || !strings.Contains(a.err.Error(), x.refused) || x.kind != 0 && vfs.KindOf(a.err) != x.kind):
			t.Errorf("%s: %v, want %v saying %q", x.line, a.err, x.kind, x.refused)
		}
	}
	if a := c.run("", "cluster can-stop meta-1"); !errors.Is(a.err, errNo) {
		t.Errorf("the answer no: %v", a.err)
	}
}

// importCredentials is a file of keys; the environment has none.
func importCredentials(t *testing.T) string {
	for _, v := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
		t.Setenv(v, "")
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("# keys\n[default]\naws_access_key_id = AKIAEXAMPLE000000000\naws_secret_access_key=wJalrXUtnFEMIK7MDENG\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestJSON: with --json every command prints one JSON value and nothing else on standard output, with the names that the API's document has.
func TestJSON(t *testing.T) {
	c := newCLI(t)
	for _, x := range []struct {
		line string
		keys string // that the object, or the first element of the array, has
	}{
		{"fs create a", "name workspace kind state path profile pool used_inodes created"},
		{"fs list", "name workspace kind state path profile"},
		{"fs show a", "name used_inodes capacity_bytes free_bytes gateways"},
		{"fs set a --quota 5MiB", "name quota_bytes"},
		{"fs export create a:/x --secure", "path mount directory project"},
		{"fs export list a", "path mount directory project"},
		{"fs export delete a:/x --yes", ""},
		{"fs quota set a:/x --quota 1MiB", "project path used_bytes limit_bytes"},
		{"fs quota list a", "project used_bytes used_inodes"},
		{"fs delete a --yes", "name state purge_after"},
		{"fs undelete a", "name state"},
		{"group create g", "name id created nodes racks pools"},
		{"group reserve g r1 --force", "effects notes"},
		{"group list", "name nodes racks pools"},
		{"group show g", "name racks"},
		{"group release r1", "effects notes"},
		{"group delete g", ""},
		{"workspace create w --network 10.0.0.0/8", "name networks features created"},
		{"workspace set w --off rsync", "name features"},
		{"workspace list", "name networks features"},
		{"token create t --scope w --role editor", "id name role scopes secret"},
		{"token list", "id name role scopes uid gid created"},
		{"token revoke t --yes", "id name"},
		{"workspace delete w --yes", ""},
		{"storage import s3 /in --bucket b-1 --endpoint https://name.invalid --detach --credentials " + importCredentials(t), "id kind state path import"},
		{"storage import list", "id kind state path"},
		{"storage import show 1", "id kind state import"},
		{"storage import cancel 1", "id state"},
		{"node list", "name roles address state"},
		{"node show store-1", "name stores slots_left"},
		{"cluster status", "cluster health nodes shards"},
		{"cluster voters", "shard replicas voters healthy"},
		{"cluster upgrade-level --check", "newest shards"},
		{"cluster can-stop store-1", "ok"},
		{"cluster check", "errors notices findings"},
		{"cluster backup " + filepath.Join(t.TempDir(), "backup"), "file cluster shards bytes good_until"},
	} {
		a := c.run("", x.line+" --json")
		if a.err != nil && !errors.Is(a.err, errNo) {
			t.Errorf("%s: %v", x.line, a.err)
			continue
		}
		var v any
		d := json.NewDecoder(strings.NewReader(a.out))
		if err := d.Decode(&v); err != nil || d.More() {
			t.Errorf("%s: %v; more: %v\n%s", x.line, err, d.More(), a.out)
			continue
		}
		if all, ok := v.([]any); ok {
			if len(all) == 0 {
				t.Errorf("%s: an empty list", x.line)
				continue
			}
			v = all[0]
		}
		o, ok := v.(map[string]any)
		if !ok {
			t.Errorf("%s: %s", x.line, a.out)
			continue
		}
		for _, k := range strings.Fields(x.keys) {
			if _, ok := o[k]; !ok {
				t.Errorf("%s has no %s: %s", x.line, k, a.out)
			}
		}
	}
}
