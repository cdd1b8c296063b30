// Package wire is the framed RPC protocol that nodes speak to each other over TCP: shard data between gateways and block
// servers, and the metadata calls that are too frequent for HTTP.
//
// # Protocol
//
// A connection starts with a handshake (below) and then carries frames in both directions. A frame is a fixed 64-byte
// little-endian header, then meta, then payload:
//
//	 0  u32  magic "RKFW"
//	 4  u8   version (1)
//	 5  u8   type: 1 request, 2 response, 3 cancel
//	 6  u16  op (request; echoed in the response)
//	 8  u16  flags: 1 body CRC present, 2 MAC present
//	10  u16  kind: 0 success, else the vfs.Kind of an error reply, whose meta is the message
//	12  u32  deadline: milliseconds the caller still waits, 0 none (request)
//	16  u64  request id, chosen by the client, rising on a connection
//	24  u32  meta length
//	28  u32  payload length
//	32  u32  CRC32C of meta and payload, 0 when a MAC or TLS protects the body
//	36  u64  the user's request that this is part of (vfs.RequestID), 0 none (request; only if the server's hello has helloUser)
//	44  u32  CRC32C of bytes 0-43
//	48 16 B  MAC, zero without one
//
// Meta is small and structured and is copied on the way out; payload is bulk and is never copied: it leaves by writev from the
// caller's buffers and arrives directly in the buffer that was passed for it. A length above the limit, a bad magic, CRC or MAC,
// an unknown type, version or flag, or a response nobody asked for ends the connection with a logged reason: after any of
// them the position in the stream, or the peer, cannot be trusted.
//
// A cancel frame names a request whose caller went away; the server cancels that handler's context and still answers. Every
// request is answered exactly once unless the connection breaks.
//
// # Handshake and security modes
//
// ModeTLS and ModeMAC both start with mutual TLS 1.3 whose ALPN names the mode, so the mode is part of what the handshake
// authenticates. Then each side sends one hello message inside TLS: protocol version, its limits and how many calls it serves at
// a time per connection. The client's handshake only ends when it has read the server's hello, because in TLS 1.3 a client
// finishes before the server has looked at its certificate. ModeTLS goes on inside TLS. ModeMAC leaves TLS after the
// hellos and authenticates each frame with AES-128-GMAC under keys from the TLS exporter; data is readable on the
// network but cannot be changed, reordered, dropped or replayed unnoticed. ModeInsecure exchanges the hellos in the clear
// and believes the name in them: it is for unit tests.
//
// crypto/tls reads ahead; ModeMAC therefore feeds it no byte past the end of the record it is in, and tickets, the only
// message a server sends on its own after the handshake, are off.
//
// MAC of a frame: payload is cut in 64 KiB chunks; chunk i has the tag GMAC(bodyKey, n || i+1, chunk). The frame's MAC is
// GMAC(frameKey, n || 0, header with MAC zero || meta || chunk tags), n being the number of the frame in its direction.
// Each direction has its own two keys. Chunks exist because an AEAD takes its input in one slice while payload does not come
// in one. Two keys are needed: tags of several chunks under the key that then also hashes the tags would let equal changes
// in two chunks cancel out, for GHASH is a polynomial in that one key.
//
// # Calls
//
// A Client keeps connections of two classes to one peer, so that a small call does not wait behind a megabyte; it dials
// them when needed and again, with jittered back-off, after they broke. During back-off calls fail at once. An error of Call
// is one of three, and a caller that must not do a thing twice has to know which:
//
//   - Answered(err): the handler ran and returned this error;
//   - NotSent(err): the request certainly never reached a handler;
//   - neither: unknown outcome (connection broken, or the context ended, after the request may have left).
//
// # Flow control and memory
//
// The client keeps at most as many calls on a connection as the server's hello allows. The server bounds handlers per
// connection and in total, and bytes of requests held, and stops reading when a bound is reached. Reply and Call return the
// caller's buffers when they return: nothing is queued that refers to them.
package wire
