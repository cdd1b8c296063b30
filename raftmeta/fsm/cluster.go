package fsm

import (
	"encoding/binary"
	"strings"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of the records of shard 0.
const (
	maxRecordName = 255
	maxSecret     = 4096
	maxOwner      = 1024     // co_ownerid, RFC 8881 section 3.3.10
	maxNFSRecord  = 64 << 10 // the state store's encoding of a client
	maxPGs        = 1 << 16
)

// runCluster runs what belongs to shard 0.
func (x *call) runCluster(c *metapb.Command) (*metapb.Result, error) {
	var err error
	switch op := c.Op.(type) {
	case *metapb.Command_ChangePgs:
		return x.changePGs(op.ChangePgs)
	case *metapb.Command_ReplaceStore:
		return x.replaceStore(op.ReplaceStore)
	case *metapb.Command_PutNode:
		return x.putNode(op.PutNode)
	case *metapb.Command_RemoveNode:
		err = x.removeNode(op.RemoveNode)
	case *metapb.Command_PutToken:
		err = x.putToken(op.PutToken)
	case *metapb.Command_JoinNode:
		return x.joinNode(op.JoinNode)
	case *metapb.Command_SetNodeState:
		return x.setNodeState(op.SetNodeState)
	case *metapb.Command_RetireNode:
		return x.retireNode(c, op.RetireNode)
	case *metapb.Command_RetireStores:
		err = x.retireStores(op.RetireStores)
	case *metapb.Command_AllowDeletion:
		err = x.allowDeletion(op.AllowDeletion)
	case *metapb.Command_PutFileSystem:
		err = x.putFileSystem(op.PutFileSystem)
	case *metapb.Command_RemoveFileSystem:
		err = x.removeFileSystem(op.RemoveFileSystem)
	case *metapb.Command_PutStore:
		err = x.putStore(op.PutStore)
	case *metapb.Command_PutPool:
		err = x.putPool(op.PutPool)
	case *metapb.Command_PutKey:
		err = x.putKey(op.PutKey)
	case *metapb.Command_PutNfsClient:
		err = x.putNFSClient(op.PutNfsClient)
	case *metapb.Command_RemoveNfsClient:
		err = x.removeNFSClient(op.RemoveNfsClient)
	default:
		return x.runGroups(c)
	}
	if err != nil {
		return nil, err
	}
	return &metapb.Result{}, nil
}

// checkRecordName refuses what cannot be a part of a key or a path.
func checkRecordName(op, what, name string) error {
	if name == "" || len(name) > maxRecordName || strings.ContainsAny(name, "/\x00") {
		return vfs.Errorf(vfs.KindInvalid, op, "%s of %d bytes: 1 to %d without '/' and NUL are allowed", what, len(name), maxRecordName)
	}
	return nil
}

// getRecord reads the record at key into r.
func (o *overlay) getRecord(key []byte, r interface{ UnmarshalVT([]byte) error }) (bool, error) {
	b, ok, err := o.get(key)
	if err != nil || !ok {
		return false, err
	}
	if err := r.UnmarshalVT(b); err != nil {
		return false, corrupt("record %q: %w", key, err)
	}
	return true, nil
}

func appendID32(b []byte, prefix string, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, prefix...), id)
}

func (x *call) putStore(c *metapb.PutStore) error {
	const op = "store.put"
	s := c.Store.CloneVT()
	if err := checkStore(s, op); err != nil {
		return err
	}
	key := appendID32(nil, "t/", s.Id)
	var old metapb.Store
	had, err := x.getRecord(key, &old)
	if err != nil {
		return err
	}
	if had && string(old.Uuid) != string(s.Uuid) {
		return vfs.Errorf(vfs.KindExists, op, "store %d is another disk", s.Id)
	}
	if x.level >= levelCollect {
		if err := checkPutStore(&old, s, op); err != nil {
			return err
		}
	}
	if err := x.groupOfStore(s, old.Group, op); err != nil {
		return err
	}
	if err := x.storeOfNode(&old, s, op); err != nil {
		return err
	}
	return x.setMapRecord(key, s)
}

func (x *call) putPool(c *metapb.PutPool) error {
	const op = "pool.put"
	p := c.Pool
	if p == nil || p.Id == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "a pool has an id")
	}
	if p.K < 1 || p.K > maxK || p.M > maxM {
		return vfs.Errorf(vfs.KindInvalid, op, "profile %d+%d", p.K, p.M)
	}
	if x.level < levelPOSIX && (p.Domain != "" || p.GroupsPerStore != 0) {
		return vfs.Errorf(vfs.KindNotSupported, op, "failure domains and groups per store need feature level %d", levelPOSIX)
	}
	if x.level < levelCluster && (p.Group != "" || p.Retiring) {
		return vfs.Errorf(vfs.KindNotSupported, op, "pools of groups need feature level %d", levelCluster)
	}
	if err := checkDomain(p, op); err != nil {
		return err
	}
	if len(p.Pgs) > maxPGs {
		return vfs.Errorf(vfs.KindTooMany, op, "%d placement groups", len(p.Pgs))
	}
	key := appendID32(nil, "p/", p.Id)
	var old metapb.Pool
	had, err := x.getRecord(key, &old)
	if err != nil {
		return err
	}
	if had && (old.K != p.K || old.M != p.M) {
		return vfs.Errorf(vfs.KindInvalid, op, "the profile of a pool never changes")
	}
	if x.level >= levelCluster {
		if same, err := x.checkPoolOfCluster(&old, p, had, op); err != nil || same {
			return err
		}
	}
	epochs := make(map[uint32]uint32, len(old.Pgs)) // only looked up, never iterated
	for _, g := range old.Pgs {
		epochs[g.Id] = g.Epoch
	}
	last := uint32(0)
	for _, g := range p.Pgs {
		if g.Id <= last {
			return vfs.Errorf(vfs.KindInvalid, op, "placement groups are listed by ascending id, from 1")
		}
		last = g.Id
		if x.level < levelCollect && uint32(len(g.Slots)) != p.K+p.M {
			return vfs.Errorf(vfs.KindInvalid, op, "placement group %d has %d slots, the profile %d", g.Id, len(g.Slots), p.K+p.M)
		}
		if g.Epoch < epochs[g.Id] {
			return vfs.Errorf(vfs.KindChanged, op, "placement group %d is at epoch %d already", g.Id, epochs[g.Id])
		}
	}
	if x.level >= levelCollect {
		if err := x.checkPutPool(&old, p, op); err != nil {
			return err
		}
	}
	return x.setMapRecord(key, p)
}

func (x *call) putKey(c *metapb.PutKey) error {
	const op = "key.put"
	k := c.Key
	if k == nil || len(k.Secret) == 0 || len(k.Secret) > maxSecret {
		return vfs.Errorf(vfs.KindInvalid, op, "a key has a secret of up to %d bytes", maxSecret)
	}
	if err := checkRecordName(op, "kind", k.Kind); err != nil {
		return err
	}
	key := appendNamed(nil, "k/", k.Kind, binary.BigEndian.AppendUint32(nil, k.Id))
	if _, had, err := x.get(key); err != nil || had {
		return err // the first one stays
	}
	return x.setRecord(key, k)
}

func nfsClientKey(gateway string, owner []byte) ([]byte, error) {
	const op = "nfsclient"
	if err := checkRecordName(op, "gateway", gateway); err != nil {
		return nil, err
	}
	if len(owner) == 0 || len(owner) > maxOwner {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "owner of %d bytes", len(owner))
	}
	return appendNamed(nil, "N/", gateway, owner), nil
}

func (x *call) putNFSClient(c *metapb.PutNFSClient) error {
	r := c.Client
	key, err := nfsClientKey(r.GetGateway(), r.GetOwner())
	if err != nil {
		return err
	}
	if len(r.Record) > maxNFSRecord {
		return vfs.Errorf(vfs.KindTooMany, "nfsclient", "record of %d bytes", len(r.Record))
	}
	return x.setRecord(key, r)
}

func (x *call) removeNFSClient(c *metapb.RemoveNFSClient) error {
	key, err := nfsClientKey(c.Gateway, c.Owner)
	if err != nil {
		return err
	}
	_, had, err := x.get(key)
	if err == nil && had {
		x.del(key)
	}
	return err
}
