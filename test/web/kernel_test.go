//go:build linux

package web

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/internal/kclient"
)

func TestMain(m *testing.M) {
	kclient.Main(m, kclient.Programs{"write-noise": writeNoise, "check-noise": checkNoise})
}

const (
	kernelMount = "/mnt/default"
	nfsPort     = 2049
)

// writeNoise is a program of the guest: it writes noise of a size and a seed to a file.
func writeNoise(args []string) int {
	return noiseProgram(args, func(path string, want []byte) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		_, err = f.Write(want)
		return errors.Join(err, f.Sync(), f.Close())
	})
}

// checkNoise is a program of the guest: it fails unless a file has noise of a size and a seed.
func checkNoise(args []string) int {
	return noiseProgram(args, func(path string, want []byte) error {
		got, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%s has %d bytes that are not the %d that are wanted", path, len(got), len(want))
		}
		return err
	})
}

func noiseProgram(args []string, do func(path string, data []byte) error) int {
	size, err := strconv.Atoi(args[1])
	seed, err2 := strconv.ParseUint(args[2], 10, 64)
	if err = errors.Join(err, err2); err == nil {
		err = do(args[0], noise(size, seed))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// kernel is a guest with a kernel of its own, which boots while the browser is at work.
type kernel struct {
	net    *kclient.Net
	booted func(testing.TB) *kclient.Running
}

// bootKernel begins to boot a guest that reaches the cluster's NFS port; it returns nil where guests cannot run.
func bootKernel(t *testing.T, r *rig) *kernel {
	if kclient.Available() != nil {
		return nil // the step says why
	}
	k := &kernel{net: kclient.NewNet(t)}
	relay(t, k.net, r.c.NFSAddr())
	k.booted = k.net.Booting(t, kclient.Guest{Name: "dashboard", MemoryMiB: 384})
	return k
}

// relay passes connections to the NFS port of a network on to an address of this machine, for the cluster is in this process and has no sockets in there.
func relay(t *testing.T, n *kclient.Net, to string) {
	t.Helper()
	var ln net.Listener
	err := n.Do(func() (err error) {
		ln, err = net.Listen("tcp", fmt.Sprintf("%s:%d", n.Addr(), nfsPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	open, closed := map[net.Conn]bool{}, false
	// keep has a connection closed at the end, or now if that has come.
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		if open[c] = true; closed {
			c.Close()
		}
	}
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // an end that breaks is the other's end, too
		to.Close()
		from.Close()
	}
	all.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			keep(in)
			keep(out)
			all.Go(func() { pass(out, in) })
			all.Go(func() { pass(in, out) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		closed = true
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}

// kernelAndBrowser has the client of a Linux kernel and the page show each other what they do.
func kernelAndBrowser(t *testing.T, r *rig, k *kernel) {
	kclient.Require(t)
	p, g := r.tab, k.booted(t)
	g.Mount(t, kclient.NFS(k.net.Addr(), nfsPort, "/default", kernelMount, "4.2"))
	const size, dir = 3<<20 + 123, kernelMount + "/from the kernel"
	write := func(name string, seed uint64) {
		t.Helper()
		g.MustRun(t, hang, kclient.Program("write-noise", dir+"/"+name, fmt.Sprint(size), fmt.Sprint(seed)))
	}
	check := func(name string, seed uint64) {
		t.Helper()
		g.MustRun(t, hang, kclient.Program("check-noise", dir+"/"+name, fmt.Sprint(size), fmt.Sprint(seed)))
	}

	// What the kernel makes is in the page that is open, and is downloaded as it was written.
	p.visit(t, "/files/default/default")
	p.until(t, "document.querySelector('"+test("status")+"')?.dataset.done === 'true'")
	g.MustRun(t, hang, kclient.Command("mkdir", dir))
	p.seeRow(t, "from the kernel")
	p.click(t, row("from the kernel")+"?.querySelector('button.cell')")
	p.see(t, "This folder is empty.")
	write("kernel.bin", 21)
	p.seeRow(t, "kernel.bin")
	download := func(name string, seed uint64) {
		t.Helper()
		p.click(t, row(name)+"?.querySelector('.num')")
		p.clickOn(t, "download")
		if got := p.downloaded(t, name); !bytes.Equal(got, noise(size, seed)) {
			t.Errorf("%s: %d bytes were downloaded that are not what the kernel wrote", name, len(got))
		}
	}
	download("kernel.bin", 21)

	// What the browser uploads, the kernel reads, also when it is uploaded again in place of what the kernel has read.
	local := filepath.Join(t.TempDir(), "browser.bin")
	upload := func(seed uint64) {
		t.Helper()
		if err := os.WriteFile(local, noise(size, seed), 0o644); err != nil {
			t.Fatal(err)
		}
		p.choose(t, test("input-files"), local)
	}
	upload(22)
	p.seeRow(t, "browser.bin")
	p.see(t, "1 file uploaded")
	p.click(t, "document.querySelector('[aria-label=\"Clear finished uploads\"]')")
	check("browser.bin", 22)
	upload(23)
	p.see(t, "There is one of this name already.")
	p.clickText(t, "Replace")
	p.see(t, "1 file uploaded")
	p.click(t, "document.querySelector('[aria-label=\"Clear finished uploads\"]')")
	check("browser.bin", 23)
	p.shot(t, "kernel")

	// And the other way round: the kernel writes over what came from the browser, which renames what came from the kernel.
	write("browser.bin", 24)
	p.visit(t, "/files/default/default?path=/from%20the%20kernel")
	p.seeRow(t, "browser.bin")
	download("browser.bin", 24)
	p.click(t, row("kernel.bin")+"?.querySelector('.num')")
	p.clickOn(t, "rename")
	p.typeIn(t, test("name"), "renamed.bin")
	p.clickOn(t, "submit")
	p.seeRow(t, "renamed.bin")
	check("renamed.bin", 21)
	g.MustRun(t, hang, kclient.Command("rm", dir+"/renamed.bin"))
	p.noRow(t, "renamed.bin")

	g.Unmount(t, kernelMount)
	g.Kill(t)
}
