package fsm

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func renewal(incarnation uint64) Renewal {
	return Renewal{Incarnation: incarnation, HandleSecret: []byte("a new handle key"), Time: &metapb.Time{Sec: 1}}
}

// renew makes the rig's state that of a new incarnation, and goes on with it.
func (r *rig) renew(x Renewal) {
	r.t.Helper()
	r.flush()
	applied, err := Renew(r.store, r.opts, x)
	if err != nil {
		r.t.Fatal(err)
	}
	if applied < r.index {
		r.t.Fatalf("the state had applied %d, now %d", r.index, applied)
	}
	r.index = applied
	r.open()
}

func info(r *rig) *metapb.ShardInfoR {
	return r.query(&metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}}).GetShardInfo()
}

// What was given out after the backup is not given out again by what is restored from it, whoever had it is nobody there, and what the backup
// has is all there.
func TestRenewNamespace(t *testing.T) {
	r := newNamespaceRig(t, Options{})
	r.raise()
	ino, block, epoch := liveBlock(r)
	share := &metapb.ClientOpen{Client: 7, Stateid: []byte("stateid-0001"), Owner: []byte("o"), Ino: ino, Access: 3, Deny: 2}
	r.ok(&metapb.Command{Op: &metapb.Command_OpenFile{OpenFile: &metapb.OpenFile{Ino: ino, Share: share}}})
	r.check()
	backup := r.store.Snapshot()
	at := r.index

	// After the backup: what a newer world saw.
	range2 := r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 8}}}).GetBlocks().First
	ino2 := r.ok(createCmd(1, "later")).GetCreate().Attr.Ino
	origin2 := r.register("b", 1)
	r.check()

	r.store, r.batch, r.index = backup, nil, at
	r.renew(renewal(77))
	r.check()
	if i := info(r); i.Incarnation != 77 || i.DeletionIncarnation != 0 || i.NextBlock <= range2+blockUnit {
		t.Fatalf("shard %v, ids were given up to %#x", i, range2)
	}
	// The file is as it was, without lease and open.
	a := r.attr(ino)
	if a.Attr.Size != 100 || a.Lease != nil {
		t.Fatalf("file %v", a)
	}
	r.fails(vfs.KindUnknownOrigin, &metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{Ino: ino, Epoch: epoch}}})
	r.fails(vfs.KindUnknownOrigin, createCmd(1, "stale"))
	states := r.query(&metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: &metapb.BlockStatesQ{Ids: []uint64{block, block + 1, range2}}}}).GetBlockStates().States
	if fmt.Sprint(states) != fmt.Sprint([]metapb.BlockState{metapb.BlockState_BLOCK_LIVE, metapb.BlockState_BLOCK_DEAD, metapb.BlockState_BLOCK_DEAD}) {
		t.Fatalf("states of a live block, one of a void range and one that the backup does not know: %v", states)
	}
	r.drain(10)
	r.check()

	r.me = r.register("a", 2)
	if r.me <= origin2 {
		t.Fatalf("origin %d was given before", r.me)
	}
	if n := r.ok(createCmd(1, "new")).GetCreate().Attr.Ino; n <= ino2 {
		t.Fatalf("inode %d was given before", n)
	}
	if b := r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 8}}}).GetBlocks().First; b <= range2 {
		t.Fatalf("blocks from %#x on were given before", b)
	}
	r.fails(vfs.KindExpired, &metapb.Command{Op: &metapb.Command_OpenFile{OpenFile: &metapb.OpenFile{Ino: ino, Share: share}}})
	share.Client = 8
	r.ok(&metapb.Command{Op: &metapb.Command_OpenFile{OpenFile: &metapb.OpenFile{Ino: ino, Share: share}}})
	r.check()

	if _, err := Renew(r.store, r.opts, renewal(77)); vfs.KindOf(err) != vfs.KindInvalid {
		t.Fatalf("the same incarnation again: %v", err)
	}
	other := r.opts
	other.Cluster = []byte("another cluster.")
	if _, err := Renew(r.store, other, renewal(78)); vfs.KindOf(err) != vfs.KindIncompatible {
		t.Fatalf("of another cluster: %v", err)
	}
}

func TestRenewCluster(t *testing.T) {
	r := newRig(t, Options{Shard: 0})
	r.raise()
	r.me = r.register("g", 1)
	for id := uint32(1); id <= 3; id++ {
		r.ok(&metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{Id: id, Node: "n", Uuid: []byte{byte(id)}}}}})
	}
	slots := []*metapb.Slot{{Store: 1}, {Store: 2}, {Store: 3}}
	r.ok(&metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: &metapb.Pool{Id: 1, Name: "p", K: 2, M: 1, Pgs: []*metapb.PlacementGroup{{Id: 1, Epoch: 4, Slots: slots}}}}}})
	r.ok(&metapb.Command{Op: &metapb.Command_PutKey{PutKey: &metapb.PutKey{Key: &metapb.Key{Kind: "handle", Id: 1, Secret: []byte("old")}}}})
	r.ok(&metapb.Command{Op: &metapb.Command_PutToken{PutToken: &metapb.PutToken{Token: &metapb.Token{Hash: make([]byte, 32), Roles: []string{"meta"}, Expires: &metapb.Time{Sec: 9}}}}})
	for id := uint32(1); id <= 2; id++ {
		fs := &metapb.FileSystem{
			Id: id, Name: fmt.Sprint(id), Workspace: "default", Kind: "shared", Shard: 1, Pool: 1, State: metapb.FileSystemState_FS_ACTIVE, HashKey: []byte("0123456789abcdef"),
		}
		r.ok(&metapb.Command{Op: &metapb.Command_PutFileSystem{PutFileSystem: &metapb.PutFileSystem{Fs: fs}}})
	}
	client := r.ok(&metapb.Command{Op: &metapb.Command_PutClient{PutClient: &metapb.PutClient{Count: 3}}}).GetClients().First
	session := &metapb.SessionRecord{Id: []byte("session-00000001"), Client: client}
	r.ok(&metapb.Command{Op: &metapb.Command_PutSession{PutSession: &metapb.PutSession{Session: session}}})
	r.fails(vfs.KindChanged, &metapb.Command{Op: &metapb.Command_AllowDeletion{AllowDeletion: &metapb.AllowDeletion{Incarnation: 5}}})
	before := r.query(&metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}}).GetClusterMap()

	x := renewal(5)
	x.Namespaces = map[uint16][]uint32{1: {1}}
	r.renew(x)
	r.check()
	after := r.query(&metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{KnownVersion: before.Version}}}).GetClusterMap()
	g := after.Pools[0].Pgs[0]
	if after.Unchanged || g.Epoch <= 4+1000 || after.Pools[0].LastPg <= 1000 || len(after.Stores) != 3 || len(g.Slots) != 3 {
		t.Fatalf("map %v", after)
	}
	keys := r.query(&metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{}}}).GetKeys().Keys
	if len(keys) != 1 || !bytes.Equal(keys[0].Secret, x.HandleSecret) {
		t.Fatalf("keys %v", keys)
	}
	if n := r.query(&metapb.Query{Q: &metapb.Query_Tokens{Tokens: &metapb.TokensQ{}}}).GetTokens().Tokens; len(n) != 0 {
		t.Fatalf("tokens %v", n)
	}
	if n := r.query(&metapb.Query{Q: &metapb.Query_Clients{Clients: &metapb.ClientsQ{}}}).GetClients().GetClients(); len(n) != 0 {
		t.Fatalf("clients %v", n)
	}
	states := map[uint32]metapb.FileSystemState{}
	list := r.query(&metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{}}}).GetFileSystems()
	for _, f := range list.FileSystems {
		if states[f.Id] = f.State; f.Version < 1000 {
			t.Fatalf("%v has a version that the namespace may have seen", f)
		}
	}
	if list.NextId < 1000 || list.Version < 1000 {
		t.Fatalf("the next file system is %d, of list %d", list.NextId, list.Version)
	}
	if states[1] != metapb.FileSystemState_FS_ACTIVE || states[2] != metapb.FileSystemState_FS_CREATING {
		t.Fatalf("file systems %v: the second one has no namespace", states)
	}
	r.me = r.register("g", 2)
	if c := r.ok(&metapb.Command{Op: &metapb.Command_PutClient{PutClient: &metapb.PutClient{}}}).GetClients().First; c < client+1000 {
		t.Fatalf("client %d was given before", c)
	}
	if i := info(r); i.DeletionIncarnation != 0 {
		t.Fatalf("deletion is allowed: %v", i)
	}
	r.ok(&metapb.Command{Op: &metapb.Command_AllowDeletion{AllowDeletion: &metapb.AllowDeletion{Incarnation: 5}}})
	if i := info(r); i.DeletionIncarnation != 5 {
		t.Fatalf("deletion is not allowed: %v", i)
	}
	r.renew(renewal(6))
	if i := info(r); i.DeletionIncarnation == i.Incarnation {
		t.Fatalf("deletion is allowed after the next restore: %v", i)
	}
}

// Whatever a state was like, it is a good one when it is renewed, and after all that was void is purged.
func TestRenewAnything(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		h := seededHistory(seed)
		h.raises, h.nfs = true, seed%2 == 0
		h.begin()
		for range 300 {
			h.step()
		}
		never := func() bool { return false }
		r, _ := h.play(t, Options{Shard: 1, MaxLevel: Level}, never, never, never)
		r.t = t
		r.check()
		r.index = r.m.Applied()
		r.renew(renewal(9))
		r.check()
		r.drain(50)
		r.check()
		if origins, err := Origins(r.store); err != nil || len(origins) != 0 {
			t.Fatalf("seed %d: origins %v, %v", seed, origins, err)
		}
	}
}
