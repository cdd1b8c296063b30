package rpc

import "github.com/rackfs/rackfs/internal/xdr"

// Reply is built by appending to B, which begins with room for the record mark
// and header: append only, and take positions from Mark or len(B).
//
//	r.B = xdr.AppendUint32(r.B, status)
//	r.AttachOpaque(page[:n], func() { pool.Put(page) })
//
// The zero Reply of a Request is ready for use.
type Reply struct {
	B []byte

	ext  []external
	size int // bytes in ext
}

// external is a slice that belongs at position at of B.
type external struct {
	at      int
	p       []byte
	release func()
}

// Mark is a position in a Reply.
type Mark struct{ b, ext, size int }

// Mark returns the present end, for Truncate, Len and AppendTo.
func (r *Reply) Mark() Mark { return Mark{len(r.B), len(r.ext), r.size} }

// Start is the position of the results' first byte.
func (r *Reply) Start() Mark { return Mark{b: replyHeaderSize} }

// Len is how many bytes of results there are, external ones included.
func (r *Reply) Len() int { return len(r.B) - replyHeaderSize + r.size }

// Since is how many bytes were added after m.
func (r *Reply) Since(m Mark) int { return len(r.B) - m.b + r.size - m.size }

// Truncate drops everything added after m, releasing attached slices.
func (r *Reply) Truncate(m Mark) {
	for i := m.ext; i < len(r.ext); i++ {
		r.ext[i].free()
		r.ext[i] = external{}
	}
	r.ext = r.ext[:m.ext]
	r.B = r.B[:m.b]
	r.size = m.size
}

// Attach adds p itself, not a copy. p must not change until release, which may
// be nil, is called exactly once: after the reply was written or given up.
func (r *Reply) Attach(p []byte, release func()) {
	r.ext = append(r.ext, external{len(r.B), p, release})
	r.size += len(p)
}

// AttachOpaque adds p as variable-length opaque data: length, p itself, padding.
func (r *Reply) AttachOpaque(p []byte, release func()) {
	r.B = xdr.AppendUint32(r.B, uint32(len(p)))
	r.Attach(p, release)
	var zeros [4]byte
	r.B = append(r.B, zeros[:xdr.Pad(len(p))]...)
}

// AttachOpaques is AttachOpaque of data in several slices, of which there is at least one.
func (r *Reply) AttachOpaques(parts [][]byte, release func()) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	r.B = xdr.AppendUint32(r.B, uint32(n))
	for i, p := range parts {
		if i == len(parts)-1 {
			r.Attach(p, release)
		} else {
			r.Attach(p, nil)
		}
	}
	var zeros [4]byte
	r.B = append(r.B, zeros[:xdr.Pad(n)]...)
}

// AppendTo appends everything after m to dst, external slices included, for a
// reply cache.
func (r *Reply) AppendTo(dst []byte, m Mark) []byte {
	at := m.b
	for _, e := range r.ext[m.ext:] {
		dst = append(dst, r.B[at:e.at]...)
		dst = append(dst, e.p...)
		at = e.at
	}
	return append(dst, r.B[at:]...)
}

// Write appends p to B, so that generated types can encode themselves.
func (r *Reply) Write(p []byte) (int, error) {
	r.B = append(r.B, p...)
	return len(p), nil
}

func (e *external) free() {
	if e.release != nil {
		e.release()
	}
}
