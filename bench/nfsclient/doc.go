// Package nfsclient is a small NFSv4.1 and 4.2 client without a kernel, for
// protocol tests and load. It has no cache and believes nothing: what the
// caller asks is what goes out.
//
// Three levels, each built on the one before:
//
//   - [Compound] builds a request operation by operation, [Reply] reads the
//     results in the same order. Anything can be sent, malformed too.
//   - [Session] sends compounds on its slots with the sequence numbers of RFC
//     8881, 2.10.6. [Session.Do] takes a free slot; [Session.Slot] hands one out for tests that replay
//     or misorder.
//   - [Client] is a client id with its sessions, and has a method per file
//     operation.
//
// # Connections and recovery
//
// Each session has one connection. When it breaks, Do dials again and sends the
// same bytes with the same sequence until its context ends, so an operation is
// executed exactly once as long as the session lives. When the server does
// not know the session any more, Do fails with NFS4ERR_BADSESSION: the state
// behind the caller's stateids may be gone. [Client.Recover] makes a new client id or confirms the old
// one and makes new sessions; the caller reclaims what it wants and calls
// [Client.ReclaimComplete].
//
// NFS4ERR_DELAY, NFS4ERR_GRACE and NFS4ERR_RETRY_UNCACHED_REP (the request was executed, its reply is lost,
// and CacheThis was not set) are results like others, unless Config.Patient is set: then Do waits and sends again as a new request, as Linux does.
package nfsclient
