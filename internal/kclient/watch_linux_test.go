package kclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestOrdered(t *testing.T) {
	address := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	before := join([]byte{0x85, 0xdb, 0x74, 0x7b, 0x48, 0xb9}, address, []byte{0x31, 0xd2})
	wrong := join(before, []byte{0x89, 0x10, 0x48, 0xb8}, address, []byte{0x89, 0x11, 0xff, 0xd0})
	right := join(before, []byte{0x89, 0x11, 0x89, 0x10, 0x48, 0xb8}, address, []byte{0xff, 0xd0})
	rest := bytes.Repeat([]byte{0x31, 0xd2, 0x89, 0x10, 0x48, 0xb8}, 5)
	for _, c := range []struct {
		name        string
		image, want []byte // want is nil where nothing is changed
	}{
		{"none", rest, nil},
		{"empty", nil, nil},
		{"one", join(rest, wrong, rest), join(rest, right, rest)},
		{"at the end", join(rest, wrong), join(rest, right)},
		{"cut off", join(rest, wrong[:len(wrong)-1]), nil},
		{"begins too late", wrong[1:], nil},
		{"two", join(wrong, wrong), nil},
		{"in order", join(rest, right), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			given := bytes.Clone(c.image)
			got, ok := ordered(c.image)
			if ok != (c.want != nil) || ok && !bytes.Equal(got, c.want) || !ok && !bytes.Equal(got, given) {
				t.Fatalf("%v\n% x\nwant\n% x", ok, got, c.want)
			}
			if !bytes.Equal(c.image, given) {
				t.Fatal("changed what it was given")
			}
		})
	}
}

// The installed kernel is one whose stores are put in order, or another one, which runs as it is.
func TestKernelIsOrdered(t *testing.T) {
	Require(t)
	path, err := exec.LookPath("linux.uml")
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := ordered(image); !ok {
		t.Skipf("%s is not the build whose stores are known to be in the wrong order; see whether its unblock_signals is right (ordered)", path)
	}
}

// A kernel that stands still is found, diagnosed and ended, and whoever waits for it is told; the test gets another one. It is not done for a living one.
func TestStandingKernel(t *testing.T) {
	Require(t)
	n := NewNet(t)
	runs := 0
	AgainIfHangs(t, func(t testing.TB) {
		runs++
		g := n.Boot(t, Guest{})
		k := g.Start(t, Program("sleep"))
		k.WaitOutput(t, "asleep", testDeadline)
		if runs == 2 {
			return
		}
		g.life.hangsAfter.Store(3)
		if err := g.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		_, err := k.Wait(context.Background())
		if !errors.Is(err, ErrGuestHangs) || errors.Is(err, ErrGuestGone) {
			t.Errorf("a program in it: %v", err)
			return
		}
		if text := g.notes.tail(); !strings.Contains(text, "hangs") || !strings.Contains(text, "linux.uml T") || !strings.Contains(text, "ShdPnd") {
			t.Errorf("its diagnosis:\n%s", text)
		}
		g.MustRun(t, testDeadline, Program("echo"))
	})
	if runs != 2 {
		t.Fatalf("%d runs", runs)
	}
}

// A kernel that goes on when it is sent the signals is one that lives.
func TestWokenKernel(t *testing.T) {
	Require(t)
	g := NewNet(t).Boot(t, Guest{})
	g.life.wakeAfter.Store(1)
	if err := g.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for g.life.woken.Load() < 2 {
		time.Sleep(watchEvery / 10)
	}
	g.life.wakeAfter.Store(wakeAfter)
	if err := g.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := g.notes.wait("silent at", testDeadline, g.ended); err != nil {
		t.Fatal(err)
	}
	if g.life.hangs.Load() {
		t.Fatal("it is taken for one that hangs")
	}
	g.MustRun(t, testDeadline, Command("true"))
}

// A program that hangs in the mount of a dead server is no kernel that hangs.
func TestLivingKernel(t *testing.T) {
	Require(t)
	n := NewNet(t)
	var l net.Listener
	if err := n.Do(func() (err error) {
		l, err = net.Listen("tcp", n.Addr()+":2049")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := n.Boot(t, Guest{})
	ctx, cancel := context.WithCancel(context.Background())
	mounted := make(chan error, 1)
	go func() { mounted <- g.TryMount(ctx, NFS(n.Addr(), 2049, "/", "/mnt/none", "4.2")) }()
	c, err := l.Accept() // and never answer
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // as many beats as would have to be missing
		for heard := g.life.heard.Load(); g.life.heard.Load() < heard+3; {
			time.Sleep(beatEvery / 10)
		}
	}
	if g.life.hangs.Load() || !g.Alive() {
		t.Fatal("it is taken for one that hangs")
	}
	cancel()
	if err := <-mounted; !errors.Is(err, context.Canceled) {
		t.Fatalf("the mount: %v", err)
	}
}

// The signals that wake a kernel mean nothing to one that has lost none, whatever it is doing.
func TestSpuriousSignals(t *testing.T) {
	Require(t)
	g := NewNet(t).Boot(t, Guest{})
	const pairs = 2000
	sum := sha256.New()
	c := Program("flood")
	c.Stdout = sum
	k := g.Start(t, c)
	for range pairs {
		for _, s := range []syscall.Signal{syscall.SIGALRM, syscall.SIGIO} {
			if err := g.cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(200 * time.Microsecond) // so that they are not merged
	}
	ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
	defer cancel()
	want := sha256.Sum256(floodBytes())
	if code, err := k.Wait(ctx); err != nil || code != 0 || !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Fatalf("status %d, %v, output as it should be: %v", code, err, bytes.Equal(sum.Sum(nil), want[:]))
	}
	g.Shutdown(t)
}
