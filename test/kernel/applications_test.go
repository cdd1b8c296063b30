//go:build linux

package kernel

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/test/posix"
)

const (
	databaseMount  = "/mnt/database"
	databaseFile   = databaseMount + "/database"
	repository     = mountpoint + "/repository.git"
	mailbox        = mountpoint + "/mail"
	sqliteBusyMs   = 300_000 // how long SQLite tries to get a lock; it only ends a test that hangs
	sqliteSpillRow = 4000    // bytes of a row of which some fill SQLite's cache, so that it writes to the file before the end of the transaction
)

// sqlite runs SQL on one machine and returns what it printed.
func (c client) sqlite(sql string) string {
	c.t.Helper()
	return strings.TrimSpace(c.sh(fmt.Sprintf("sqlite3 -bail -cmd '.timeout %d' %s %q", sqliteBusyMs, databaseFile, sql)))
}

// database has all machines write to one SQLite database, with its rollback journal, n transactions each; and one process of a machine is killed in a transaction of which
// a part is in the file already, which the next one, on another machine, has to undo. All that was committed is there, nothing else, and the database is whole.
//
// The database is below databaseMount, mounted with lookupcache=positive: otherwise a machine takes it from its cache, for half a minute, that there is no journal of a process that was killed.
func (all clients) database(t *testing.T, n int) {
	a, b := all["a"], all["b"]
	a.sqlite("PRAGMA journal_mode=DELETE; CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES(0); CREATE TABLE entry(who TEXT, i INTEGER, n INTEGER UNIQUE, filler TEXT, UNIQUE(who, i)); CREATE INDEX filled ON entry(filler);")

	dir := t.TempDir()
	outs := all.together(t, fmt.Sprintf("%d transactions", n), func(name string) kclient.Cmd {
		var sql bytes.Buffer
		fmt.Fprintf(&sql, ".log stderr\n.timeout %d\n", sqliteBusyMs)
		for i := range n {
			end := "COMMIT; SELECT 'committed', " + strconv.Itoa(i) + ";"
			if i%5 == 4 { // undone by itself, and then done
				fmt.Fprintf(&sql, "BEGIN IMMEDIATE; UPDATE counter SET n = n + 100; DELETE FROM entry WHERE i %% 3 = 0; ROLLBACK;\n")
			}
			fmt.Fprintf(&sql, "BEGIN IMMEDIATE; UPDATE counter SET n = n + 1; INSERT INTO entry SELECT '%s', %d, n, hex(randomblob(%d)) FROM counter; %s\n", name, i, 10+i*37%1500, end)
		}
		script := filepath.Join(dir, name+".sql")
		if err := os.WriteFile(script, sql.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return kclient.Command("sqlite3", "-bail", databaseFile, ".read "+script)
	})
	for name, out := range outs {
		if got := strings.Count(out, "committed|"); got != n {
			t.Fatalf("%s committed %d transactions of %d", name, got, n)
		}
	}
	check := func(c client) {
		t.Helper()
		want := fmt.Sprintf("ok\n%d\n%d|%d|%d\na|%d\nb|%d", 2*n, 2*n, 1, 2*n, n, n)
		if got := c.sqlite("PRAGMA integrity_check; SELECT n FROM counter; SELECT count(*), min(n), max(n) FROM entry; SELECT who, count(DISTINCT i) FROM entry GROUP BY who ORDER BY who;"); got != want {
			t.Errorf("the database says %q, want %q", got, want)
		}
	}
	check(a)
	check(b)

	// Killed while a part of the transaction is in the file, and the journal says how to undo it.
	half := kclient.Command("sqlite3", "-bail", databaseFile)
	said := make(chan string, 8)
	half.Stdout = &lines{each: func(line string) { said <- line }}
	task := a.g.Start(t, half)
	fmt.Fprintf(task, ".timeout %d\nPRAGMA cache_size=4; BEGIN IMMEDIATE; UPDATE counter SET n = -1; DELETE FROM entry WHERE who = 'b'; INSERT INTO entry SELECT 'z', i, -i, hex(randomblob(%d)) FROM entry; SELECT 'written';\n", sqliteBusyMs, sqliteSpillRow)
	select {
	case s := <-said:
		if s != "written" {
			t.Fatal(s)
		}
	case <-task.Ended():
		t.Fatal("sqlite3 ended")
	case <-time.After(twoClientsDeadline):
		t.Fatal("a transaction does not end")
	}
	if a.sh("test -s "+databaseFile+"-journal && echo journal || true") == "" {
		t.Fatal("the transaction has no journal")
	}
	if err := task.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-task.Ended()
	check(b)
	check(a)
}

// pushes has all machines push n commits each to one branch of a bare repository, and each of these to a branch of its own. Every commit of which a push was acknowledged is there, and the repository is whole.
func (all clients) pushes(t *testing.T, n int) {
	a, b := all["a"], all["b"]
	git := "export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@y GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@y; "
	a.sh(git + "git init -q --bare -b main " + repository + " && cd " + repository + " && git config receive.fsckObjects true && git config core.fsync all && git update-ref refs/heads/main $(git commit-tree -m begin $(git mktree </dev/null))")
	outs := all.together(t, fmt.Sprintf("%d pushes", n), func(name string) kclient.Cmd {
		return kclient.Program("push", "-name", name, "-n", strconv.Itoa(n))
	})
	if t.Failed() {
		return
	}
	for _, c := range []client{b, a} {
		inMain := strings.Fields(c.sh("git --git-dir=" + repository + " rev-list main"))
		if len(inMain) != 2*n+1 {
			t.Errorf("%d commits are in the branch, want %d", len(inMain), 2*n+1)
		}
		there := map[string]bool{}
		for _, id := range inMain {
			there[id] = true
		}
		for name, out := range outs {
			ids := strings.Fields(out)
			if len(ids) != n {
				t.Errorf("%s pushed %d commits, want %d", name, len(ids), n)
			}
			for _, id := range ids {
				if !there[id] {
					t.Errorf("commit %s of %s was acknowledged and is not in the branch", id, name)
				}
			}
		}
		if got, want := strings.TrimSpace(c.sh("git --git-dir="+repository+" for-each-ref refs/heads/own | wc -l")), strconv.Itoa(2*n); got != want {
			t.Errorf("%s branches, want %s", got, want)
		}
		if out := c.sh("git --git-dir=" + repository + " fsck --full --strict --no-dangling 2>&1"); strings.TrimSpace(out) != "" {
			t.Errorf("git fsck: %s", out)
		}
	}
}

// push is a program of a guest: it pushes commits to a branch that others push to, too, and prints which were acknowledged.
func push(args []string) int {
	f := flag.NewFlagSet("push", flag.ContinueOnError)
	name := f.String("name", "", "of this machine")
	n := f.Int("n", 1, "commits")
	if f.Parse(args) != nil {
		return 2
	}
	if err := pushAll(*name, *n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func pushAll(name string, n int) error {
	dir, err := os.MkdirTemp("", "clone")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	git := func(stdin string, args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		var out, bad bytes.Buffer
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, strings.NewReader(stdin), &out, &bad
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x@y", "GIT_COMMITTER_NAME=x", "GIT_COMMITTER_EMAIL=x@y")
		if err := cmd.Run(); err != nil {
			return bad.String(), fmt.Errorf("git %s: %w: %s", args[0], err, bad.String())
		}
		return strings.TrimSpace(out.String()), nil
	}
	if _, err := git("", "init", "-q", "-b", "main", "."); err != nil {
		return err
	}
	for i := range n {
		blob, err := git(strings.Repeat(fmt.Sprintf("%s %d\n", name, i), 1+i*311%5000), "hash-object", "-w", "--stdin")
		if err != nil {
			return err
		}
		tree, err := git("100644 blob "+blob+"\tfile\n", "mktree")
		if err != nil {
			return err
		}
		for {
			if _, err := git("", "fetch", "-q", repository, "main"); err != nil {
				return err
			}
			commit, err := git("", "commit-tree", tree, "-p", "FETCH_HEAD", "-m", fmt.Sprintf("%s %d", name, i))
			if err != nil {
				return err
			}
			said, err := git("", "push", "-q", "--atomic", repository, commit+":refs/heads/main", fmt.Sprintf("%s:refs/heads/own/%s-%d", commit, name, i))
			if err == nil {
				fmt.Println(commit)
				break
			}
			// Another one's push came between, and nothing else.
			if !strings.Contains(said, "fetch first") && !strings.Contains(said, "non-fast-forward") && !strings.Contains(said, "cannot lock ref") && !strings.Contains(said, "failed to update ref") {
				return err
			}
		}
	}
	return nil
}

// mail has all machines deliver n messages each into one maildir and fetch from it: each message is fetched once, and whole.
func (all clients) mail(t *testing.T, n int) {
	a, b := all["a"], all["b"]
	a.g.MustRun(t, time.Minute, kclient.Program("posix", "maildir", "-begin", "-dir", mailbox))
	outs := all.together(t, fmt.Sprintf("%d messages", n), func(name string) kclient.Cmd {
		return kclient.Program("posix", "maildir", "-dir", mailbox, "-name", name, "-n", strconv.Itoa(n), "-of", strconv.Itoa(len(all)))
	})
	if t.Failed() {
		return
	}
	fetched, err := posix.Mail(outs)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("fetched: %v", fetched)
	for _, c := range []client{a, b} {
		if got, want := c.sh("cd mail; ls -A tmp | wc -l; ls -A new | wc -l; ls -A cur | wc -l"), fmt.Sprintf("0\n0\n%d\n", 2*n); got != want {
			t.Errorf("in tmp, new and cur: %q, want %q", got, want)
		}
	}
}
