package rpc

import (
	"errors"
	"fmt"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

const rpcVersion = 2

// msg_type, reply_stat, accept_stat, reject_stat (RFC 5531, 9).
const (
	msgCall  = 0
	msgReply = 1

	msgAccepted = 0
	msgDenied   = 1

	acceptSuccess      = 0
	acceptProgUnavail  = 1
	acceptProgMismatch = 2
	acceptProcUnavail  = 3
	acceptGarbageArgs  = 4
	acceptSystemErr    = 5

	rejectRPCMismatch = 0
	rejectAuthError   = 1
)

const (
	// replyHeaderSize is record mark, xid, REPLY, MSG_ACCEPTED, AUTH_NONE
	// verifier, SUCCESS.
	replyHeaderSize = 4 + 4 + 4 + 4 + 8 + 4

	// maxReplyHeader bounds the header of a reply that we receive, after the prefix.
	maxReplyHeader = 4 + 8 + maxAuthBody + 12
)

// startTLS is the verifier of a reply that begins TLS (RFC 9289, 4.1).
const startTLS = "STARTTLS"

var errHeader = errors.New("call header cannot be decoded")

// header is what dispatch needs to know beyond the Request.
type header struct {
	rpcVersion uint32
	auth       AuthStat // 0: credentials are good
}

// decodeCall fills req from a CALL's record after the prefix. machine is the
// name last seen on the connection, kept because it never changes in practice.
func decodeCall(req *Request, body []byte, machine *string) (header, error) {
	var h header
	d := xdr.NewDecoder(body)
	h.rpcVersion = d.Uint32()
	if d.Err() == nil && h.rpcVersion != rpcVersion {
		return h, nil // what follows may look different
	}
	req.Prog = d.Uint32()
	req.Vers = d.Uint32()
	req.Proc = d.Uint32()
	flavor := Flavor(d.Uint32())
	cred := d.Opaque(maxAuthBody)
	verfFlavor := Flavor(d.Uint32())
	verf := d.Opaque(maxAuthBody)
	if d.Err() != nil {
		return h, fmt.Errorf("%w: %w", errHeader, d.Err())
	}
	req.Body = d.Rest()
	req.Flavor = flavor
	switch {
	case verfFlavor != AuthNone || len(verf) != 0:
		h.auth = AuthBadVerf
	case flavor == AuthNone:
		req.Cred = vfs.Cred{UID: Anonymous, GID: Anonymous}
	case flavor == AuthSys:
		if !decodeAuthSys(req, cred, machine) {
			h.auth = AuthBadCred
		}
	case flavor == AuthShort:
		h.auth = AuthRejectedCred
	default:
		h.auth = AuthBadCred
	}
	return h, nil
}

// decodeAuthSys decodes authsys_parms (RFC 5531, appendix A).
func decodeAuthSys(req *Request, body []byte, machine *string) bool {
	d := xdr.NewDecoder(body)
	d.Uint32() // stamp: arbitrary
	name := d.Opaque(maxMachineName)
	uid := d.Uint32()
	gid := d.Uint32()
	n := d.Count(maxAuthGroups, 4)
	groups := req.groups[:n]
	for i := range groups {
		groups[i] = d.Uint32()
	}
	if d.Err() != nil || d.Len() != 0 {
		return false
	}
	if string(name) != *machine {
		*machine = string(name)
	}
	req.Machine = *machine
	req.Cred = vfs.Cred{UID: uid, GID: gid, Groups: groups}
	return true
}

// AuthSysCred encodes AUTH_SYS credentials for Call.Cred.
func AuthSysCred(machine string, c *vfs.Cred) []byte {
	groups := c.Groups[:min(len(c.Groups), maxAuthGroups)]
	body := xdr.AppendUint32(nil, 0)
	body = xdr.AppendString(body, machine[:min(len(machine), maxMachineName)])
	body = xdr.AppendUint32(body, c.UID)
	body = xdr.AppendUint32(body, c.GID)
	body = xdr.AppendUint32(body, uint32(len(groups)))
	for _, g := range groups {
		body = xdr.AppendUint32(body, g)
	}
	return xdr.AppendOpaque(xdr.AppendUint32(nil, uint32(AuthSys)), body)
}

// begin makes room for the header of a successful reply.
func (r *Reply) begin() {
	var room [replyHeaderSize]byte
	r.B = append(r.B[:0], room[:]...)
}

// seal completes the header of the reply for what became of req.
func (r *Reply) seal(req *Request) {
	switch req.outcome {
	case outcomeSuccess:
		h := r.B[:4:replyHeaderSize]
		h = xdr.AppendUint32(h, req.XID)
		h = xdr.AppendUint32(h, msgReply)
		h = xdr.AppendUint32(h, msgAccepted)
		h = xdr.AppendUint64(h, 0)
		xdr.AppendUint32(h, acceptSuccess)
	case outcomeAccept:
		r.Truncate(Mark{})
		b := append(r.B, 0, 0, 0, 0)
		b = xdr.AppendUint32(b, req.XID)
		b = xdr.AppendUint32(b, msgReply)
		b = xdr.AppendUint32(b, msgAccepted)
		b = xdr.AppendUint64(b, 0)
		b = xdr.AppendUint32(b, req.accept)
		if req.accept == acceptProgMismatch {
			b = xdr.AppendUint32(b, req.versions.low)
			b = xdr.AppendUint32(b, req.versions.high)
		}
		r.B = b
	case outcomeAuth, outcomeMismatch:
		r.Truncate(Mark{})
		b := append(r.B, 0, 0, 0, 0)
		b = xdr.AppendUint32(b, req.XID)
		b = xdr.AppendUint32(b, msgReply)
		b = xdr.AppendUint32(b, msgDenied)
		if req.outcome == outcomeMismatch {
			b = xdr.AppendUint32(b, rejectRPCMismatch)
			b = xdr.AppendUint32(b, rpcVersion)
			b = xdr.AppendUint32(b, rpcVersion)
		} else {
			b = xdr.AppendUint32(b, rejectAuthError)
			b = xdr.AppendUint32(b, uint32(req.auth))
		}
		r.B = b
	}
	r.mark()
}

// mark writes the record mark: one fragment, the last.
func (r *Reply) mark() {
	xdr.PutUint32(r.B, 0, lastFragment|uint32(len(r.B)-4+r.size))
}

// RemoteError is a reply to one of our calls that is not success.
type RemoteError struct {
	Denied bool
	Stat   uint32 // accept_stat, or reject_stat if Denied
	Auth   AuthStat
}

func (e *RemoteError) Error() string {
	if e.Denied {
		if e.Stat == rejectAuthError {
			return fmt.Sprintf("rpc: peer refused our credentials (auth_stat %d)", e.Auth)
		}
		return "rpc: peer speaks another RPC version"
	}
	names := [...]string{"success", "program unavailable", "program version mismatch", "procedure unavailable", "garbage arguments", "system error"}
	if int(e.Stat) < len(names) {
		return "rpc: peer answered: " + names[e.Stat]
	}
	return fmt.Sprintf("rpc: peer answered with accept_stat %d", e.Stat)
}

// decodeReply returns the results in a REPLY's record after the prefix.
func decodeReply(body []byte) ([]byte, error) {
	d := xdr.NewDecoder(body)
	e := &RemoteError{}
	switch d.Uint32() {
	case msgAccepted:
		d.Uint32()
		d.Opaque(maxAuthBody)
		e.Stat = d.Uint32()
	case msgDenied:
		e.Denied = true
		if e.Stat = d.Uint32(); e.Stat == rejectAuthError {
			e.Auth = AuthStat(d.Uint32())
		}
	default:
		return nil, vfs.Errorf(vfs.KindIO, "rpc.call", "reply is neither accepted nor denied")
	}
	if d.Err() != nil {
		return nil, vfs.Errorf(vfs.KindIO, "rpc.call", "reply header: %w", d.Err())
	}
	if e.Denied || e.Stat != acceptSuccess {
		return nil, e
	}
	return d.Rest(), nil
}
