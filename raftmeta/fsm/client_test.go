package fsm

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const clientsOfHistory = 5

func (h *history) stateid() []byte { return fmt.Appendf(nil, "stateid-%04d", h.num("stateid", 0, 3)) }
func (h *history) owner() []byte   { return []byte{byte('o' + h.num("owner", 0, 1))} }
func (h *history) client() uint64  { return h.num("client", 1, clientsOfHistory) }
func (h *history) session(client uint64) []byte {
	return fmt.Appendf(nil, "session-%04d-%03d", client, h.num("session", 0, 1))
}

func (h *history) share() *metapb.ClientOpen {
	return &metapb.ClientOpen{
		Client: h.client(), Stateid: h.stateid(), Owner: h.owner(), Ino: h.num("file", 5, 8),
		Access: uint32(h.num("access", 1, 3)), Deny: uint32(h.num("deny", 0, 7)) / 3,
	}
}

func (h *history) readOnly() *metapb.ClientOpen {
	s := h.share()
	s.Access, s.Deny = 1, uint32(h.num("wrong", 0, 19))/19
	return s
}

// nfsOp is a command that names NFS clients.
func (h *history) nfsOp() *metapb.Command {
	switch h.num("nfs op", 0, 17) {
	case 0, 1:
		return &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
			Parent: h.num("parent", 1, 4), Name: h.name(), Type: uint32(vfs.TypeFile), Open: uint32(h.num("open", 0, 3)), Share: h.share(),
		}}}
	case 2, 3, 4:
		return &metapb.Command{Op: &metapb.Command_OpenFile{OpenFile: &metapb.OpenFile{
			Ino: h.num("file", 5, 8), Lease: h.num("lease", 0, 1) == 1, Share: h.share(),
		}}}
	case 5, 6:
		c := &metapb.CloseFiles{}
		for range h.num("files", 1, 4) {
			f := &metapb.FileClose{Ino: h.num("file", 5, 8), Client: h.client(), Stateid: h.stateid()}
			if h.num("lock-owners", 0, 1) == 1 {
				f.Locks = append(f.Locks, &metapb.LockOwner{Owner: h.owner(), Stateid: h.stateid()})
			}
			c.Files = append(c.Files, f)
		}
		return &metapb.Command{Op: &metapb.Command_CloseFiles{CloseFiles: c}}
	case 7, 8, 9:
		return &metapb.Command{Op: &metapb.Command_SetLock{SetLock: &metapb.SetLock{
			Ino: h.num("file", 5, 8), Client: h.client(), Owner: h.owner(), Stateid: h.stateid(), Type: metapb.LockType(h.num("lock", 0, 2)),
			Offset: h.num("at", 0, 20), Length: h.num("len", 1, 8),
		}}}
	case 10:
		return &metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{h.client(), h.client()}}}}
	case 11:
		c := h.client()
		return &metapb.Command{Op: &metapb.Command_ReleaseSession{ReleaseSession: &metapb.ReleaseSession{Client: c, Session: h.session(c)}}}
	case 13:
		c := h.client()
		return &metapb.Command{Op: &metapb.Command_ReleaseSlots{ReleaseSlots: &metapb.ReleaseSlots{
			Client: c, Session: h.session(c), First: uint32(h.num("first", 0, 3)), BelowSeq: h.num("below", 0, 30),
		}}}
	case 17:
		return &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: h.num("lingers", 2, 9), Left: true}}}
	case 15, 16:
		c := &metapb.KeepOpens{}
		for range h.num("opens", 1, 4) {
			s := h.readOnly()
			s.Ino = h.num("file", 5, 8)
			c.Opens = append(c.Opens, s)
		}
		return &metapb.Command{Op: &metapb.Command_KeepOpens{KeepOpens: c}}
	case 12:
		return &metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{
			Parent: 1, Name: []byte{byte('D' + h.num("last", 0, 3))}, Keep: h.num("keep", 0, 1) == 1, KeepOpen: []*metapb.ClientOpen{h.readOnly(), h.readOnly()},
		}}}
	}
	return &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: uint32(h.num("keys", 1, 9))}}}
}

// ofCall makes some commands operations of few calls.
func (h *history) ofCall(c *metapb.Command) {
	if h.num("call", 0, 3) > 0 {
		return
	}
	client := h.client()
	c.Call = &metapb.Call{
		Session: h.session(client), Client: client, Slot: uint32(h.num("call slot", 0, 1)),
		Seq: uint64(len(h.cmds))/20 + h.num("call seq", 0, 1), OpIndex: uint32(h.num("call op", 0, 2)),
	}
}

// calls names whose bytes a commit carries.
func (h *history) calls(c *metapb.CommitData) {
	for range h.draw("calls", 0, 3) {
		var id metapb.Command
		if h.ofCall(&id); id.Call == nil {
			continue
		}
		off := h.num("from", 0, 5) * pageSize / 2
		c.Calls = append(c.Calls, &metapb.DataCall{Call: id.Call, Offset: off, End: off + h.num("bytes", 0, 3)*pageSize/2})
	}
	c.Once = len(c.Calls) == 1 && h.num("once", 0, 1) == 1
	if len(c.Calls) > 0 {
		c.Epoch = h.num("epoch", 1, 3)
	}
}

// rangeCall names whom a range is changed for.
func (h *history) rangeCall() *metapb.Call {
	var id metapb.Command
	if h.nfs {
		h.ofCall(&id)
	}
	return id.Call
}

// lockModel is the reference: per owner, what each byte of a tiny file is locked as. The last byte stands for everything
// up to the largest offset.
type lockModel map[lockModelOwner]*[lockModelBytes]metapb.LockType

type lockModelOwner struct {
	client uint64
	owner  string
}

const lockModelBytes = 20

func (m lockModel) of(o lockModelOwner) *[lockModelBytes]metapb.LockType {
	if m[o] == nil {
		m[o] = new([lockModelBytes]metapb.LockType)
	}
	return m[o]
}

// conflict reports whether another owner is in the way of a lock on cells first to last.
func (m lockModel) conflict(self lockModelOwner, first, last int, t metapb.LockType) bool {
	for o, cells := range m {
		for i := first; i <= last && o != self; i++ {
			if t == metapb.LockType_LOCK_WRITE && cells[i] != 0 || t == metapb.LockType_LOCK_READ && cells[i] == metapb.LockType_LOCK_WRITE {
				return true
			}
		}
	}
	return false
}

// TestLocksAgainstBytes gives locks, unlocks, releases of clients, closes and restarts to a machine and to a model that has a cell per
// byte and owner: they agree on what is denied, by whom, and on what everybody has.
func TestLocksAgainstBytes(t *testing.T) {
	denials, releases := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		r := newNamespaceRig(t, Options{})
		r.raise()
		r.ok(createCmd(1, "f"))
		const ino = 2
		model := lockModel{}
		next := uint64(4) // clients from here on are new
		clients := []uint64{1, 2, 3}
		num := func(label string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(rt, label) }
		for step := range num("steps", 5, 60) {
			at := num("client", 0, len(clients)-1)
			o := lockModelOwner{clients[at], string(rune('a' + num("owner", 0, 1)))}
			first, last := num("first", 0, lockModelBytes-1), 0
			last = num("last", first, lockModelBytes-1)
			offset, length := uint64(first), uint64(last-first+1)
			if last == lockModelBytes-1 {
				length = math.MaxUint64
			}
			lock := &metapb.SetLock{
				Ino: ino, Client: o.client, Owner: []byte(o.owner), Stateid: []byte("stateid-0001"),
				Type: metapb.LockType(num("type", 0, 2)), Offset: offset, Length: length,
			}
			switch what := num("what", 0, 19); {
			case what == 0: // the client ends, another one comes in its place
				r.ok(&metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{o.client}}}})
				for _, k := range []string{"a", "b"} {
					delete(model, lockModelOwner{o.client, k})
				}
				r.fails(vfs.KindExpired, &metapb.Command{Op: &metapb.Command_SetLock{SetLock: lock}})
				clients[at] = next
				next++
				releases++
			case what == 1:
				r.ok(&metapb.Command{Op: &metapb.Command_CloseFiles{CloseFiles: &metapb.CloseFiles{Files: []*metapb.FileClose{
					{Ino: ino, Client: o.client, Locks: []*metapb.LockOwner{{Owner: []byte(o.owner), Stateid: []byte("stateid-0001")}}},
				}}}})
				delete(model, o)
			case what == 2:
				r.ok(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: uint32(num("keys", 1, 5))}}})
			case what == 3:
				r.reopen()
			case what == 4:
				q := &metapb.TestLockQ{Ino: ino, Client: o.client, Owner: lock.Owner, Type: lock.Type, Offset: offset, Length: length}
				got := r.query(&metapb.Query{Q: &metapb.Query_TestLock{TestLock: q}})
				checkLockAnswer(rt, got.GetLock(), model, o, first, last, lock.Type)
			default:
				res := r.ok(&metapb.Command{Op: &metapb.Command_SetLock{SetLock: lock}}).GetLock()
				if checkLockAnswer(rt, res, model, o, first, last, lock.Type) {
					denials++
					break
				}
				for i := first; i <= last; i++ {
					model.of(o)[i] = lock.Type
				}
			}
			if step%8 == 0 {
				r.check()
			}
		}
		r.check()
		for _, c := range clients {
			state := r.query(&metapb.Query{Q: &metapb.Query_ClientState{ClientState: &metapb.ClientStateQ{Client: c}}})
			got := map[lockModelOwner][lockModelBytes]metapb.LockType{}
			for _, l := range state.GetClientState().GetLocks() {
				var cells [lockModelBytes]metapb.LockType
				for _, g := range l.Ranges {
					for i := g.First; i <= min(g.Last, lockModelBytes-1); i++ {
						if cells[i] = metapb.LockType_LOCK_READ; g.Write {
							cells[i] = metapb.LockType_LOCK_WRITE
						}
					}
				}
				got[lockModelOwner{c, string(l.Owner)}] = cells
			}
			for _, k := range []string{"a", "b"} {
				if o := (lockModelOwner{c, k}); got[o] != *model.of(o) {
					rt.Fatalf("client %d, owner %s has %v, want %v", c, k, got[o], *model.of(o))
				}
			}
		}
	})
	if denials == 0 || releases == 0 {
		t.Fatalf("%d denials, %d releases: the histories show nothing", denials, releases)
	}
	t.Logf("%d denials, %d releases", denials, releases)
}

// checkLockAnswer compares an answer with the model and reports whether it is a denial.
func checkLockAnswer(rt *rapid.T, r *metapb.LockResult, m lockModel, o lockModelOwner, first, last int, typ metapb.LockType) bool {
	d := r.GetDenied()
	if want := m.conflict(o, first, last, typ); (d != nil) != want {
		rt.Fatalf("%v %v of bytes %d to %d: denied by %v, the model says %v", o, typ, first, last, d, want)
	}
	if d == nil {
		return false
	}
	by := lockModelOwner{d.Client, string(d.Owner)}
	end := int(min(d.Offset+min(d.Length, lockModelBytes)-1, lockModelBytes-1))
	if by == o || m[by] == nil || int(d.Offset) > last || end < first {
		rt.Fatalf("denied by %v", d)
	}
	for i := int(d.Offset); i <= end; i++ {
		if m[by][i] != d.Type {
			rt.Fatalf("denied by %v, who has %v", d, *m[by])
		}
	}
	return true
}

// TestReleaseIsBounded releases a client that has as much as a client may have: the command itself touches few
// records, every Purge a bounded number, and in the end only the other client's is left.
func TestReleaseIsBounded(t *testing.T) {
	r := newNamespaceRig(t, Options{})
	r.raise()
	const files, perFile = 40, 60
	for i := range files {
		r.ok(createCmd(1, fmt.Sprint("f", i)))
		var cmds []*metapb.Command
		for j := range perFile {
			for client := uint64(1); client <= 2; client++ {
				cmds = append(cmds, &metapb.Command{Op: &metapb.Command_OpenFile{OpenFile: &metapb.OpenFile{
					Ino: uint64(2 + i), Share: &metapb.ClientOpen{Client: client, Stateid: fmt.Appendf(nil, "stateid-%04d", j), Access: 1},
				}}})
			}
		}
		for j := range perFile {
			cmds = append(cmds, &metapb.Command{Op: &metapb.Command_SetLock{SetLock: &metapb.SetLock{
				Ino: uint64(2 + i), Client: 1, Owner: fmt.Append(nil, j), Stateid: []byte("stateid-0001"), Type: metapb.LockType_LOCK_READ, Length: 1,
			}}})
		}
		for _, res := range r.apply(cmds...) {
			if res.Kind != 0 {
				t.Fatal(vfs.Kind(res.Kind), res.Text)
			}
		}
		r.ok(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: fmt.Append(nil, "f", i)}}})
	}
	var session []byte
	for s := range 3 {
		session = fmt.Appendf(nil, "session-%08d", s)
		for slot := range uint32(100) {
			r.ok(&metapb.Command{
				Call: &metapb.Call{Session: session, Client: 1, Slot: slot, Seq: 1},
				Op:   &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: 1, Set: &metapb.AttrSet{}}},
			})
		}
	}
	r.check()
	r.flush()
	r.ok(&metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{1}}}})
	if n := len(r.batch); n > 10 {
		t.Fatalf("the release wrote %d records", n)
	}
	r.flush()
	const budget = 100
	for i := 0; ; i++ {
		more := r.ok(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: budget}}}).GetPurge().More
		if n := len(r.batch); n > budget+20 {
			t.Fatalf("purge %d wrote %d records", i, n)
		}
		r.flush()
		r.check()
		if !more {
			break
		}
	}
	for k := range r.state() {
		if bytes.HasPrefix([]byte(k), []byte("L/")) || bytes.HasPrefix([]byte(k), []byte("z/")) || bytes.HasPrefix([]byte(k), appendKnown(nil, 1)) {
			t.Fatalf("%q is left", k)
		}
	}
	r.ok(&metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{2}}}})
	r.drain(budget)
	r.check()
	if u := r.query(&metapb.Query{Q: &metapb.Query_Statfs{Statfs: &metapb.StatFSQ{}}}).GetStatfs(); u.UsedInodes != 1 {
		t.Fatalf("%d inodes are left", u.UsedInodes)
	}
}

// TestCloseIsBounded closes as many unlinked files at once as one command may: their extents are left to Purge.
func TestCloseIsBounded(t *testing.T) {
	r := newNamespaceRig(t, Options{})
	r.raise()
	closes := &metapb.CloseFiles{}
	for i := range maxFileCloses {
		ino := uint64(2 + i)
		c := createCmd(1, fmt.Sprint("f", i))
		c.GetCreate().Open = uint32(vfs.OpenWrite)
		c.GetCreate().Share = &metapb.ClientOpen{Client: 1, Stateid: []byte("stateid-0001"), Access: 2}
		r.ok(c)
		commit := &metapb.CommitData{Ino: ino, Epoch: 1, Size: 1 << 20}
		for p := range uint64(64) {
			commit.Extents = append(commit.Extents, &metapb.NewExtent{Offset: p * 2 * pageSize, Length: 1, Inline: []byte("x")})
		}
		r.ok(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: commit}})
		r.ok(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: fmt.Append(nil, "f", i)}}})
		closes.Files = append(closes.Files, &metapb.FileClose{Ino: ino, Client: 1, Stateid: []byte("stateid-0001")})
	}
	r.flush()
	r.ok(&metapb.Command{Op: &metapb.Command_CloseFiles{CloseFiles: closes}})
	if n := len(r.batch); n > r.m.opts.limits.keys {
		t.Fatalf("the command wrote %d records", n)
	}
	r.check()
	r.drain(1000)
	r.check()
	for k := range r.state() {
		if k[:2] == "e/" || k[:2] == "O/" {
			t.Fatalf("%q is left", k)
		}
	}
}
