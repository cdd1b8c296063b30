package rpc

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// Program serves the procedures of one RPC program. ServeRPC is called
// concurrently, also for calls of one connection. It appends the results to
// req.Reply and returns; or it names another outcome with req.GarbageArgs,
// ProcUnavail, SystemErr or AuthError and returns. It must not keep req, its
// Body or its Cred. A panic is not recovered.
//
// The NULL procedure is passed on like any other.
type Program interface {
	ServeRPC(ctx context.Context, req *Request)
}

// Flavor is an authentication flavour (RFC 5531, 8.2).
type Flavor uint32

const (
	AuthNone  Flavor = 0
	AuthSys   Flavor = 1
	AuthShort Flavor = 2
	AuthGSS   Flavor = 6
	AuthTLS   Flavor = 7 // RFC 9289
)

// Anonymous is the user and group of a call without credentials (AUTH_NONE).
const Anonymous = 65534

// AuthStat says why credentials were refused (RFC 5531, 9).
type AuthStat uint32

const (
	AuthBadCred      AuthStat = 1
	AuthRejectedCred AuthStat = 2
	AuthBadVerf      AuthStat = 3
	AuthTooWeak      AuthStat = 5
)

// Limits of AUTH_SYS credentials (RFC 5531, 8.2 and appendix A).
const (
	maxAuthBody    = 400
	maxMachineName = 255
	maxAuthGroups  = 16
)

// Request is one call.
type Request struct {
	XID     uint32
	Prog    uint32
	Vers    uint32
	Proc    uint32
	Flavor  Flavor   // AuthNone or AuthSys
	Cred    vfs.Cred // as claimed; Anonymous for AuthNone. Groups valid until the reply was written
	Machine string   // AUTH_SYS machine name, "" otherwise
	Conn    *Conn
	Body    []byte // arguments; valid until the reply was written
	Size    int    // bytes of the whole record, RPC header included
	Reply   Reply

	program  Program
	versions versionRange // served, for PROG_MISMATCH
	accept   uint32       // accept_stat
	auth     AuthStat
	outcome  outcome
	record   *buffer
	memory   int64 // taken from endpoint.memory
	groups   [maxAuthGroups]uint32
}

// ID names the call in what is logged about it, in all of the cluster.
func (r *Request) ID() vfs.RequestID { return vfs.RequestID(r.Conn.tag)<<32 | vfs.RequestID(r.XID) }

type outcome uint8

const (
	outcomeSuccess   outcome = iota
	outcomeAccept            // accepted, accept_stat other than SUCCESS
	outcomeAuth              // MSG_DENIED, AUTH_ERROR
	outcomeMismatch          // MSG_DENIED, RPC_MISMATCH
	outcomeSilent            // no reply
	outcomeElsewhere         // of a carried call: nothing was done
)

// GarbageArgs answers that the arguments could not be decoded.
func (r *Request) GarbageArgs() { r.outcome, r.accept = outcomeAccept, acceptGarbageArgs }

// ProcUnavail answers that the program has no such procedure.
func (r *Request) ProcUnavail() { r.outcome, r.accept = outcomeAccept, acceptProcUnavail }

// SystemErr answers that the server failed for a reason outside the protocol.
func (r *Request) SystemErr() { r.outcome, r.accept = outcomeAccept, acceptSystemErr }

// AuthError answers that the credentials are refused.
func (r *Request) AuthError(s AuthStat) { r.outcome, r.auth = outcomeAuth, s }

// NoReply drops the call without an answer. NFSv4.1 allows this only together with the
// end of the connection (RFC 8881, 2.9.2), so the caller closes Conn.
func (r *Request) NoReply() { r.outcome = outcomeSilent }
