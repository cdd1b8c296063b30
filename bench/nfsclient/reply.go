package nfsclient

import (
	"errors"
	"fmt"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// Error is an operation that the server answered with a status.
type Error struct {
	Op     nfsv4.NfsOpnum4
	Status Status
}

func (e *Error) Error() string {
	return fmt.Sprintf("nfs: %v: %v", opName(e.Op), statusName(e.Status))
}

func opName(op nfsv4.NfsOpnum4) string {
	if s, ok := nfsv4.NfsOpnum4_name[op]; ok {
		return s
	}
	return fmt.Sprintf("operation %d", int32(op))
}

func statusName(st Status) string {
	if s, ok := nfsv4.Nfsstat4_name[st]; ok {
		return s
	}
	return fmt.Sprintf("status %d", int32(st))
}

// StatusOf is the NFS status in err's chain: NFS4_OK for nil, -1 if err is of
// another kind (transport, malformed reply).
func StatusOf(err error) Status {
	if err == nil {
		return nfsv4.NFS4_OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return -1
}

// Reply reads the results of a compound in order. Release it when done; slices
// it returned are invalid then.
type Reply struct {
	Status Status // of the whole compound: that of its last operation
	left   int
	body   []byte
	d      xdr.Decoder
	resp   rpc.Response

	delegation Delegation // of the last Open
}

func newReply(resp rpc.Response) (*Reply, error) {
	r := &Reply{body: resp.Body, d: xdr.NewDecoder(resp.Body), resp: resp}
	r.Status = Status(r.d.Int32())
	r.d.Opaque(1 << 10) // tag
	r.left = int(r.d.Uint32())
	if err := r.d.Err(); err != nil {
		resp.Release()
		return nil, fmt.Errorf("nfs: compound reply: %w", err)
	}
	return r, nil
}

// Release gives the reply's buffer back.
func (r *Reply) Release() { r.resp.Release() }

// Body is the whole encoded reply.
func (r *Reply) Body() []byte { return r.body }

// Results is how many operations are left to read.
func (r *Reply) Results() int { return r.left }

// D is the decoder, for results without a method here.
func (r *Reply) D() *xdr.Decoder { return &r.d }

// Next begins the result of op. It returns an *Error if op failed or was
// not reached.
func (r *Reply) Next(op nfsv4.NfsOpnum4) error {
	if r.left == 0 {
		return &Error{op, r.Status}
	}
	r.left--
	got := nfsv4.NfsOpnum4(r.d.Int32())
	st := Status(r.d.Int32())
	if err := r.d.Err(); err != nil {
		return fmt.Errorf("nfs: %s: %w", opName(op), err)
	}
	if got != op {
		return fmt.Errorf("nfs: result of %s where %s was expected", opName(got), opName(op))
	}
	if st != nfsv4.NFS4_OK {
		return &Error{op, st}
	}
	return nil
}

// Skip begins the results of ops that have no content.
func (r *Reply) Skip(ops ...nfsv4.NfsOpnum4) error {
	for _, op := range ops {
		if err := r.Next(op); err != nil {
			return err
		}
	}
	return nil
}

// sequence reads the result of SEQUENCE.
func (r *Reply) sequence() error {
	if err := r.Next(nfsv4.OP_SEQUENCE); err != nil {
		return err
	}
	r.d.Skip(16 + 5*4)
	return r.d.Err()
}

// Sequence reads the result of SEQUENCE: its status flags.
func (r *Reply) Sequence() (flags uint32, err error) {
	if err := r.Next(nfsv4.OP_SEQUENCE); err != nil {
		return 0, err
	}
	r.d.Skip(16 + 4*4)
	return r.d.Uint32(), r.d.Err()
}

// FH reads the result of GETFH.
func (r *Reply) FH() (FH, error) {
	if err := r.Next(nfsv4.OP_GETFH); err != nil {
		return "", err
	}
	return FH(r.d.Opaque(128)), r.d.Err()
}

// Attr reads the result of GETATTR.
func (r *Reply) Attr() (attr.Attr, error) {
	if err := r.Next(nfsv4.OP_GETATTR); err != nil {
		return attr.Attr{}, err
	}
	a := attr.Decode(&r.d)
	return a, r.d.Err()
}

// Stateid reads a stateid inside a result.
func (r *Reply) Stateid() (id Stateid) {
	id.Seqid = r.d.Uint32()
	copy(id.Other[:], r.d.Fixed(12))
	return id
}

// StateidOf reads the result of op, which is a stateid: CLOSE, LOCK, LOCKU,
// OPEN_DOWNGRADE.
func (r *Reply) StateidOf(op nfsv4.NfsOpnum4) (Stateid, error) {
	if err := r.Next(op); err != nil {
		return Stateid{}, err
	}
	return r.Stateid(), r.d.Err()
}

// ChangeInfo is a change_info4.
type ChangeInfo struct {
	Atomic        bool
	Before, After uint64
}

// ChangeInfo reads one inside a result.
func (r *Reply) ChangeInfo() ChangeInfo {
	return ChangeInfo{r.d.Bool(), r.d.Uint64(), r.d.Uint64()}
}

// Delegation is what OPEN gave besides the open.
type Delegation struct {
	Type    nfsv4.OpenDelegationType4 // OPEN_DELEGATE_NONE, READ or WRITE
	Stateid Stateid
}

// Open reads the result of OPEN. Delegation tells what else it gave.
func (r *Reply) Open() (Stateid, ChangeInfo, error) {
	if err := r.Next(nfsv4.OP_OPEN); err != nil {
		return Stateid{}, ChangeInfo{}, err
	}
	id := r.Stateid()
	ci := r.ChangeInfo()
	r.d.Uint32() // rflags
	attr.DecodeBitmap(&r.d)
	r.delegation = Delegation{}
	switch t := nfsv4.OpenDelegationType4(r.d.Int32()); t {
	case nfsv4.OPEN_DELEGATE_NONE:
	case nfsv4.OPEN_DELEGATE_READ, nfsv4.OPEN_DELEGATE_WRITE:
		r.delegation = Delegation{t, r.Stateid()}
		r.d.Bool() // recall
		if t == nfsv4.OPEN_DELEGATE_WRITE {
			r.d.Int32() // limitby, and what follows is 8 bytes either way
			r.d.Uint64()
		}
		for range 3 { // nfsace4
			r.d.Uint32()
		}
		r.d.Opaque(r.d.Len())
	case nfsv4.OPEN_DELEGATE_NONE_EXT:
		switch nfsv4.WhyNoDelegation4(r.d.Int32()) {
		case nfsv4.WND4_CONTENTION, nfsv4.WND4_RESOURCE:
			r.d.Bool()
		}
	default:
		r.d.Fail(fmt.Errorf("delegation of type %v", t))
	}
	return id, ci, r.d.Err()
}

// Delegation is that of the last Open.
func (r *Reply) Delegation() Delegation { return r.delegation }

// Read reads the result of READ; the data is valid until Release.
func (r *Reply) Read() (p []byte, eof bool, err error) {
	if err := r.Next(nfsv4.OP_READ); err != nil {
		return nil, false, err
	}
	eof = r.d.Bool()
	p = r.d.Opaque(r.d.Len())
	return p, eof, r.d.Err()
}

// Written is the result of a WRITE.
type Written struct {
	Count    uint32
	Stable   nfsv4.StableHow4
	Verifier [8]byte
}

// Write reads the result of WRITE.
func (r *Reply) Write() (w Written, err error) {
	if err := r.Next(nfsv4.OP_WRITE); err != nil {
		return w, err
	}
	w.Count = r.d.Uint32()
	w.Stable = nfsv4.StableHow4(r.d.Int32())
	copy(w.Verifier[:], r.d.Fixed(8))
	return w, r.d.Err()
}

// Commit reads the result of COMMIT.
func (r *Reply) Commit() (verifier [8]byte, err error) {
	if err := r.Next(nfsv4.OP_COMMIT); err != nil {
		return verifier, err
	}
	copy(verifier[:], r.d.Fixed(8))
	return verifier, r.d.Err()
}

// Denied is a lock in the way.
type Denied struct {
	Offset, Length uint64
	Type           nfsv4.NfsLockType4
	Client         uint64
	Owner          string
}

// Denied reads what follows NFS4ERR_DENIED of LOCK and LOCKT.
func (r *Reply) Denied() (d Denied, err error) {
	d.Offset, d.Length = r.d.Uint64(), r.d.Uint64()
	d.Type = nfsv4.NfsLockType4(r.d.Int32())
	d.Client = r.d.Uint64()
	d.Owner = r.d.String(1024)
	return d, r.d.Err()
}

// Entry is one entry of a READDIR.
type Entry struct {
	Cookie uint64
	Name   string
	Attr   attr.Attr
}

// Readdir reads the result of READDIR.
func (r *Reply) Readdir() (verf [8]byte, entries []Entry, eof bool, err error) {
	if err := r.Next(nfsv4.OP_READDIR); err != nil {
		return verf, nil, false, err
	}
	copy(verf[:], r.d.Fixed(8))
	for r.d.Bool() {
		e := Entry{Cookie: r.d.Uint64(), Name: r.d.String(1 << 10)}
		e.Attr = attr.Decode(&r.d)
		if r.d.Err() != nil {
			break
		}
		entries = append(entries, e)
	}
	eof = r.d.Bool()
	return verf, entries, eof, r.d.Err()
}

// ExchangeID reads the result of EXCHANGE_ID.
func (r *Reply) ExchangeID() (client uint64, sequence, flags uint32, err error) {
	if err := r.Next(nfsv4.OP_EXCHANGE_ID); err != nil {
		return 0, 0, 0, err
	}
	client, sequence, flags = r.d.Uint64(), r.d.Uint32(), r.d.Uint32()
	if how := nfsv4.StateProtectHow4(r.d.Int32()); how != nfsv4.SP4_NONE {
		r.d.Fail(fmt.Errorf("state protection %v, none was asked for", how))
	}
	r.d.Uint64()               // minor id
	r.d.Opaque(1 << 10)        // major id
	r.d.Opaque(1 << 10)        // scope
	if r.d.Count(1, 12) == 1 { // implementation id
		r.d.Opaque(1 << 10)
		r.d.Opaque(1 << 10)
		r.d.Skip(12)
	}
	return client, sequence, flags, r.d.Err()
}

// CreateSession reads the result of CREATE_SESSION.
func (r *Reply) CreateSession() (id SessionID, flags uint32, fore ChannelAttrs, err error) {
	if err := r.Next(nfsv4.OP_CREATE_SESSION); err != nil {
		return id, 0, fore, err
	}
	copy(id[:], r.d.Fixed(16))
	r.d.Uint32() // sequence
	flags = r.d.Uint32()
	fore = r.channel()
	r.channel()
	return id, flags, fore, r.d.Err()
}

func (r *Reply) channel() (a ChannelAttrs) {
	r.d.Uint32() // header pad
	a.MaxRequest, a.MaxResponse, a.MaxCachedResponse = r.d.Uint32(), r.d.Uint32(), r.d.Uint32()
	a.MaxOps, a.MaxSlots = r.d.Uint32(), r.d.Uint32()
	r.d.Skip(4 * r.d.Count(1, 4))
	return a
}

// TestStateid reads the result of TEST_STATEID.
func (r *Reply) TestStateid() ([]Status, error) {
	if err := r.Next(nfsv4.OP_TEST_STATEID); err != nil {
		return nil, err
	}
	sts := make([]Status, r.d.Count(1<<10, 4))
	for i := range sts {
		sts[i] = Status(r.d.Int32())
	}
	return sts, r.d.Err()
}
