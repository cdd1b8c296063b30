package floating

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

const (
	ipHeaderLen  = 20
	ip6HeaderLen = 40
	tcpHeaderLen = 20
	tcpACK       = 0x10
	hopLimit     = 64
)

// tickle has clients find out that their connections with an address ended when its former holder died. Each is sent an acknowledgement with sequence numbers of
// no meaning, as from its server. A client that has such a connection answers with the numbers that it has (RFC 9293, 3.10.7.4); the kernel here knows no such
// connection and resets it (3.10.7.1). One that has none answers with a reset itself, and one that is connected here again answers too, which means nothing.
func tickle(from netip.Addr, list []connection) error {
	const op = "floating address"
	family := unix.AF_INET // with IPPROTO_RAW the IP header is ours, in both
	if from.Is6() {
		family = unix.AF_INET6
	}
	s, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return vfs.Errorf(vfs.KindPerm, op, "%v: clients are not told that it is here: %w (it needs CAP_NET_RAW)", from, err)
	}
	defer unix.Close(s)
	var last error
	for _, c := range list {
		if c.peer.Addr().Is4() != from.Is4() {
			continue
		}
		var to unix.Sockaddr = &unix.SockaddrInet6{Addr: c.peer.Addr().As16()}
		if from.Is4() {
			to = &unix.SockaddrInet4{Addr: c.peer.Addr().As4()}
		}
		if err := unix.Sendto(s, tickleSegment(from, c, rand.Uint32()), unix.MSG_DONTWAIT, to); err != nil {
			last = vfs.Errorf(vfs.KindUnavailable, op, "%v: the client at %v is not told that it is here: %w", from, c.peer, err)
		}
	}
	return last
}

// tickleSegment is an IP packet with the acknowledgement for a connection. The kernel fills in the checksum and length of an IPv4 header.
func tickleSegment(from netip.Addr, c connection, seq uint32) []byte {
	e := binary.BigEndian
	src, dst := from.AsSlice(), c.peer.Addr().AsSlice()
	tcp := e.AppendUint16(nil, c.port)
	tcp = e.AppendUint16(tcp, c.peer.Port())
	tcp = e.AppendUint32(tcp, seq)
	tcp = e.AppendUint32(tcp, 0)
	tcp = append(tcp, tcpHeaderLen/4<<4, tcpACK)
	tcp = e.AppendUint16(tcp, 1024) // window
	tcp = append(tcp, 0, 0, 0, 0)   // checksum, urgent pointer
	e.PutUint16(tcp[16:], pseudoChecksum(src, dst, unix.IPPROTO_TCP, tcp))

	if from.Is6() {
		return append(ip6Header(src, dst, unix.IPPROTO_TCP, hopLimit, len(tcp)), tcp...)
	}
	ip := []byte{4<<4 | ipHeaderLen/4, 0, 0, ipHeaderLen + tcpHeaderLen, 0, 0, 0, 0, hopLimit, unix.IPPROTO_TCP, 0, 0}
	ip = append(append(ip, src...), dst...)
	return append(ip, tcp...)
}

// ip6Header is that of a packet with so many bytes after it.
func ip6Header(src, dst []byte, next, limit byte, length int) []byte {
	h := binary.BigEndian.AppendUint16([]byte{6 << 4, 0, 0, 0}, uint16(length))
	return append(append(append(h, next, limit), src...), dst...)
}

// pseudoChecksum is the checksum of what follows an IP header, with the addresses of that: those of IPv6 and IPv4 differ by zeros only.
func pseudoChecksum(src, dst []byte, protocol byte, b []byte) uint16 {
	pseudo := append(append([]byte{}, src...), dst...)
	pseudo = append(pseudo, 0, protocol)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(b)))
	return checksum(append(pseudo, b...))
}

// checksum is that of RFC 1071 over an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
