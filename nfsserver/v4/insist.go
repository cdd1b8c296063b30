package v4

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// insistPause is between attempts of an operation that is not to be put off.
const insistPause = 50 * time.Millisecond

// mayBeDone reports whether another server may have done the COMPOUND, or a part of it. File systems know a repetition by its session, slot and sequence id: to NFS4ERR_DELAY, of
// whichever operation, the client would send a new request, and that would be done a second time. Who holds a buffer for READs does not wait for another one.
func (c *compound) mayBeDone() bool { return c.call != nil && c.call.Repeated && !c.buffered }

// insist carries out an operation until it is not NFS4ERR_DELAY: its client hears nothing meanwhile. body is where its result begins.
//
// What it waits for does not need the client to be answered: the server's leases, the metadata, delegations, which are revoked in the end. So there is no limit but the end of the
// server or of its right to serve the client.
func (c *compound) insist(def *opDef, body rpc.Mark) (st status) {
	// args, cur and saved are as the last attempt found them: what fails moves no handle, and takes its arguments from the request.
	args, cur, saved := c.args, c.cur, c.saved
	c.log().Info("nfs: a request that another server may have done is not put off", "op", c.op)
	for c.call.Served() {
		select {
		case <-time.After(insistPause):
		case <-c.base.Done():
			return stGone
		}
		c.r.Truncate(body)
		c.d, c.cur, c.saved, c.keepBody = args, cur, saved, false
		c.changed() // attributes that were looked at before are old
		c.now = c.s.cfg.Now()
		if st = c.attempt(def); st != nfsv4.NFS4ERR_DELAY || !c.mayBeDone() {
			return st
		}
	}
	return stGone
}

// gone leaves the COMPOUND unanswered: its client is another server's by now, which tells it what became of the request when it is sent again. An error would be taken for the
// outcome, or for the loss of opens that the client still has.
func (c *compound) gone() {
	c.s.cfg.State.Finish(c.s.cfg.Now(), c.call, nil)
	c.silent()
}
