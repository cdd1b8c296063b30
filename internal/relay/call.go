package relay

import (
	"encoding/binary"
	"net/netip"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
)

// Operations of the wire.
const (
	OpCarry wire.Op = iota + 1
	OpCallback
	OpClosed
	OpPing
)

// metaFormat is the first byte of every meta.
const metaFormat = 1

const (
	maxGroups  = 16  // of AUTH_SYS
	maxMachine = 255 // bytes of its machine name
	maxCred    = 512 // bytes of a callback's opaque_auth
	maxAddress = 255 // bytes of a gateway's address
)

var be = binary.BigEndian

// connID names a connection of a client at the gateway that has it.
type connID struct {
	boot uint64 // of the gateway's process
	conn uint64 // rpc.Conn.ID there
}

func (id connID) append(b []byte) []byte {
	return be.AppendUint64(be.AppendUint64(b, id.boot), id.conn)
}

// carried is what goes with a COMPOUND.
type carried struct {
	id      connID
	address string // where the gateway that has the connection takes callbacks
	tag     uint32 // rpc.Conn.Tag
	remote  netip.AddrPort
	req     rpc.Request // without Body and Conn
}

func (c *carried) append(b []byte) []byte {
	b = c.id.append(append(b, metaFormat))
	b = append(append(b, byte(len(c.address))), c.address...)
	b = be.AppendUint32(b, c.tag)
	addr := c.remote.Addr().AsSlice()
	b = append(append(b, byte(len(addr))), addr...)
	b = be.AppendUint16(b, c.remote.Port())
	r := &c.req
	b = be.AppendUint32(b, r.XID)
	b = be.AppendUint32(b, uint32(r.Size))
	b = be.AppendUint32(b, uint32(r.Flavor))
	b = be.AppendUint32(b, r.Cred.UID)
	b = be.AppendUint32(b, r.Cred.GID)
	groups := r.Cred.Groups[:min(len(r.Cred.Groups), maxGroups)]
	b = append(b, byte(len(groups)))
	for _, g := range groups {
		b = be.AppendUint32(b, g)
	}
	machine := r.Machine[:min(len(r.Machine), maxMachine)]
	return append(append(b, byte(len(machine))), machine...)
}

// reader takes a meta apart; after an error everything is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return make([]byte, n)
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() byte    { return r.take(1)[0] }
func (r *reader) u16() uint16 { return be.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return be.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return be.Uint64(r.take(8)) }

func (r *reader) connID() connID {
	if r.u8() != metaFormat {
		r.bad = true
	}
	return connID{r.u64(), r.u64()}
}

// end is an error unless all was there, and no more.
func (r *reader) end(op string) error {
	if r.bad || len(r.b) > 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "a request of a format this release does not know")
	}
	return nil
}

func decodeCarried(meta []byte) (c carried, err error) {
	r := reader{b: meta}
	c.id = r.connID()
	c.address = string(r.take(int(r.u8())))
	c.tag = r.u32()
	addr, ok := netip.AddrFromSlice(r.take(int(r.u8())))
	if !ok {
		r.bad = true
	}
	c.remote = netip.AddrPortFrom(addr.Unmap(), r.u16())
	c.req.XID, c.req.Size, c.req.Flavor = r.u32(), int(r.u32()), rpc.Flavor(r.u32())
	c.req.Cred = vfs.Cred{UID: r.u32(), GID: r.u32()}
	n := int(r.u8())
	if n > maxGroups || c.req.Flavor != rpc.AuthSys && c.req.Flavor != rpc.AuthNone {
		r.bad = true
		n = 0
	}
	for range n {
		c.req.Cred.Groups = append(c.req.Cred.Groups, r.u32())
	}
	c.req.Machine = string(r.take(int(r.u8())))
	return c, r.end("relay.carry")
}

// callback is what goes with the arguments of a callback.
type callback struct {
	id   connID
	call rpc.Call // without Args
}

func (c *callback) append(b []byte) []byte {
	b = c.id.append(append(b, metaFormat))
	for _, v := range []uint32{c.call.Prog, c.call.Vers, c.call.Proc, uint32(c.call.MaxReply)} {
		b = be.AppendUint32(b, v)
	}
	return append(be.AppendUint16(b, uint16(len(c.call.Cred))), c.call.Cred...)
}

func decodeCallback(meta []byte) (c callback, err error) {
	r := reader{b: meta}
	c.id = r.connID()
	c.call.Prog, c.call.Vers, c.call.Proc, c.call.MaxReply = r.u32(), r.u32(), r.u32(), int(r.u32())
	if n := int(r.u16()); n > maxCred || c.call.MaxReply < 0 || c.call.MaxReply > maxCallbackReply {
		r.bad = true
	} else if n > 0 {
		c.call.Cred = r.take(n)
	}
	return c, r.end("relay.callback")
}
