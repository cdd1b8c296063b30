package gossip

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	metaVersion = 1
	idBytes     = 16
	maxHost     = 253
	maxLabel    = 57 // roles joined, zone, rack, release: longer ones are cut
	metaFixed   = 1 + 6 + 4*2
	// metaBytes bounds a member's meta data; memberlist allows 512.
	metaBytes = metaFixed + idBytes + maxHost + 4*maxLabel
)

// Member is what a node says of itself.
type Member struct {
	Name    string
	ID      string // hex
	Host    string // where others reach it
	Roles   []string
	Zone    string
	Rack    string
	Release string
	Ports   Ports
}

// Ports of a node; 0: none.
type Ports struct{ Control, Meta, Block, NFS uint16 }

// Address is host:port, "" without a port.
func (m *Member) Address(port uint16) string {
	if port == 0 || m.Host == "" {
		return ""
	}
	return net.JoinHostPort(m.Host, strconv.Itoa(int(port)))
}

// State of a member.
type State string

// States.
const (
	Alive State = "alive"
	Dead  State = "dead" // it is silent, or ended
)

// Seen is a member as this node sees it.
type Seen struct {
	Member
	State State
	Since time.Time
	Addr  string // where it gossips
}

// append encodes what travels besides the name.
func (m *Member) append(b []byte) ([]byte, error) {
	const op = "gossip"
	id, err := hex.DecodeString(m.ID)
	if err != nil || len(id) != idBytes {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "node id %q is not %d bytes in hex", m.ID, idBytes)
	}
	if len(m.Host) > maxHost {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a host name of %d bytes, at most %d", len(m.Host), maxHost)
	}
	b = append(b, metaVersion)
	for _, s := range []string{string(id), m.Host, cut(strings.Join(m.Roles, ",")), cut(m.Zone), cut(m.Rack), cut(m.Release)} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	for _, p := range []uint16{m.Ports.Control, m.Ports.Meta, m.Ports.Block, m.Ports.NFS} {
		b = binary.BigEndian.AppendUint16(b, p)
	}
	return b, nil
}

func cut(s string) string { return s[:min(len(s), maxLabel)] }

// decode reads the meta data of a member.
func decode(name string, b []byte) (Member, error) {
	m := Member{Name: name}
	bad := func(what string) (Member, error) {
		return Member{Name: name}, vfs.Errorf(vfs.KindInvalid, "gossip", "the meta data of node %s: %s", name, what)
	}
	if len(b) == 0 || b[0] != metaVersion {
		return bad("not of a version that is known here")
	}
	b = b[1:]
	var roles string
	for _, s := range []*string{&m.ID, &m.Host, &roles, &m.Zone, &m.Rack, &m.Release} {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return bad("cut off")
		}
		*s, b = string(b[1:1+int(b[0])]), b[1+int(b[0]):]
	}
	if len(b) != 8 || len(m.ID) != idBytes {
		return bad("of a wrong length")
	}
	m.ID = hex.EncodeToString([]byte(m.ID))
	if roles != "" {
		m.Roles = strings.Split(roles, ",")
	}
	for i, p := range []*uint16{&m.Ports.Control, &m.Ports.Meta, &m.Ports.Block, &m.Ports.NFS} {
		*p = binary.BigEndian.Uint16(b[2*i:])
	}
	return m, nil
}
