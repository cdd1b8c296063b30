//go:build linux

package keep

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/test/journal"
)

const envMain = "RACKFS_TEST_KEEP"

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// program is one of both, as a process of its own: locks are those of processes.
type program struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func start(t *testing.T, what, dir string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command("/proc/self/exe", what, "-cached", "-dir", dir)}
	p.cmd.Env = append(os.Environ(), envMain+"=1")
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has ended if all went well
		_ = p.cmd.Wait()
	})
	return p
}

// says fails unless that is how the program's next line begins.
func (p *program) says(want string) string {
	p.t.Helper()
	if !p.out.Scan() || !strings.HasPrefix(p.out.Text(), want) {
		p.t.Fatalf("it says %q, want %q", p.out.Text(), want)
	}
	return p.out.Text()
}

func (p *program) tell(line string) { fmt.Fprintln(p.in, line) }

func TestBoth(t *testing.T) {
	dir := t.TempDir()
	h := start(t, "hold", dir)
	h.says("ready")
	p := start(t, "probe", dir)
	p.says("ready")
	for _, x := range []*program{h, p} {
		x.tell("alarm 5")
		x.says("alarm")
		x.tell("mark")
		var m journal.Measured
		if line := x.says("times "); json.Unmarshal([]byte(line[len("times "):]), &m) != nil || m.All.N < 25 {
			t.Errorf("measured %+v", m)
		}
	}
	for _, x := range []*program{p, h} {
		x.tell("quit")
		x.says("ended ")
	}
}

// Each thing that is lost ends a program with an error.
func TestLossIsNoticed(t *testing.T) {
	for what, x := range map[string]struct {
		at    string
		spoil func(dir string) error
		says  string
	}{
		"a name that was made by an earlier attempt": {"hold", func(dir string) error {
			var err error
			for i := range 1000 {
				if f, e := os.OpenFile(filepath.Join(dir, scratchDir, fmt.Sprintf("made-%d", i)), os.O_CREATE|os.O_EXCL, 0o644); e == nil {
					err = f.Close()
				}
			}
			return err
		}, "file exists"},
		"a name that was renamed by an earlier attempt": {"hold", func(dir string) error { return os.Rename(filepath.Join(dir, scratchDir), filepath.Join(dir, "other")) }, "no such file"},
		"a write": {"hold", func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, openFile), os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt(record(1<<40), 0)
				err = errors.Join(err, f.Close())
			}
			return err
		}, "read 512 bytes"},
		"locks": {"probe", nil, "free"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			h := start(t, "hold", dir)
			h.says("ready")
			p := start(t, "probe", dir)
			p.says("ready")
			p.tell("alarm 3")
			p.says("alarm")
			at := map[string]*program{"hold": h, "probe": p}[x.at]
			if x.spoil == nil {
				h.tell("quit")
				h.says("ended ")
			} else {
				noticed, ended := make(chan struct{}), make(chan struct{})
				go func() { // until it is noticed: the holder writes the same file
					defer close(ended)
					for x.spoil(dir) == nil {
						select {
						case <-noticed:
							return
						default:
						}
					}
				}()
				defer func() {
					close(noticed)
					<-ended
				}()
			}
			if line := at.says("error: "); !strings.Contains(line, x.says) {
				t.Errorf("%q, want %q", line, x.says)
			}
		})
	}
}

// What is read is whole, and not older than what was read before.
func TestOlderIsNoticed(t *testing.T) {
	dir := t.TempDir()
	read := func(p *prober, b []byte) error {
		if err := os.WriteFile(filepath.Join(dir, openFile), b, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(dir, openFile))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p.open = f
		return p.read()
	}
	p := new(prober)
	for i, x := range []struct {
		b  []byte
		ok bool
	}{{record(5), true}, {record(5), true}, {record(7), true}, {record(6), false}, {record(8)[:100], false}, {append(record(8), 0), false}, {append(record(8)[:300], record(9)[300:]...), false}, {record(8), true}} {
		if err := read(p, x.b); (err == nil) != x.ok {
			t.Errorf("step %d: %v", i, err)
		}
	}
}
