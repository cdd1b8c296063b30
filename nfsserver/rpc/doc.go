// Package rpc is the ONC RPC version 2 transport over TCP (RFC 5531) under the
// NFS programs: record marking, authentication flavours, dispatch, replies, and
// calls in the other direction on the same connection (the NFSv4.1 backchannel).
//
// # A record's way
//
// One goroutine per connection reads. It takes one of the connection's worker
// tokens before it reads a CALL's record, so a connection whose workers are all
// busy is not read: TCP pushes back, and a connection never holds more than
// Limits.Workers records of Limits.MaxRecord bytes. All connections together
// hold at most Limits.Memory. A REPLY to one of our own
// calls needs no token: it is accepted only for a transaction that waits, up to
// the size that call allows. A CALL that waits for a worker holds up the replies
// behind it, therefore a program does not wait inside ServeRPC for a call on
// the same connection: an NFS server answers DELAY while it recalls something.
//
// A record (one or several fragments) is read into a pooled buffer. A worker
// decodes the header and calls the [Program]; Request.Body and Request.Cred
// point into that buffer and stay valid until the reply was written. The program
// appends its results to Request.Reply, where large payloads are attached as
// external slices that writev sends without a copy and that are released
// afterwards. Replies that become ready while another one is being written are
// sent together with the next writev. Order of replies is that of completion.
//
// Records take from Limits.Memory when their bytes arrive, not when they are
// announced; arrive.go says how those that never do are kept from starving others.
//
// The context of a call does not end when its connection breaks: what it
// changes is kept for the client's retry in the session's reply cache. It ends when Shutdown
// runs out of patience.
//
// # What is answered without a program
//
// Wrong RPC version: RPC_MISMATCH. Unknown program, version: PROG_UNAVAIL,
// PROG_MISMATCH with the range served. Bad credentials: AUTH_ERROR. AUTH_TLS
// (RFC 9289) without Config.StartTLS: AUTH_ERROR, as from a server without TLS.
// A record that is too large, or too short to be a message, closes the connection: its
// stream cannot be trusted any more.
//
// [Conn] is symmetric: [NewClientConn] makes the calling side, which may serve
// programs too (callbacks).
package rpc
