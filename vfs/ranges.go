package vfs

import "context"

// The optional interfaces of an FS, for ranges of regular files. Like Write they do not check
// permission: the file was opened for writing (and the source of a clone for reading). Their effect is durable
// when they return; it moves mtime, ctime and Change and clears setuid and setgid bits as a write does. c is the caller.

// Allocator reserves and frees space.
type Allocator interface {
	// Allocate makes sure that later writes to [off, off+n) find space, and lets the file grow to the end of the range. What
	// is there stays. KindNoSpace if there is not that much.
	Allocate(ctx context.Context, c *Cred, ino Ino, off, n uint64) error

	// Deallocate makes [off, off+n) a hole. The size stays.
	Deallocate(ctx context.Context, c *Cred, ino Ino, off, n uint64) error
}

// SeekFor is what a Seeker looks for.
type SeekFor uint8

const (
	SeekData SeekFor = iota
	SeekHole
)

// SeekResult is where it is. Offset is Size if there is nothing of the kind but the hole that
// every file has at its end, and at the end or beyond it.
type SeekResult struct{ Offset, Size uint64 }

// Seeker knows where holes are.
type Seeker interface {
	// Seek returns the first byte at or after off that is data, or in a hole. What was
	// written is data and what was allocated only is a hole. Holes smaller than a page of 4 KiB, or not aligned to that,
	// may be taken for data.
	Seek(ctx context.Context, ino Ino, off uint64, what SeekFor) (SeekResult, error)
}

// CloneAlign is what offsets of clones are multiples of, in bytes.
const CloneAlign = 4096

// Cloner copies ranges without copying bytes.
type Cloner interface {
	// Clone makes [dstOff, dstOff+n) of dst what [srcOff, srcOff+n) of src is; n 0: to the end of src. See CheckClone.
	// It does all or nothing, whatever crashes. KindXDev: it is more than can be done so; cloning less at a time, or copying, may succeed.
	Clone(ctx context.Context, c *Cred, src Ino, srcOff uint64, dst Ino, dstOff, n uint64) error
}

// Copier copies ranges by itself, for less than reading and writing them costs.
type Copier interface {
	// Copy makes up to n bytes from dstOff of dst those from srcOff of src, as an unstable Write by c does, and returns how many it
	// copied: fewer if it likes, none at the end of the source only. Ranges of one file do not overlap. KindNotSupported: it cannot copy
	// between these files.
	Copy(ctx context.Context, c *Cred, src Ino, srcOff uint64, dst Ino, dstOff, n uint64) (uint64, Verifier, error)
}

// CheckClone refuses a clone whose offsets are not multiples of CloneAlign, whose length is not one either and does not end at the
// end of the source, that reaches beyond the end of the source, or overlaps itself in one file. It returns the
// length, which may be 0.
func CheckClone(src Ino, srcOff, srcSize uint64, dst Ino, dstOff, n uint64, op string) (uint64, error) {
	if srcOff%CloneAlign != 0 || dstOff%CloneAlign != 0 {
		return 0, Errorf(KindInvalid, op, "from %d to %d: not multiples of %d", srcOff, dstOff, CloneAlign)
	}
	if srcOff > srcSize || n > srcSize-srcOff {
		return 0, Errorf(KindInvalid, op, "%d bytes at %d of %d", n, srcOff, srcSize)
	}
	if n == 0 {
		n = srcSize - srcOff
	}
	if n%CloneAlign != 0 && srcOff+n != srcSize {
		return 0, Errorf(KindInvalid, op, "%d bytes: not a multiple of %d, nor up to the end of the source", n, CloneAlign)
	}
	if err := CheckEnd(dstOff, n, op); err != nil {
		return 0, err
	}
	if src == dst && n > 0 && srcOff < dstOff+n && dstOff < srcOff+n {
		return 0, Errorf(KindInvalid, op, "%d bytes from %d to %d of one file overlap", n, srcOff, dstOff)
	}
	return n, nil
}

// CheckEnd refuses a range that ends beyond the largest file.
func CheckEnd(off, n uint64, op string) error {
	if off > MaxSize || n > MaxSize-off {
		return KindTooBig.Err(op)
	}
	return nil
}

// Filler brings bytes into files in ascending order, for calls of their own: what goes on without the request that began it, and may be ended by another front end. A call names one file.
type Filler interface {
	FS

	// Fence makes call the newest of its session and slot: nothing is done any more for one with a lower Seq, whoever has begun it (KindSuperseded). It returns up to where the file was changed
	// for them without a gap, from off on. With the Seq that is the newest it begins the call, or asks. KindNotSupported: calls of their own are not remembered, or not yet.
	Fence(ctx context.Context, ino Ino, call *Call, off uint64) (done uint64, err error)

	// Fill writes for call as c, in order and durably from off on: at any time one range of the file is written, as Fence tells. It is open for writing meanwhile.
	Fill(ctx context.Context, c *Cred, ino Ino, off uint64, call *Call) (Filling, error)

	// EndCall forgets the session of a call of its own. Nothing of it may be under way.
	EndCall(ctx context.Context, call *Call) error
}

// Filling is a Fill under way. End it.
type Filling interface {
	// Put takes the next bytes. It waits while much is under way.
	Put(ctx context.Context, p []byte) error
	// Done is how many bytes are durable and part of the file.
	Done() uint64
	// End waits until all are, and returns how many. With an error, of Put or of what was under way, some more may be, or become so: Fence tells.
	End(ctx context.Context) (done uint64, err error)
}
