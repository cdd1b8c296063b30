package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// maxHanded bounds ClientRecord.handed.
const maxHanded = 16 << 10

// giveClients ends that the caller's origin serves clients. Each gets an origin that nobody ever is, so that all that is said of a client whose origin has ended is
// true of it: anybody may take it, and nothing that was decided before names it. The name of who served it last stays: when that gateway is restarted it asks for those that nobody has
// taken.
func (x *call) giveClients(c *metapb.GiveClients) (*metapb.Result, error) {
	const op = "client.give"
	if err := checkBatch(len(c.Clients), op); err != nil {
		return nil, err
	}
	res := &metapb.ClientsResult{}
	for _, g := range c.Clients {
		r, err := x.clientRecord(g.Client)
		if err != nil {
			return nil, err
		}
		if r == nil || r.State != metapb.ClientState_CLIENT_ACTIVE || r.Origin != x.origin {
			continue
		}
		if len(g.Handed) > maxHanded {
			return nil, vfs.Errorf(vfs.KindTooMany, op, "%d bytes about client %d", len(g.Handed), g.Client)
		}
		if err := x.keepSessions(g, op); err != nil {
			return nil, err
		}
		if r.Origin, err = x.next(counterKey{what: counterOrigin}); err != nil {
			return nil, err
		}
		r.Handed = g.Handed
		if err := x.setClientRecord(r); err != nil {
			return nil, err
		}
		res.Clients = append(res.Clients, g.Client)
	}
	return clientsResult(res), nil
}

// keepSessions replaces the records of sessions of a client.
func (x *call) keepSessions(g *metapb.GivenClient, op string) error {
	if len(g.Sessions) > maxSessions {
		return vfs.Errorf(vfs.KindTooMany, op, "%d sessions of client %d", len(g.Sessions), g.Client)
	}
	for _, s := range g.Sessions {
		switch {
		case len(s.Id) != sessionLen:
			return vfs.Errorf(vfs.KindInvalid, op, "session id of %d bytes", len(s.Id))
		case len(s.Record) > maxSessionRecord:
			return vfs.Errorf(vfs.KindTooMany, op, "record of %d bytes", len(s.Record))
		}
		var old metapb.SessionRecord
		had, err := x.getRecord(sessionKey(s.Id), &old)
		if err != nil {
			return err
		}
		if !had || old.Client != g.Client {
			continue // it has ended
		}
		if err := x.setRecord(sessionKey(s.Id), &metapb.SessionRecord{Client: g.Client, Record: s.Record}); err != nil {
			return err
		}
	}
	return nil
}

// ServerOf is the origin that serves a client, 0 if there is no such client, only its id is reserved, no living origin serves it, or
// the shard's level has no way to give it up.
func ServerOf(v View, client uint64) (uint64, error) {
	const op = "fsm.server of client"
	b, ok, err := v.Get(keyState)
	if err != nil || !ok {
		return 0, vfs.Wrap(op, err)
	}
	if _, level, _, err := decodeState(b); err != nil || level < levelHandover {
		return 0, vfs.Wrap(op, err)
	}
	if b, ok, err = v.Get(clientRecordKey(client)); err != nil || !ok {
		return 0, vfs.Wrap(op, err)
	}
	var r metapb.ClientRecord
	if err := r.UnmarshalVT(b); err != nil {
		return 0, vfs.Errorf(vfs.KindCorrupt, op, "client %d: %w", client, err)
	}
	if r.State != metapb.ClientState_CLIENT_ACTIVE || len(r.Owner) == 0 {
		return 0, nil
	}
	if _, alive, err := FindOrigin(v, r.Origin); err != nil || !alive {
		return 0, err
	}
	return r.Origin, nil
}
