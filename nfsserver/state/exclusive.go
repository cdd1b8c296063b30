package state

import "github.com/cespare/xxhash/v2"

// OwnVerifier makes of the verifier of an exclusive create one that no other client sends. A verifier tells a retransmission from another create, so it has to differ between clients
// too; that of Linux is of its uptime and a process number, which machines that were started together share. The owner outlives the client's sessions and restarts of servers, over
// which it may repeat a create.
func (c *Call) OwnVerifier(v [8]byte) (own [8]byte) {
	d := xxhash.New()
	_, _ = d.WriteString(c.session.client.owner) // never fails, nor does the next
	_, _ = d.Write(v[:])
	d.Sum(own[:0])
	return own
}
