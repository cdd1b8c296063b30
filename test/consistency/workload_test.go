package consistency

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// Operations of one client in one piece, at most.
	maxOps = 18
	// opTimeout is when a client gives up: the outcome is then unknown.
	opTimeout = 5 * time.Second
	// One change of a directory in hastyOps is given up after a time in which it may just have been sent.
	hastyOps     = 16
	hastyTimeout = 3 * time.Millisecond
	// A client that lost so many answers is dead: each lost one makes the check longer.
	maxLost = 2
)

var names = []string{"a", "b", "c"}

// piece is one directory and some files, and what clients did to them.
type piece struct {
	seed   uint64
	start  time.Time
	dir    vfs.Ino
	mounts [2]*nfsDirectory // of the gateways
	files  []vfs.Ino        // own and shared
	tags   *atomic.Uint32
	quiet  chan struct{} // closed when the fault is over

	mu      sync.Mutex // guards the fields below
	dirOps  []porcupine.Operation
	fileOps []porcupine.Operation
	known   map[tag]vfs.Ino
	errs    map[string]int // outcomes that are not of interest, by what they say
	torn    string         // a read that saw no single write
}

func (p *piece) now() int64 { return int64(time.Since(p.start)) }

// outcomeOf sorts errors; unknown is also for those that say nothing of the effect.
func outcomeOf(err error) outcome {
	switch vfs.KindOf(err) {
	case vfs.KindOK:
		return ok
	case vfs.KindExists:
		return exists
	case vfs.KindNotFound:
		return notFound
	case vfs.KindStale:
		return stale
	}
	return unknown
}

func (p *piece) saw(a vfs.Attr) tag {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := tag(a.UID)
	p.known[t] = a.Ino
	return t
}

func (p *piece) someTag(rng *rand.Rand) (tag, vfs.Ino) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := rng.IntN(max(len(p.known), 1))
	for t, i := range p.known {
		if n--; n < 0 {
			return t, i
		}
	}
	return 0, 0
}

// client is one goroutine that uses a gateway.
type client struct {
	id   int
	p    *piece
	g    *gateway
	dir  directoryFS
	rng  *rand.Rand
	gaps time.Duration // mean pause between operations
	lost int           // operations without an answer

	lastOp int // where record put the last one
}

// run calls one until the fault is over, but at least twice, or the piece is long enough.
func (c *client) run(one func(ctx context.Context)) {
	for n := range maxOps {
		if c.lost == maxLost {
			return
		}
		if n >= 2 {
			select {
			case <-c.p.quiet:
				return
			default:
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		one(ctx)
		cancel()
		time.Sleep(time.Duration(c.rng.Int64N(int64(2 * c.gaps))))
	}
}

// record notes an operation from call to ret. A read whose caller got no answer tells nothing.
func (c *client) record(to *[]porcupine.Operation, in, out any, call, ret int64, lost, changes bool, err error) {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if lost {
		c.lost++
		p.errs[fmt.Sprint(vfs.KindOf(err))]++
		if !changes {
			return
		}
		ret = math.MaxInt64
	}
	c.lastOp = len(*to)
	*to = append(*to, porcupine.Operation{ClientId: c.id, Input: in, Output: out, Call: call, Return: ret})
}

// change does something to the directory.
func (c *client) change(ctx context.Context) {
	v, p := c.dir, c.p
	mounted, overNFS := v.(*nfsDirectory)
	if c.rng.IntN(hastyOps) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, hastyTimeout)
		defer cancel()
	}
	in := dirOp{name: names[c.rng.IntN(len(names))], to: names[c.rng.IntN(len(names))]}
	var out dirOut
	var err error
	args := func(x vfs.Exclusive) vfs.CreateArgs {
		in.tag = tag(p.tags.Add(1))
		uid, mode := uint32(in.tag), uint32(0o644)
		return vfs.CreateArgs{Exclusive: x, Attr: vfs.SetAttr{UID: &uid, Mode: &mode}}
	}
	call := p.now()
	what := c.rng.IntN(9)
	if overNFS && what == 3 {
		what = 0 // an OPEN does not say whether it made the file
	}
	switch what {
	case 0, 1, 2:
		in.do = "create"
		var r vfs.Created
		if r, err = v.Create(ctx, &vfs.Root, p.dir, in.name, args(vfs.Guarded)); err == nil {
			p.saw(r.Attr)
		}
	case 3:
		in.do = "open"
		var r vfs.Created
		if r, err = v.Create(ctx, &vfs.Root, p.dir, in.name, args(vfs.Unchecked)); err == nil {
			out.tag, out.fresh = p.saw(r.Attr), r.New
		}
	case 4, 5:
		in.do = "remove"
		_, err = v.Remove(ctx, &vfs.Root, p.dir, in.name, vfs.RemoveAny)
	case 6, 7:
		in.do = "rename"
		_, _, err = v.Rename(ctx, &vfs.Root, p.dir, in.name, p.dir, in.to)
	case 8:
		in.do = "link"
		var ino vfs.Ino
		if in.tag, ino = p.someTag(c.rng); in.tag == 0 || overNFS && !mounted.knows(ino) {
			return
		}
		_, _, err = v.Link(ctx, &vfs.Root, ino, p.dir, in.name)
	}
	out.outcome = outcomeOf(err)
	c.record(&p.dirOps, in, out, call, p.now(), out.outcome == unknown, true, err)
}

// look reads the directory.
func (c *client) look(ctx context.Context) {
	v, p := c.dir, c.p
	in := dirOp{do: "lookup", name: names[c.rng.IntN(len(names))]}
	var out dirOut
	var err error
	call := p.now()
	if c.rng.IntN(3) > 0 {
		var a vfs.Attr
		if a, err = v.Lookup(ctx, &vfs.Root, p.dir, in.name); err == nil {
			out.tag = p.saw(a)
		}
	} else {
		in = dirOp{do: "readdir"}
		var page vfs.DirPage
		if page, err = v.ReadDir(ctx, &vfs.Root, p.dir, 0, 100, true); err == nil {
			m := map[string]tag{}
			for _, e := range page.Entries {
				m[e.Name] = p.saw(*e.Attr)
			}
			out.entries = string(canonical(m))
		}
	}
	out.outcome = outcomeOf(err)
	c.record(&p.dirOps, in, out, call, p.now(), out.outcome == unknown, false, err)
}

// prepare makes the piece's directory and files. It waits for the cluster as long as it takes.
func prepare(ctx context.Context, a, b *gateway, number int, seed uint64, tags *atomic.Uint32) (*piece, error) {
	p := &piece{seed: seed, start: time.Now(), tags: tags, quiet: make(chan struct{}), known: map[tag]vfs.Ino{}, errs: map[string]int{}}
	mode := uint32(0o777)
	d, err := a.vol.MakeNode(ctx, &vfs.Root, vfs.RootIno, fmt.Sprintf("piece-%d", number), vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
	if err != nil {
		return nil, err
	}
	p.dir = d.Attr.Ino
	for i, g := range []*gateway{a, b} {
		fh, _, err := g.nfs.client.Walk(ctx, fmt.Sprintf("/default/piece-%d", number))
		if err != nil {
			return nil, err
		}
		p.mounts[i] = &nfsDirectory{c: g.nfs.client, dir: fh, handles: map[vfs.Ino]nfsclient.FH{}}
	}
	for i := range filesOfPiece {
		f, err := a.vol.Create(ctx, &vfs.Root, vfs.RootIno, fmt.Sprintf("file-%d-%d", number, i), vfs.CreateArgs{
			Exclusive: vfs.Guarded, Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenRead | vfs.OpenWrite,
		})
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, f.Attr.Ino)
	}
	_, err = b.vol.Open(ctx, &vfs.Root, p.files[shared], vfs.OpenRead, false)
	return p, err
}

// finish reads everything once more, as clients that come after all others, and closes the files. a is the first gateway or, if
// that is dead, its successor.
func (p *piece) finish(ctx context.Context, a, b *gateway, dead bool) error {
	for i, g := range []*gateway{a, b} {
		c := &client{id: 1000 + i, p: p, g: g, dir: g.vol, rng: rand.New(rand.NewPCG(p.seed, 0))}
		// A busy machine may need longer for a read than this hasty gateway waits.
		answered := func(read func(context.Context)) error {
			for lost := -1; c.lost != lost; {
				if ctx.Err() != nil {
					return fmt.Errorf("a read at the end was not answered: %v", p.errs)
				}
				lost = c.lost
				read(ctx)
			}
			return nil
		}
		for range 4 {
			if err := answered(c.look); err != nil {
				return err
			}
		}
		for n := range p.files {
			if n == own && i == 1 {
				continue // the other gateway may hold newer bytes
			}
			if _, err := g.vol.Open(ctx, &vfs.Root, p.files[n], vfs.OpenRead, false); err != nil {
				return err
			}
			if n == own {
				if err := answered(c.readFile(n, ownDurable)); err != nil {
					return err
				}
			}
			if n != own || !dead {
				if err := answered(c.readFile(n, n)); err != nil {
					return err
				}
			}
			if err := g.vol.Close(ctx, p.files[n], vfs.OpenRead); err != nil {
				return err
			}
		}
	}
	return nil
}

// close ends what prepare opened at a and b, if that still lives.
func (p *piece) close(ctx context.Context, a, b *gateway) error {
	for _, f := range p.files {
		if err := a.vol.Close(ctx, f, vfs.OpenRead|vfs.OpenWrite); err != nil && !a.dead.Load() {
			return err
		}
	}
	return b.vol.Close(ctx, p.files[shared], vfs.OpenRead)
}

// clients are all of a piece, by what they do.
func (p *piece) clients(a, b *gateway) (all []func()) {
	on := func(g *gateway, dir directoryFS, gaps time.Duration, what func(c *client) func(context.Context)) {
		c := &client{id: len(all), p: p, g: g, dir: dir, rng: rand.New(rand.NewPCG(p.seed, uint64(len(all)))), gaps: gaps}
		all = append(all, func() { c.run(what(c)) })
	}
	add := func(g *gateway, gaps time.Duration, what func(c *client) func(context.Context)) {
		on(g, g.vol, gaps, what)
	}
	for i, g := range []*gateway{a, b} { // NFS clients
		on(g, p.mounts[i], 40*time.Millisecond, func(c *client) func(context.Context) { return c.change })
		on(g, p.mounts[i], 50*time.Millisecond, func(c *client) func(context.Context) { return c.look })
	}
	for range 2 {
		add(a, 40*time.Millisecond, func(c *client) func(context.Context) { return c.change })
		add(a, 50*time.Millisecond, func(c *client) func(context.Context) { return c.look })
	}
	add(b, 80*time.Millisecond, func(c *client) func(context.Context) { return c.change })
	for range 8 {
		add(b, 150*time.Millisecond, func(c *client) func(context.Context) { return c.look })
	}
	for n, reads := range []*gateway{a, b} {
		for range 2 {
			add(a, 40*time.Millisecond, func(c *client) func(context.Context) { return c.changeFile(n) })
			add(reads, 30*time.Millisecond, func(c *client) func(context.Context) { return c.readFile(n, n) })
		}
	}
	return all
}
