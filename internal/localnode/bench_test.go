package localnode_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"golang.org/x/sync/errgroup"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/localnode"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// BenchmarkLocal compares, in one directory and one run, a local volume through our NFS export with Debian's nfs-ganesha (package nfs-ganesha-vfs, left out if it is
// not installed) and with the plain directory. Servers are processes of their own, so that their CPU is theirs: us-server/op.
// TMPDIR chooses the disk. The client is the same for both servers and is not the kernel's.
//
// Ganesha answers before a change of names is on the disk, and so does a plain directory; ours syncs it, unless told otherwise (rackfs-lazy).
// So create-stat-unlink of rackfs-lazy compares with ganesha, and that of rackfs with ganesha-dirsync, whose directory the kernel syncs. An operation of create-stat-unlink-by-16 is 16 of them at once.
func BenchmarkLocal(b *testing.B) {
	for _, s := range []struct {
		name  string
		serve func(b *testing.B, dir string) (addr string, pid int)
	}{{"plain", nil}, {"rackfs", serveOurs}, {"rackfs-lazy", serveLazy}, {"ganesha", serveGanesha}, {"ganesha-dirsync", serveGaneshaDirsync}} {
		b.Run(s.name, func(b *testing.B) {
			if os.Geteuid() != 0 {
				b.Skip("serves as other users, so it needs root")
			}
			dir := b.TempDir()
			if s.serve == nil {
				benchPlain(b, dir)
				return
			}
			addr, pid := s.serve(b, dir)
			benchServer(b, addr, pid)
		})
	}
}

const (
	benchFile   = 256 << 20 // bytes that are written and read in pieces of 1 MiB
	benchExport = "/scratch"
	envServe    = "RACKFS_BENCH_SERVE"
	envLazy     = "RACKFS_BENCH_LAZY"    // local.lazy_names
	envProfile  = "RACKFS_BENCH_PROFILE" // a file for the CPU profile of our server
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envServe); dir != "" {
		benchServe(dir)
		return
	}
	os.Exit(m.Run())
}

// benchServe is the process that serves.
func benchServe(dir string) {
	s, err := localnode.Start(context.Background(), localnode.Config{
		Dir: dir, Node: "n", Cluster: cluster, Interval: time.Hour, LazyNames: os.Getenv(envLazy) != "",
		Own:   func() ([]netip.Addr, error) { return nil, nil },
		Group: func() (string, bool) { return "g", true },
		List: func(context.Context, uint64) (*metapb.FileSystemsR, error) {
			return &metapb.FileSystemsR{FileSystems: []*metapb.FileSystem{local(3, strings.Trim(benchExport, "/"), "g")}}, nil
		},
	})
	if err == nil {
		err = s.Refresh(context.Background())
	}
	var ln net.Listener
	if err == nil {
		ln, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if path := os.Getenv(envProfile); path != "" {
		out, err := os.Create(path)
		if err == nil {
			err = pprof.StartCPUProfile(out)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until who started it is gone
		pprof.StopCPUProfile()
		os.Exit(0)
	}()
	_ = s.Serve(ln)
}

func serveOurs(b *testing.B, dir string) (string, int) { return serveProcess(b, dir) }

func serveLazy(b *testing.B, dir string) (string, int) { return serveProcess(b, dir, envLazy+"=1") }

func serveProcess(b *testing.B, dir string, env ...string) (string, int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), envServe+"="+filepath.Join(dir, "local")), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line), cmd.Process.Pid
}

func serveGanesha(b *testing.B, dir string) (string, int) {
	return serveGaneshaIn(b, dir, ganeshaDir(b, dir))
}

// serveGaneshaDirsync has the kernel sync each change of names (chattr +D).
func serveGaneshaDirsync(b *testing.B, dir string) (string, int) {
	data := ganeshaDir(b, dir)
	if out, err := exec.Command("chattr", "+D", data).CombinedOutput(); err != nil {
		b.Skipf("chattr: %v: %s", err, out)
	}
	return serveGaneshaIn(b, dir, data)
}

func ganeshaDir(b *testing.B, dir string) string {
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o777); err != nil {
		b.Fatal(err)
	}
	if err := os.Chmod(data, 0o777); err != nil {
		b.Fatal(err)
	}
	return data
}

func serveGaneshaIn(b *testing.B, dir, data string) (string, int) {
	binary, err := exec.LookPath("ganesha.nfsd")
	if err != nil {
		b.Skip("install nfs-ganesha-vfs to compare with it")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	conf := filepath.Join(dir, "ganesha.conf")
	text := fmt.Sprintf(`
NFS_CORE_PARAM { Protocols = 4; NFS_Port = %d; Bind_addr = 127.0.0.1; Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; }
NFSv4 { Minor_Versions = 1, 2; Only_Numeric_Owners = true; Delegations = false; Graceless = true; }
EXPORT { Export_Id = 1; Path = %s; Pseudo = %s; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 4; Transports = TCP; FSAL { Name = VFS; } }
LOG { Default_Log_Level = EVENT; }
`, port, data, benchExport)
	for _, err := range []error{os.WriteFile(conf, []byte(text), 0o644), os.MkdirAll("/run/ganesha", 0o755), os.MkdirAll("/var/lib/nfs/ganesha", 0o755)} {
		if err != nil {
			b.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "-F", "-f", conf, "-L", filepath.Join(dir, "log"), "-p", filepath.Join(dir, "pid"))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return fmt.Sprintf("127.0.0.1:%d", port), cmd.Process.Pid
}

// cpu is the time that a process has used.
func cpu(b *testing.B, pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	ticks := 0
	for _, s := range f[11:13] { // utime, stime
		n, _ := strconv.Atoi(s)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func benchServer(b *testing.B, addr string, pid int) {
	ctx := context.Background()
	var c *nfsclient.Client
	var dir nfsclient.FH
	for give := time.Now().Add(hangs); ; time.Sleep(100 * time.Millisecond) {
		var err error
		if c, err = nfsclient.Dial(ctx, nfsclient.Config{Addr: addr, Owner: "bench", Minor: 2, Patient: true, Cred: vfs.Cred{UID: 1000, GID: 1000}}); err == nil {
			if dir, _, err = c.Walk(ctx, benchExport); err == nil {
				break
			}
			c.Disconnect()
		}
		if time.Now().After(give) {
			b.Fatal(err)
		}
	}
	defer c.Disconnect()
	must := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	measured := func(name string, bytes int64, op func(i int)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(bytes)
			before, n := cpu(b, pid), 0
			for b.Loop() {
				op(n)
				n++
			}
			b.ReportMetric(float64((cpu(b, pid)-before).Microseconds())/float64(n), "us-server/op")
		})
	}
	f, err := c.Create(ctx, dir, "large", 0o644)
	must(err)
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(rand.Uint32())
	}
	at := func(i, size int) uint64 { return uint64(i) * uint64(size) % benchFile }
	measured("write-1MiB", 1<<20, func(i int) {
		_, err := c.Write(ctx, f, at(i, 1<<20), nfsv4.UNSTABLE4, block)
		must(err)
		if (i+1)%64 == 0 {
			_, err := c.Commit(ctx, f.FH, 0, 0)
			must(err)
		}
	})
	for i := range benchFile >> 20 {
		_, err := c.Write(ctx, f, at(i, 1<<20), nfsv4.UNSTABLE4, block)
		must(err)
	}
	_, err = c.Commit(ctx, f.FH, 0, 0)
	must(err)
	measured("read-1MiB", 1<<20, func(i int) {
		_, _, err := c.Read(ctx, f, at(i, 1<<20), block)
		must(err)
	})
	measured("random-write-4KiB-fsync", 4<<10, func(int) {
		_, err := c.Write(ctx, f, uint64(rand.IntN(benchFile>>12))<<12, nfsv4.FILE_SYNC4, block[:4<<10])
		must(err)
	})
	three := func(name string) error {
		f, err := c.Create(ctx, dir, name, 0o644)
		if err != nil {
			return err
		}
		if err := c.CloseFile(ctx, f); err != nil {
			return err
		}
		if _, err = c.Getattr(ctx, f.FH); err != nil {
			return err
		}
		return c.Remove(ctx, dir, name)
	}
	measured("create-stat-unlink", 0, func(i int) { must(three(fmt.Sprint("f", i))) })
	measured("create-stat-unlink-by-16", 0, func(i int) {
		var all errgroup.Group
		for k := range 16 {
			all.Go(func() error { return three(fmt.Sprint("f", i, "-", k)) })
		}
		must(all.Wait())
	})
	measured("stat", 0, func(int) {
		_, err := c.Getattr(ctx, f.FH)
		must(err)
	})
}

func benchPlain(b *testing.B, dir string) {
	f, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	must := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	measured := func(name string, bytes int64, op func(i int)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(bytes)
			n := 0
			for b.Loop() {
				op(n)
				n++
			}
		})
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(rand.Uint32())
	}
	at := func(i, size int) int64 { return int64(i) * int64(size) % benchFile }
	measured("write-1MiB", 1<<20, func(i int) {
		_, err := f.WriteAt(block, at(i, 1<<20))
		must(err)
		if (i+1)%64 == 0 {
			must(f.Sync())
		}
	})
	for i := range benchFile >> 20 {
		_, err := f.WriteAt(block, at(i, 1<<20))
		must(err)
	}
	must(f.Sync())
	measured("read-1MiB", 1<<20, func(i int) {
		_, err := f.ReadAt(block, at(i, 1<<20))
		must(err)
	})
	measured("random-write-4KiB-fsync", 4<<10, func(int) {
		_, err := f.WriteAt(block[:4<<10], rand.Int64N(benchFile>>12)<<12)
		must(err)
		must(f.Sync())
	})
	measured("create-stat-unlink", 0, func(i int) {
		path := filepath.Join(dir, fmt.Sprint("f", i))
		g, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
		must(err)
		must(g.Close())
		_, err = os.Stat(path)
		must(err)
		must(os.Remove(path))
	})
	measured("stat", 0, func(int) {
		_, err := os.Stat(f.Name())
		must(err)
	})
}
