//go:build linux

package cluster

import (
	"bytes"
	"context"
	encoding "encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
)

const (
	historyClients = 6
	// historyOps of one client in one piece. Few enough that the check of a piece ends.
	historyOps = 10
	// historyTimeout bounds that check: if it does not end, nothing is known of the piece.
	historyTimeout = 20 * time.Second
	// surelyOnce is less than it takes until a gateway does what it had carried to another one that ended: that has to be started again, or its lease to be over. A slower WRITE
	// may have come to the servers twice, which is counted: it shows that the histories have such.
	surelyOnce = 50 * time.Millisecond
	// historyGap is the longest pause between two operations of a client.
	historyGap = 100 * time.Millisecond
)

// histories are NFS clients at all gateways that use the same names, files and byte ranges at the same time. What each was told, and when, is recorded in pieces, and each
// piece is checked with porcupine: could one server that does one thing after the other have said this? Every call is repeated until it is answered,
// through whichever gateway, so no outcome is unknown, and what was done twice shows.
type histories struct {
	f       *fleet
	clients []*roamer
	sharers []*roamer // at two gateways, always
	rngs    []*rand.Rand
	stop    chan struct{}
	done    sync.WaitGroup
	w       *work // whose turn a piece is part of

	pieces, ops, undecided atomic.Int64
	twice                  atomic.Int64 // pieces of which a WRITE came twice, or may have
	writes                 atomic.Uint32
	sharing                atomic.Bool // the clients do little else than use the shared file

	mu  sync.Mutex // guards err
	err error
}

func (f *fleet) startHistories(ctx context.Context, seed uint64, w *work, place func(client int) (address string, at *machine)) (*histories, error) {
	h := &histories{f: f, stop: make(chan struct{}), w: w}
	for i := range historyClients {
		address, at := place(i)
		r, err := f.roam(ctx, fmt.Sprintf("h%d-%d", i, seed), address, at)
		if err != nil {
			return nil, err
		}
		f.roamers = append(f.roamers, r)
		h.clients, h.rngs = append(h.clients, r), append(h.rngs, rand.New(rand.NewPCG(seed, 2000+uint64(i))))
	}
	for i, m := range f.gateways[1:] {
		r, err := f.roam(ctx, fmt.Sprintf("s%d-%d", i, seed), "", m)
		if err != nil {
			return nil, err
		}
		r.stays = true
		f.roamers, h.sharers = append(f.roamers, r), append(h.sharers, r)
	}
	h.done.Go(func() {
		for {
			select {
			case <-h.stop:
				return
			case <-w.ctx.Done():
				return
			case <-time.After(historyGap):
			}
			w.turn.RLock()
			err := h.piece()
			w.turn.RUnlock()
			if err != nil {
				h.mu.Lock()
				h.err = fmt.Errorf("piece %d of the histories: %w", h.pieces.Load(), err)
				h.mu.Unlock()
				return
			}
		}
	})
	return h, nil
}

func (h *histories) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// end stops after the piece under way.
func (h *histories) end() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
	h.done.Wait()
}

// piece is a directory, and what the clients did in it.
type historyPiece struct {
	h      *histories
	began  time.Time
	root   nfsclient.FH // of the piece
	names  nfsclient.FH // a directory
	number int

	mu      sync.Mutex // guards the following
	history map[string][]porcupine.Operation
	handles map[uint64]nfsclient.FH // of files that were seen under names
	twice   bool                    // a WRITE came twice, or may have
	err     error
}

func (p *historyPiece) now() int64 { return int64(time.Since(p.began)) }

// models of what is recorded under each name.
var historyModels = map[string]porcupine.Model{"names": namesModel, "shared": cellsModel, "locks": locksModel}

// piece lets all clients use a fresh directory, checks what they were told, and removes it.
func (h *histories) piece() error {
	ctx, cancel := context.WithTimeout(h.w.ctx, 2*patience)
	defer cancel()
	p := &historyPiece{h: h, began: time.Now(), number: int(h.pieces.Add(1)), history: map[string][]porcupine.Operation{}, handles: map[uint64]nfsclient.FH{}}
	first := h.clients[0]
	var err error
	if p.root, _, err = first.Mkdir(ctx, first.root, fmt.Sprint("piece-", p.number), 0o755); err != nil {
		return err
	}
	if p.names, _, err = first.Mkdir(ctx, p.root, "names", 0o755); err != nil {
		return err
	}
	for _, name := range []string{"shared", "alone", "locks"} {
		f, err := first.Create(ctx, p.root, name, 0o644)
		if err == nil {
			err = first.CloseFile(ctx, f)
		}
		if err != nil {
			return err
		}
	}
	// Two gateways write the shared file before anybody else, and it is open at both: from the write of the second one on it is written through, whatever gateways the others come by.
	// While one gateway had it alone, that would show what is not stable yet, and what is lost with that gateway is done later, in another order.
	var shared []*nfsclient.File
	for _, r := range h.sharers {
		f, err := r.Open(ctx, p.root, nfsclient.OpenArgs{Name: "shared"})
		if err == nil {
			_, err = r.Write(ctx, f, 0, nfsv4.FILE_SYNC4, cellBytesOf(0, 1))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		shared = append(shared, f)
	}
	var users []*historyClient
	for i, r := range h.clients {
		c := &historyClient{p: p, roamer: r, id: i, r: h.rngs[i], lock: &nfsclient.Lock{Owner: "l"}}
		for name, f := range map[string]**nfsclient.File{"shared": &c.shared, "locks": &c.locks} {
			if *f, err = r.Open(ctx, p.root, nfsclient.OpenArgs{Name: name}); err != nil {
				return err
			}
		}
		users = append(users, c)
	}
	if err := first.Setattr(ctx, users[0].shared.FH, nfsclient.Stateid{}, attr.Size(0)); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, c := range users {
		wg.Go(func() {
			for range historyOps {
				if err := c.step(ctx); err != nil {
					p.mu.Lock()
					p.err = errors.Join(p.err, fmt.Errorf("client %d: %w", c.id, err))
					p.mu.Unlock()
					return
				}
				time.Sleep(time.Duration(c.r.Int64N(int64(historyGap))))
			}
		})
	}
	wg.Wait()
	if p.err != nil {
		return p.err
	}
	if err := p.check(); err != nil {
		return err
	}
	for _, c := range users {
		for _, f := range []*nfsclient.File{c.shared, c.locks} {
			if err := c.CloseFile(ctx, f); err != nil {
				return fmt.Errorf("close: %w", err)
			}
		}
	}
	for i, r := range h.sharers {
		if err := r.CloseFile(ctx, shared[i]); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	return p.remove(ctx, first)
}

// remove leaves nothing of the piece.
func (p *historyPiece) remove(ctx context.Context, c *roamer) error {
	for _, d := range []struct {
		in nfsclient.FH
	}{{p.names}, {p.root}} {
		es, err := c.Readdir(ctx, d.in, nil)
		if err != nil {
			return err
		}
		for _, e := range es {
			if err := c.Remove(ctx, d.in, e.Name); err != nil {
				return fmt.Errorf("remove %s: %w", e.Name, err)
			}
		}
	}
	return c.Remove(ctx, c.root, fmt.Sprint("piece-", p.number))
}

func (p *historyPiece) record(what string, client int, call int64, in, out any) {
	ret := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history[what] = append(p.history[what], porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call, Return: ret})
	p.h.ops.Add(1)
}

// check looks at what was recorded.
func (p *historyPiece) check() error {
	if p.twice {
		p.h.twice.Add(1)
	}
	for what, m := range historyModels {
		ops := p.history[what]
		result, info := porcupine.CheckOperationsVerbose(m, ops, historyTimeout)
		switch result {
		case porcupine.Unknown:
			p.h.undecided.Add(1)
		case porcupine.Illegal:
			path := filepath.Join(p.h.f.t.ArtifactDir(), fmt.Sprintf("%s-%d.html", what, p.number))
			_ = porcupine.VisualizePath(m, info, path)
			var b bytes.Buffer
			for _, o := range ops {
				fmt.Fprintf(&b, "\n  client %d, %.3f to %.3f ms: %s", o.ClientId, float64(o.Call)/1e6, float64(o.Return)/1e6, m.DescribeOperation(o.Input, o.Output))
			}
			return fmt.Errorf("no single server could have said this about %s (drawn in %s, kept with -artifacts):%s", what, path, b.Bytes())
		}
	}
	for _, what := range []string{"alone", "shared"} {
		for _, o := range p.history[what] {
			if bad := staleRead(o, p.history[what]); bad != "" {
				return fmt.Errorf("%s: a read that began after a stable write had been acknowledged does not have it: %s", what, bad)
			}
		}
	}
	return nil
}

// historyClient is a client in a piece.
type historyClient struct {
	*roamer
	p             *historyPiece
	id            int
	r             *rand.Rand
	shared, locks *nfsclient.File
	lock          *nfsclient.Lock
}

func (c *historyClient) step(ctx context.Context) error {
	if c.p.h.sharing.Load() && c.r.IntN(5) > 0 {
		return c.useShared(ctx)
	}
	switch c.r.IntN(10) {
	case 0, 1, 2:
		return c.changeNames(ctx)
	case 3:
		return c.lookAtNames(ctx)
	case 4, 5, 6:
		return c.useShared(ctx)
	case 7:
		return c.useAlone(ctx)
	}
	return c.useLocks(ctx)
}

// handle remembers how a file is reached.
func (c *historyClient) handle(id uint64, fh nfsclient.FH) uint64 {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.handles[id] = fh
	return id
}

var historyNames = []string{"a", "b", "c"}

// said is the outcome of a call on names: its own status is one, any other error ends the piece.
func said(err error) (nfsclient.Status, error) {
	switch st := nfsclient.StatusOf(err); st {
	case nfsv4.NFS4ERR_EXIST, nfsv4.NFS4ERR_NOENT, nfsv4.NFS4ERR_STALE:
		return st, nil
	}
	return nfsv4.NFS4_OK, err
}

func (c *historyClient) changeNames(ctx context.Context) error {
	in := namesOp{name: historyNames[c.r.IntN(len(historyNames))], to: historyNames[c.r.IntN(len(historyNames))]}
	var out namesOut
	var err error
	call := c.p.now()
	switch c.r.IntN(7) {
	case 0, 1, 2:
		in.do = "create"
		args := nfsclient.OpenArgs{Name: in.name, Create: nfsclient.Guarded}
		if c.r.IntN(2) == 0 {
			args.Create = nfsclient.Exclusive41
			encoding.BigEndian.PutUint64(args.Verifier[:], c.r.Uint64())
		}
		var f *nfsclient.File
		if f, err = c.Open(ctx, c.p.names, args); err == nil {
			out.file = c.handle(f.Attr.Fileid, f.FH)
		}
		if out.status, err = said(err); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		c.p.record("names", c.id, call, in, out)
		if f == nil {
			return nil
		}
		return c.CloseFile(ctx, f)
	case 3, 4:
		in.do = "remove"
		err = c.Remove(ctx, c.p.names, in.name)
	case 5:
		in.do = "rename"
		err = c.Rename(ctx, c.p.names, in.name, c.p.names, in.to)
	case 6:
		in.do = "link"
		c.p.mu.Lock()
		for id := range c.p.handles {
			in.file = id
		}
		fh := c.p.handles[in.file]
		c.p.mu.Unlock()
		if in.file == 0 {
			return nil
		}
		err = c.Link(ctx, fh, c.p.names, in.name)
	}
	if out.status, err = said(err); err != nil {
		return fmt.Errorf("%s: %w", in.do, err)
	}
	c.p.record("names", c.id, call, in, out)
	return nil
}

func (c *historyClient) lookAtNames(ctx context.Context) error {
	in := namesOp{do: "lookup", name: historyNames[c.r.IntN(len(historyNames))]}
	var out namesOut
	var err error
	call := c.p.now()
	if c.r.IntN(2) == 0 {
		var fh nfsclient.FH
		var a attr.Attr
		if fh, a, err = c.Lookup(ctx, c.p.names, in.name); err == nil {
			out.file = c.handle(a.Fileid, fh)
		}
	} else {
		in = namesOp{do: "list"}
		var es []nfsclient.Entry
		es, err = c.Readdir(ctx, c.p.names, attr.Stat())
		m := map[string]uint64{}
		for _, e := range es {
			m[e.Name] = e.Attr.Fileid
		}
		out.list = listed(m)
	}
	if out.status, err = said(err); err != nil {
		return fmt.Errorf("%s: %w", in.do, err)
	}
	c.p.record("names", c.id, call, in, out)
	return nil
}

// cells chooses some cells of a file, and a value of this write alone.
func (c *historyClient) cells() cellsOp {
	op := cellsOp{from: c.r.IntN(historyCells), value: c.p.h.writes.Add(1)}
	op.to = op.from + 1 + c.r.IntN(historyCells-op.from)
	return op
}

// useShared writes, cuts and reads a file that is written through, always stable: it is linearizable, also when WRITEs come twice, because their answers were lost or their gateways ended.
func (c *historyClient) useShared(ctx context.Context) error {
	op, out := c.cells(), cells{}
	var err error
	call := c.p.now()
	switch k := c.r.IntN(8); {
	case k < 3:
		op.do = "write"
		data, dials, again, began := cellBytesOf(op.value, op.to-op.from), c.Session(0).Dials(), c.Session(0).Again(), time.Now()
		w, err := c.Write(ctx, c.shared, uint64(op.from*historyCell), nfsv4.FILE_SYNC4, data)
		if err != nil || int(w.Count) != len(data) {
			return fmt.Errorf("write: %d of %d bytes, %w", w.Count, len(data), cmpErr(err))
		}
		// Its connection ended; or it was to be sent again; or it was carried to a gateway that ended, of which only its duration tells.
		if c.Session(0).Dials() != dials || c.Session(0).Again() != again || time.Since(began) > surelyOnce {
			c.p.mu.Lock()
			c.p.twice = true
			c.p.mu.Unlock()
		}
	case k < 4:
		op.do = "truncate"
		err = c.Setattr(ctx, c.shared.FH, nfsclient.Stateid{}, attr.Size(uint64(op.to*historyCell)))
	default:
		op.do = "read"
		p := make([]byte, historyCells*historyCell+1)
		var n int
		if n, _, err = c.Read(ctx, c.shared, 0, p); err == nil {
			out, err = cellsIn(p[:n])
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op.do, err)
	}
	c.p.record("shared", c.id, call, op, out)
	return nil
}

// useAlone opens a file, so that it may be one gateway's alone, writes it, stable or with COMMIT, or reads it. Who has it may show its
// clients more than is stable, so what is promised is only that no read is older than what was acknowledged before.
func (c *historyClient) useAlone(ctx context.Context) error {
	f, err := c.Open(ctx, c.p.root, nfsclient.OpenArgs{Name: "alone"})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	for range 2 + c.r.IntN(3) {
		op, out := c.cells(), cells{}
		call := c.p.now()
		switch k := c.r.IntN(8); {
		case k < 4:
			op.do = "write"
			how := []nfsv4.StableHow4{nfsv4.FILE_SYNC4, nfsv4.UNSTABLE4}[k%2]
			for stable := false; !stable; {
				data := cellBytesOf(op.value, op.to-op.from)
				w, err := c.Write(ctx, f, uint64(op.from*historyCell), how, data)
				if err != nil {
					return fmt.Errorf("write: %w", err)
				}
				if stable = w.Stable != nfsv4.UNSTABLE4; !stable {
					v, err := c.Commit(ctx, f.FH, 0, 0)
					if err != nil {
						return fmt.Errorf("commit: %w", err)
					}
					stable = v == w.Verifier
				}
				if stable = stable && int(w.Count) == len(data); !stable && how == nfsv4.FILE_SYNC4 {
					return fmt.Errorf("write: %d of %d bytes", w.Count, len(data))
				}
			}
		case k < 5:
			op.do = "truncate"
			err = c.Setattr(ctx, f.FH, f.Stateid, attr.Size(uint64(op.to*historyCell)))
		default:
			op.do = "read"
			p := make([]byte, historyCells*historyCell+1)
			var n int
			if n, _, err = c.Read(ctx, f, 0, p); err == nil {
				out, err = cellsIn(p[:n])
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", op.do, err)
		}
		c.p.record("alone", c.id, call, op, out)
	}
	return c.CloseFile(ctx, f)
}

// useLocks locks, tests or unlocks a range.
func (c *historyClient) useLocks(ctx context.Context) error {
	op := locksOp{client: c.id, from: c.r.IntN(historyLocks), write: c.r.IntN(3) > 0}
	op.to = op.from + 1 + c.r.IntN(historyLocks-op.from)
	kind := nfsv4.READ_LT
	if op.write {
		kind = nfsv4.WRITE_LT
	}
	off, n := uint64(op.from), uint64(op.to-op.from)
	var out bool
	var err error
	call := c.p.now()
	switch k := c.r.IntN(8); {
	case k < 4:
		op.do = "lock"
		_, err = c.LockRange(ctx, c.locks, c.lock, kind, off, n)
		out = err == nil
		if nfsclient.StatusOf(err) == nfsv4.NFS4ERR_DENIED {
			err = nil
		}
	case k < 5:
		op.do = "test"
		var d *nfsclient.Denied
		d, err = c.TestLock(ctx, c.locks.FH, kind, off, n, c.lock.Owner)
		out = d == nil
	default:
		if c.lock.Stateid == (nfsclient.Stateid{}) {
			return nil
		}
		op.do, out = "unlock", true
		err = c.Unlock(ctx, c.locks, c.lock, off, n)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op.do, err)
	}
	c.p.record("locks", c.id, call, op, out)
	return nil
}

// listed is a directory in a canonical form.
func listed(m map[string]uint64) string {
	var b bytes.Buffer
	for _, n := range historyNames {
		if id, ok := m[n]; ok {
			fmt.Fprintf(&b, "%s=%d ", n, id)
		}
	}
	if extra := maps.Clone(m); len(extra) > len(historyNames) {
		fmt.Fprintf(&b, "and %d names", len(extra))
	}
	return b.String()
}
