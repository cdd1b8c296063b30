package fsm

import (
	"errors"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of what an identity may name.
const (
	maxSlots       = 1 << 16 // of one origin
	maxSlotResults = 1024    // of one seq
)

// call is one command being run: who asks, when, in which file system.
type call struct {
	*Machine
	fs     uint32
	cred   vfs.Cred // root if the system itself asks
	now    time.Time
	wire   *metapb.Time // now, as stamped
	origin uint64       // 0: none
}

// exec runs one command: exactly-once first, then the command itself. The error
// is fatal; a command that was refused is a result.
func (m *Machine) exec(c *metapb.Command) (*metapb.Result, error) {
	id := c.GetId()
	if id.GetOrigin() == 0 {
		if levelOf(c) > m.level {
			return refusal(tooNew(c, m.level)), nil
		}
		if !idempotent(c) {
			return refusal(vfs.Errorf(vfs.KindUnknownOrigin, "fsm", "the command names no origin")), nil
		}
		return m.attempt(c)
	}
	if id.Slot >= maxSlots {
		return refusal(vfs.Errorf(vfs.KindInvalid, "fsm", "slot %d", id.Slot)), nil
	}
	if alive, err := m.registered(id.Origin); err != nil {
		return nil, err
	} else if !alive {
		return refusal(vfs.Errorf(vfs.KindUnknownOrigin, "fsm", "origin %d", id.Origin)), nil
	}
	k := slotKey{id.Origin, id.Slot}
	s, err := m.slot(k)
	if err != nil {
		return nil, err
	}
	if s != nil {
		switch {
		case id.Seq < s.seq:
			return refusal(vfs.Errorf(vfs.KindSuperseded, "fsm", "seq %d of slot %d came after %d", id.Seq, id.Slot, s.seq)), nil
		case id.Seq > s.seq:
			s = nil
		default:
			if r, err := s.find(id.OpIndex); r != nil || err != nil {
				return r, err
			}
			if len(s.ops) >= maxSlotResults {
				return refusal(vfs.Errorf(vfs.KindTooMany, "fsm", "more than %d commands under one seq", maxSlotResults)), nil
			}
		}
	}
	r, err := m.called(c)
	if err != nil {
		return nil, err
	}
	// The command may have ended its own origin.
	if alive, err := m.registered(id.Origin); err != nil || !alive {
		return r, err
	}
	if s, err = s.with(id, r); err != nil {
		return nil, err
	}
	m.slots.set(m.entry, k, s)
	m.slots.accept()
	return r, nil
}

// idempotent reports whether c may come without an identity: a delayed duplicate of it does no harm.
// PutNFSClient is not: one could bring back a record that was removed since.
func idempotent(c *metapb.Command) bool {
	switch op := c.Op.(type) {
	case *metapb.Command_RegisterOrigin, *metapb.Command_ExpireOrigin, *metapb.Command_RaiseLevel,
		*metapb.Command_Purge, *metapb.Command_CreateNamespace,
		*metapb.Command_ReapBlocks, *metapb.Command_ChangePgs, *metapb.Command_ReplaceStore,
		*metapb.Command_PutFileSystem, *metapb.Command_PutStore, *metapb.Command_PutPool, *metapb.Command_PutKey,
		*metapb.Command_ReleaseClients, *metapb.Command_ReleaseSession, *metapb.Command_ForgetClients,
		*metapb.Command_PutNode, *metapb.Command_RemoveNode, *metapb.Command_PutToken, *metapb.Command_JoinNode,
		*metapb.Command_PutGroup, *metapb.Command_RemoveGroup, *metapb.Command_ReserveRacks, *metapb.Command_SetNodeGroup, *metapb.Command_RemovePool, *metapb.Command_RetireGroup,
		*metapb.Command_SetNodeState, *metapb.Command_RetireNode, *metapb.Command_RetireStores,
		*metapb.Command_RemoveFileSystem, *metapb.Command_DeleteNamespace, *metapb.Command_LimitNamespace:
		return true
	case *metapb.Command_PutWorkspace, *metapb.Command_RemoveWorkspace, *metapb.Command_PutAccessToken, *metapb.Command_RemoveAccessToken,
		*metapb.Command_PutJob, *metapb.Command_TakeJob, *metapb.Command_PutUpload, *metapb.Command_RemoveUpload, *metapb.Command_MakeStaging:
		return true
	case *metapb.Command_AllowDeletion:
		return true
	case *metapb.Command_RemoveClient:
		return op.RemoveClient.GetOrigin() != 0
	}
	return false
}

// attempt runs c without regard to its identity, all or nothing.
func (m *Machine) attempt(c *metapb.Command) (*metapb.Result, error) {
	c = atLevel(c, m.level)
	x := call{Machine: m, fs: c.Fs, now: timeOf(c.Time), wire: c.Time, origin: c.GetId().GetOrigin()}
	r, err := x.run(c)
	if err != nil {
		if isFatal(err) {
			return nil, err
		}
		m.rollback()
		if r := heldResult(err); r != nil {
			return r, nil
		}
		return refusal(err), nil
	}
	m.accept()
	return r, nil
}

func refusal(err error) *metapb.Result {
	r := &metapb.Result{Kind: uint32(vfs.KindOf(err))}
	var e *vfs.Error
	if errors.As(err, &e) {
		if r.Text = e.Op; e.Text != "" {
			r.Text += ": " + e.Text
		}
	}
	return r
}

func (x *call) run(c *metapb.Command) (*metapb.Result, error) {
	if err := checkTime(c.Time); err != nil {
		return nil, err
	}
	if w := c.Cred; w != nil {
		if len(w.Groups) > vfs.MaxGroups {
			return nil, vfs.Errorf(vfs.KindInvalid, "fsm", "%d groups", len(w.Groups))
		}
		x.cred = vfs.Cred{UID: w.Uid, GID: w.Gid, Groups: w.Groups}
	}
	switch op := c.Op.(type) {
	case *metapb.Command_RegisterOrigin:
		return x.registerOrigin(op.RegisterOrigin)
	case *metapb.Command_ExpireOrigin:
		return x.expireOrigin(op.ExpireOrigin)
	case *metapb.Command_RaiseLevel:
		return x.raiseLevel(op.RaiseLevel)
	case *metapb.Command_Purge:
		return x.purge(op.Purge)
	}
	if x.opts.Shard == 0 {
		return x.runCluster(c)
	}
	return x.runNamespace(c)
}

// runNamespace runs what belongs to a namespace shard. A command that this
// feature level does not have is refused by every version alike.
func (x *call) runNamespace(c *metapb.Command) (*metapb.Result, error) {
	switch op := c.Op.(type) {
	case *metapb.Command_CreateNamespace:
		return x.createNamespace(op.CreateNamespace)
	case *metapb.Command_DeleteNamespace:
		return x.deleteNamespace()
	case *metapb.Command_AllocBlocks:
		return x.allocBlocks(op.AllocBlocks)
	case *metapb.Command_ReapBlocks:
		return x.reapBlocks(op.ReapBlocks)
	case *metapb.Command_ReturnBlocks:
		return x.returnBlocks(op.ReturnBlocks)
	case *metapb.Command_CloseFiles:
		return x.closeFiles(op.CloseFiles)
	case *metapb.Command_ReleaseClients:
		return x.releaseClients(op.ReleaseClients)
	case *metapb.Command_ReleaseSession:
		return x.releaseSession(op.ReleaseSession)
	case *metapb.Command_ReleaseSlots:
		return x.releaseSlots(op.ReleaseSlots)
	}
	sp, err := x.space(c.Fs)
	if err != nil {
		return nil, err
	}
	if sp == nil {
		return nil, vfs.Errorf(vfs.KindStale, "fsm", "file system %d is not on this shard", c.Fs)
	}
	switch op := c.Op.(type) {
	case *metapb.Command_Create:
		return x.create(sp, op.Create)
	case *metapb.Command_Link:
		return x.link(sp, op.Link)
	case *metapb.Command_Remove:
		return x.remove(sp, op.Remove)
	case *metapb.Command_Rename:
		return x.rename(sp, op.Rename)
	case *metapb.Command_SetAttr:
		return x.setAttr(op.SetAttr)
	case *metapb.Command_Touch:
		return x.touch(op.Touch)
	case *metapb.Command_SetXattr:
		return x.setXattr(op.SetXattr)
	case *metapb.Command_RemoveXattr:
		return x.removeXattr(op.RemoveXattr)
	case *metapb.Command_AcquireLease:
		return x.acquireLease(op.AcquireLease)
	case *metapb.Command_ReleaseLease:
		return x.releaseLease(op.ReleaseLease)
	case *metapb.Command_ShareLease:
		return x.shareLease(op.ShareLease)
	case *metapb.Command_CommitData:
		return x.commitData(op.CommitData)
	case *metapb.Command_RewriteExtents:
		return x.rewriteExtents(op.RewriteExtents)
	case *metapb.Command_PunchHole:
		return x.punchHole(op.PunchHole)
	case *metapb.Command_Allocate:
		return x.allocate(op.Allocate)
	case *metapb.Command_CloneRange:
		return x.cloneRange(op.CloneRange)
	case *metapb.Command_FenceCall:
		return x.fenceCall(op.FenceCall)
	case *metapb.Command_ReleaseOrphan:
		return x.releaseOrphan(op.ReleaseOrphan)
	case *metapb.Command_KeepOpens:
		return x.keepLoose(op.KeepOpens)
	case *metapb.Command_OpenFile:
		return x.openFile(op.OpenFile)
	case *metapb.Command_SetLock:
		return x.setLock(op.SetLock)
	case *metapb.Command_LimitNamespace:
		return x.limitNamespace(op.LimitNamespace)
	case *metapb.Command_MakeStaging:
		return x.makeStaging(op.MakeStaging)
	case *metapb.Command_SetProject:
		return x.setProject(op.SetProject)
	case *metapb.Command_SetQuota:
		return x.setQuota(op.SetQuota)
	case *metapb.Command_ReserveQuota:
		return x.reserveQuota(op.ReserveQuota)
	case *metapb.Command_ReleaseQuota:
		return x.releaseQuota(op.ReleaseQuota)
	}
	return nil, vfs.Errorf(vfs.KindNotSupported, "fsm", "a namespace shard does not have this command")
}

func checkTime(t *metapb.Time) error {
	if t != nil && t.Nsec > 999_999_999 {
		return vfs.Errorf(vfs.KindInvalid, "fsm", "time with %d ns", t.Nsec)
	}
	return nil
}

// slot returns the slot's row, nil if it was never used.
func (o *overlay) slot(k slotKey) (*slotRow, error) {
	if s, ok := o.slots.get(k); ok {
		return s, nil
	}
	o.key = appendSlot(o.key[:0], k.origin, k.slot)
	b, ok, err := o.read(o.key)
	if err != nil || !ok {
		return nil, err
	}
	s, err := decodeSlot(b)
	if err != nil {
		return nil, err
	}
	o.slots.keep(k, s)
	return s, nil
}

func decodeSlot(b []byte) (*slotRow, error) {
	var r metapb.SlotRecord
	if err := r.UnmarshalVT(b); err != nil {
		return nil, corrupt("slot: %w", err)
	}
	s := &slotRow{seq: r.Seq, client: r.Client}
	if len(r.Written) > 0 {
		for _, w := range r.Written {
			s.written = append(s.written, written{w.OpIndex, w.Fs, w.Ino, w.Offset, w.End})
		}
		if err := checkWritten(s.written); err != nil {
			return nil, err
		}
		var err error
		if b, err = withoutWritten(b); err != nil {
			return nil, err
		}
	}
	s.enc = append([]byte(nil), b...)
	for _, v := range r.Results {
		s.last = max(s.last, v.OpIndex)
		s.ops = append(s.ops, v.OpIndex)
	}
	return s, nil
}

// find returns the result stored for an op, nil if there is none.
func (s *slotRow) find(op uint32) (*metapb.Result, error) {
	v, err := s.stored(op)
	if v == nil {
		return nil, err
	}
	return v.Result, nil
}

// stored returns what is stored for an op, nil if nothing is. Commands of one seq come in any order, so mostly nothing is although
// op is not above last: nothing is decoded to find that out.
func (s *slotRow) stored(op uint32) (*metapb.SlotResult, error) {
	if op > s.last {
		return nil, nil
	}
	before := slices.Index(s.ops, op)
	if before < 0 {
		return nil, nil
	}
	for b := s.enc; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, corrupt("slot: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return nil, corrupt("slot: %w", protowire.ParseError(n))
		}
		value := b[:n]
		b = b[n:]
		if num != slotResults || typ != protowire.BytesType {
			continue
		}
		if before > 0 {
			before--
			continue
		}
		result, _ := protowire.ConsumeBytes(value)
		v := new(metapb.SlotResult)
		if err := v.UnmarshalVT(result); err != nil {
			return nil, corrupt("slot: %w", err)
		}
		if v.OpIndex != op {
			return nil, corrupt("slot: the result of op %d is that of %d", op, v.OpIndex)
		}
		if v.Result == nil {
			v.Result = &metapb.Result{}
		}
		return v, nil
	}
	return nil, corrupt("slot: the result of op %d is missing", op)
}

// with is s (nil: a new seq) with the result of one more command. Of a refusal
// only the kind is stored: texts are for people and may differ between
// releases, which what is stored may not.
func (s *slotRow) with(id *metapb.Identity, r *metapb.Result) (*slotRow, error) {
	if r.Kind != 0 {
		r = &metapb.Result{Kind: r.Kind}
	}
	return s.add(id.Seq, 0, &metapb.SlotResult{OpIndex: id.OpIndex, Result: r})
}

// add is s with v; the new row of a seq, if s is nil, is of that client, if any.
func (s *slotRow) add(seq, client uint64, v *metapb.SlotResult) (*slotRow, error) {
	size := v.SizeVT()
	n := &slotRow{seq: seq, client: client, last: v.OpIndex}
	const head = 3*(2+binaryMaxVarint) + 1
	if s == nil {
		n.one[0] = v.OpIndex
		n.ops = n.one[:]
		n.enc = appendRowHead(make([]byte, 0, head+size), seq, client)
	} else {
		n.last = max(s.last, v.OpIndex)
		n.written = s.written
		n.enc, n.ops = s.enc, s.ops
		if s.extended { // the space behind them is another row's
			n.enc, n.ops = slices.Clip(n.enc), slices.Clip(n.ops)
		}
		s.extended = true
		if cap(n.enc)-len(n.enc) < head+size {
			// With room for as much again: a seq with many commands is not copied for each.
			n.enc = append(make([]byte, 0, 2*len(n.enc)+head+size), n.enc...)
		}
		n.ops = append(n.ops, v.OpIndex)
	}
	n.enc = protowire.AppendVarint(protowire.AppendTag(n.enc, slotResults, protowire.BytesType), uint64(size))
	at := len(n.enc)
	n.enc = n.enc[:at+size]
	if _, err := v.MarshalToSizedBufferVT(n.enc[at:]); err != nil {
		return nil, fatal(err)
	}
	return n, nil
}

// appendRowHead appends what a record begins with.
func appendRowHead(b []byte, seq, client uint64) []byte {
	if seq != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), seq)
	}
	if client != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, 20, protowire.VarintType), client)
	}
	return b
}

const (
	binaryMaxVarint = 10
	slotResults     = 2 // field of a SlotRecord
)

// clampInt is v as an int that does not overflow.
func clampInt(v uint64) int64 { return int64(min(v, math.MaxInt64)) }
