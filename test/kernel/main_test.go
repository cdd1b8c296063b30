//go:build linux

package kernel

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/test/binary"
	"github.com/rackfs/rackfs/test/journal"
	"github.com/rackfs/rackfs/test/posix"
)

func TestMain(m *testing.M) {
	kclient.Main(suite{m}, kclient.Programs{"posix": posix.Main, "push": push, "journal": journal.Main, "leave-files": leaveFiles, "find-files": findFiles, "metadata": metadata, "quota": quota, "local-quota": localQuota, "fill-directory": fillDirectory, "list-directory": listDirectory})
}

// suite builds the server once, before the tests.
type suite struct{ m *testing.M }

// envServer names the server under test; the suite sets envBinary for the tests.
const (
	envServer = "RACKFS_TEST_SERVER"
	envSeed   = "RACKFS_TEST_SEED"
	// envExactlyOnce makes the writers strict (test/journal).
	envExactlyOnce = "RACKFS_TEST_EXACTLY_ONCE"
	envBinary      = "RACKFS_TEST_BINARY"
)

func (s suite) Run() int {
	if os.Getenv(envServer) != "" || os.Getenv(envBinary) != "" {
		return s.m.Run()
	}
	dir, err := os.MkdirTemp("", "rackfs-kernel-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	path, err := binary.Build(dir)
	if err == nil {
		err = os.Setenv(envBinary, path)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return s.m.Run()
}

const (
	nfsPort       = 2049
	readyDeadline = 150 * time.Second // beyond the server's own patience, to see what it says
	mountpoint    = "/mnt/fs"
	freshMount    = "/mnt/fresh"
)

// server says how to run the server under test.
type server struct {
	args   func(t testing.TB, data, addr string) []string
	lease  func(time.Duration) []string // arguments for another lease than the default
	ready  string                       // in a line of its output
	export string
	// state are folders besides its data that it writes; inside a guest they are put on its disk.
	state []string
	// diskFlags are added to those of the disk's mount, for a server that does not sync itself.
	diskFlags uintptr
}

// serverUnderTest is rackfs dev unless the environment says otherwise.
func serverUnderTest(t testing.TB) server {
	t.Helper()
	switch name := os.Getenv(envServer); name {
	case "":
		if err := binary.Started(os.Getenv(envBinary)); err != nil {
			t.Fatal(err)
		}
		return server{
			args: func(_ testing.TB, data, addr string) []string {
				return []string{os.Getenv(envBinary), "dev", "--data", data, "--nfs", fmt.Sprintf("%s:%d", addr, nfsPort), "--allow", "10.77.0.0/24"}
			},
			lease: func(d time.Duration) []string { return []string{"--lease", d.String()} },
			ready: "rackfs ready", export: "/default",
		}
	case "ganesha":
		return server{args: ganeshaArgs, lease: func(time.Duration) []string { return nil }, ready: "NFS SERVER INITIALIZED", export: "/default", state: []string{"/var/lib/nfs"}, diskFlags: unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC}
	default:
		t.Fatalf("%s=%s: unknown server", envServer, name)
		return server{}
	}
}

// ganeshaArgs writes a configuration that exports the data directory as /default.
func ganeshaArgs(t testing.TB, data, addr string) []string { return ganeshaOn(t, data, addr, nfsPort) }

func ganeshaOn(t testing.TB, data, addr string, port int) []string {
	conf := filepath.Join(t.TempDir(), "ganesha.conf")
	text := fmt.Sprintf(`
NFS_CORE_PARAM { Protocols = 4; NFS_Port = %d; Bind_addr = %s; Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; }
NFSv4 { Minor_Versions = 1, 2; Lease_Lifetime = 10; Grace_Period = 5; Only_Numeric_Owners = true; Delegations = false; }
EXPORT { Export_Id = 1; Path = %s; Pseudo = /default; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 4; Transports = TCP; Attr_Expiration_Time = 0; FSAL { Name = VFS; } }
LOG { Default_Log_Level = EVENT; }
`, port, addr, data)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	script := "mkdir -p /var/lib/nfs/ganesha /run/ganesha " + data + "; exec ganesha.nfsd -F -f " + conf + " -L /dev/stdout -p /run/ganesha/" + filepath.Base(t.TempDir()) + ".pid"
	return []string{"sh", "-c", script}
}

// start runs the server on the host, inside the network, and waits until it serves.
func (s server) start(t testing.TB, n *kclient.Net, data string, extra ...string) *kclient.Proc {
	t.Helper()
	p := n.Start(t, kclient.Process{Args: append(s.args(t, data, n.Addr()), extra...), Name: "server"})
	p.WaitOutput(t, s.ready, readyDeadline)
	return p
}

// mount is how the guests mount the server's export.
func (s server) mount(addr, target, version string, options ...string) kclient.Mount {
	return kclient.NFS(addr, nfsPort, s.export, target, version, options...)
}

// long says whether the larger numbers are wanted.
func long() bool { return os.Getenv("RACKFS_TEST_LONG") == "1" }

// newSeed is the run's seed, printed so that a failure can be repeated.
func newSeed(t *testing.T) (uint64, *rand.Rand) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(envSeed); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", envSeed, err)
		}
	}
	t.Logf("%s=%d", envSeed, seed)
	return seed, rand.New(rand.NewPCG(seed, 1))
}

// lines hands each whole line of a program's output to a function.
type lines struct {
	mu   sync.Mutex
	part string            // protected by mu
	each func(line string) // called with mu held
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part += string(b)
	for {
		line, rest, ok := strings.Cut(l.part, "\n")
		if !ok {
			return len(b), nil
		}
		l.part = rest
		l.each(line)
	}
}

var _ io.Writer = (*lines)(nil)
