// Package faultproxy is a TCP proxy between two peers that a test owns: it
// delays, holds back, throttles, half-closes and cuts connections when it is told
// to, without help of the kernel.
//
// A Proxy listens on loopback and forwards every connection to its target,
// which is asked for anew each time, for a peer that was restarted has another
// address. Each connection has two directions, and each direction Conditions, which
// can be set for one connection or for all that are and will be.
//
// What a partition is to TCP: bytes that are sent into it are not lost but
// arrive, in order, when it ends, unless an end gave up before. Hold does that; a connection that is
// opened meanwhile is made when it ends. Cut is what a restarted peer or a
// firewall does: both ends get a reset at once, and what was under way is lost.
//
// A direction buffers at most bufferedChunks of chunkBytes beside the kernel's
// sockets, so the senders feel back-pressure, as behind a slow link.
package faultproxy
