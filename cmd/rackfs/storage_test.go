package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/login"
	"github.com/rackfs/rackfs/vfs"
)

// alone runs a command as a user does who has no flags but these.
func (c *cli) alone(stdin string, args ...string) answer {
	c.t.Helper()
	cmd := newRootCommand()
	var out, errs bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err := cmd.ExecuteContext(c.t.Context())
	return answer{out.String(), errs.String(), err}
}

// ownHome lets what a user has begin empty.
func ownHome(t *testing.T) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	for _, name := range []string{login.EnvURL, login.EnvToken, login.EnvTokenFile, login.EnvCA, login.EnvProfile, login.EnvFile, socketEnv, fsEnv, journalEnv} {
		t.Setenv(name, "")
	}
	t.Chdir(home) // where no cluster is
}

// A user logs in at a gateway over TLS, and does what there is to do with files.
func TestStorage(t *testing.T) {
	c := newCLI(t)
	ownHome(t)
	port := c.cluster.APIURL()[strings.LastIndexByte(c.cluster.APIURL(), ':')+1:]
	url, token, ca := "https://127.0.0.1:"+port, c.cluster.Token(), c.cluster.CAFingerprint()
	dir := t.TempDir()
	for name, s := range map[string]string{"tree/a": "content of a", "tree/d/b": "b", "one": "one", "token": token + "\n"} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(s), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "tree", "link")); err != nil {
		t.Fatal(err)
	}
	here := func(name string) string { return filepath.Join(dir, name) }
	for _, x := range []struct {
		args, stdin string // "@" begins a path of this machine
		out, errs   string // parts that are in the output
		refused     string // part of the error; "" if there is none
		status      int
	}{
		{args: "storage ls", refused: "nobody serves", status: 1},
		{args: "login " + url, stdin: token, refused: "name the CA's fingerprint with --ca", status: 1},
		{args: "login " + url + " --ca " + strings.Repeat("0", 64), stdin: token, refused: "certificate", status: 1},
		{args: "login " + url + " --ca " + ca, refused: "no token came", status: 1},
		{args: "login " + url + " --ca " + ca, stdin: "a b\n", refused: "that is no token", status: 1},
		{args: "login " + url + " --ca " + ca, stdin: "rackfs_x\n", refused: "not authenticated", status: 1},
		{args: "login http://192.0.2.1:7443", stdin: token, refused: "write https://", status: 1},
		{args: "login --show", out: "NAME  URL  CA  USED"},
		{args: "login " + url + " --ca " + ca, stdin: token + "\n", out: "as dev, admin for the whole cluster"},
		{args: "login 127.0.0.1:" + port + " --name other --token-file @token --ca " + ca, out: "logged in"},
		{args: "login --show", out: "other    " + url},
		{args: "login --use default"},
		{args: "login --use none", refused: "there are default, other", status: 1},

		{args: "storage mkdir x/y", refused: "-p makes", status: 1},
		{args: "storage mkdir -p x/y /z"},
		{args: "storage mkdir z /w", errs: "z: file exists", refused: "1 of 2 failed", status: 3},
		{args: "storage upload @tree /t", refused: "use -r", status: 1},
		{args: "storage upload -r @tree /t", errs: "link: transfer: link: it is a symbolic link", out: "2 sent (13 B)", refused: "refused", status: 3},
		{args: "storage upload -r -p -v @tree /t", errs: "link, and those are not transferred: make it through a mount: operation not supported\nmkdir d/ (new)", out: "2 sent (13 B)", refused: "refused", status: 3}, // no terminal, no bars
		{args: "storage ls /t --login other", out: "a\nd/\n"},
		{args: "storage ls -l t/a", out: "file  06"},
		{args: "storage ls none", refused: "/none", status: 1},
		{args: "storage ls /t --fs none", refused: "none", status: 1},
		{args: "storage cat /t/a default:/t/d/b", out: "content of ab"},
		{args: "storage cat /t/a /t/none", out: "content of a", errs: "/t/none", refused: "1 of 2 failed", status: 3},
		{args: "storage cat /t/../x", refused: "invalid name", status: 1},
		{args: "storage upload @one /t/", out: "1 sent (3 B)"},
		{args: "storage upload @one /t/one --rsync -p", out: "1 sent"},
		{args: "storage upload @one /t/one --rsync", out: "1 the same"},
		{args: "storage upload @one /t/one --checksum", refused: "use both", status: 1},
		{args: "storage upload - /t/piped", stdin: "from a pipe", out: "1 sent (11 B)"},
		{args: "storage upload - /t/piped --rsync", refused: "not for standard input", status: 1},
		{args: "storage cat t/piped", out: "from a pipe"},
		{args: "storage stat t/one", out: "size        3 bytes"},
		{args: "storage find / --type f --name o*", out: "/t/one"},
		{args: "storage find /t --larger 11 --smaller 1KiB", out: "/t/a"},
		{args: "storage find /t --type x", refused: "use f, d or l", status: 1},
		{args: "storage find /t --name [", refused: "--name", status: 1},
		{args: "storage du t", out: "/t/d"},
		{args: "storage du t -s", out: "27 B"},
		{args: "storage touch t/new t/one"},
		{args: "storage mv t/new t/d", out: ""},
		{args: "storage mv t/d/new other:/x", refused: "two file systems", status: 1},
		{args: "storage mv t/one t/piped -n", refused: "file exists", status: 1},
		{args: "storage mv t/one t/two"},
		{args: "storage rmdir t/d", refused: "rm -r", status: 1},
		{args: "storage rmdir z"},
		{args: "storage download -r /t @back", out: "5 sent"},
		{args: "storage download /t/none @back", refused: "storage ls", status: 1},
		{args: "storage sync @tree @back", refused: "write it as FILESYSTEM:/PATH", status: 1},
		{args: "storage sync :/t @back --delete --dry-run", errs: "send a (another time)", out: "dry run"},
		{args: "storage sync :/t @back --delete", out: "sent"},
		{args: "storage sync :/t @back --delete", out: "5 the same"},
		{args: "storage sync @back default:/copy -v --parallel 2", errs: "send two (new)", out: "5 sent"},
		{args: "storage rm /t", refused: "rm -r", status: 1},
		{args: "storage rm -r /t", errs: "All that is in /t is removed", refused: "nothing was changed", status: 1},
		{args: "storage rm -r /t --yes"},
		{args: "storage rm -r /t --yes", refused: "/t", status: 1},
		{args: "storage rm copy/a"},
		{args: "storage ls", out: "copy/\nw/\nx/\n"},
		{args: "fs list", out: "default"}, // of who is logged in and has no cluster here
		{args: "workspace set default --off rsync", out: "rsync"},
		{args: "storage upload @one /copy/two --rsync", refused: "rsync is switched off", status: 1},
		{args: "__complete storage ls /c", out: "/copy/"},
		{args: "__complete storage cat copy/t", out: "copy/two"},
		{args: "logout --name other", out: "stays good"},
		{args: "logout", out: "stays good"},
		{args: "logout", refused: "you are not logged in", status: 1},
		{args: "storage ls", refused: "nobody serves", status: 1},
	} {
		args := strings.Fields(x.args)
		for i, a := range args {
			if name, ok := strings.CutPrefix(a, "@"); ok {
				args[i] = here(name)
			}
		}
		a := c.alone(x.stdin, args...)
		if !strings.Contains(a.out, x.out) || !strings.Contains(a.errs, x.errs) {
			t.Errorf("%s printed\n%s\nand on standard error\n%s\nwant %q and %q", x.args, a.out, a.errs, x.out, x.errs)
		}
		if (x.refused == "") != (a.err == nil) || a.err != nil && !strings.Contains(a.err.Error(), x.refused) || exitStatus(a.err, false) != x.status {
			t.Errorf("%s: %v, want %q and status %d", x.args, a.err, x.refused, x.status)
		}
		if strings.Contains(a.out+a.errs, token) || a.err != nil && strings.Contains(a.err.Error(), token) {
			t.Errorf("%s shows the token", x.args)
		}
	}
	if b, err := os.ReadFile(here("back/d/b")); err != nil || string(b) != "b" {
		t.Errorf("%q %v", b, err)
	}
	for _, args := range [][]string{{"upload", here("one"), ""}, {"ls", ""}, {"rm", "-r", "--yes", ""}, {"mv", "/copy", ""}} {
		if a := c.alone("", append(append([]string{"storage"}, args...), "--socket", c.socket)...); vfs.KindOf(a.err) != vfs.KindBadName {
			t.Errorf("%q: %v", args, a.err)
		}
	}
	// What cannot be on a command line cannot be in a path either.
	for arg, kind := range map[string]vfs.Kind{"/a\x00b": vfs.KindBadName, "/" + strings.Repeat("n", 256): vfs.KindNameTooLong, "/../x": vfs.KindBadName, "/a//b": vfs.KindBadName} {
		for _, command := range []string{"ls", "mkdir", "touch", "rm", "cat", "stat"} {
			if a := c.alone("", "storage", command, arg, "--socket", c.socket); vfs.KindOf(a.err) != kind {
				t.Errorf("%s %.20q: %v", command, arg, a.err)
			}
		}
	}
	// Programs have no file.
	t.Setenv(login.EnvURL, url)
	t.Setenv(login.EnvCA, ca)
	t.Setenv(login.EnvTokenFile, here("token"))
	if a := c.alone("", "storage", "ls"); a.err != nil || !strings.Contains(a.out, "copy/") {
		t.Errorf("by the environment: %+v", a)
	}
	t.Setenv(login.EnvTokenFile, "")
	t.Setenv(login.EnvToken, "rackfs_wrong")
	if a := c.alone("", "storage", "ls"); vfs.KindOf(a.err) != vfs.KindUnauthorized {
		t.Errorf("with another token: %+v", a)
	}
	if s := exitStatus(errors.New("x"), true); s != 130 {
		t.Errorf("interrupted: %d", s)
	}
}

// What a directory that may not be read hides is told, and all else is found.
func TestUnreadable(t *testing.T) {
	c := newCLI(t)
	ownHome(t)
	k := api.Dial(c.socket)
	defer k.Close()
	tree, closed := k.Tree("", "default"), "0700"
	for _, dir := range []string{"/a/open", "/a/shut/x"} {
		if _, err := tree.Mkdir(t.Context(), dir, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tree.Change(t.Context(), "/a/shut", api.FileChange{Mode: &closed}); err != nil {
		t.Fatal(err)
	}
	made, err := k.CreateAccessToken(t.Context(), api.NewAccessToken{Name: "u", Role: "viewer", UID: 1000, GID: 1000})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(login.EnvURL, "https://127.0.0.1:"+c.cluster.APIURL()[strings.LastIndexByte(c.cluster.APIURL(), ':')+1:])
	t.Setenv(login.EnvCA, c.cluster.CAFingerprint())
	t.Setenv(login.EnvToken, made.Secret)
	for command, out := range map[string]string{"find": "/a/open", "du": "/a"} {
		a := c.alone("", "storage", command, "/")
		if exitStatus(a.err, false) != 3 || !strings.Contains(a.out, out) || !strings.Contains(a.errs, "/a/shut") || strings.Contains(a.out+a.errs, "/a/shut/x") {
			t.Errorf("%s: %+v", command, a)
		}
		if a := c.alone("", "storage", command, "/a/shut"); exitStatus(a.err, false) != 1 || vfs.KindOf(a.err) != vfs.KindAccess {
			t.Errorf("%s of what may not be read: %+v", command, a)
		}
	}
}

// A word that is no command fails: a script that asks "may I stop this node" must not take help for a yes.
func TestUnknownCommands(t *testing.T) {
	c := &cli{t: t}
	var groups func(cmd *cobra.Command) [][]string
	groups = func(cmd *cobra.Command) (out [][]string) {
		if cmd.HasSubCommands() {
			out = append(out, strings.Fields(cmd.CommandPath())[1:])
		}
		for _, sub := range cmd.Commands() {
			out = append(out, groups(sub)...)
		}
		return out
	}
	all := groups(newRootCommand())
	if len(all) < 8 {
		t.Fatalf("%v", all)
	}
	for _, g := range all {
		if a := c.alone("", append(g, "nonsense")...); a.err == nil || !strings.Contains(a.err.Error(), "nonsense") {
			t.Errorf("%v nonsense: %+v", g, a)
		}
		if a := c.alone("", append(g, "--help")...); a.err != nil || !strings.Contains(a.out, "Usage:") {
			t.Errorf("%v --help: %+v", g, a)
		}
	}
	if a := c.alone("", "cluster"); a.err != nil || !strings.Contains(a.out, "can-stop") {
		t.Errorf("cluster: %+v", a)
	}
}

// Questions end with the command's context, which a signal ends; standard input may take its time to begin.
func TestWaitingForInput(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { _, err := typed(ctx, r, true); done <- err }()
	go func() { _, err := begun(ctx, r); done <- err }()
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	late, w2 := io.Pipe()
	go func() {
		time.Sleep(50 * time.Millisecond)
		_, _ = w2.Write([]byte("late"))
		w2.Close()
	}()
	in, err := begun(t.Context(), late)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(in); err != nil || string(b) != "late" {
		t.Errorf("%q, %v", b, err)
	}
	if in, err = begun(t.Context(), strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(in); err != nil || len(b) != 0 {
		t.Errorf("of nothing: %q, %v", b, err)
	}
}

// Who names a login means it, also where a cluster is: by a flag or by the environment.
func TestNamedLogin(t *testing.T) {
	c := newCLI(t)
	ownHome(t)
	if err := errors.Join(os.Mkdir(devData, 0o700), os.Symlink(c.socket, filepath.Join(devData, api.SocketName))); err != nil {
		t.Fatal(err)
	}
	if a := c.alone("", "fs", "list"); a.err != nil || !strings.Contains(a.out, "default") {
		t.Errorf("of this machine: %+v", a)
	}
	if a := c.alone("", "fs", "list", "--login", "lab"); a.err == nil || !strings.Contains(a.err.Error(), "lab") {
		t.Errorf("by a login that is not there: %+v", a)
	}
	t.Setenv(login.EnvProfile, "lab")
	if a := c.alone("", "fs", "list"); a.err == nil || !strings.Contains(a.err.Error(), "lab") {
		t.Errorf("by a login that is not there, of the environment: %+v", a)
	}
	if a := c.alone("", "fs", "list", "--socket", c.socket); a.err != nil {
		t.Errorf("by a socket: %+v", a)
	}
}

// Listings of files are JSON for programs, with names as they are.
func TestStorageJSON(t *testing.T) {
	c := newCLI(t)
	ownHome(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "odd\xff"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		line, keys string
	}{
		{"storage upload -r " + dir + " /j", "sent_files sent_bytes resumed_bytes same_files failed refused"},
		{"storage ls /j", "name escaped type mode uid gid size mtime etag"},
		{"storage stat /j", "name type mode inode"},
		{"storage find /j --type f", "path name escaped"},
		{"storage du /j", "path files directories bytes used"},
		{"storage mv /j /k", "name"},
		{"storage sync :/k " + dir + " --dry-run", "dry_run"},
		{"storage download -r /k " + dir, "sent_files"},
	} {
		a := c.alone("", append(strings.Fields(x.line), "--json", "--socket", c.socket)...)
		var v any
		d := json.NewDecoder(strings.NewReader(a.out))
		if err := d.Decode(&v); err != nil || d.More() || a.err != nil {
			t.Errorf("%s: %v %v\n%s", x.line, a.err, err, a.out)
			continue
		}
		if all, ok := v.([]any); ok && len(all) > 0 {
			v = all[0]
		}
		o, _ := v.(map[string]any)
		for _, k := range strings.Fields(x.keys) {
			if _, ok := o[k]; !ok {
				t.Errorf("%s has no %s: %s", x.line, k, a.out)
			}
		}
	}
	if a := c.alone("", "login", "--show", "--json"); strings.TrimSpace(a.out) != "[]" {
		t.Errorf("nobody is logged in: %+v", a)
	}
}

// There is a manual page for every command, and the same release writes the same.
func TestManual(t *testing.T) {
	c := &cli{t: t}
	var pages [2]map[string]string
	for i := range pages {
		dir := t.TempDir()
		if a := c.alone("", "man", dir); a.err != nil {
			t.Fatal(a.err)
		}
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		pages[i] = map[string]string{}
		for _, e := range list {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			pages[i][e.Name()] = string(b)
		}
	}
	for name, page := range pages[0] {
		if pages[1][name] != page {
			t.Errorf("%s is another one each time", name)
		}
	}
	if page := pages[0]["rackfs-storage-sync.1"]; !strings.Contains(page, "--delete") {
		t.Errorf("the page of sync: %.200q", page)
	}
}
