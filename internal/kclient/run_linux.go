package kclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"
)

// Cmd is a program to run inside a guest.
type Cmd struct {
	Args   []string
	Env    []string // added to the guest's environment, which is not the host's
	Dir    string
	Stdout io.Writer // default: the test's log
	Stderr io.Writer // default: the test's log

	program string // instead of Args[0]: a function of the test binary
}

// Command is an executable of the host.
func Command(name string, args ...string) Cmd {
	return Cmd{Args: append([]string{name}, args...)}
}

// Program is a function of the test binary, registered in Main.
func Program(name string, args ...string) Cmd {
	return Cmd{Args: append([]string{"/proc/self/exe"}, args...), Env: []string{envProgram + "=" + name}, program: name}
}

func (c Cmd) name() string {
	if c.program != "" {
		return c.program
	}
	return baseName(c.Args[0])
}

// killGrace is how long a program that was killed at its deadline may take to end; one that hangs in a dead server's
// mount does not end at all.
const killGrace = 5 * time.Second

// Task is a program that runs inside a guest.
type Task struct {
	guest *Running
	id    uint64
	name  string
	log   *logTail
	ended chan struct{}
	done  event // valid after ended; Verb is empty when the guest went away
}

// Start runs a program without waiting for it.
func (r *Running) Start(t testing.TB, c Cmd) *Task {
	t.Helper()
	k, err := r.start(t, c)
	if err != nil {
		t.Fatalf("kclient: %v", err)
	}
	return k
}

func (r *Running) start(t testing.TB, c Cmd) (*Task, error) {
	k := &Task{guest: r, name: c.name(), log: newLogTail(t, r.name+" "+c.name()), ended: make(chan struct{})}
	sink := func(w io.Writer) func([]byte) {
		if w == nil {
			w = k.log
		}
		return func(b []byte) { _, _ = w.Write(b) } // the test's own writer; its errors are its business
	}
	id, wait, err := r.begin(request{Verb: "run", Args: c.Args, Env: c.Env, Dir: c.Dir}, sink(c.Stdout), sink(c.Stderr))
	if err != nil {
		return nil, err
	}
	k.id = id
	go func() { // ends with the program or the guest, and every guest ends with its test
		defer close(k.ended)
		if e, ok := <-wait.done; ok {
			k.done = e
		}
	}()
	return k, nil
}

// Wait returns the program's exit status, 128+signal for one that died of a signal. When ctx ends before, the program is
// killed and the error is that of ctx.
func (k *Task) Wait(ctx context.Context) (int, error) {
	select {
	case <-k.ended:
	case <-ctx.Done():
		_ = k.Signal(syscall.SIGKILL)
		select {
		case <-k.ended:
		case <-time.After(killGrace):
		}
		return 0, fmt.Errorf("%s in %s: %w", k.name, k.guest.name, ctx.Err())
	}
	switch {
	case k.done.Verb == "":
		return 0, fmt.Errorf("%s in %w", k.name, k.guest.gone())
	case k.done.Err != "":
		return 0, fmt.Errorf("%s in %s: %w", k.name, k.guest.name, errors.New(k.done.Err))
	}
	return k.done.Code, nil
}

// Ended is closed when the program or its guest has ended.
func (k *Task) Ended() <-chan struct{} { return k.ended }

// Signal sends a signal to the program's process group.
func (k *Task) Signal(sig syscall.Signal) error {
	return k.guest.out.send(request{ID: k.id, Verb: "signal", Signal: int(sig)})
}

// Write sends bytes to the program's standard input.
func (k *Task) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(len(rest), outputChunkBytes)
		if err := k.guest.out.send(request{ID: k.id, Verb: "stdin", Data: rest[:n]}); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(b), nil
}

// CloseInput ends the program's standard input.
func (k *Task) CloseInput() error {
	return k.guest.out.send(request{ID: k.id, Verb: "eof"})
}

// WaitOutput is Proc.WaitOutput for what the program prints to the default log.
func (k *Task) WaitOutput(t testing.TB, text string, deadline time.Duration) string {
	t.Helper()
	line, err := k.log.wait(text, deadline, k.ended)
	if err != nil {
		if k.guest.life.hangs.Load() {
			t.Fatalf("kclient: %s in %v", k.name, k.guest.gone())
		}
		t.Fatalf("kclient: %s in %s: %v", k.name, k.guest.name, err)
	}
	return line
}

// Run runs a program to its end and returns its exit status.
func (r *Running) Run(ctx context.Context, t testing.TB, c Cmd) (int, error) {
	t.Helper()
	k, err := r.start(t, c)
	if err != nil {
		return 0, err
	}
	return k.Wait(ctx)
}

// MustRun runs a program that has to succeed within the deadline.
func (r *Running) MustRun(t testing.TB, deadline time.Duration, c Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if code, err := r.Run(ctx, t, c); err != nil || code != 0 {
		t.Fatalf("kclient: %s in %s: status %d, %v", c.name(), r.name, code, err)
	}
}

// ProgramEnv is the environment variable with which the test binary, run on the host, is the named program.
func ProgramEnv(name string) string { return envProgram + "=" + name }
