// Package relay carries NFS requests between gateways: a client that has connections to several of them at once is served by one, and the others carry there what came to
// them (decision 78). It is the wire under [v4.Peers]; what is carried, and who serves, is decided in packages v4 and state.
//
// # Protocol
//
// Gateways speak package wire, mutually authenticated, with the role gateway in both certificates; who calls is the name in its certificate. Operations:
//
//	OpCarry     meta: the connection it came by, and what the RPC header said (call.go); payload: the encoded COMPOUND.
//	            Answer: meta one byte, rpc.CarriedOutcome; payload: the encoded results.
//	OpCallback  the other way round, from who serves to who has the connection: meta: the connection and the RPC call; payload: its arguments. Answer: payload: results.
//	OpClosed    meta: a connection that is closed.
//	OpPing      nothing, to see whether anybody answers.
//
// Payloads are not copied on their way: they go from the buffer that the connection's record was read into to the wire, at the other side from the wire's buffer into
// package v4 and the file system, and back from the buffers of the reply (of READ: those that the volume has filled) to the wire.
//
// A connection is named by its gateway, a random number that the gateway's process drew at its start, and its number there. At the gateway that serves it is an rpc.Conn (a foreign
// one), made by the first request, so that a backchannel can be bound to it. It ends when its gateway says so, when that calls back in vain, when the gateway was started anew, or
// when it has carried nothing for idleFor: all of that only has the client bind another one.
//
// # Bounds
//
// package v4 carries no more than a fixed number of requests at a time, and a wire connection serves more than that, so what is carried never keeps a ping or a callback waiting. What
// requests hold at the other side is bounded by maxHeld; connections are not read beyond it, and so the client's are not.
//
// # Exactly once
//
// A request whose answer does not come was carried out or not. Nobody here repeats it; package v4 takes the client over, or answers like any server to a request that is sent again.
package relay
