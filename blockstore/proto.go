package blockstore

import (
	"encoding/binary"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

// Operations of a block server. Meta of a request starts with the protocol
// version and names a disk of the node; see the message types.
const (
	OpPut    wire.Op = 0x0101 // meta PutRequest, payload the shard; the reply is empty
	OpGet    wire.Op = 0x0102 // meta GetRequest; reply: payload the bytes, meta of a background request StatReply
	OpStat   wire.Op = 0x0103 // meta GetRequest; reply: meta StatReply
	OpList   wire.Op = 0x0104 // meta ListRequest; reply: meta ListReply, payload entries
	OpDelete wire.Op = 0x0105 // meta DiskRequest, payload keys; reply: meta count
	OpFence  wire.Op = 0x0106 // meta DiskRequest, payload epochs; the reply is empty
	OpInfo   wire.Op = 0x0107 // meta DiskRequest; reply: meta InfoReply
	OpReport wire.Op = 0x0108 // meta DiskRequest, payload keys of shards that a reader found bad or missing; the reply is empty
	OpHint   wire.Op = 0x0109 // meta DiskRequest, payload keys (shard 0) of blocks that may be dead; the reply is empty
	OpUpkeep wire.Op = 0x010a // meta DiskRequest; reply: payload the state of the disk's background work, JSON
	OpRoom   wire.Op = 0x010c // meta DiskRequest; reply: meta RoomReply. Servers of releases before it do not have it
	OpGroups wire.Op = 0x010b // meta GroupsRequest; reply: meta ListReply, payload ids of placement groups, u32 each
)

// Roles that a peer's certificate carries.
const (
	RoleGateway = "gateway"
	RoleMeta    = "meta"
	RoleBlock   = "block"
)

const protocolVersion = 1

var le = binary.LittleEndian

// errMessage is the answer to a request that cannot be decoded.
func errMessage(what string) error {
	return vfs.Errorf(vfs.KindInvalid, "blockstore.decode", "malformed or unknown version of %s", what)
}

// PutRequest is the meta of OpPut: version u8, shard u8, k u8, m u8, disk u32, pg u32, epoch u32, block u64,
// block length u32, file system u32, inode u64, offset u64.
type PutRequest struct {
	Disk     uint32
	Key      Key
	Epoch    uint32
	K, M     uint8
	BlockLen uint32
	Owner    Owner
}

const putRequestLen = 48

// Append encodes the request.
func (r *PutRequest) Append(p []byte) []byte {
	p = append(p, protocolVersion, r.Key.Shard, r.K, r.M)
	p = le.AppendUint32(p, r.Disk)
	p = le.AppendUint32(p, r.Key.PG)
	p = le.AppendUint32(p, r.Epoch)
	p = le.AppendUint64(p, r.Key.Block)
	p = le.AppendUint32(p, r.BlockLen)
	p = le.AppendUint32(p, r.Owner.FS)
	p = le.AppendUint64(p, r.Owner.Ino)
	return le.AppendUint64(p, r.Owner.Offset)
}

// Decode reads what Append wrote.
func (r *PutRequest) Decode(p []byte) error {
	if len(p) != putRequestLen || p[0] != protocolVersion {
		return errMessage("put request")
	}
	*r = PutRequest{
		Disk: le.Uint32(p[4:]), Key: Key{PG: le.Uint32(p[8:]), Block: le.Uint64(p[16:]), Shard: p[1]}, Epoch: le.Uint32(p[12:]),
		K: p[2], M: p[3], BlockLen: le.Uint32(p[24:]),
		Owner: Owner{FS: le.Uint32(p[28:]), Ino: le.Uint64(p[32:]), Offset: le.Uint64(p[40:])},
	}
	return nil
}

// GetRequest is the meta of OpGet and OpStat: version u8, shard u8, flags u8, zero u8, disk u32, pg u32, offset u32,
// block u64, length u32. Flag 1 says that the read is background work. Older servers do not look at flags.
type GetRequest struct {
	Disk   uint32
	Key    Key
	Offset uint32
	Length uint32
	// Background reads wait for what clients leave of the disk's budget.
	Background bool
}

const getBackground = 1

const getRequestLen = 28

// Append encodes the request.
func (r *GetRequest) Append(p []byte) []byte {
	var flags byte
	if r.Background {
		flags = getBackground
	}
	p = append(p, protocolVersion, r.Key.Shard, flags, 0)
	p = le.AppendUint32(p, r.Disk)
	p = le.AppendUint32(p, r.Key.PG)
	p = le.AppendUint32(p, r.Offset)
	p = le.AppendUint64(p, r.Key.Block)
	return le.AppendUint32(p, r.Length)
}

// Decode reads what Append wrote.
func (r *GetRequest) Decode(p []byte) error {
	if len(p) != getRequestLen || p[0] != protocolVersion {
		return errMessage("get request")
	}
	*r = GetRequest{
		Disk: le.Uint32(p[4:]), Key: Key{PG: le.Uint32(p[8:]), Block: le.Uint64(p[16:]), Shard: p[1]},
		Offset: le.Uint32(p[12:]), Length: le.Uint32(p[24:]), Background: p[2]&getBackground != 0,
	}
	return nil
}

// ShardInfo describes a stored shard: block u64, shard u8, k u8, m u8, zero u8, length u32, epoch u32, block length u32.
type ShardInfo struct {
	Block    uint64
	Shard    uint8
	K, M     uint8
	Length   uint32
	Epoch    uint32 // under which it was written
	BlockLen uint32
}

const shardInfoLen = 24

// Append encodes the entry.
func (e *ShardInfo) Append(p []byte) []byte {
	p = le.AppendUint64(p, e.Block)
	p = append(p, e.Shard, e.K, e.M, 0)
	p = le.AppendUint32(p, e.Length)
	p = le.AppendUint32(p, e.Epoch)
	return le.AppendUint32(p, e.BlockLen)
}

func (e *ShardInfo) decode(p []byte) {
	*e = ShardInfo{Block: le.Uint64(p), Shard: p[8], K: p[9], M: p[10], Length: le.Uint32(p[12:]), Epoch: le.Uint32(p[16:]), BlockLen: le.Uint32(p[20:])}
}

// DecodeShardInfos reads the payload of OpList's reply.
func DecodeShardInfos(p []byte) ([]ShardInfo, error) {
	if len(p)%shardInfoLen != 0 {
		return nil, errMessage("shard list")
	}
	out := make([]ShardInfo, len(p)/shardInfoLen)
	for i := range out {
		out[i].decode(p[i*shardInfoLen:])
	}
	return out, nil
}

// StatReply is the meta of OpStat's reply: a ShardInfo, file system u32, inode u64, offset u64.
type StatReply struct {
	Shard ShardInfo
	Owner Owner
}

// Append encodes the reply.
func (r *StatReply) Append(p []byte) []byte {
	p = r.Shard.Append(p)
	p = le.AppendUint32(p, r.Owner.FS)
	p = le.AppendUint64(p, r.Owner.Ino)
	return le.AppendUint64(p, r.Owner.Offset)
}

// Decode reads what Append wrote.
func (r *StatReply) Decode(p []byte) error {
	if len(p) != shardInfoLen+20 {
		return errMessage("stat reply")
	}
	r.Shard.decode(p)
	p = p[shardInfoLen:]
	r.Owner = Owner{FS: le.Uint32(p), Ino: le.Uint64(p[4:]), Offset: le.Uint64(p[12:])}
	return nil
}

// ListRequest is the meta of OpList: version u8, shard u8, has-after u8, zero u8, disk u32, pg u32, limit u32, block u64.
type ListRequest struct {
	Disk  uint32
	PG    uint32
	Limit uint32 // 0: the server's
	// After, if set, is the last entry of the page before; its PG is not used.
	After *Key
}

const listRequestLen = 24

// Append encodes the request.
func (r *ListRequest) Append(p []byte) []byte {
	var after Key
	has := byte(0)
	if r.After != nil {
		after, has = *r.After, 1
	}
	p = append(p, protocolVersion, after.Shard, has, 0)
	p = le.AppendUint32(p, r.Disk)
	p = le.AppendUint32(p, r.PG)
	p = le.AppendUint32(p, r.Limit)
	return le.AppendUint64(p, after.Block)
}

// Decode reads what Append wrote.
func (r *ListRequest) Decode(p []byte) error {
	if len(p) != listRequestLen || p[0] != protocolVersion || p[2] > 1 {
		return errMessage("list request")
	}
	*r = ListRequest{Disk: le.Uint32(p[4:]), PG: le.Uint32(p[8:]), Limit: le.Uint32(p[12:])}
	if p[2] == 1 {
		r.After = &Key{PG: r.PG, Block: le.Uint64(p[16:]), Shard: p[1]}
	}
	return nil
}

// ListReply is the meta of OpList's reply: more u8.
type ListReply struct{ More bool }

// Append encodes the reply.
func (r *ListReply) Append(p []byte) []byte {
	if r.More {
		return append(p, 1)
	}
	return append(p, 0)
}

// Decode reads what Append wrote.
func (r *ListReply) Decode(p []byte) error {
	if len(p) != 1 || p[0] > 1 {
		return errMessage("list reply")
	}
	r.More = p[0] == 1
	return nil
}

// GroupsRequest is the meta of OpGroups: version u8, 3 B zero, disk u32, groups after u32.
type GroupsRequest struct{ Disk, After uint32 }

const groupsRequestLen = 12

// Append encodes the request.
func (r *GroupsRequest) Append(p []byte) []byte {
	return le.AppendUint32(le.AppendUint32(append(p, protocolVersion, 0, 0, 0), r.Disk), r.After)
}

// Decode reads what Append wrote.
func (r *GroupsRequest) Decode(p []byte) error {
	if len(p) != groupsRequestLen || p[0] != protocolVersion {
		return errMessage("groups request")
	}
	r.Disk, r.After = le.Uint32(p[4:]), le.Uint32(p[8:])
	return nil
}

// DecodeGroups reads the payload of OpGroups' reply.
func DecodeGroups(p []byte) ([]uint32, error) {
	if len(p)%4 != 0 {
		return nil, errMessage("list of placement groups")
	}
	out := make([]uint32, len(p)/4)
	for i := range out {
		out[i] = le.Uint32(p[4*i:])
	}
	return out, nil
}

// DiskRequest is the meta of requests that name nothing but a disk: version u8, 3 B zero, disk u32.
type DiskRequest struct{ Disk uint32 }

// Append encodes the request.
func (r *DiskRequest) Append(p []byte) []byte {
	return le.AppendUint32(append(p, protocolVersion, 0, 0, 0), r.Disk)
}

// Decode reads what Append wrote.
func (r *DiskRequest) Decode(p []byte) error {
	if len(p) != 8 || p[0] != protocolVersion {
		return errMessage("disk request")
	}
	r.Disk = le.Uint32(p[4:])
	return nil
}

// InfoReply is the meta of OpInfo's reply: store 16 B, cluster 16 B, metadata incarnation u64, capacity u64,
// used u64, writable u8, full u8.
type InfoReply struct {
	Store, Cluster      segment.ID
	MetadataIncarnation uint64
	Capacity, Used      uint64 // bytes
	Writable            bool   // writes are accepted, deletions among them
	Full                bool   // Puts find no room; deletions do
}

const infoReplyLen = 58

// Append encodes the reply.
func (r *InfoReply) Append(p []byte) []byte {
	p = append(append(p, r.Store[:]...), r.Cluster[:]...)
	p = le.AppendUint64(p, r.MetadataIncarnation)
	p = le.AppendUint64(p, r.Capacity)
	p = le.AppendUint64(p, r.Used)
	return append(p, flag(r.Writable), flag(r.Full))
}

// Decode reads what Append wrote.
func (r *InfoReply) Decode(p []byte) error {
	if len(p) != infoReplyLen || p[56] > 1 || p[57] > 1 {
		return errMessage("info reply")
	}
	*r = InfoReply{
		Store: segment.ID(p[:16]), Cluster: segment.ID(p[16:32]), MetadataIncarnation: le.Uint64(p[32:]),
		Capacity: le.Uint64(p[40:]), Used: le.Uint64(p[48:]), Writable: p[56] == 1, Full: p[57] == 1,
	}
	return nil
}

// RoomReply is the meta of OpRoom's reply: device 16 B, capacity u64, used u64, shared u64.
type RoomReply struct {
	Device   [16]byte // names the file system that the store is on; zero: not known
	Capacity uint64   // as in InfoReply, bytes
	Used     uint64
	Shared   uint64 // of Capacity: what is free on the device, which all stores on it can take
}

const roomReplyLen = 40

// Append encodes the reply.
func (r *RoomReply) Append(p []byte) []byte {
	p = append(p, r.Device[:]...)
	return le.AppendUint64(le.AppendUint64(le.AppendUint64(p, r.Capacity), r.Used), r.Shared)
}

// Decode reads what Append wrote.
func (r *RoomReply) Decode(p []byte) error {
	if len(p) != roomReplyLen {
		return errMessage("room reply")
	}
	*r = RoomReply{Device: [16]byte(p[:16]), Capacity: le.Uint64(p[16:]), Used: le.Uint64(p[24:]), Shared: le.Uint64(p[32:])}
	return nil
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}
