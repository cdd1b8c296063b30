// Package v4 serves NFS version 4, minor versions 1 and 2 (RFC 8881, RFC 7862),
// over any [vfs.FS]: it interprets COMPOUND.
//
// # A COMPOUND's way
//
// [Server] is the rpc.Program. For each call one compound walks the operations
// in order: it decodes the arguments of the next operation, carries it out,
// appends its result, and stops at the first failure. Decoding and encoding are
// by hand where they are hot; WRITE's data stays a slice of the record
// buffer until the vfs took it, and READ's data is read into a pooled buffer
// that the transport writes with writev. Session, lease, open and lock state
// belongs to package state; what it asks for in return (state.Effects) is carried out
// before the answer leaves.
//
// # Rules
//
//   - The first operation is SEQUENCE, or the only one is one that needs no
//     session (RFC 8881, 2.10.2 and 18.46). A retry is answered from the slot's reply cache without
//     touching anything.
//   - The current filehandle is resolved against the export table at every
//     PUTFH, and one snapshot of the table serves the whole COMPOUND. The
//     caller's credentials are squashed per export.
//   - Attributes that an operation returned are kept with the current
//     filehandle until something in the COMPOUND changes: LOOKUP, ACCESS,
//     GETATTR in one request cost one metadata call.
//   - An operation that changes something is not begun unless its result will
//     fit the session's reply limits (RFC 8881, 2.10.6.4).
//   - Every vfs open belongs to an open state, from state.Open to the
//     vfs.Close among the effects. READ and WRITE with special stateids open and
//     close around the transfer, which checks the caller's permission.
//
// # Choices the standard leaves
//
// Names are bytes: any name without '/' and NUL, except "", "." and "..",
// is stored as it came, valid UTF-8 or not (fs_charset_cap is not offered), as
// every local Linux file system does.
//
// Owners are numeric strings ("1000"); others are NFS4ERR_BADOWNER.
//
// A file that the caller may execute but not read can be opened for reading,
// because programs are loaded that way.
//
// READDIR's verifier is constant, because cookies belong to entries and stay
// valid whatever comes and goes.
//
// Names of extended attributes are bytes, too. Listing them needs read permission, as the values do: a listing by handle would
// otherwise tell them to everybody.
//
// A COPY that takes long goes on in the background if its client allows it (op_copy.go). Clients are called back (callback.go) about its end, about
// delegations (recall.go, cbgetattr.go) and locks.
//
// # Beside other front ends
//
// Server.Coherent is a file system for a front end that is not NFS: what it changes waits until clients have returned the delegations in its way, and what it
// reads until those for writing were returned. Only what such front ends use is offered there, none of the optional interfaces but vfs.Stager.
//
// A request of a session that another server still serves waits for the end of that, for some seconds; then its
// connection ends without an answer (adopt.go, decision 92).
//
// A request that another server may have done, the first one of a slot after the client was taken over, is not NFS4ERR_DELAY but for its SEQUENCE, and no error of a
// request is answered whose client is another server's by then (insist.go, decision 95).
//
// # What is not offered, or not by all
//
// Delegations of directories, layouts, named attributes, ACLs and labels are not offered.
// Abilities that only some file systems have (ALLOCATE, DEALLOCATE, COPY, CLONE,
// holes for SEEK, extended attributes) are optional interfaces of a vfs.FS: see
// op_v42.go.
package v4
