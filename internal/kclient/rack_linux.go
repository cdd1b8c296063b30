package kclient

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	// peerNamespace is how a command of ipBatchWith names the namespace it was given: its first file after the standard ones.
	peerNamespace = "/proc/self/fd/3"
	hostInterface = "eth0"
	// innerInterface of hosts that have it is in a network of their own, innerNetwork.
	innerInterface = "eth1"
	innerNetwork   = "10.78.0."
	// nowhere is a hardware address that nobody has. What is sent to it, the bridge gives to all, and all drop it.
	nowhere = "02:00:00:00:00:00"

	// Network6 is how addresses of hosts that have IPv6 begin, and Prefix6Bits the length of their network.
	Network6    = "fd00:77::"
	Prefix6Bits = 64

	firstHost = 20 // last bytes of the addresses of hosts: from here to below firstFixed
)

// RequireNet ends the test unless this machine can make networks: it skips with the reason, or fails when CI=true.
func RequireNet(t testing.TB) {
	t.Helper()
	err := netAvailable()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("tests with networks of their own cannot run here: %v", err)
	default:
		t.Skipf("tests with networks of their own cannot run here: %v", err)
	}
}

func netAvailable() error {
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("%w; scripts/setup-test.sh installs it", err)
	}
	n, err := newNet() // needs root, or its capabilities in a container
	if err != nil {
		return err
	}
	return n.ns.Close()
}

// Rack is a switch of a Net: a bridge with an uplink to the network's own.
type Rack struct {
	net    *Net
	bridge string
	uplink string
}

// NewRack makes a rack that is connected to the network.
func (n *Net) NewRack(t testing.TB) *Rack {
	t.Helper()
	id := n.number()
	r := &Rack{net: n, bridge: fmt.Sprintf("rack%d", id), uplink: fmt.Sprintf("up%d", id)}
	err := n.Do(func() error {
		return ipBatch(
			"link add "+r.bridge+" type bridge forward_delay 0",
			fmt.Sprintf("link add %s type veth peer name down%d", r.uplink, id),
			fmt.Sprintf("link set down%d master %s", id, r.bridge),
			"link set "+r.uplink+" master "+bridgeName,
			fmt.Sprintf("link set down%d up", id),
			"link set "+r.uplink+" up",
			"link set "+r.bridge+" up")
	})
	if err != nil {
		t.Fatalf("kclient: rack: %v", err)
	}
	return r
}

func (n *Net) number() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.racks++
	return n.racks
}

// Cut takes the rack off the network, or puts it back. Its hosts still reach each other. Nobody is told: what is sent is lost.
func (r *Rack) Cut(t testing.TB, off bool) {
	t.Helper()
	plug(t, r.net, r.uplink, bridgeName, off)
}

func plug(t testing.TB, n *Net, port, bridge string, off bool) {
	t.Helper()
	line := "link set " + port + " master " + bridge
	if off {
		line = "link set " + port + " nomaster"
	}
	if err := n.Do(func() error { return ipBatch(line) }); err != nil {
		t.Fatalf("kclient: %s: %v", line, err)
	}
}

// Host is a machine of a Rack without a kernel of its own: a network namespace with one interface, or two. Start runs its programs.
type Host struct {
	namespace
	rack  *Rack
	port  string
	addr  string
	inner string // the port of its second interface, "" for none
}

// NewHost makes a host that is connected to the rack. It ends with the test.
func (r *Rack) NewHost(t testing.TB) *Host {
	t.Helper()
	id := r.net.number()
	if firstHost+id >= firstFixed {
		t.Fatalf("kclient: no more than %d racks and hosts", firstFixed-firstHost-1)
	}
	ns, err := newNamespace()
	if err != nil {
		t.Fatalf("kclient: host: %v", err)
	}
	t.Cleanup(func() { ns.ns.Close() })
	h := &Host{namespace: ns, rack: r, port: fmt.Sprintf("host%d", id), addr: fmt.Sprintf("10.77.0.%d", firstHost+id)}
	err = r.net.Do(func() error {
		return ipBatchWith(h.ns,
			"link add "+h.port+" type veth peer name "+hostInterface+" netns "+peerNamespace,
			"link set "+h.port+" master "+r.bridge,
			"link set "+h.port+" up")
	})
	if err == nil {
		err = h.Do(func() error {
			if err := setCongestionControl(); err != nil {
				return err
			}
			return ipBatch(
				"link set lo up",
				fmt.Sprintf("addr add %s/%d dev %s", h.addr, prefixBits, hostInterface),
				"link set "+hostInterface+" up")
		})
	}
	if err != nil {
		t.Fatalf("kclient: host: %v", err)
	}
	return h
}

// AddInner gives the host a second interface, and returns its address there: in a network that hosts alone have, on the same rack, so that the first one can be for clients only.
func (h *Host) AddInner(t testing.TB) string {
	t.Helper()
	h.inner = h.port + "i"
	addr := innerNetwork + strings.TrimPrefix(h.addr, "10.77.0.")
	err := h.rack.net.Do(func() error {
		return ipBatchWith(h.ns,
			"link add "+h.inner+" type veth peer name "+innerInterface+" netns "+peerNamespace,
			"link set "+h.inner+" master "+h.rack.bridge,
			"link set "+h.inner+" up")
	})
	if err == nil {
		err = h.Do(func() error {
			// Both are on one switch: each answers for its own address only.
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0); err != nil {
				return err
			}
			return ipBatch(fmt.Sprintf("addr add %s/%d dev %s", addr, prefixBits, innerInterface), "link set "+innerInterface+" up")
		})
	}
	if err != nil {
		t.Fatalf("kclient: second interface: %v", err)
	}
	return addr
}

// AddIPv6 gives the first interface an address of IPv6 too, in the network of Network6, and returns it.
func (h *Host) AddIPv6(t testing.TB) string {
	t.Helper()
	addr := Network6 + strings.TrimPrefix(h.addr, "10.77.0.")
	err := h.Do(func() error {
		for _, file := range []string{
			"/proc/sys/net/ipv6/conf/" + hostInterface + "/accept_dad", // nobody is waited for, who might have the address
			"/proc/sys/net/ipv6/conf/" + hostInterface + "/accept_ra",
			"/proc/sys/net/ipv6/conf/lo/disable_ipv6",
			"/proc/sys/net/ipv6/conf/" + hostInterface + "/disable_ipv6",
		} {
			if err := os.WriteFile(file, []byte("0"), 0); err != nil {
				return err
			}
		}
		return ipBatch(fmt.Sprintf("addr add %s/%d dev %s nodad", addr, Prefix6Bits, hostInterface))
	})
	if err != nil {
		t.Fatalf("kclient: IPv6: %v", err)
	}
	return addr
}

// Addr is the host's address, of its first interface.
func (h *Host) Addr() string { return h.addr }

// Cut takes the host off its rack, or puts it back. Nobody is told: what is sent is lost.
func (h *Host) Cut(t testing.TB, off bool) {
	t.Helper()
	plug(t, h.rack.net, h.port, h.rack.bridge, off)
	if h.inner != "" {
		plug(t, h.rack.net, h.inner, h.rack.bridge, off)
	}
}

// Unplug takes the cable of the first interface out, or puts it back: the host sees that.
func (h *Host) Unplug(t testing.TB, out bool) {
	t.Helper()
	line := "link set " + h.port + " up"
	if out {
		line = "link set " + h.port + " down"
	}
	if err := h.rack.net.Do(func() error { return ipBatch(line) }); err != nil {
		t.Fatalf("kclient: %s: %v", line, err)
	}
}

// Mute loses what this host sends to an address, or ends that. The other direction is as it was.
func (h *Host) Mute(t testing.TB, to string, lose bool) {
	t.Helper()
	dev := hostInterface
	if strings.HasPrefix(to, innerNetwork) {
		dev = innerInterface
	}
	line := "neigh replace " + to + " lladdr " + nowhere + " nud permanent dev " + dev
	if !lose {
		line = "neigh del " + to + " dev " + dev
	}
	if err := h.Do(func() error { return ipBatch(line) }); err != nil {
		t.Fatalf("kclient: %s: %v", line, err)
	}
}

// Spawn starts a command on the host and returns a channel that is closed when it has ended; cmd.ProcessState is set then. It gets
// SIGKILL when this process ends. Whoever started it ends it.
func (h *Host) Spawn(cmd *exec.Cmd) (<-chan struct{}, error) { return h.spawn(cmd) }

// Run runs a command on the host to its end.
func (h *Host) Run(cmd *exec.Cmd) error { return h.Do(cmd.Run) }

// Dial connects from inside the network to a numeric address.
func (n *namespace) Dial(ctx context.Context, addr string) (c net.Conn, err error) {
	doErr := n.Do(func() error {
		// The dialler makes its socket in this goroutine, for the address is numeric and there is one.
		d := net.Dialer{Timeout: 10 * time.Second, FallbackDelay: -1}
		c, err = d.DialContext(ctx, "tcp", addr)
		return nil
	})
	if doErr != nil {
		return nil, doErr
	}
	return c, err
}
