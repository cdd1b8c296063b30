package fsm

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of a registration.
const (
	incarnationLen   = 16
	maxOriginName    = 255
	keepIncarnations = 8    // former incarnations of a name that are remembered
	minLease         = 1000 // milliseconds
)

// originName is the value of G/kind/name: the origin that holds the name and
// the former incarnations of it, newest first. A registration of a former one
// is a message that was delayed while its sender was already succeeded.
type originName struct {
	origin uint64
	former []byte // incarnations, incarnationLen each
}

func (n *originName) encode() []byte {
	return append(binary.BigEndian.AppendUint64(nil, n.origin), n.former...)
}

func decodeOriginName(b []byte) (*originName, error) {
	if len(b) < 8 || (len(b)-8)%incarnationLen != 0 {
		return nil, corrupt("origin name of %d bytes", len(b))
	}
	return &originName{origin: binary.BigEndian.Uint64(b), former: bytes.Clone(b[8:])}, nil
}

func (n *originName) wasHere(incarnation []byte) bool {
	for i := 0; i < len(n.former); i += incarnationLen {
		if bytes.Equal(n.former[i:i+incarnationLen], incarnation) {
			return true
		}
	}
	return false
}

func (n *originName) retire(incarnation []byte) {
	n.former = append(bytes.Clone(incarnation), n.former...)
	n.former = n.former[:min(len(n.former), keepIncarnations*incarnationLen)]
}

func (x *call) registerOrigin(c *metapb.RegisterOrigin) (*metapb.Result, error) {
	const op = "origin.register"
	if len(c.Incarnation) != incarnationLen {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "an incarnation has %d bytes, not %d", incarnationLen, len(c.Incarnation))
	}
	if c.Name == "" || len(c.Name) > maxOriginName {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "name of %d bytes", len(c.Name))
	}
	if x.level >= levelHandover && c.LeaseMilliseconds != 0 && (!c.Leased || c.LeaseMilliseconds < minLease) {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a lease of %d ms: an origin that is leased has one of %d ms or more", c.LeaseMilliseconds, minLease)
	}
	if c.Kind < metapb.OriginKind_ORIGIN_GATEWAY || c.Kind > metapb.OriginKind_ORIGIN_SESSION {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "kind %d", int32(c.Kind))
	}
	nameKey := appendOriginName(nil, uint32(c.Kind), c.Name)
	b, ok, err := x.get(nameKey)
	if err != nil {
		return nil, err
	}
	name := new(originName)
	if ok {
		if name, err = decodeOriginName(b); err != nil {
			return nil, err
		}
		present, err := x.overlay.origin(name.origin)
		if err != nil {
			return nil, err
		}
		if present == nil {
			return nil, corrupt("the origin %d of a name is not registered", name.origin)
		}
		if bytes.Equal(present.Incarnation, c.Incarnation) {
			return originResult(name.origin), nil
		}
		if name.wasHere(c.Incarnation) {
			return nil, vfs.Errorf(vfs.KindSuperseded, op, "a newer incarnation holds the name")
		}
		if c.Vacant && x.level >= levelCollect {
			return nil, vfs.Errorf(vfs.KindExists, op, "origin %d holds the name", name.origin)
		}
		name.retire(present.Incarnation)
		if err := x.endOrigin(name.origin, false); err != nil {
			return nil, err
		}
	}
	if name.origin, err = x.next(counterKey{what: counterOrigin}); err != nil {
		return nil, err
	}
	x.set(nameKey, name.encode())
	r := &metapb.OriginRecord{Kind: c.Kind, Name: c.Name, Incarnation: bytes.Clone(c.Incarnation)}
	if x.level >= levelCollect {
		r.Leased = c.Leased
	}
	if r.Several = c.Several && x.level >= levelGateways; r.Several {
		if err := x.joinSeveral(name.origin, op); err != nil {
			return nil, err
		}
	}
	if x.level >= levelHandover {
		r.LeaseMilliseconds = c.LeaseMilliseconds
	}
	x.origins.set(x.entry, name.origin, r)
	return originResult(name.origin), nil
}

// Origin is a registered origin.
type Origin struct {
	ID     uint64
	Leased bool          // it ends a whole lease after its last renewal
	Lease  time.Duration // how long that is; 0: as the leader says

	Several bool // others may serve the same files
}

func originOf(id uint64, r *metapb.OriginRecord) Origin {
	return Origin{ID: id, Leased: r.Leased, Lease: time.Duration(r.LeaseMilliseconds) * time.Millisecond, Several: r.Several}
}

// Origins lists the registered origins.
func Origins(v View) ([]Origin, error) {
	const op = "fsm.origins"
	var list []Origin
	var bad error
	lo := []byte("g/")
	err := v.Scan(lo, prefixEnd(lo), func(k, b []byte) bool {
		var r metapb.OriginRecord
		if bad = r.UnmarshalVT(b); bad != nil {
			return false
		}
		list = append(list, originOf(tail64(k), &r))
		return true
	})
	if bad != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%w", bad)
	}
	return list, vfs.Wrap(op, err)
}

// FindOrigin returns a registered origin; ok is false if it is none, or none any more.
func FindOrigin(v View, id uint64) (o Origin, ok bool, err error) {
	const op = "fsm.origin"
	b, ok, err := v.Get(appendID(nil, "g/", id))
	if err != nil || !ok {
		return Origin{}, false, vfs.Wrap(op, err)
	}
	var r metapb.OriginRecord
	if err := r.UnmarshalVT(b); err != nil {
		return Origin{}, false, vfs.Errorf(vfs.KindCorrupt, op, "origin %d: %w", id, err)
	}
	return originOf(id, &r), true, nil
}

func originResult(id uint64) *metapb.Result {
	return &metapb.Result{Of: &metapb.Result_Origin{Origin: &metapb.OriginResult{Origin: id}}}
}

func (x *call) expireOrigin(c *metapb.ExpireOrigin) (*metapb.Result, error) {
	r, err := x.overlay.origin(c.Origin)
	if err != nil {
		return nil, err
	}
	left := c.Left && x.level >= levelLoose
	switch {
	case r != nil:
		x.del(appendOriginName(nil, uint32(r.Kind), r.Name))
		err = x.endOrigin(c.Origin, left)
	case left:
		err = x.endLingering(c.Origin)
	}
	if err != nil {
		return nil, err
	}
	return originResult(c.Origin), nil
}

// endOrigin unregisters a registered origin. Whatever names it is void from
// here on; Purge removes it. But files without names are held for a gateway that has not left by itself.
func (x *call) endOrigin(id uint64, left bool) error {
	r, err := x.overlay.origin(id)
	if err != nil {
		return err
	}
	if r.GetSeveral() {
		if err := x.leaveSeveral(id); err != nil {
			return err
		}
	}
	if !left && x.level >= levelLoose && x.opts.Shard != 0 && r.GetLeased() && r.GetKind() == metapb.OriginKind_ORIGIN_GATEWAY {
		if err := x.linger(id); err != nil {
			return err
		}
	}
	x.origins.set(x.entry, id, nil)
	return x.enqueue(&metapb.PurgeRecord{OrphansOf: id})
}
