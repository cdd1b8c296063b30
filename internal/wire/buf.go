package wire

import (
	"math/bits"
	"sync"
)

// Buffers are pooled in size classes, one per power of two.
const (
	minBufBits = 9  // 512 B
	maxBufBits = 23 // 8 MiB, above MaxMeta and MaxPayload with all they carry along
)

var bufPools [maxBufBits + 1]sync.Pool

// Buf is a pooled buffer. Its owner calls Release once and does not use B, or
// any slice of it, afterwards.
type Buf struct {
	B    []byte
	full []byte
	bits int
}

// GetBuf returns a buffer of n bytes whose content is arbitrary. Above
// 8 MiB it is not pooled.
func GetBuf(n int) *Buf {
	c := max(minBufBits, bits.Len(uint(max(n, 1)-1)))
	if c > maxBufBits {
		b := make([]byte, n)
		return &Buf{B: b, full: b, bits: c}
	}
	b, _ := bufPools[c].Get().(*Buf)
	if b == nil {
		b = &Buf{full: make([]byte, 1<<c), bits: c}
	}
	b.B = b.full[:n]
	return b
}

// Release gives the buffer back to its pool. A nil Buf is allowed.
func (b *Buf) Release() {
	if b == nil {
		return
	}
	if b.B == nil {
		panic("wire: Buf released twice")
	}
	b.B = nil
	if b.bits <= maxBufBits {
		bufPools[b.bits].Put(b)
	}
}
