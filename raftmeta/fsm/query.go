package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of one answer.
const (
	answerBytes    = 1 << 20 // where the query does not say
	answerBytesMax = 8 << 20
	answerEntries  = 10_000
	answerBlocks   = 10_000
)

// Query answers q from v. It runs concurrently with Apply and with other
// queries; c is the cache of the machine whose store v is a state of, or nil.
// Extents of an ExtentsQ are clipped to the range that was asked for, and reserved ones are left out.
func Query(v View, c *Cache, q *metapb.Query) *metapb.QueryResult {
	return queryWith(v, c, q, nameHash)
}

func queryWith(v View, c *Cache, q *metapb.Query, hash hashFunc) *metapb.QueryResult {
	r := reader{view: v, hash: hash}
	return r.answer(c, q)
}

// Asker answers queries one after the other, as Query does, from one state and in the same memory: an answer is valid until the next one.
type Asker struct {
	r     reader
	cache *Cache
}

// NewAsker makes an Asker of a state and, or nil, the cache of the machine whose it is.
func NewAsker(v View, c *Cache) *Asker {
	a := &Asker{r: reader{view: v, hash: nameHash}, cache: c}
	a.r.attrs = new(metapb.AttrSpace)
	return a
}

// Query answers q.
func (a *Asker) Query(q *metapb.Query) *metapb.QueryResult { return a.r.answer(a.cache, q) }

func (r *reader) answer(c *Cache, q *metapb.Query) *metapb.QueryResult {
	r.fs, r.cred, r.taken = q.Fs, nil, 0
	res, err := r.run(c, q)
	if err == nil {
		return res
	}
	bad := refusal(err)
	return &metapb.QueryResult{Kind: bad.Kind, Text: bad.Text}
}

// reader is one query being answered, or one after the other.
type reader struct {
	view    View
	cache   *Cache // nil if the version of the view is not known
	version uint64
	fs      uint32
	cred    *vfs.Cred // nil: no permission checks
	hash    hashFunc
	key     []byte
	codec   inodeCodec
	rec     []byte // of the cache, scratch
	entry   metapb.DirentRecord
	sp      space // of file system spFS, if that is not 0
	spFS    uint32
	inodes  []*inode          // memory for those of a query, and of the next one
	taken   int               // of inodes, by this query
	attrs   *metapb.AttrSpace // where answers of attributes are made; nil: each in memory of its own
}

func (r *reader) run(c *Cache, q *metapb.Query) (*metapb.QueryResult, error) {
	if w := q.Cred; w != nil {
		if len(w.Groups) > vfs.MaxGroups {
			return nil, vfs.Errorf(vfs.KindInvalid, "query", "%d groups", len(w.Groups))
		}
		r.cred = &vfs.Cred{UID: w.Uid, GID: w.Gid, Groups: w.Groups}
	}
	if c != nil && r.cache == nil {
		if err := r.useCache(c); err != nil {
			return nil, err
		}
	}
	switch op := q.Q.(type) {
	case *metapb.Query_ShardInfo:
		return r.shardInfo()
	case *metapb.Query_BlockStates:
		return r.blockStates(op.BlockStates)
	case *metapb.Query_Blocks:
		return r.blocks(op.Blocks)
	case *metapb.Query_LiveBlocks:
		return r.liveBlocks(op.LiveBlocks)
	case *metapb.Query_FileSystems:
		return r.fileSystems(op.FileSystems)
	case *metapb.Query_ClusterMap:
		return r.clusterMap(op.ClusterMap)
	case *metapb.Query_Keys:
		return r.keys(op.Keys)
	case *metapb.Query_Nodes:
		return r.nodes()
	case *metapb.Query_Tokens:
		return r.tokens()
	case *metapb.Query_RetiredNodes:
		return r.retiredNodes()
	case *metapb.Query_NfsClients:
		return r.nfsClients(op.NfsClients)
	case *metapb.Query_Clients:
		return r.clients(op.Clients)
	case *metapb.Query_Client:
		return r.client(op.Client)
	case *metapb.Query_ClientState:
		return r.clientState(op.ClientState)
	case *metapb.Query_SessionSlots:
		return r.sessionSlots(op.SessionSlots)
	case *metapb.Query_Namespace:
		return r.namespace()
	case *metapb.Query_Workspaces:
		return r.workspaces()
	case *metapb.Query_AccessTokens:
		return r.accessTokens(op.AccessTokens)
	case *metapb.Query_Jobs:
		return r.jobs(op.Jobs)
	case *metapb.Query_Uploads:
		return r.uploads(op.Uploads)
	case *metapb.Query_Origins:
		return r.origins(op.Origins)
	case *metapb.Query_Holds:
		return r.holds(op.Holds)
	}
	sp, err := r.space()
	if err != nil {
		return nil, err
	}
	switch op := q.Q.(type) {
	case *metapb.Query_GetAttr:
		return r.getAttr(op.GetAttr)
	case *metapb.Query_Lookup:
		return r.lookup(sp, op.Lookup)
	case *metapb.Query_Parent:
		return r.parent(op.Parent)
	case *metapb.Query_ReadDir:
		return r.readDir(op.ReadDir)
	case *metapb.Query_ReadLink:
		return r.readLink(op.ReadLink)
	case *metapb.Query_GetXattr:
		return r.getXattr(op.GetXattr)
	case *metapb.Query_ListXattrs:
		return r.listXattrs(op.ListXattrs)
	case *metapb.Query_Extents:
		return r.extents(op.Extents)
	case *metapb.Query_Statfs:
		return r.statFS(op.Statfs)
	case *metapb.Query_Quotas:
		return r.quotas(op.Quotas)
	case *metapb.Query_TestLock:
		return r.testLock(op.TestLock)
	case *metapb.Query_FileOpens:
		return r.fileOpens(op.FileOpens)
	case *metapb.Query_CallWritten:
		return r.callWritten(op.CallWritten)
	}
	return nil, vfs.Errorf(vfs.KindNotSupported, "query", "this version does not have this query")
}

// useCache turns the cache on once it is known how new the view is.
func (r *reader) useCache(c *Cache) error {
	if v, ok := r.view.(Versioned); ok {
		r.cache, r.version = c, v.Applied()
		return nil
	}
	b, ok, err := r.view.Get(keyState)
	if err != nil {
		return err
	}
	if ok {
		applied, _, _, err := decodeState(b)
		if err != nil {
			return err
		}
		r.cache, r.version = c, applied
	}
	return nil
}

func (r *reader) space() (*space, error) {
	if r.spFS == r.fs && r.fs != 0 {
		return &r.sp, nil
	}
	k := spaceCacheKey(r.fs)
	b, ok := r.cache.get(k, r.version, r.rec[:0])
	if ok {
		r.rec = b
	} else {
		var err error
		if b, ok, err = r.view.Get(appendFS(nil, "n/", r.fs)); err != nil {
			return nil, err
		}
		if !ok {
			return nil, vfs.Errorf(vfs.KindStale, "query", "file system %d is not on this shard", r.fs)
		}
		r.cache.add(k, b, r.version)
	}
	sp, err := decodeSpace(b)
	if err != nil {
		return nil, err
	}
	r.sp, r.spFS = space{k0: sp.k0, k1: sp.k1}, r.fs
	return &r.sp, nil
}

// inode returns inode ino as it stands: the lease of a dead origin is gone.
// nil if there is none.
func (r *reader) inode(ino uint64) (*inode, error) {
	n, err := r.rawInode(ino)
	if err != nil {
		return nil, err
	}
	return r.standing(n)
}

// standing is inode for one that was read, or nil.
func (r *reader) standing(n *inode) (*inode, error) {
	if n == nil || n.lease.origin == 0 {
		return n, nil
	}
	if alive, err := r.registered(n.lease.origin); err != nil || alive {
		return n, err
	}
	return n.settled(), nil
}

// rawInode returns an inode that is valid until the next query.
func (r *reader) rawInode(ino uint64) (*inode, error) {
	n := r.fresh()
	if r.cachedInode(n, ino) {
		return n, nil
	}
	r.key = appendInode(r.key[:0], r.fs, ino)
	b, ok, err := r.view.Get(r.key)
	if err != nil || !ok {
		return nil, err
	}
	if err := r.codec.decodeTo(n, ino, b); err != nil {
		return nil, err
	}
	r.keepInode(n)
	return n, nil
}

// cachedInode makes n the inode that the cache has.
func (r *reader) cachedInode(n *inode, ino uint64) bool {
	b, ok := r.cache.get(inodeCacheKey(r.fs, ino), r.version, r.rec[:0])
	if ok {
		r.rec = b
		n.setCached(ino, b)
	}
	return ok
}

// keepInode gives the cache an inode that was read.
func (r *reader) keepInode(n *inode) {
	if r.cache != nil {
		r.rec = n.appendCached(r.rec[:0])
		r.cache.add(inodeCacheKey(r.fs, uint64(n.attr.Ino)), r.rec, r.version)
	}
}

// fresh returns memory for an inode.
func (r *reader) fresh() *inode {
	if r.taken == len(r.inodes) {
		r.inodes = append(r.inodes, new(inode))
	}
	r.taken++
	return r.inodes[r.taken-1]
}

func (r *reader) registered(id uint64) (bool, error) {
	k := originCacheKey(id)
	if b, ok := r.cache.get(k, r.version, r.rec[:0]); ok {
		r.rec = b
		return b[0] != 0, nil
	}
	_, ok, err := r.view.Get(appendID(nil, "g/", id))
	if err != nil {
		return false, err
	}
	rec := [1]byte{}
	if ok {
		rec[0] = 1
	}
	r.cache.add(k, rec[:], r.version)
	return ok, nil
}

func (r *reader) must(ino uint64, op string) (*inode, error) {
	n, err := r.inode(ino)
	if err == nil && n == nil {
		err = vfs.Errorf(vfs.KindStale, op, "inode %d", ino)
	}
	return n, err
}

// dir returns a directory for which the caller has the wanted permission.
func (r *reader) dir(ino uint64, want vfs.Access, op string) (*inode, error) {
	d, err := r.must(ino, op)
	if err != nil {
		return nil, err
	}
	if !d.isDir() {
		return nil, vfs.KindNotDir.Err(op)
	}
	if r.cred != nil {
		return d, d.attr.CheckAccess(r.cred, want, op)
	}
	return d, nil
}

func (r *reader) attrAnswer(n *inode) *metapb.QueryResult {
	w := r.attrs
	if w == nil {
		w = new(metapb.AttrSpace)
	} else {
		*w = metapb.AttrSpace{}
	}
	setAttr(w.Parts(), &n.attr)
	if n.lease.epoch != 0 {
		w.R.Lease = &w.Lease
		w.Lease.Origin, w.Lease.Epoch, w.Lease.ChangeLimit = n.lease.origin, n.lease.epoch, n.lease.limit
	}
	return &w.Result
}

func (r *reader) getAttr(q *metapb.GetAttrQ) (*metapb.QueryResult, error) {
	const op = "getattr"
	n, err := r.must(q.Ino, op)
	if err != nil {
		return nil, err
	}
	if q.Open != 0 {
		if err := checkFile(n, op); err != nil {
			return nil, err
		}
		if r.cred != nil {
			if err := checkOpen(n, r.cred, q.Open, q.Override, op); err != nil {
				return nil, err
			}
		}
	}
	a := r.attrAnswer(n)
	a.GetAttr().Denies = q.Open != 0 && n.deniers > 0
	return a, nil
}

func (r *reader) lookup(sp *space, q *metapb.LookupQ) (*metapb.QueryResult, error) {
	const op = "lookup"
	if err := vfs.CheckName(string(q.Name), op); err != nil {
		return nil, err
	}
	if _, err := r.dir(q.Dir, vfs.AccessExec, op); err != nil {
		return nil, err
	}
	first, last := sp.places(r.hash, q.Name)
	for c := first; c <= last; c++ {
		d, err := r.dirent(q.Dir, c)
		if err != nil {
			return nil, err
		}
		if d == nil {
			break
		}
		if vfs.Type(d.Type) == typeGap || !bytes.Equal(d.Name, q.Name) {
			continue
		}
		n, err := r.inode(d.Ino)
		if err != nil {
			return nil, err
		}
		if n == nil {
			return nil, corrupt("entry %d of directory %d names inode %d, which does not exist", c, q.Dir, d.Ino)
		}
		return r.attrAnswer(n), nil
	}
	return nil, vfs.KindNotFound.Err(op)
}

// dirent returns the entry at a cookie, nil if there is none. It is valid until the next call.
func (r *reader) dirent(dir, cookie uint64) (*metapb.DirentRecord, error) {
	k := direntCacheKey(r.fs, dir, cookie)
	b, ok := r.cache.get(k, r.version, r.rec[:0])
	if ok {
		r.rec = b
	} else {
		r.key = appendDirent(r.key[:0], r.fs, dir, cookie)
		var err error
		if b, ok, err = r.view.Get(r.key); err != nil || !ok {
			return nil, err
		}
		r.cache.add(k, b, r.version)
	}
	d := &r.entry
	d.Name, d.Ino, d.Type = d.Name[:0], 0, 0
	if err := d.UnmarshalVT(b); err != nil {
		return nil, corrupt("directory entry: %w", err)
	}
	return d, nil
}

func (r *reader) parent(q *metapb.ParentQ) (*metapb.QueryResult, error) {
	d, err := r.dir(q.Dir, vfs.AccessExec, "parent")
	if err != nil {
		return nil, err
	}
	p, err := r.must(d.parent, "parent")
	if err != nil {
		return nil, err
	}
	return r.attrAnswer(p), nil
}

func (r *reader) readLink(q *metapb.ReadLinkQ) (*metapb.QueryResult, error) {
	n, err := r.must(q.Ino, "readlink")
	if err != nil {
		return nil, err
	}
	if n.attr.Type != vfs.TypeSymlink {
		return nil, vfs.KindNotSymlink.Err("readlink")
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_ReadLink{ReadLink: &metapb.ReadLinkR{Target: []byte(n.target)}}}, nil
}

func (r *reader) format() (format, error) {
	b, ok, err := r.view.Get(keyFormat)
	if err != nil {
		return format{}, err
	}
	if !ok {
		return format{}, vfs.Errorf(vfs.KindUnavailable, "query", "this shard has applied nothing yet")
	}
	return decodeFormat(b)
}

func (r *reader) shardInfo() (*metapb.QueryResult, error) {
	f, err := r.format()
	if err != nil {
		return nil, err
	}
	b, _, err := r.view.Get(keyState)
	if err != nil {
		return nil, err
	}
	applied, level, digest, err := decodeState(b)
	if err != nil {
		return nil, err
	}
	info := &metapb.ShardInfoR{
		Shard: uint32(f.shard), Level: level, Applied: applied,
		Digest: binary.BigEndian.AppendUint64(nil, digest), Incarnation: f.incarnation, Cluster: f.cluster,
	}
	if info.PurgeQueue, err = r.count(counterKey{what: counterQueueLen}); err != nil {
		return nil, err
	}
	if level >= levelCollect {
		if info.DyingNext, err = r.count(counterKey{what: counterDying}); err != nil {
			return nil, err
		}
		if info.DyingBlocks, err = r.count(counterKey{what: counterDyingLen}); err != nil {
			return nil, err
		}
	}
	switch {
	case level < levelCluster:
	case f.shard == 0:
		info.DeletionIncarnation, err = r.deletionAllowed()
	default:
		var unit uint64
		unit, err = r.count(counterKey{what: counterUnit})
		info.NextBlock = uint64(f.shard)<<blockShardShift | unit<<blockUnitShift
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_ShardInfo{ShardInfo: info}}, err
}

// blockStates says of each id whether a store may delete what it has of it.
func (r *reader) blockStates(q *metapb.BlockStatesQ) (*metapb.QueryResult, error) {
	const op = "blockstates"
	if len(q.Ids) > answerBlocks {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d ids, at most %d", len(q.Ids), answerBlocks)
	}
	f, err := r.format()
	if err != nil {
		return nil, err
	}
	res := &metapb.BlockStatesR{States: make([]metapb.BlockState, 0, len(q.Ids))}
	for _, id := range q.Ids {
		if id>>blockShardShift != uint64(f.shard) {
			// "dead" from a shard that does not know would lose data.
			return nil, vfs.Errorf(vfs.KindInvalid, op, "block %#x is not of shard %d", id, f.shard)
		}
		s, pg, err := r.blockState(id)
		if err != nil {
			return nil, err
		}
		res.States, res.Pgs = append(res.States, s), append(res.Pgs, pg)
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_BlockStates{BlockStates: res}}, nil
}

func (r *reader) blockState(id uint64) (state metapb.BlockState, pg uint32, err error) {
	var live metapb.BlockRecord
	r.key = appendID(r.key[:0], "b/", id)
	if b, ok, err := r.view.Get(r.key); err != nil || ok {
		if err == nil {
			err = live.UnmarshalVT(b)
		}
		return metapb.BlockState_BLOCK_LIVE, live.Pg, err
	}
	var dying metapb.DyingRecord
	r.key = appendID(r.key[:0], "x/", id)
	if b, ok, err := r.view.Get(r.key); err != nil || ok {
		if err == nil {
			err = dying.UnmarshalVT(b)
		}
		return metapb.BlockState_BLOCK_DYING, dying.Pg, err
	}
	var rec metapb.RangeRecord
	r.key = appendID(r.key[:0], "r/", id&(1<<blockShardShift-1)>>blockUnitShift)
	b, ok, err := r.view.Get(r.key)
	if err != nil || !ok {
		return metapb.BlockState_BLOCK_DEAD, 0, err
	}
	if err := rec.UnmarshalVT(b); err != nil {
		return 0, 0, corrupt("range: %w", err)
	}
	if id%blockUnit >= uint64(rec.Count) {
		return metapb.BlockState_BLOCK_DEAD, 0, nil
	}
	if reaped(&rec, id) {
		return metapb.BlockState_BLOCK_DEAD, 0, nil
	}
	if alive, err := r.registered(rec.Origin); err != nil || !alive {
		return metapb.BlockState_BLOCK_DEAD, 0, err
	}
	return metapb.BlockState_BLOCK_LEASED, 0, nil
}

// all decodes every record whose key begins with prefix.
func all[T interface{ UnmarshalVT([]byte) error }](r *reader, prefix []byte, fresh func() T) (list []T, err error) {
	var inner error
	err = r.view.Scan(prefix, prefixEnd(prefix), func(_, v []byte) bool {
		t := fresh()
		if inner = t.UnmarshalVT(v); inner == nil {
			list = append(list, t)
		}
		return inner == nil
	})
	if inner != nil {
		err = corrupt("record below %q: %w", prefix, inner)
	}
	return list, err
}

func (r *reader) clusterMap(q *metapb.ClusterMapQ) (*metapb.QueryResult, error) {
	version, err := r.count(counterKey{what: counterMap})
	if err != nil {
		return nil, err
	}
	if version != 0 && version == q.GetKnownVersion() {
		return &metapb.QueryResult{R: &metapb.QueryResult_ClusterMap{ClusterMap: &metapb.ClusterMapR{Version: version, Unchanged: true}}}, nil
	}
	stores, err := all(r, []byte("t/"), func() *metapb.Store { return new(metapb.Store) })
	if err != nil {
		return nil, err
	}
	pools, err := all(r, []byte("p/"), func() *metapb.Pool { return new(metapb.Pool) })
	if err != nil {
		return nil, err
	}
	m := &metapb.ClusterMapR{Stores: stores, Pools: pools, Version: version}
	return &metapb.QueryResult{R: &metapb.QueryResult_ClusterMap{ClusterMap: m}}, r.clusterGroups(m)
}

// count reads a counter.
func (r *reader) count(k counterKey) (uint64, error) {
	key := k.append(nil)
	b, ok, err := r.view.Get(key)
	if err != nil {
		return 0, err
	}
	if !ok {
		return k.what.first(), nil
	}
	if len(b) != 8 {
		return 0, corrupt("counter %q of %d bytes", key, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// namedPrefix is the prefix of the records below first, or of all if it is empty.
func namedPrefix(prefix, first string) []byte {
	if first == "" {
		return []byte(prefix)
	}
	return appendNamed(nil, prefix, first, nil)
}

func (r *reader) keys(q *metapb.KeysQ) (*metapb.QueryResult, error) {
	list, err := all(r, namedPrefix("k/", q.Kind), func() *metapb.Key { return new(metapb.Key) })
	return &metapb.QueryResult{R: &metapb.QueryResult_Keys{Keys: &metapb.KeysR{Keys: list}}}, err
}

func (r *reader) nfsClients(q *metapb.NFSClientsQ) (*metapb.QueryResult, error) {
	list, err := all(r, namedPrefix("N/", q.Gateway), func() *metapb.NFSClient { return new(metapb.NFSClient) })
	return &metapb.QueryResult{R: &metapb.QueryResult_NfsClients{NfsClients: &metapb.NFSClientsR{Clients: list}}}, err
}
