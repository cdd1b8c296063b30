package fsm

import (
	"bytes"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of the records of NFS clients in shard 0.
const (
	maxNewClients    = 64 // of one PutClient
	maxPrincipal     = 1024
	maxClientRecord  = 16 << 10
	maxSessionRecord = 4 << 10
	maxSessions      = 64 // of one client
)

// runClients runs what changes records of NFS clients and their sessions.
func (x *call) runClients(c *metapb.Command) (*metapb.Result, error) {
	switch op := c.Op.(type) {
	case *metapb.Command_PutClient:
		return x.putClient(op.PutClient)
	case *metapb.Command_RemoveClient:
		return x.removeClient(op.RemoveClient)
	case *metapb.Command_TakeClients:
		return x.takeClients(op.TakeClients)
	case *metapb.Command_GiveClients:
		return x.giveClients(op.GiveClients)
	case *metapb.Command_ForgetClients:
		return x.forgetClients(op.ForgetClients)
	case *metapb.Command_PutSession:
		return x.putSession(op.PutSession)
	case *metapb.Command_RemoveSession:
		return x.removeSession(op.RemoveSession)
	}
	return nil, vfs.Errorf(vfs.KindNotSupported, "fsm", "shard 0 does not have this command")
}

func clientsResult(r *metapb.ClientsResult) *metapb.Result {
	return &metapb.Result{Of: &metapb.Result_Clients{Clients: r}}
}

func clientRecordKey(id uint64) []byte { return appendID(nil, "C/", id) }

func sessionKey(s []byte) []byte { return append([]byte("S/"), s...) }

// clientRecord returns the record of an NFS client, nil if there is none.
func (x *call) clientRecord(id uint64) (*metapb.ClientRecord, error) {
	r := new(metapb.ClientRecord)
	ok, err := x.getRecord(clientRecordKey(id), r)
	if err != nil || !ok {
		return nil, err
	}
	r.Id = id
	return r, nil
}

func (x *call) setClientRecord(r *metapb.ClientRecord) error {
	key := clientRecordKey(r.Id)
	r.Id = 0
	return x.setRecord(key, r)
}

// served returns the record of a client that the caller's origin serves.
func (x *call) served(id uint64, op string) (*metapb.ClientRecord, error) {
	r, err := x.clientRecord(id)
	switch {
	case err != nil:
		return nil, err
	case r == nil || r.State != metapb.ClientState_CLIENT_ACTIVE:
		return nil, vfs.Errorf(vfs.KindExpired, op, "client %d", id)
	case r.Origin != x.origin:
		return nil, vfs.Errorf(vfs.KindBusy, op, "gateway %s (origin %d) serves client %d", r.Gateway, r.Origin, id)
	}
	return r, nil
}

// fill takes from c what a gateway decides of a client.
func fillClient(r, c *metapb.ClientRecord, op string) error {
	switch {
	case len(c.Owner) > maxOwner || len(c.Principal) > maxPrincipal:
		return vfs.Errorf(vfs.KindInvalid, op, "owner of %d bytes, principal of %d", len(c.Owner), len(c.Principal))
	case len(c.Verifier) != 0 && len(c.Verifier) != verifierLen:
		return vfs.Errorf(vfs.KindInvalid, op, "a verifier has %d bytes, not %d", verifierLen, len(c.Verifier))
	case len(c.Record) > maxClientRecord:
		return vfs.Errorf(vfs.KindTooMany, op, "record of %d bytes", len(c.Record))
	}
	r.Owner, r.Verifier, r.Principal, r.Confirmed, r.Record = c.Owner, c.Verifier, c.Principal, c.Confirmed, c.Record
	return nil
}

func (x *call) putClient(c *metapb.PutClient) (*metapb.Result, error) {
	const op = "client.put"
	if c.Client.GetId() == 0 {
		return x.newClients(c)
	}
	r, err := x.served(c.Client.Id, op)
	if err != nil {
		return nil, err
	}
	id := r.Id
	if err := fillClient(r, c.Client, op); err != nil {
		return nil, err
	}
	if err := x.setClientRecord(r); err != nil {
		return nil, err
	}
	return clientsResult(&metapb.ClientsResult{First: id, Count: 1}), nil
}

// newClients gives ids, each with a record.
func (x *call) newClients(c *metapb.PutClient) (*metapb.Result, error) {
	const op = "client.put"
	count := max(1, c.Count)
	if count > maxNewClients {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d clients, at most %d", count, maxNewClients)
	}
	var r metapb.ClientRecord
	if c.Client != nil {
		if err := fillClient(&r, c.Client, op); err != nil {
			return nil, err
		}
	}
	if count > 1 && len(r.Record)+len(r.Owner)+len(r.Principal) > 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%d clients that are the same one", count)
	}
	if err := x.serve(&r); err != nil {
		return nil, err
	}
	total, err := x.count(counterKey{what: counterClients})
	if err != nil {
		return nil, err
	}
	if total+uint64(count) > uint64(x.opts.limits.clients) {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "there are %d NFS clients", total)
	}
	first, err := x.count(counterKey{what: counterClient})
	if err != nil {
		return nil, err
	}
	for i := range uint64(count) {
		r.Id = first + i
		if err := x.setClientRecord(&r); err != nil {
			return nil, err
		}
	}
	x.setCount(counterKey{what: counterClient}, first+uint64(count))
	x.setCount(counterKey{what: counterClients}, total+uint64(count))
	return clientsResult(&metapb.ClientsResult{First: first, Count: count}), nil
}

// serve makes the caller's origin the one that serves r.
func (x *call) serve(r *metapb.ClientRecord) error {
	o, err := x.overlay.origin(x.origin)
	if err != nil {
		return err
	}
	if o == nil {
		return vfs.Errorf(vfs.KindUnknownOrigin, "client", "origin %d", x.origin)
	}
	r.Gateway, r.Origin = o.Name, x.origin
	return nil
}

func (x *call) removeClient(c *metapb.RemoveClient) (*metapb.Result, error) {
	const op = "client.remove"
	r, err := x.clientRecord(c.Client)
	if err != nil {
		return nil, err
	}
	res := &metapb.ClientsResult{}
	if r == nil {
		return clientsResult(res), nil
	}
	res.Clients = []uint64{c.Client}
	if r.State == metapb.ClientState_CLIENT_RELEASING {
		return clientsResult(res), nil
	}
	origin := c.Origin
	if origin == 0 {
		origin = x.origin
	}
	if r.Origin != origin {
		return nil, vfs.Errorf(vfs.KindBusy, op, "gateway %s (origin %d) serves client %d", r.Gateway, r.Origin, c.Client)
	}
	for _, s := range r.Sessions {
		x.del(sessionKey(s))
	}
	r.Sessions, r.State = nil, metapb.ClientState_CLIENT_RELEASING
	return clientsResult(res), x.setClientRecord(r)
}

func checkBatch(n int, op string) error {
	if n > clientsBatch {
		return vfs.Errorf(vfs.KindTooMany, op, "%d clients, at most %d", n, clientsBatch)
	}
	return nil
}

func (x *call) takeClients(c *metapb.TakeClients) (*metapb.Result, error) {
	if err := checkBatch(len(c.Clients), "client.take"); err != nil {
		return nil, err
	}
	res := &metapb.ClientsResult{}
	for _, id := range c.Clients {
		r, err := x.clientRecord(id)
		if err != nil {
			return nil, err
		}
		if r == nil || r.State != metapb.ClientState_CLIENT_ACTIVE {
			continue
		}
		if r.Origin != x.origin {
			if alive, err := x.registered(r.Origin); err != nil {
				return nil, err
			} else if alive {
				continue
			}
			if err := x.serve(r); err != nil {
				return nil, err
			}
			if err := x.setClientRecord(r); err != nil {
				return nil, err
			}
		}
		res.Clients = append(res.Clients, id)
	}
	return clientsResult(res), nil
}

func (x *call) forgetClients(c *metapb.ForgetClients) (*metapb.Result, error) {
	if err := checkBatch(len(c.Clients), "client.forget"); err != nil {
		return nil, err
	}
	for _, id := range c.Clients {
		r, err := x.clientRecord(id)
		if err != nil {
			return nil, err
		}
		if r == nil || r.State != metapb.ClientState_CLIENT_RELEASING {
			continue
		}
		x.del(clientRecordKey(id))
		if err := x.lower(counterClients); err != nil {
			return nil, err
		}
	}
	return &metapb.Result{}, nil
}

func (x *call) putSession(c *metapb.PutSession) (*metapb.Result, error) {
	const op = "session.put"
	s := c.Session
	switch {
	case len(s.GetId()) != sessionLen:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "session id of %d bytes", len(s.GetId()))
	case len(s.Record) > maxSessionRecord:
		return nil, vfs.Errorf(vfs.KindTooMany, op, "record of %d bytes", len(s.Record))
	}
	r, err := x.served(s.Client, op)
	if err != nil {
		return nil, err
	}
	var old metapb.SessionRecord
	had, err := x.getRecord(sessionKey(s.Id), &old)
	switch {
	case err != nil:
		return nil, err
	case had && old.Client != s.Client:
		return nil, vfs.Errorf(vfs.KindExists, op, "the session is of client %d", old.Client)
	case !had && len(r.Sessions) >= maxSessions:
		return nil, vfs.Errorf(vfs.KindTooMany, op, "client %d has %d sessions", s.Client, len(r.Sessions))
	}
	if c.Client != nil {
		if err := fillClient(r, c.Client, op); err != nil {
			return nil, err
		}
	}
	if !had {
		r.Sessions = append(r.Sessions, s.Id)
	}
	if !had || c.Client != nil {
		if err := x.setClientRecord(r); err != nil {
			return nil, err
		}
	}
	return &metapb.Result{}, x.setRecord(sessionKey(s.Id), &metapb.SessionRecord{Client: s.Client, Record: s.Record})
}

func (x *call) removeSession(c *metapb.RemoveSession) (*metapb.Result, error) {
	const op = "session.remove"
	if len(c.Session) != sessionLen {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "session id of %d bytes", len(c.Session))
	}
	var s metapb.SessionRecord
	had, err := x.getRecord(sessionKey(c.Session), &s)
	if err != nil || !had {
		return &metapb.Result{}, err
	}
	r, err := x.served(s.Client, op)
	if err != nil {
		return nil, err
	}
	left := r.Sessions[:0]
	for _, id := range r.Sessions {
		if !bytes.Equal(id, c.Session) {
			left = append(left, id)
		}
	}
	r.Sessions = left
	x.del(sessionKey(c.Session))
	return &metapb.Result{}, x.setClientRecord(r)
}

// ClientOrigin is an NFS client and the origin that served it last.
type ClientOrigin struct {
	Client, Origin uint64
	Reserved       bool // only the id is: no client is recorded under it
}

// IdleClients lists what a leader of shard 0 has to look after: the clients whose origin has ended, and those in release.
func IdleClients(v View) (unserved []ClientOrigin, releasing []uint64, err error) {
	const op = "fsm.clients"
	alive := make(map[uint64]bool)
	origins, err := Origins(v)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range origins {
		alive[o.ID] = true
	}
	var bad error
	lo := []byte("C/")
	err = v.Scan(lo, prefixEnd(lo), func(k, b []byte) bool {
		var r metapb.ClientRecord
		if bad = r.UnmarshalVT(b); bad != nil {
			return false
		}
		switch {
		case r.State == metapb.ClientState_CLIENT_RELEASING:
			releasing = append(releasing, tail64(k))
		case !alive[r.Origin]:
			unserved = append(unserved, ClientOrigin{tail64(k), r.Origin, len(r.Owner) == 0})
		}
		return true
	})
	if bad != nil {
		return nil, nil, vfs.Errorf(vfs.KindCorrupt, op, "%w", bad)
	}
	return unserved, releasing, vfs.Wrap(op, err)
}
