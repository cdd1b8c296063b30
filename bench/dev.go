package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	devExport     = "/default"
	devFileSystem = "default/default"
	devReady      = "rackfs ready"
	// devStart bounds the start of a cluster, devStop its end.
	devStart = 5 * time.Minute
	devStop  = time.Minute
)

// devCluster is a `rackfs dev` that runs as a process of its own, so that its CPU is its own.
type devCluster struct {
	cmd               *exec.Cmd
	nfs, api, metrics string
	tokenFile         string
}

// startDev starts a cluster in dir, which is made if it is not there.
func startDev(ctx context.Context, binary, dir string, flags []string) (*devCluster, error) {
	const op = "bench.dev"
	ports, err := freePorts(3)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	addr := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	d := &devCluster{nfs: addr(0), metrics: "http://" + addr(1) + "/metrics", api: "http://" + addr(2), tokenFile: filepath.Join(dir, "api-token")}
	// A signal that ends this process is for it to pass on: what runs is ended by stop.
	d.cmd = exec.Command(binary, append([]string{"dev", "--data", dir, "--nfs", addr(0), "--http", addr(1), "--api", addr(2)}, flags...)...)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	d.cmd.Stderr = os.Stderr
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	if err := d.cmd.Start(); err != nil {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "start %s: %w", binary, err)
	}
	ready := make(chan bool, 1)
	go func() { // ends with the process, whose output it reads
		in := bufio.NewScanner(out)
		for in.Scan() && in.Text() != devReady {
		}
		ready <- in.Text() == devReady
		_, _ = io.Copy(io.Discard, out)
	}()
	bound := time.NewTimer(devStart)
	defer bound.Stop()
	select {
	case ok := <-ready:
		if ok {
			return d, nil
		}
		err = vfs.Errorf(vfs.KindUnavailable, op, "`%s` ended before it served; it said why above", strings.Join(d.cmd.Args, " "))
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-bound.C:
		err = vfs.Errorf(vfs.KindUnavailable, op, "`%s` did not serve within %v", strings.Join(d.cmd.Args, " "), devStart)
	}
	_ = d.stop(context.WithoutCancel(ctx)) // the reason is err
	return nil, err
}

// stop ends the cluster and waits for it.
func (d *devCluster) stop(ctx context.Context) error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		_ = d.cmd.Wait()
		return vfs.Errorf(vfs.KindUnavailable, "bench.dev", "the cluster has ended while it was measured: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- d.cmd.Wait() }()
	bound := time.NewTimer(devStop)
	defer bound.Stop()
	select {
	case err := <-done:
		return vfs.Wrap("bench.dev", err)
	case <-bound.C:
	case <-ctx.Done():
	}
	_ = d.cmd.Process.Kill()
	return vfs.Wrap("bench.dev", <-done)
}

// freePorts are ports that nobody listens on now.
func freePorts(n int) (ports []int, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
