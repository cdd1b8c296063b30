package fsm

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// version is a state of a store and the entry it ends with.
type version struct {
	*MemStore
	applied uint64
}

func (v version) Applied() uint64 { return v.applied }

// someQueries ask for everything that the cache holds.
func someQueries(ino uint64, name string) []*metapb.Query {
	return []*metapb.Query{
		{Fs: 1, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: ino}}},
		{Fs: 1, Cred: &metapb.Cred{Uid: 5}, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: 1, Name: []byte(name)}}},
		{Fs: 1, Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{Dir: 1, Attrs: true}}},
		{Fs: 2, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: 1}}},
	}
}

// TestCacheCoherence asks old and new views, also between an entry's
// application and its commit: with the cache they answer what they answer
// without it, and in memory that is used again, too.
func TestCacheCoherence(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.SampledFrom([]int64{1 << 20, 40_000}).Draw(rt, "size")
		r := newNamespaceRig(t, Options{Cache: NewCache(size)})
		r.flush()
		views := []View{version{r.store.Snapshot(), r.index}}
		h := rapidHistory(rt)
		ask := func() {
			v := rapid.SampledFrom(views).Draw(rt, "view")
			asker := NewAsker(v, r.opts.Cache)
			for i, q := range someQueries(h.num("ino", 1, 12), string(h.name())) {
				again := show(asker.Query(q).ProtoReflect())
				with, without := Query(v, r.opts.Cache, q), Query(v, nil, q)
				if a, b := show(with.ProtoReflect()), show(without.ProtoReflect()); a != b {
					rt.Fatalf("query %d at entry %d of %d:\n%s\nwithout the cache:\n%s", i, v.(Versioned).Applied(), r.index, a, b)
				} else if again != a {
					rt.Fatalf("query %d at entry %d of %d, beside others:\n%s\nalone:\n%s", i, v.(Versioned).Applied(), r.index, again, a)
				}
			}
		}
		h.begin()
		r.apply(h.cmds...)
		for range h.num("steps", 10, 60) {
			c := h.op()
			if h.num("namespace", 0, 20) == 0 {
				c = &metapb.Command{Fs: 2, Op: &metapb.Command_CreateNamespace{CreateNamespace: testNamespace()}}
			}
			r.seqs[slotKey{1, 0}] = 1000 + r.index
			r.apply(c)
			ask()
			if h.num("flush", 0, 1) == 0 {
				r.flush()
				views = append(views, version{r.store.Snapshot(), r.index})
				if len(views) > 4 {
					views = views[1:]
				}
				ask()
			}
			ask()
		}
	})
}

// TestCacheConcurrent is for the race detector: queries on the newest view run
// beside Apply, and see what was committed before they began.
func TestCacheConcurrent(t *testing.T) {
	r := newNamespaceRig(t, Options{Cache: NewCache(100_000)})
	var mu sync.Mutex // guards view, changes
	r.flush()
	view := version{r.store.Snapshot(), r.index}
	modes := map[uint64]uint32{}
	const inos, rounds = 20, 400
	var readers sync.WaitGroup
	stop := make(chan struct{})
	errs := make(chan error, 8)
	for i := range uint64(4) {
		rng := rand.New(rand.NewPCG(1, i))
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ino := 2 + rng.Uint64N(inos)
				mu.Lock()
				v, want := view, modes[ino]
				mu.Unlock()
				res := Query(v, r.opts.Cache, &metapb.Query{Fs: 1, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: ino}}})
				if want != 0 && res.GetAttr().GetAttr().GetMode() != want {
					errs <- fmt.Errorf("inode %d at entry %d: %v, want mode %o", ino, v.applied, res, want)
					return
				}
			}
		})
	}
	for i := range inos {
		r.ok(createCmd(1, fmt.Sprint(i)))
	}
	for i := range rounds {
		ino, mode := uint64(2+i%inos), uint32(1+i)
		r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: ino, Set: &metapb.AttrSet{Mode: &mode}}}})
		r.flush()
		mu.Lock()
		view = version{r.store.Snapshot(), r.index}
		modes[ino] = mode
		mu.Unlock()
	}
	close(stop)
	readers.Wait()
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
}

// TestCacheBounded shows that the cache keeps to its size and that what is used
// survives what is not.
func TestCacheBounded(t *testing.T) {
	const size = 1 << 20
	c := NewCache(size)
	hot := inodeCacheKey(1, 1)
	c.add(hot, &inode{}, inodeCost, 0)
	for i := uint64(2); i < 20_000; i++ {
		c.add(inodeCacheKey(1, i), &inode{}, inodeCost, 0)
		if c.get(hot, 0) == nil {
			t.Fatalf("what was just used went after %d others", i)
		}
	}
	total, count := int64(0), 0
	for i := range c.shards {
		total += c.shards[i].cost
		count += len(c.shards[i].index)
	}
	if total > size || int64(count)*inodeCost != total || total < size/2 {
		t.Fatalf("%d records, %d bytes", count, total)
	}
	c.add(inodeCacheKey(1, 1<<40), &inode{target: string(make([]byte, size))}, size, 0)
	if c.get(inodeCacheKey(1, 1<<40), 0) != nil {
		t.Fatal("a record larger than its share was kept")
	}
	var none *Cache
	none.add(hot, &inode{}, 1, 0)
	if none.get(hot, 0) != nil || none.peek(hot) != nil {
		t.Fatal("nil is not empty")
	}
}

// TestQueryBounds shows that answers are bounded and continue.
func TestQueryBounds(t *testing.T) {
	r := newNamespaceRig(t, Options{})
	const files = 300
	for i := range files {
		r.ok(createCmd(1, fmt.Sprintf("%0200d", i)))
	}
	seen, pages := 0, 0
	for cookie := uint64(0); ; pages++ {
		d := r.query(&metapb.Query{Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{Dir: 1, Cookie: cookie, MaxBytes: 10_000}}}).GetReadDir()
		if n := d.SizeVT(); n > 10_000 || len(d.Entries) == 0 {
			t.Fatalf("page of %d bytes, %d entries", n, len(d.Entries))
		}
		seen += len(d.Entries)
		cookie = d.Entries[len(d.Entries)-1].Cookie
		if d.Eof {
			break
		}
	}
	if seen != files || pages < 5 {
		t.Fatalf("%d entries on %d pages", seen, pages)
	}
	many := &metapb.BlockStatesQ{Ids: make([]uint64, answerBlocks+1)}
	if res := r.query(&metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: many}}); vfs.Kind(res.Kind) != vfs.KindTooMany {
		t.Fatalf("%v", res.Kind)
	}
	if res := r.query(&metapb.Query{}); vfs.Kind(res.Kind) != vfs.KindNotSupported {
		t.Fatalf("%v", res)
	}
	if res := Query(NewMemStore(), NewCache(1<<20), &metapb.Query{Q: &metapb.Query_ShardInfo{}}); vfs.Kind(res.Kind) != vfs.KindUnavailable {
		t.Fatalf("%v", res)
	}
}
