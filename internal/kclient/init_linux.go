package kclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Programs are the functions of a test binary that can run as processes inside a guest. Each gets its arguments and
// returns its exit status.
type Programs map[string]func(args []string) int

const (
	envInit    = "RACKFS_GUEST"         // path of the bootConfig, on the kernel's command line
	envProgram = "RACKFS_GUEST_PROGRAM" // name in Programs of the function to run
	serialLine = "/dev/ttyS0"
	guestHome  = "/run/home"
	guestTmp   = "/run/tmp"
	guestPath  = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// outputGrace is how long a program's output is still read after the program itself ended.
	outputGrace = 2 * time.Second
)

// bootConfig tells a guest's init what to set up; the harness writes it as a file that the guest reads through hostfs.
type bootConfig struct {
	Hostname string
	Address  string // with prefix length
	Modules  string // folder of the kernel's modules
	Load     []string
	Writable []string // host folders to mount writable
	Sysctl   map[string]string
}

// Main is the body of TestMain for a package that uses guests. In the test process it runs the tests (m is the
// *testing.M, or what runs it); as the init of a guest it serves the harness; as a guest's program it runs that program.
// It does not return.
func Main(m interface{ Run() int }, programs Programs) {
	if name := os.Getenv(envProgram); name != "" {
		run, ok := programs[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "kclient: the test binary has no program %q\n", name)
			os.Exit(127)
		}
		os.Exit(run(os.Args[1:]))
	}
	if path := os.Getenv(envInit); path != "" && os.Getpid() == 1 {
		guestInit(path)
	}
	os.Exit(m.Run())
}

// guestInit is process 1 of a guest. Whatever goes wrong is reported over the serial line when it is there, and on the
// console always; the guest then powers off, as there is nobody to repair it.
func guestInit(configPath string) {
	err := func() error {
		if err := os.Setenv("PATH", guestPath); err != nil { // the kernel gives init none that has ip in it
			return err
		}
		if err := mountBasics(); err != nil {
			return err
		}
		line, err := openSerial()
		if err != nil {
			return err
		}
		s := &guestServer{out: &lineWriter{w: line}, running: map[uint64]*guestProcess{}}
		boot := event{Verb: "boot"}
		if err := s.setUp(configPath); err != nil {
			boot.Err = err.Error()
		}
		if err := s.out.send(boot); err != nil {
			return err
		}
		go s.beat()
		return readLines(&ackReader{line, s.out}, s.serve, func([]byte) {})
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kclient init:", err)
	}
	powerOff()
}

// beat says regularly that the guest is alive: that its kernel has timers, runs programs and moves bytes. It ends with the guest.
func (s *guestServer) beat() {
	for range time.Tick(beatEvery) {
		if err := s.out.send(event{Verb: "beat"}); err != nil {
			return
		}
	}
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // process 1 must not exit: that is a kernel panic
}

func mountBasics() error {
	for _, m := range []Mount{
		{Type: "proc", Source: "proc", Target: "/proc"},
		{Type: "sysfs", Source: "sysfs", Target: "/sys"},
		{Type: "devtmpfs", Source: "dev", Target: "/dev"},
		{Type: "tmpfs", Source: "run", Target: "/run"},
		{Type: "tmpfs", Source: "mnt", Target: "/mnt"},
		{Type: "tmpfs", Source: "tmp", Target: "/var/tmp"},
		{Type: "tmpfs", Source: "shm", Target: "/dev/shm"},
	} {
		if err := m.mount(); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return errors.Join(os.MkdirAll(guestHome, 0o755), os.MkdirAll(guestTmp, 0o1777), os.Chmod(guestTmp, 0o1777|os.ModeSticky))
}

// openSerial opens the control line as a transparent byte stream.
func openSerial() (*os.File, error) {
	f, err := os.OpenFile(serialLine, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	tio, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", serialLine, err)
	}
	tio.Iflag, tio.Oflag, tio.Lflag = 0, 0, 0
	tio.Cc[unix.VMIN], tio.Cc[unix.VTIME] = 1, 0
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, tio)
}

// guestServer executes the harness's requests.
type guestServer struct {
	out     *lineWriter
	modules string

	mu      sync.Mutex
	running map[uint64]*guestProcess // protected by mu
}

type guestProcess struct {
	cmd   *exec.Cmd
	input chan []byte   // to its standard input, which an empty slice closes
	ended chan struct{} // closed after its end
}

// inputQueue is how many pieces of input wait for a program that does not read before the harness itself waits.
const inputQueue = 1024

// feed writes the program's standard input, so that a program that does not read cannot hold up other requests.
func (p *guestProcess) feed(stdin io.WriteCloser) {
	for {
		select {
		case b := <-p.input:
			if len(b) == 0 {
				_ = stdin.Close()
				continue
			}
			_, _ = stdin.Write(b) // a program may close its input
		case <-p.ended:
			return
		}
	}
}

func (s *guestServer) setUp(configPath string) error {
	b, err := os.ReadFile(configPath)
	if err != nil {
		return err
	}
	var c bootConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("%s: %w", configPath, err)
	}
	s.modules = c.Modules
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return err
	}
	for _, dir := range c.Writable {
		m := Mount{Type: "hostfs", Source: "none", Target: dir, Data: dir}
		if err := m.mount(); err != nil {
			return err
		}
	}
	for k, v := range c.Sysctl {
		if err := os.WriteFile(filepath.Join("/proc/sys", strings.ReplaceAll(k, ".", "/")), []byte(v), 0); err != nil {
			return err
		}
	}
	ip := exec.Command("ip", "-batch", "-")
	ip.Stdin = strings.NewReader("link set lo up\naddr add " + c.Address + " dev vec0\nlink set vec0 up\n")
	if out, err := ip.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	return s.load(c.Load)
}

// load inserts modules with their dependencies. The kernel's own modprobe upcalls would look in /lib/modules, which the
// host need not have, so everything a test needs is loaded by name beforehand.
func (s *guestServer) load(names []string) error {
	if len(names) == 0 {
		return nil
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	if release := unix.ByteSliceToString(u.Release[:]); release != filepath.Base(s.modules) {
		return fmt.Errorf("the kernel is %s but its modules are %s; reinstall user-mode-linux", release, s.modules)
	}
	dep, err := os.ReadFile(filepath.Join(s.modules, "modules.dep"))
	if err != nil {
		return err
	}
	for _, name := range names {
		files, err := moduleFiles(dep, name)
		if err != nil {
			return err
		}
		for _, file := range files {
			if err := insertModule(filepath.Join(s.modules, file)); err != nil {
				return err
			}
		}
	}
	return nil
}

// moduleFiles lists the files to insert for a module, dependencies first.
func moduleFiles(dep []byte, name string) ([]string, error) {
	sc := bufio.NewScanner(bytes.NewReader(dep))
	for sc.Scan() {
		file, deps, ok := strings.Cut(sc.Text(), ":")
		if !ok || strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_") != strings.ReplaceAll(name, "-", "_") {
			continue
		}
		var files []string
		fields := strings.Fields(deps)
		for i := len(fields) - 1; i >= 0; i-- { // listed nearest first
			files = append(files, fields[i])
		}
		return append(files, file), nil
	}
	return nil, fmt.Errorf("this kernel has no module %s", name)
}

func insertModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", filepath.Base(path), err)
	}
	return nil
}

// serve handles one request; whatever can block does so in a goroutine, so that a hung mount never blocks a signal.
func (s *guestServer) serve(r *request) {
	switch r.Verb {
	case "run":
		// Registered before the next request is read, so that its stdin and signals find it.
		p, err := s.start(r)
		if err != nil {
			s.done(r.ID, 127, err)
			return
		}
		go s.wait(r.ID, p)
	case "stdin", "eof", "signal":
		s.mu.Lock()
		p := s.running[r.ID]
		s.mu.Unlock()
		switch {
		case p == nil: // it ended while the request was under way
		case r.Verb == "stdin" && len(r.Data) == 0:
		case r.Verb == "stdin" || r.Verb == "eof":
			select {
			case p.input <- r.Data:
			case <-p.ended:
			}
		default: // each program leads its own process group
			_ = unix.Kill(-p.cmd.Process.Pid, unix.Signal(r.Signal))
		}
	case "mount":
		go func() { s.done(r.ID, 0, r.Mount.mount()) }()
	case "umount":
		go func() { s.done(r.ID, 0, unmount(r.Args[0])) }()
	case "load":
		go func() { s.done(r.ID, 0, s.load(r.Args)) }()
	case "halt":
		powerOff()
	default:
		s.done(r.ID, 0, fmt.Errorf("unknown request %q", r.Verb))
	}
}

func (s *guestServer) done(id uint64, code int, err error) {
	e := event{ID: id, Verb: "done", Code: code}
	if err != nil {
		e.Err = err.Error()
	}
	_ = s.out.send(e) // a harness that is gone needs no answer
}

func (s *guestServer) start(r *request) (*guestProcess, error) {
	if len(r.Args) == 0 {
		return nil, errors.New("run without arguments")
	}
	// A guest's processes get an environment of their own: the host's belongs to the host.
	cmd := exec.CommandContext(context.Background(), r.Args[0], r.Args[1:]...)
	cmd.Env = append([]string{"PATH=" + guestPath, "HOME=" + guestHome, "TMPDIR=" + guestTmp}, r.Env...)
	cmd.Dir = r.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout = &eventWriter{s.out, r.ID, "out"}
	cmd.Stderr = &eventWriter{s.out, r.ID, "err"}
	cmd.WaitDelay = outputGrace // a grandchild may keep the output open, as git's housekeeping does
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &guestProcess{cmd: cmd, input: make(chan []byte, inputQueue), ended: make(chan struct{})}
	go p.feed(stdin)
	s.mu.Lock()
	s.running[r.ID] = p
	s.mu.Unlock()
	return p, nil
}

func (s *guestServer) wait(id uint64, p *guestProcess) {
	err := p.cmd.Wait()
	close(p.ended)
	s.mu.Lock()
	delete(s.running, id)
	s.mu.Unlock()
	code := p.cmd.ProcessState.ExitCode()
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the status says it
	}
	s.done(id, code, err)
}

// eventWriter turns a program's output into events.
type eventWriter struct {
	out  *lineWriter
	id   uint64
	verb string
}

func (w *eventWriter) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(len(rest), outputChunkBytes)
		if err := w.out.send(event{ID: w.id, Verb: w.verb, Data: rest[:n]}); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(b), nil
}
