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

// hostBits are the prefix lengths of an address that brings no route to its network.
const (
	hostBits4 = 32
	hostBits6 = 128
)

// putAddress puts an address on an interface for a while, or renews that. One of IPv6 is there at once, as nobody is asked whether he has it
// (leases tell), and is not chosen for connections that this machine begins; one of IPv4 without a network is not either.
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
	ip := a.AsSlice()
	e := binary.NativeEndian
	m := make([]byte, unix.SizeofNlMsghdr, 128)
	family, bits := byte(unix.AF_INET), byte(hostBits4)
	if a.Is6() {
		family, bits = unix.AF_INET6, hostBits6
	}
	m = append(m, family, bits, 0, unix.RT_SCOPE_UNIVERSE) // ifaddrmsg
	m = e.AppendUint32(m, uint32(index))
	attr := func(kind uint16, p []byte) { // all are of a multiple of 4 bytes
		m = e.AppendUint16(m, uint16(unix.SizeofRtAttr+len(p)))
		m = append(e.AppendUint16(m, kind), p...)
	}
	attr(unix.IFA_LOCAL, ip)
	attr(unix.IFA_ADDRESS, ip)
	if what == unix.RTM_NEWADDR {
		seconds := uint32(life / time.Second)
		preferred := seconds
		if a.Is6() {
			preferred = 0 // it is deprecated (RFC 4862, 5.5.4)
			attr(unix.IFA_FLAGS, e.AppendUint32(nil, unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE))
		}
		cache := e.AppendUint32(e.AppendUint32(nil, preferred), seconds)
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

// announce tells the neighbours that an address is here.
func announce(i *net.Interface, a netip.Addr) error {
	const op = "floating address"
	if len(i.HardwareAddr) != 6 {
		return nil // no neighbours that ask for hardware addresses
	}
	proto, to, f := announcement([6]byte(i.HardwareAddr), a)
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // receives nothing
	if err != nil {
		return vfs.Errorf(vfs.KindPerm, op, "announce %v: %w (it needs CAP_NET_RAW)", a, err)
	}
	defer unix.Close(s)
	ll := &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: i.Index, Halen: 6}
	copy(ll.Addr[:], to[:])
	if err := unix.Sendto(s, f, 0, ll); err != nil {
		return vfs.Errorf(vfs.KindInternal, op, "announce %v: %w", a, err)
	}
	return nil
}

// announcement is the frame that tells neighbours who has an address.
func announcement(mac [6]byte, a netip.Addr) (proto uint16, to [6]byte, frame []byte) {
	if a.Is4() {
		proto, to, frame = unix.ETH_P_ARP, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, gratuitousARP(mac, a)
	} else {
		proto, to, frame = unix.ETH_P_IPV6, [6]byte{0x33, 0x33, 0, 0, 0, 1}, neighbourAdvertisement(mac, a) // RFC 2464, 7
	}
	f := append(append([]byte{}, to[:]...), mac[:]...)
	return proto, to, append(binary.BigEndian.AppendUint16(f, proto), frame...)
}

// gratuitousARP is a request for an address by who has it (RFC 5227, 3).
func gratuitousARP(mac [6]byte, a netip.Addr) []byte {
	f := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac[:]...) // Ethernet, IPv4, lengths, request
	f = append(append(f, a.AsSlice()...), make([]byte, 6)...)
	return append(f, a.AsSlice()...)
}

const (
	icmpAdvertisement = 136
	overrideFlag      = 0x20 // what neighbours knew before is wrong
	targetLinkLayer   = 2    // an option, of targetUnits times 8 bytes
	targetUnits       = 1
	neighbourHops     = 255 // a packet with fewer came from another network, and counts for nothing
)

// neighbourAdvertisement is an unsolicited one to all nodes (RFC 4861, 4.4 and 7.2.6).
func neighbourAdvertisement(mac [6]byte, a netip.Addr) []byte {
	src, all := a.AsSlice(), netip.IPv6LinkLocalAllNodes().AsSlice()
	m := append([]byte{icmpAdvertisement, 0, 0, 0, overrideFlag, 0, 0, 0}, src...)
	m = append(append(m, targetLinkLayer, targetUnits), mac[:]...)
	binary.BigEndian.PutUint16(m[2:], pseudoChecksum(src, all, unix.IPPROTO_ICMPV6, m))
	return append(ip6Header(src, all, unix.IPPROTO_ICMPV6, neighbourHops, len(m)), m...)
}

// htons is a 16-bit number in the order of the network.
func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }
