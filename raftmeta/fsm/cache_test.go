package fsm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// TestCacheBounded shows that the cache keeps to its size, has as much in it as its documentation says, and that what is used survives what is not.
func TestCacheBounded(t *testing.T) {
	const size = 16 << 20 // as rackfs dev gives a replica
	c := NewCache(size)
	hot := inodeCacheKey(1, 1)
	rec := make([]byte, 48)
	c.add(hot, rec, 0)
	for i := uint64(2); i < 300_000; i++ {
		c.add(inodeCacheKey(1, i), rec, 0)
		if _, ok := c.get(hot, 0, nil); !ok {
			t.Fatalf("what was just used went after %d others", i)
		}
	}
	total, count := 0, 0
	for i := range c.shards {
		s := &c.shards[i]
		for _, p := range s.pages {
			total += cap(p)
		}
		total += cap(s.index) * slotBytes
		count += s.count
	}
	if total > size || count < size*9/10/inodeCacheBytes {
		t.Fatalf("%d records in %d bytes", count, total)
	}
	c.add(inodeCacheKey(1, 1<<40), make([]byte, cachePageBytes), 0)
	if _, ok := c.get(inodeCacheKey(1, 1<<40), 0, nil); ok {
		t.Fatal("a record larger than its share was kept")
	}
	var none *Cache
	none.add(hot, rec, 0)
	for _, c := range []*Cache{none, NewCache(0)} {
		c.add(hot, rec, 0)
		if _, ok := c.get(hot, 0, nil); ok {
			t.Fatal("what has no room is not empty")
		}
		if _, ok := c.peek(hot, nil); ok {
			t.Fatal("what has no room is not empty")
		}
	}
}

// TestCachePages compares a small cache with a map that knows all: what the cache has is what was put last, it has what was put just now, and nothing that
// was dropped. Records of all sizes make pages that are swept at every fill.
func TestCachePages(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var s cacheShard
		s.limit(rapid.IntRange(0, 20_000).Draw(rt, "budget"))
		put := map[cacheKey]string{}
		hash := cacheKey.hash
		for range rapid.IntRange(1, 600).Draw(rt, "steps") {
			k := cacheKey{kind: rapid.SampledFrom([]byte("id")).Draw(rt, "kind"), fs: 1, a: rapid.Uint64Range(1, 300).Draw(rt, "a")}
			if k.kind == 'd' {
				k.b = k.a * 7
			}
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				if i := s.find(k, hash(k)); i >= 0 {
					s.drop(i)
				}
				delete(put, k)
			case 1, 2:
				if b, ok := s.get(k, hash(k), nil); ok && string(b) != put[k] {
					rt.Fatalf("%v is %q, not %q", k, b, put[k])
				}
			default:
				rec := make([]byte, rapid.SampledFrom([]int{1, 8, 40, 41, 200, 4000, 9000}).Draw(rt, "size"))
				for i := range rec {
					rec[i] = byte(len(put)) + byte(i)
				}
				s.put(k, hash(k), rec)
				put[k] = string(rec)
				if _, ok := s.get(k, hash(k), nil); ok != (k.head()+len(rec) <= s.pageBytes) {
					rt.Fatalf("%d bytes in pages of %d: kept %v", len(rec), s.pageBytes, ok)
				}
			}
		}
		n := 0
		for k, want := range put {
			if b, ok := s.get(k, hash(k), nil); ok {
				if n++; string(b) != want {
					rt.Fatalf("%v is %q, not %q", k, b, want)
				}
			}
		}
		if n != s.count {
			rt.Fatalf("%d records are found, %d in the index", n, s.count)
		}
	})
}

// TestCachedInode shows that no field of an inode is lost in a cache: each is set alone, then all.
func TestCachedInode(t *testing.T) {
	var paths [][]int
	var walk func(typ reflect.Type, at []int)
	walk = func(typ reflect.Type, at []int) {
		if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
			paths = append(paths, at)
			return
		}
		for i := range typ.NumField() {
			walk(typ.Field(i).Type, append(slices.Clone(at), i))
		}
	}
	walk(reflect.TypeFor[inode](), nil)
	if len(paths) < 30 {
		t.Fatalf("an inode has %d fields?", len(paths))
	}
	base := func() *inode {
		zero := time.Unix(0, 0)
		return &inode{attr: vfs.Attr{Ino: 7, Atime: zero, Mtime: zero, Ctime: zero, Btime: zero}}
	}
	set := func(n *inode, path []int, i int) {
		f := reflect.ValueOf(n).Elem()
		for _, j := range path {
			f = f.Field(j)
		}
		p := reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Interface()
		switch p := p.(type) {
		case *vfs.Ino: // the key
		case *vfs.Type:
			*p = vfs.TypeSocket
		case *uint32:
			*p = uint32(math.MaxUint32 - i)
		case *uint64:
			*p = math.MaxUint64 - uint64(i)
		case *int:
			*p = 1000 + i
		case *string:
			*p = strings.Repeat("\x00x", 40+i)
		case *time.Time:
			*p = time.Unix(-1<<40+int64(i), 999_999_999)
		case *[]cut:
			*p = []cut{{1, 0}, {math.MaxUint32, math.MaxUint64}}
		default:
			t.Fatalf("field %v is a %T", path, p)
		}
	}
	check := func(n *inode) {
		t.Helper()
		got := &inode{target: "of another", cuts: []cut{{3, 3}}}
		got.setCached(uint64(n.attr.Ino), n.appendCached(nil))
		if !reflect.DeepEqual(got, n) {
			t.Fatalf("got  %+v\nwant %+v", got, n)
		}
	}
	every := base()
	check(every)
	for i, p := range paths {
		n := base()
		set(n, p, i)
		set(every, p, i)
		check(n)
	}
	check(every)
	if b := every.appendCached(nil); len(b) < 200 {
		t.Fatalf("all fields in %d bytes", len(b))
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
