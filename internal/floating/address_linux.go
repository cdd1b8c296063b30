package floating

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// putAddress puts an IPv4 address on an interface for a while, or renews that.
func putAddress(index int, a netip.Addr, life time.Duration) error {
	return change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, index, a, life)
}

// removeAddress takes it off. That it is not there is no error.
func removeAddress(index int, a netip.Addr) error {
	err := change(unix.RTM_DELADDR, 0, index, a, 0)
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

// change sends one request of rtnetlink(7) and waits for its acknowledgement.
func change(what, flags uint16, index int, a netip.Addr, life time.Duration) error {
	const op = "floating address"
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return vfs.Errorf(vfs.KindInternal, op, "%w", err)
	}
	defer unix.Close(s)
	ip := a.As4()
	e := binary.NativeEndian
	m := make([]byte, unix.SizeofNlMsghdr, 128)
	m = append(m, unix.AF_INET, 32, 0, unix.RT_SCOPE_UNIVERSE) // ifaddrmsg
	m = e.AppendUint32(m, uint32(index))
	attr := func(kind uint16, p []byte) { // all are of a multiple of 4 bytes
		m = e.AppendUint16(m, uint16(unix.SizeofRtAttr+len(p)))
		m = append(e.AppendUint16(m, kind), p...)
	}
	attr(unix.IFA_LOCAL, ip[:])
	attr(unix.IFA_ADDRESS, ip[:])
	if what == unix.RTM_NEWADDR {
		seconds := uint32(life / time.Second)
		cache := e.AppendUint32(e.AppendUint32(nil, seconds), seconds) // preferred, valid
		attr(unix.IFA_CACHEINFO, append(cache, make([]byte, 8)...))
	}
	e.PutUint32(m, uint32(len(m)))
	e.PutUint16(m[4:], what)
	e.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	if err := unix.Sendto(s, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return vfs.Errorf(vfs.KindInternal, op, "%w", err)
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, reply, 0)
	if err != nil {
		return vfs.Errorf(vfs.KindInternal, op, "%w", err)
	}
	if n < unix.SizeofNlMsghdr+4 || e.Uint16(reply[4:]) != unix.NLMSG_ERROR {
		return vfs.Errorf(vfs.KindInternal, op, "the kernel's answer is no acknowledgement")
	}
	if code := int32(e.Uint32(reply[unix.SizeofNlMsghdr:])); code != 0 {
		return vfs.Errorf(vfs.KindPerm, op, "%v: %w (it needs CAP_NET_ADMIN)", a, unix.Errno(-code))
	}
	return nil
}

// announce tells the neighbours that an address is here: a gratuitous ARP request (RFC 5227, 3).
func announce(i *net.Interface, a netip.Addr) error {
	const op = "floating address"
	if len(i.HardwareAddr) != 6 {
		return nil // no neighbours that ask by ARP
	}
	proto := int(htons(unix.ETH_P_ARP))
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return vfs.Errorf(vfs.KindPerm, op, "announce %v: %w (it needs CAP_NET_RAW)", a, err)
	}
	defer unix.Close(s)
	ip, mac := a.As4(), []byte(i.HardwareAddr)
	all := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	f := append(append([]byte{}, all...), mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, lengths, request
	f = append(append(f, mac...), ip[:]...)
	f = append(append(f, make([]byte, 6)...), ip[:]...)
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: i.Index, Halen: 6}
	copy(to.Addr[:], all)
	if err := unix.Sendto(s, f, 0, to); err != nil {
		return vfs.Errorf(vfs.KindInternal, op, "announce %v: %w", a, err)
	}
	return nil
}

// htons is a 16-bit number in the order of the network.
func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }
