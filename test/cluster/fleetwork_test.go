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
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
)

const (
	fleetWorkers = 6
	// fleetPause of each worker between two steps leaves the processors to the cluster under test.
	fleetPause = 20 * time.Millisecond
	// fleetFiles bounds the files of a worker, fleetFileMax the bytes of one.
	fleetFiles   = 8
	fleetFileMax = 192 << 10
	// recordBytes is a record of the log that workers append to in turn.
	recordBytes = 100
)

// work is NFS clients that know what a file system promises. Each worker has two, at two gateways, and the second one mostly has connections to two of them: what one of them was told is done the
// other one is to see. Every call that fails, and every answer that breaks a promise, ends the work with an error.
//
//   - Files of one worker: whole content after each change, whichever client made it; names; what is open and has no name any more.
//   - Registers: one writes ascending versions, all read: never an older one than was acknowledged before the read began. So do clients that stay at their gateway
//     whatever becomes of it, and wait for no answer before they ask again: what they have asked while it stood still it finds when it goes on.
//   - Files that two clients have open at two gateways: what one has buffered is flushed when the other one changes anything, and the first one sees at once what that was.
//   - A number and a log that are changed under a lock: one holds it at a time, no increment is lost, no record, and none is twice.
//   - Names that all want to make, or to remove: one does.
type work struct {
	f       *fleet
	dir     nfsclient.FH
	ctx     context.Context // of steps
	cancel  context.CancelFunc
	stop    chan struct{}
	done    sync.WaitGroup
	turn    sync.RWMutex // a step holds it for reading
	workers []*hand
	watches []*watch
	ops     atomic.Int64 // calls that were answered

	holder atomic.Int64 // 1 + the worker that has the lock; 0: nobody
	number uint64       // of the file "number"; whoever has the lock
	log    []byte       // of the file "log"; whoever has the lock

	mu      sync.Mutex // guards the following
	err     error
	stalls  map[string]time.Duration // the longest time without an answer, by worker
	names   map[int]*contended
	making  int // the name that is to be made
	ending  int // the name that is to be removed
	removed int
}

// register is a file whose content is a version, again and again.
type register struct {
	begun, acknowledged atomic.Uint64
}

// check says what is wrong with what was read of a register that has size bytes. low was acknowledged before the read began.
func (r *register) check(got []byte, low uint64, size int) error {
	high := r.begun.Load()
	if len(got) < size && low > 0 {
		return fmt.Errorf("%d bytes, want %d", len(got), size)
	}
	for i := 0; i+8 <= len(got); i += 8 {
		if v := encoding.BigEndian.Uint64(got[i:]); v < low || v > high {
			return fmt.Errorf("version %d at byte %d; %d was acknowledged before the read began, %d the last to be written", v, i, low, high)
		}
	}
	return nil
}

// hand is a worker.
type hand struct {
	w         *work
	id        int
	x, y      *roamer // y reads what x did, and the other way round
	r         *rand.Rand
	dir       nfsclient.FH
	next      int
	files     map[string][]byte // what was acknowledged
	opened    map[string]*nfsclient.File
	registers map[int]*nfsclient.File // of all workers, opened by y
	own       register
	lock      *nfsclient.Lock
	last      time.Time // when a call was answered
}

// startWork begins it. place says through which address, or which gateway, the clients come: two for each worker.
func (f *fleet) startWork(ctx context.Context, seed uint64, place func(client int) (address string, at *machine)) (*work, error) {
	w := &work{f: f, stop: make(chan struct{}), stalls: map[string]time.Duration{}, names: map[int]*contended{}}
	w.ctx, w.cancel = context.WithCancel(f.t.Context())
	for i := range fleetWorkers {
		h := &hand{w: w, id: i, r: rand.New(rand.NewPCG(seed, 1000+uint64(i))), files: map[string][]byte{}, opened: map[string]*nfsclient.File{},
			registers: map[int]*nfsclient.File{}}
		for j, r := range []**roamer{&h.x, &h.y} {
			address, at := place(2*i + j)
			var second *machine
			if j == 1 && at != nil {
				second = f.after(at)
			}
			var err error
			if *r, err = f.roamWith(ctx, fmt.Sprintf("w%d%c-%d", i, 'x'+j, seed), address, at, roamerSlots, second); err != nil {
				return nil, err
			}
			f.roamers = append(f.roamers, *r)
		}
		h.lock = &nfsclient.Lock{Owner: fmt.Sprint("lock ", i)}
		w.workers = append(w.workers, h)
	}
	h := w.workers[0]
	var err error
	if w.dir, _, err = h.x.Mkdir(ctx, h.x.root, fmt.Sprint("work-", seed), 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"number", "log"} {
		f, err := h.x.Create(ctx, w.dir, name, 0o644)
		if err != nil {
			return nil, err
		}
		if err := h.put(ctx, h.x, f, 0, nil); err != nil {
			return nil, err
		}
		if err := h.x.CloseFile(ctx, f); err != nil {
			return nil, err
		}
	}
	for _, h := range w.workers {
		if h.dir, _, err = h.x.Mkdir(ctx, w.dir, fmt.Sprint("w", h.id), 0o755); err != nil {
			return nil, err
		}
		if h.opened["register"], err = h.x.Create(ctx, w.dir, registerName(h.id), 0o644); err != nil {
			return nil, err
		}
		for _, name := range []string{"number", "log"} {
			if h.opened[name], err = h.x.Open(ctx, w.dir, nfsclient.OpenArgs{Name: name}); err != nil {
				return nil, err
			}
		}
	}
	if err := w.startWatches(ctx, seed); err != nil {
		return nil, err
	}
	for _, h := range w.workers {
		w.done.Go(h.run)
	}
	return w, nil
}

// answered counts calls, and takes in how long there was none.
func (h *hand) answered() {
	h.w.ops.Add(1)
	now := time.Now()
	if took := now.Sub(h.last); took > time.Second {
		h.w.mu.Lock()
		name := fmt.Sprint("w", h.id)
		h.w.stalls[name] = max(h.w.stalls[name], took)
		h.w.mu.Unlock()
	}
	h.last = now
}

// fail takes in what somebody found.
func (w *work) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

func (w *work) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// end stops the workers after the step each is in.
func (w *work) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	w.done.Wait()
}

// rest waits until every step under way has ended. None begins until w.turn is unlocked.
func (w *work) rest() {
	w.f.t.Helper()
	resting := make(chan struct{})
	go func() {
		w.turn.Lock()
		close(resting)
	}()
	select {
	case <-resting:
	case <-time.After(patience):
		w.cancel() // what each waits for is in its error
		<-resting
		w.turn.Unlock()
		for _, c := range w.f.roamers {
			w.f.t.Logf("%s is at %v", c.name, c.where())
		}
		w.f.t.Fatalf("waited %v for the steps of workers to end: %v", patience, w.failed())
	}
}

func (h *hand) run() {
	began := time.Now()
	for {
		select {
		case <-h.w.stop:
			return
		case <-h.w.ctx.Done():
			return
		case <-time.After(fleetPause):
		}
		h.w.turn.RLock()
		h.last = time.Now()
		what, err := h.step()
		h.w.turn.RUnlock()
		if err == nil {
			continue
		}
		h.w.fail(fmt.Errorf("worker %d, %v after the begin, %s: %s: %w", h.id, time.Since(began).Round(time.Millisecond), time.Now().Format("15:04:05.000"), what, err))
		return
	}
}

// step is one thing that the worker does. Its calls have the patience of a hard mount.
func (h *hand) step() (what string, err error) {
	ctx, cancel := context.WithTimeout(h.w.ctx, 2*patience)
	defer cancel()
	by, other := h.x, h.y
	if h.r.IntN(2) == 0 {
		by, other = other, by
	}
	var name string
	if names := slices.Sorted(maps.Keys(h.files)); len(names) > 0 {
		name = names[h.r.IntN(len(names))]
	}
	switch k := h.r.IntN(23); {
	case name == "" || k < 3 && len(h.files) < fleetFiles:
		h.next++
		name = fmt.Sprint("f", h.next)
		return "make " + name, h.change(ctx, by, other, name, true)
	case k < 5:
		return "change " + name, h.change(ctx, by, other, name, false)
	case k < 6:
		return "cut " + name, h.truncate(ctx, by, other, name)
	case k < 7:
		return "rename " + name, h.rename(ctx, by, other, name)
	case k < 8 && len(h.files) >= fleetFiles/2:
		return "remove " + name, h.remove(ctx, by, other, name)
	case k < 9:
		return "use a file without a name", h.unlinked(ctx, by, other)
	case k < 12:
		return "write the register", h.writeRegister(ctx)
	case k < 15:
		id := h.r.IntN(len(h.w.workers))
		return fmt.Sprint("read register ", id), h.readRegister(ctx, id)
	case k < 18:
		return "use the lock", h.locked(ctx)
	case k < 21:
		return "use a file at two gateways", h.shared(ctx, by, other)
	case k < 22:
		return "make a contended name", h.make(ctx, by)
	}
	return "remove a contended name", h.unmake(ctx, by)
}

// put makes bytes durable, as a kernel does: in one stable write, or unstable and committed, and again if the server lost them.
func (h *hand) put(ctx context.Context, by *roamer, f *nfsclient.File, off int, data []byte) error {
	how := nfsv4.UNSTABLE4
	if h.r.IntN(2) == 0 {
		how = nfsv4.FILE_SYNC4
	}
	for {
		lost := false
		var verifiers [][8]byte
		for at := 0; at < len(data); {
			part := data[at:min(at+64<<10, len(data))]
			r, err := by.Write(ctx, f, uint64(off+at), how, part)
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			h.answered()
			if r.Count == 0 || int(r.Count) > len(part) {
				return fmt.Errorf("write: %d of %d bytes", r.Count, len(part))
			}
			if r.Stable == nfsv4.UNSTABLE4 {
				verifiers = append(verifiers, r.Verifier)
			} else if r.Stable < how {
				return fmt.Errorf("write: answered %v, %v was asked for", r.Stable, how)
			}
			at += int(r.Count)
		}
		if len(verifiers) > 0 {
			v, err := by.Commit(ctx, f.FH, 0, 0)
			if err != nil {
				return fmt.Errorf("commit: %w", err)
			}
			h.answered()
			lost = slices.ContainsFunc(verifiers, func(x [8]byte) bool { return x != v })
		}
		if !lost {
			return nil
		}
	}
}

// bytesOf are n bytes that no other write has.
func (h *hand) bytesOf(n int) []byte { return piece{n: n, seed: h.r.Uint64()}.bytes() }

// size is one of those that matter: bytes that are kept with the metadata, one small block, several shards.
func (h *hand) size() int {
	return 1 + h.r.IntN([]int{4096, 32 << 10, fleetFileMax}[h.r.IntN(3)])
}

// change writes a part of a file through one client, and reads all of it through the other one.
func (h *hand) change(ctx context.Context, by, other *roamer, name string, fresh bool) error {
	var f *nfsclient.File
	var err error
	if fresh {
		f, err = by.Create(ctx, h.dir, name, 0o644)
	} else {
		f, err = by.Open(ctx, h.dir, nfsclient.OpenArgs{Name: name})
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	h.answered()
	was := h.files[name]
	off := h.r.IntN(len(was) + 1)
	data := h.bytesOf(min(h.size(), fleetFileMax-off))
	if err := h.put(ctx, by, f, off, data); err != nil {
		return err
	}
	now := append([]byte(nil), was...)
	if grow := off + len(data) - len(now); grow > 0 {
		now = append(now, make([]byte, grow)...)
	}
	copy(now[off:], data)
	h.files[name] = now
	if h.r.IntN(2) == 0 { // what is stable is seen before it is closed, too
		if err := h.verify(ctx, other, name); err != nil {
			return err
		}
	}
	if err := by.CloseFile(ctx, f); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	h.answered()
	return h.verify(ctx, other, name)
}

// verify reads a file.
func (h *hand) verify(ctx context.Context, at *roamer, name string) error {
	want := h.files[name]
	got, err := readAll(ctx, at, h.dir, name)
	if err != nil {
		return fmt.Errorf("read %s through %s: %w", name, at.name, err)
	}
	h.answered()
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s through %s: %d bytes that differ from the %d that were acknowledged, first at %d", name, at.name, len(got), len(want), differs(got, want))
	}
	fh, a, err := at.Lookup(ctx, h.dir, name)
	if err != nil {
		return fmt.Errorf("lookup %s through %s: %w", name, at.name, err)
	}
	h.answered()
	if a.Size != uint64(len(want)) || len(fh) == 0 {
		return fmt.Errorf("%s through %s has the size %d, want %d", name, at.name, a.Size, len(want))
	}
	return nil
}

// truncate sets a file's size through one client, and reads it through the other one.
func (h *hand) truncate(ctx context.Context, by, other *roamer, name string) error {
	fh, _, err := by.Lookup(ctx, h.dir, name)
	if err != nil {
		return fmt.Errorf("lookup: %w", err)
	}
	h.answered()
	size := h.r.IntN(min(2*len(h.files[name])+1, fleetFileMax))
	if err := by.Setattr(ctx, fh, nfsclient.Stateid{}, attr.Size(uint64(size))); err != nil {
		return fmt.Errorf("set the size: %w", err)
	}
	h.answered()
	now := make([]byte, size)
	copy(now, h.files[name])
	h.files[name] = now
	return h.verify(ctx, other, name)
}

// gone says what is wrong if a name is there.
func (h *hand) gone(ctx context.Context, at *roamer, dir nfsclient.FH, name string) error {
	_, _, err := at.Lookup(ctx, dir, name)
	if nfsclient.StatusOf(err) != nfsv4.NFS4ERR_NOENT {
		return fmt.Errorf("lookup %s through %s, which is gone: %w", name, at.name, cmpErr(err))
	}
	h.answered()
	return nil
}

// cmpErr is err, or that there is none.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("it is there")
	}
	return err
}

func (h *hand) rename(ctx context.Context, by, other *roamer, name string) error {
	h.next++
	to := fmt.Sprint("r", h.next)
	if err := by.Rename(ctx, h.dir, name, h.dir, to); err != nil {
		return err
	}
	h.answered()
	h.files[to] = h.files[name]
	delete(h.files, name)
	if err := h.gone(ctx, other, h.dir, name); err != nil {
		return err
	}
	return h.verify(ctx, other, to)
}

func (h *hand) remove(ctx context.Context, by, other *roamer, name string) error {
	if err := by.Remove(ctx, h.dir, name); err != nil {
		return err
	}
	h.answered()
	delete(h.files, name)
	return h.gone(ctx, other, h.dir, name)
}

// unlinked has a file open through one client while its name is removed through the other one.
func (h *hand) unlinked(ctx context.Context, by, other *roamer) error {
	h.next++
	name := fmt.Sprint("u", h.next)
	f, err := by.Create(ctx, h.dir, name, 0o644)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	h.answered()
	data := h.bytesOf(h.size())
	if err := h.put(ctx, by, f, 0, data); err != nil {
		return err
	}
	if err := other.Remove(ctx, h.dir, name); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	h.answered()
	for range 2 {
		got := make([]byte, len(data)+1)
		n, _, err := by.Read(ctx, f, 0, got)
		if err != nil || !bytes.Equal(got[:n], data) {
			return fmt.Errorf("read without a name: %d bytes of %d, first difference at %d: %w", n, len(data), differs(got[:n], data), cmpErr(err))
		}
		h.answered()
		time.Sleep(time.Duration(h.r.IntN(50)) * time.Millisecond)
	}
	if err := by.CloseFile(ctx, f); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	h.answered()
	return h.gone(ctx, by, h.dir, name)
}

func registerName(id int) string { return fmt.Sprint("register-", id) }

// registerSizes are the sizes of registers, by worker.
var registerSizes = []int{8, 5000, 40 << 10}

func versions(v uint64, n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		encoding.BigEndian.PutUint64(b[i:], v)
	}
	return b
}

func (h *hand) writeRegister(ctx context.Context) error {
	v := h.own.begun.Add(1)
	if err := h.put(ctx, h.x, h.opened["register"], 0, versions(v, registerSizes[h.id%len(registerSizes)])); err != nil {
		return err
	}
	h.own.acknowledged.Store(v)
	return nil
}

func (h *hand) readRegister(ctx context.Context, id int) error {
	f := h.registers[id]
	if f == nil {
		var err error
		if f, err = h.y.Open(ctx, h.w.dir, nfsclient.OpenArgs{Name: registerName(id), Access: nfsv4.OPEN4_SHARE_ACCESS_READ}); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		h.answered()
		h.registers[id] = f
	}
	of := &h.w.workers[id].own
	low := of.acknowledged.Load()
	got := make([]byte, registerSizes[id%len(registerSizes)])
	n, _, err := h.y.Read(ctx, f, 0, got)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	h.answered()
	return of.check(got[:n], low, len(got))
}

// locked takes the lock, if nobody has it, and counts and appends under it.
func (h *hand) locked(ctx context.Context) error {
	w, number, log := h.w, h.opened["number"], h.opened["log"]
	_, err := h.x.LockRange(ctx, number, h.lock, nfsv4.WRITE_LT, 0, 8)
	if nfsclient.StatusOf(err) == nfsv4.NFS4ERR_DENIED {
		h.answered()
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if !w.holder.CompareAndSwap(0, int64(h.id+1)) {
		return fmt.Errorf("the lock was given, and worker %d has it", w.holder.Load()-1)
	}
	h.answered()
	for range 1 + h.r.IntN(3) {
		p := make([]byte, 9)
		n, _, err := h.x.Read(ctx, number, 0, p)
		if err != nil {
			return fmt.Errorf("read the number: %w", err)
		}
		h.answered()
		if got := encoding.BigEndian.Uint64(append(p[:n:n], make([]byte, 8)...)); n > 8 || got != w.number {
			return fmt.Errorf("under the lock the number is %d (%d bytes), want %d", got, n, w.number)
		}
		if err := h.put(ctx, h.x, number, 0, encoding.BigEndian.AppendUint64(nil, w.number+1)); err != nil {
			return err
		}
		w.number++
		a, err := h.x.Getattr(ctx, log.FH)
		if err != nil {
			return fmt.Errorf("attributes of the log: %w", err)
		}
		h.answered()
		if a.Size != uint64(len(w.log)) {
			return fmt.Errorf("under the lock the log has %d bytes, want %d", a.Size, len(w.log))
		}
		if len(w.log) > fleetFileMax {
			if err := h.x.Setattr(ctx, log.FH, nfsclient.Stateid{}, attr.Size(0)); err != nil {
				return fmt.Errorf("empty the log: %w", err)
			}
			h.answered()
			w.log = nil
		}
		record := fmt.Appendf(nil, "%d by worker %d", w.number, h.id)
		record = append(record, bytes.Repeat([]byte{'.'}, recordBytes-len(record))...)
		if err := h.put(ctx, h.x, log, len(w.log), record); err != nil {
			return err
		}
		w.log = append(w.log, record...)
		time.Sleep(time.Duration(h.r.IntN(100)) * time.Millisecond)
	}
	w.holder.Store(0)
	if err := h.x.Unlock(ctx, number, h.lock, 0, 8); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	h.answered()
	return nil
}
