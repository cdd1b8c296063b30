package volume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// pair is two gateways of one file system, at level 6.
type pair struct {
	t    testing.TB
	meta *metadata
	vols [2]*volume.Volume
	gws  [2]*gateway

	wishes atomic.Int64
	wished func()                           // if set, is called when a gateway is asked for a lease
	paused [2]atomic.Pointer[chan struct{}] // a gateway stands still until it is closed
}

func newPair(t testing.TB, cfg volume.Config) *pair {
	cfg.StallTimeout = 5 * time.Minute // only ends a test that hangs
	p := &pair{t: t, meta: newMetadataAt(t, fsm.Level)}
	blocks := newBlocks()
	for i := range p.vols {
		g := p.meta.gateway(t, fmt.Sprintf("gw-%d", i))
		g.asking = func(*metapb.Command) { p.stand(i) }
		c := cfg
		c.FS, c.Shard, c.Meta, c.Blocks, c.Incarnation, c.Keep = testFS, testShard, g, blocks, g.incarnation, true
		other := 1 - i
		c.Want = func(ctx context.Context, ino vfs.Ino) error {
			p.wishes.Add(1)
			if p.wished != nil {
				p.wished()
			}
			if stop := p.paused[other].Load(); stop != nil {
				select {
				case <-*stop:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return p.vols[other].GiveBack(ctx, ino)
		}
		p.gws[i], p.vols[i] = g, volume.New(c)
		t.Cleanup(p.vols[i].Abandon)
	}
	return p
}

// stand waits while gateway i is paused.
func (p *pair) stand(i int) {
	if stop := p.paused[i].Load(); stop != nil {
		<-*stop
	}
}

func (p *pair) pause(i int) (resume func()) {
	stop := make(chan struct{})
	p.paused[i].Store(&stop)
	return func() {
		p.paused[i].Store(nil)
		close(stop)
	}
}

// file makes a file that both gateways' clients have open for writing.
func (p *pair) file(name string) vfs.Ino {
	p.t.Helper()
	ctx := p.t.Context()
	mode := uint32(0o666)
	share := func(i int) *vfs.Share {
		return &vfs.Share{Client: uint64(1 + i), State: vfs.StateID{byte(i + 1), name[0]}, Owner: []byte(name), Access: vfs.OpenRead | vfs.OpenWrite}
	}
	made, err := p.vols[0].Create(ctx, &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenRead | vfs.OpenWrite, Share: share(0)})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.vols[1].OpenShared(ctx, &vfs.Root, made.Attr.Ino, vfs.OpenRead|vfs.OpenWrite, false, *share(1)); err != nil {
		p.t.Fatal(err)
	}
	return made.Attr.Ino
}

func (p *pair) write(i int, ino vfs.Ino, off uint64, data string, s vfs.Stable) (vfs.Stable, vfs.Verifier) {
	p.t.Helper()
	got, ver, err := p.vols[i].Write(p.t.Context(), &vfs.Root, ino, off, []byte(data), s)
	if err != nil {
		p.t.Fatalf("write at gateway %d: %v", i, err)
	}
	return got, ver
}

func (p *pair) reads(i int, ino vfs.Ino, want string) {
	p.t.Helper()
	buf := make([]byte, len(want)+8)
	n, eof, err := p.vols[i].Read(p.t.Context(), ino, 0, buf)
	if err != nil || !eof || string(buf[:n]) != want {
		p.t.Fatalf("gateway %d reads %q, %v, %v, want %q", i, buf[:n], eof, err, want)
	}
}

// What one gateway made durable the other one reads, whoever has the lease; what is buffered at one is neither lost nor undone by
// what is written at the other; and whatever is changed at one is seen at the other.
func TestPair(t *testing.T) {
	p := newPair(t, volume.Config{})
	ctx := t.Context()
	ino := p.file("f")
	if s, _ := p.write(0, ino, 0, "aaaa", vfs.Unstable); s != vfs.Unstable {
		t.Fatalf("the only writer is answered %v", s)
	}
	if p.wishes.Load() != 0 {
		t.Fatal("an open asked for the lease")
	}
	ver, err := p.vols[0].Commit(ctx, ino, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.reads(1, ino, "aaaa")
	_, unstable := p.write(0, ino, 4, "bbbb", vfs.Unstable)
	p.reads(0, ino, "aaaabbbb")
	// The second writer: the first one's bytes are durable before its own.
	if s, _ := p.write(1, ino, 2, "CCCC", vfs.Unstable); s != vfs.FileSync {
		t.Fatalf("a write to a shared file is answered %v", s)
	}
	if n := p.wishes.Load(); n != 1 {
		t.Fatalf("%d wishes", n)
	}
	p.reads(0, ino, "aaCCCCbb")
	p.reads(1, ino, "aaCCCCbb")
	if now, err := p.vols[0].Commit(ctx, ino, 0, 0); err != nil || now != unstable || now != ver {
		t.Fatalf("COMMIT after the recall: %x, %v, the writes were told %x", now, err, unstable)
	}
	// Both write through now, and ask nobody.
	p.write(0, ino, 0, "dd", vfs.Unstable)
	p.reads(1, ino, "ddCCCCbb")
	p.write(1, ino, 6, "ee", vfs.Unstable)
	p.reads(0, ino, "ddCCCCee")
	size := uint64(5)
	if _, err := p.vols[1].SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: &size}, true); err != nil {
		t.Fatal(err)
	}
	p.reads(0, ino, "ddCCC")
	if err := p.vols[0].Deallocate(ctx, &vfs.Root, ino, 1, 2); err != nil {
		t.Fatal(err)
	}
	p.reads(1, ino, "d\x00\x00CC")
	if n := p.wishes.Load(); n != 1 {
		t.Fatalf("%d wishes for a shared file", n)
	}
	// One that goes on alone gets the file for itself again.
	for range 200 {
		p.write(1, ino, 0, "f", vfs.Unstable)
	}
	if s, _ := p.write(1, ino, 0, "F", vfs.Unstable); s != vfs.Unstable {
		t.Fatal("200 changes by one gateway, and it still writes through")
	}
	// Modes, names, attributes and locks of a file that is the other's alone.
	mode := uint32(0o600)
	if _, err := p.vols[0].SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Mode: &mode}, false); err != nil {
		t.Fatal(err)
	}
	if a, err := p.vols[1].GetAttr(ctx, ino); err != nil || a.Mode != mode {
		t.Fatalf("mode %o, %v", a.Mode, err)
	}
	p.reads(0, ino, "F\x00\x00CC")
}

// Every kind of command of another gateway is carried out after the holder was asked.
func TestRecalledByEverything(t *testing.T) {
	big := uint64(100)
	mode := uint32(0o600)
	for name, do := range map[string]func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error{
		"truncate": func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error {
			_, err := v.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: &big}, true)
			return err
		},
		"chmod": func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error {
			_, err := v.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Mode: &mode}, true)
			return err
		},
		"link": func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error {
			_, _, err := v.Link(ctx, &vfs.Root, ino, vfs.RootIno, "g")
			return err
		},
		"rename": func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error {
			_, _, err := v.Rename(ctx, &vfs.Root, vfs.RootIno, "f", vfs.RootIno, "h")
			return err
		},
		"remove": func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error {
			_, err := v.Remove(ctx, &vfs.Root, vfs.RootIno, "f", vfs.RemoveAny)
			return err
		},
		"xattr": func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error {
			_, err := v.SetXattr(ctx, &vfs.Root, ino, "user.a", []byte("v"), vfs.XattrEither)
			return err
		},
		"allocate": func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error {
			return v.Allocate(ctx, &vfs.Root, ino, 0, 1<<16)
		},
		"write": func(ctx context.Context, v *volume.Volume, ino vfs.Ino) error {
			_, _, err := v.Write(ctx, &vfs.Root, ino, 50, []byte("x"), vfs.FileSync)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, volume.Config{})
			ino := p.file("f")
			data := bytes.Repeat([]byte("buffered"), 1<<10)
			_, before := p.write(0, ino, 0, string(data), vfs.Unstable)
			if err := do(t.Context(), p.vols[1], ino); err != nil {
				t.Fatal(err)
			}
			if p.wishes.Load() != 1 {
				t.Errorf("%d wishes", p.wishes.Load())
			}
			now, err := p.vols[0].GetAttr(t.Context(), ino)
			if err != nil {
				t.Fatal(err)
			}
			there, err := p.vols[1].GetAttr(t.Context(), ino)
			if err != nil || now != there {
				t.Errorf("the gateways see\n%+v and\n%+v, %v", now, there, err)
			}
			if after, err := p.vols[0].Commit(t.Context(), ino, 0, 0); err != nil || after != before {
				t.Errorf("buffered bytes were lost: %v", err)
			}
		})
	}
}

// TestRemovedWhileItIsGivenBack shows that a file that goes while another gateway is waited for, whose bytes can never be written then, is given back at once.
func TestRemovedWhileItIsGivenBack(t *testing.T) {
	p := newPair(t, volume.Config{})
	ctx := t.Context()
	mode := uint32(0o666)
	made, err := p.vols[0].Create(ctx, &vfs.Root, vfs.RootIno, "g", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenRead | vfs.OpenWrite})
	if err != nil {
		t.Fatal(err)
	}
	ino := made.Attr.Ino
	p.write(0, ino, 0, "aaaa", vfs.Unstable)
	if err := p.vols[0].Close(ctx, ino, vfs.OpenRead|vfs.OpenWrite); err != nil {
		t.Fatal(err)
	}
	asked, removed := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	p.gws[0].asking = func(c *metapb.Command) {
		if c.GetCommitData() != nil {
			once()
			<-removed
		}
	}
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.vols[0].GiveBack(within, ino) }()
	<-asked
	if _, err := p.vols[0].Remove(ctx, &vfs.Root, vfs.RootIno, "g", vfs.RemoveAny); err != nil {
		t.Fatal(err)
	}
	close(removed)
	if err := <-done; err != nil || within.Err() != nil {
		t.Errorf("given back: %v; time: %v", err, within.Err())
	}
}

// The lost update: what a paused gateway has buffered is sent again through the other one, after the end of its origin, and overwritten
// there. When it wakes up it changes nothing, and says that it lost the bytes.
func TestPausedGatewayChangesNothing(t *testing.T) {
	p := newPair(t, volume.Config{FlushAge: time.Hour})
	ctx := t.Context()
	ino := p.file("f")
	_, ver := p.write(0, ino, 0, "old", vfs.Unstable)
	resume := p.pause(0)
	p.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: p.gws[0].origin}}})
	p.write(1, ino, 0, "old", vfs.FileSync)
	p.write(1, ino, 0, "new", vfs.FileSync)
	resume()
	if now, err := p.vols[0].Commit(ctx, ino, 0, 0); err == nil && now == ver {
		t.Fatal("the paused gateway says that its bytes are durable")
	}
	p.reads(1, ino, "new")
	if _, _, err := p.vols[0].Write(ctx, &vfs.Root, ino, 0, []byte("old"), vfs.FileSync); err == nil {
		t.Fatal("a gateway without an origin writes")
	}
	size := uint64(0)
	if _, err := p.vols[0].SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: &size}, true); err == nil {
		t.Fatal("a gateway without an origin truncates")
	}
	p.reads(1, ino, "new")
}

// A gateway that is asked and does not answer keeps the file; who waits is told to try again, and nothing is taken from the one that is alive.
func TestSilentHolderKeepsItsFile(t *testing.T) {
	p := newPair(t, volume.Config{FlushAge: time.Hour})
	ino := p.file("f")
	p.write(0, ino, 0, "held", vfs.Unstable)
	resume := p.pause(0)
	ctx, patience := context.WithCancel(t.Context())
	p.wished = patience // it has waited as long as it likes
	if _, _, err := p.vols[1].Write(ctx, &vfs.Root, ino, 0, []byte("x"), vfs.FileSync); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("written while another gateway has the file: %v", err)
	}
	resume()
	p.reads(0, ino, "held")
	p.reads(1, ino, "")
}

// From the moment at which the metadata knows that a lease was given back the other gateway may change the file, and what it did is read at the
// first one, although that has no answer yet.
func TestReadsWhileLeaseGoes(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	p.write(0, ino, 0, "before", vfs.FileSync)
	p.reads(0, ino, "before")
	met := false
	p.gws[0].answering = func(cmd *metapb.Command) {
		if cmd.GetShareLease() != nil {
			met = true
			p.write(1, ino, 0, "behind", vfs.FileSync)
			p.reads(0, ino, "behind")
			if a, err := p.vols[0].GetAttr(t.Context(), ino); err != nil || a.Nlink != 1 {
				t.Fatalf("%+v, %v", a, err)
			}
		}
	}
	if _, _, err := p.vols[1].Link(t.Context(), &vfs.Root, ino, vfs.RootIno, "g"); err != nil {
		t.Fatal(err)
	}
	if !met {
		t.Fatal("the lease was not shared")
	}
}

// Files of histories have cells of cellSize, the first of which are kept with the metadata when they are written alone.
const (
	cellSize  = 3000
	fileCells = 6
)

type cells struct {
	size int
	of   [fileCells]uint32
}

type cellOp struct {
	do       string
	value    uint32
	from, to int
}

var cellModel = porcupine.Model{
	Init: func() any { return cells{} },
	Step: func(state, in, out any) (bool, any) {
		c, op := state.(cells), in.(cellOp)
		switch op.do {
		case "write":
			for i := op.from; i < op.to; i++ {
				c.of[i] = op.value
			}
			c.size = max(c.size, op.to)
		case "truncate":
			clear(c.of[op.to:])
			c.size = op.to
		case "read":
			return out.(cells) == c, c
		}
		return true, c
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %v", in, out) },
}

func cellData(value uint32, n int) []byte {
	b := make([]byte, n*cellSize)
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], value)
	}
	return b
}

func cellsOf(b []byte) (c cells, err error) {
	c.size = len(b) / cellSize
	for i := range c.size {
		cell := b[i*cellSize:][:cellSize]
		c.of[i] = binary.BigEndian.Uint32(cell)
		if !bytes.Equal(cell, cellData(c.of[i], 1)) {
			return c, fmt.Errorf("cell %d is torn", i)
		}
	}
	return c, nil
}

// clientsOf runs clients at both gateways that write, truncate and read a file, and returns what they did.
func clientsOf(t *testing.T, p *pair, ino vfs.Ino, seed uint64, clients, each int) (history []porcupine.Operation) {
	var (
		mu    sync.Mutex // guards history
		wg    sync.WaitGroup
		value atomic.Uint32
		clock atomic.Int64
	)
	for c := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(c)))
		v := p.vols[c%2]
		wg.Go(func() {
			for range each {
				op := cellOp{from: rng.IntN(fileCells)}
				op.to = op.from + 1 + rng.IntN(fileCells-op.from)
				var out any = cells{}
				var err error
				call := clock.Add(1)
				switch n := rng.IntN(8); {
				case n < 3:
					op.do, op.value = "write", value.Add(1)
					err = durable(t.Context(), v, ino, op, n == 0)
				case n < 4:
					op.do = "truncate"
					size := uint64(op.to * cellSize)
					_, err = v.SetAttr(t.Context(), &vfs.Root, ino, vfs.SetAttr{Size: &size}, true)
				default:
					op.do = "read"
					buf := make([]byte, fileCells*cellSize+1)
					var got int
					if got, _, err = v.Read(t.Context(), ino, 0, buf); err == nil {
						out, err = cellsOf(buf[:got])
					}
				}
				ret := clock.Add(1)
				if err != nil {
					t.Errorf("seed %d, client %d: %+v: %v", seed, c, op, err)
					return
				}
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: c, Input: op, Output: out, Call: call, Return: ret})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return history
}

// durable writes what op says and returns when it is durable.
func durable(ctx context.Context, v *volume.Volume, ino vfs.Ino, op cellOp, stable bool) error {
	how := vfs.Unstable
	if stable {
		how = vfs.FileSync
	}
	for {
		_, wrote, err := v.Write(ctx, &vfs.Root, ino, uint64(op.from*cellSize), cellData(op.value, op.to-op.from), how)
		if err != nil || stable {
			return err
		}
		now, err := v.Commit(ctx, ino, 0, 0)
		if err != nil || now == wrote {
			return err
		}
	}
}

// stale says what is wrong with a read: it shows a cell as it was before a write (or truncation) that was over before the read
// began, or as nobody has written it. "" if nothing is. A holder's clients may see a write before it is over, so the histories are not linearizable.
func stale(read porcupine.Operation, history []porcupine.Operation) string {
	got := read.Output.(cells)
	for i := range fileCells {
		writes := []porcupine.Operation{{Input: cellOp{do: "write", to: fileCells}}} // the state at the beginning
		for _, o := range history {
			if op := o.Input.(cellOp); op.do == "write" && op.from <= i && i < op.to || op.do == "truncate" && op.to <= i {
				writes = append(writes, o)
			}
		}
		ok := false
		for _, w := range writes {
			if w.Input.(cellOp).value != got.of[i] || w.Call > read.Return {
				continue
			}
			over := false
			for _, w2 := range writes {
				over = over || w.Return < w2.Call && w2.Return < read.Call
			}
			ok = ok || !over
		}
		if !ok {
			return fmt.Sprintf("cell %d is of write %d in %v", i, got.of[i], read)
		}
	}
	return ""
}

// TestNeverStale checks histories of a file that goes from one gateway to the other and back with each write, as no client has it open: what was
// durable before a read began is in it. In the end both see the same, and nothing that was acknowledged is missing.
func TestNeverStale(t *testing.T) {
	const rounds, clients, each = 12, 6, 15
	wishes := int64(0)
	for round := range rounds {
		p := newPair(t, volume.Config{})
		mode := uint32(0o666)
		made, err := p.vols[0].Create(t.Context(), &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}})
		if err != nil {
			t.Fatal(err)
		}
		ino := made.Attr.Ino
		history := clientsOf(t, p, ino, uint64(round), clients, each)
		if t.Failed() {
			return
		}
		last := int64(1 << 40)
		for _, v := range p.vols {
			buf := make([]byte, fileCells*cellSize+1)
			got, _, err := v.Read(t.Context(), ino, 0, buf)
			if err != nil {
				t.Fatal(err)
			}
			c, err := cellsOf(buf[:got])
			if err != nil {
				t.Fatal(err)
			}
			history = append(history, porcupine.Operation{Input: cellOp{do: "read"}, Output: c, Call: last, Return: last + 1})
		}
		for _, o := range history {
			if o.Input.(cellOp).do == "read" {
				if bad := stale(o, history); bad != "" {
					t.Fatalf("seed %d: %s\n%v", round, bad, history)
				}
			}
		}
		if n := len(history); history[n-1].Output != history[n-2].Output {
			t.Fatalf("seed %d: the gateways read %v and %v", round, history[n-2].Output, history[n-1].Output)
		}
		wishes += p.wishes.Load()
	}
	if wishes < rounds {
		t.Fatalf("the lease was asked for %d times in %d rounds: the histories show nothing", wishes, rounds)
	}
}

// TestSharedIsLinearizable checks histories of clients at both gateways of a file that both write: reads, writes and
// truncations are as if there was one gateway.
func TestSharedIsLinearizable(t *testing.T) {
	const rounds, clients, each = 12, 5, 8
	for round := range rounds {
		p := newPair(t, volume.Config{})
		ino := p.file("f")
		p.write(0, ino, 0, string(cellData(0, 1)), vfs.FileSync)
		p.write(1, ino, 0, string(cellData(0, 1)), vfs.FileSync) // from here on it is shared
		zero := uint64(0)
		if _, err := p.vols[0].SetAttr(t.Context(), &vfs.Root, ino, vfs.SetAttr{Size: &zero}, true); err != nil {
			t.Fatal(err)
		}
		history := clientsOf(t, p, ino, uint64(round), clients, each)
		if t.Failed() {
			return
		}
		if res := porcupine.CheckOperationsTimeout(cellModel, history, 5*time.Minute); res != porcupine.Ok {
			t.Fatalf("seed %d: %v: %v", round, res, history)
		}
	}
}
