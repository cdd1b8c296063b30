//go:build linux

package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// written runs a writer on a local directory until it has acknowledged some hundred changes.
func written(t *testing.T) (dir, journal string) {
	t.Helper()
	old := unix.Umask(0)
	t.Cleanup(func() { unix.Umask(old) })
	dir, journal = t.TempDir(), filepath.Join(t.TempDir(), "journal")
	in, commands := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Write(WriterOptions{Dir: dir, Journal: journal, Seed: 7, Workers: 3, LargeMiB: 1}, in, out)
		out.Close()
	}()
	lines := bufio.NewScanner(answers)
	expect := func(prefix string) string {
		t.Helper()
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), prefix) {
			t.Fatalf("writer says %q, want %q", lines.Text(), prefix)
		}
		return lines.Text()
	}
	fmt.Fprintln(commands, "alarm 500")
	fmt.Fprintln(commands, "resume")
	expect("alarm")
	fmt.Fprintln(commands, "pause")
	var acked, repeats int
	if _, err := fmt.Sscanf(expect("paused"), "paused %d %d", &acked, &repeats); err != nil || acked < 500 || repeats != 0 {
		t.Fatalf("paused after %d acknowledgements, %d repeated, %v", acked, repeats, err)
	}
	if differences, n, err := Verify(dir, journal); err != nil || len(differences) > 0 || n != acked {
		t.Fatalf("while paused: %d records, %v, %v", n, differences, err)
	}
	var m Measured
	fmt.Fprintln(commands, "mark")
	if line := expect("times "); json.Unmarshal([]byte(line[len("times "):]), &m) != nil || m.All.N != acked || m.Of["write, fsync"].N == 0 || m.All.P50 <= 0 || m.All.P99 > m.All.Longest {
		t.Errorf("after %d acknowledgements: %+v", acked, m)
	}
	fmt.Fprintln(commands, "alarm 100")
	fmt.Fprintln(commands, "resume")
	expect("alarm")
	fmt.Fprintln(commands, "quit")
	expect("paused")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return dir, journal
}

func TestVerifyAcceptsWhatWasWritten(t *testing.T) {
	dir, journal := written(t)
	differences, n, err := Verify(dir, journal)
	if err != nil || len(differences) > 0 || n < 600 {
		t.Fatalf("%d records, differences %v, %v", n, differences, err)
	}
	models, _, err := Replay(journal)
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{opCreate, opMkdir, opSymlink, opLink, opRename, opUnlink, opRmdir, opChmod, opTruncate, opWrite} {
		used[op] = strings.Contains(string(b), `"op":"`+op+`"`)
		if !used[op] {
			t.Errorf("600 changes without a %s", op)
		}
	}
	if len(models) != 3 || len(models[0].names) < 5 {
		t.Fatalf("%d models, %d names: too little to verify", len(models), len(models[0].names))
	}
}

// TestVerifyNoticesEveryLoss undoes one thing at a time.
func TestVerifyNoticesEveryLoss(t *testing.T) {
	dir, journal := written(t)
	models, _, err := Replay(journal)
	if err != nil {
		t.Fatal(err)
	}
	root := workerDir(dir, 0)
	find := func(kind string, ok func(*node) bool) string {
		for _, name := range models[0].list(kind) {
			if ok(models[0].names[name]) {
				return filepath.Join(root, name)
			}
		}
		t.Fatalf("no name of kind %s to spoil", kind)
		return ""
	}
	file := find("f", func(n *node) bool { return len(n.data) > 100 && n.links == 1 })
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	restore := func() error {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return err
		}
		return unix.Chmod(file, st.Mode&0o7777)
	}
	link := find("l", func(*node) bool { return true })
	target, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what        string
		spoil, mend func() error
	}{
		{"one byte", func() error {
			b := append([]byte(nil), content...)
			b[len(b)/2] ^= 1
			return os.WriteFile(file, b, 0)
		}, restore},
		{"the last byte", func() error { return os.Truncate(file, int64(len(content)-1)) }, restore},
		{"zeros behind the end", func() error { return os.Truncate(file, int64(len(content)+1)) }, restore},
		{"a name", func() error { return os.Remove(file) }, restore},
		{"a name that came back", func() error { return os.WriteFile(file+"-old", nil, 0o600) }, func() error { return os.Remove(file + "-old") }},
		{"a mode", func() error { return unix.Chmod(file, st.Mode&0o7777^0o1) }, restore},
		{"a link", func() error { return os.Link(file, filepath.Join(dir, "extra")) }, func() error { return os.Remove(filepath.Join(dir, "extra")) }},
		{"a symlink's target", func() error { _ = os.Remove(link); return os.Symlink("other", link) }, func() error { _ = os.Remove(link); return os.Symlink(target, link) }},
	} {
		if err := c.spoil(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if differences, _, err := Verify(dir, journal); err != nil || len(differences) == 0 {
			t.Errorf("%s: not noticed (%v)", c.what, err)
		}
		if err := c.mend(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if differences, _, err := Verify(dir, journal); err != nil || len(differences) != 0 {
			t.Fatalf("%s: after mending %v, %v", c.what, differences, err)
		}
	}
}

func TestReplayRefusesABrokenJournal(t *testing.T) {
	for what, content := range map[string]string{
		"empty":        "",
		"no header":    "x\n",
		"gap":          `{"seed":1,"workers":1}` + "\n" + `{"w":0,"n":2,"op":"mkdir","p":"a"}` + "\n",
		"worker":       `{"seed":1,"workers":1}` + "\n" + `{"w":1,"n":1,"op":"mkdir","p":"a"}` + "\n",
		"contradicted": `{"seed":1,"workers":1}` + "\n" + `{"w":0,"n":1,"op":"unlink","p":"a"}` + "\n",
		"unknown":      `{"seed":1,"workers":1}` + "\n" + `{"w":0,"n":1,"op":"dance","p":"a"}` + "\n",
	} {
		p := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Replay(p); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestRepeatedCalls: only a call that a crash fell into may be answered as already done, and only when that is allowed.
func TestRepeatedCalls(t *testing.T) {
	for _, c := range []struct {
		what    string
		op      string
		err     error
		crash   bool
		strict  bool
		allowed bool
	}{
		{"mkdir across a crash", opMkdir, unix.EEXIST, true, false, true},
		{"rename across a crash", opRename, unix.ENOENT, true, false, true},
		{"mkdir without a crash", opMkdir, unix.EEXIST, false, false, false},
		{"mkdir across a crash, exactly once", opMkdir, unix.EEXIST, true, true, false},
		{"write across a crash", opWrite, unix.EIO, true, false, false},
		{"unlink that finds a directory", opUnlink, unix.EISDIR, true, false, false},
	} {
		w := &writer{o: WriterOptions{ExactlyOnce: c.strict}, buf: bufio.NewWriter(io.Discard), times: NewTimes(time.Now())}
		w.changed = sync.NewCond(&w.mu)
		crashes, ok := w.enter()
		if !ok {
			t.Fatal("not let in")
		}
		if c.crash {
			w.crashes++
		}
		if err := w.leave(Record{Op: c.op}, crashes, time.Now(), c.err); (err == nil) != c.allowed {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// The server may crash while a worker makes its directory, and the client then repeats the call.
func TestDirectoryOfAWorkerRepeated(t *testing.T) {
	for _, c := range []struct {
		crashes     int // when the answer comes; none had happened before
		exactlyOnce bool
		ok          bool
	}{{1, false, true}, {1, true, false}, {0, false, false}} {
		w := &writer{o: WriterOptions{ExactlyOnce: c.exactlyOnce}, busy: 1, crashes: c.crashes}
		w.changed = sync.NewCond(&w.mu)
		k := &worker{w: w, dir: t.TempDir()} // it exists already
		err := k.makeDir(0)
		if c.ok && (err != nil || w.repeats != 1 || w.busy != 1) {
			t.Errorf("%+v: %v, %d repeats, %d busy", c, err, w.repeats, w.busy)
		}
		if !c.ok && (!errors.Is(err, unix.EEXIST) || w.repeats != 0 || w.busy != 0) {
			t.Errorf("%+v: %v, %d repeats, %d busy", c, err, w.repeats, w.busy)
		}
	}
}

// Times are those between two marks, by kind.
func TestTimes(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	x := NewTimes(at(0))
	for i := 1; i <= 200; i++ {
		x.Answered("a", time.Duration(i)*time.Millisecond, at(10*i))
	}
	x.Answered("b", time.Second, at(3000))
	m := x.Mark(at(3500))
	a := Spread{N: 200, P50: 101 * time.Millisecond, P99: 199 * time.Millisecond, Longest: 200 * time.Millisecond}
	if m.Of["a"] != a || m.None != time.Second || m.Slowest != "b" || m.All.N != 201 || m.All.Longest != time.Second {
		t.Errorf("%+v", m)
	}
	if m := x.Mark(at(5000)); m.All.N != 0 || m.None != 2*time.Second {
		t.Errorf("nothing since: %+v", m)
	}
}
