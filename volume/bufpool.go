package volume

import (
	"math/bits"
	"sync"
)

// Buffers are powers of two from 4 KiB to 4 MiB.
const (
	minBufferBits = 12
	maxBufferBits = 22
)

// buffer is a pooled byte slice of a size class; len(b) is the class.
type buffer struct{ b []byte }

// bufPool recycles buffers by size class.
type bufPool struct {
	classes [maxBufferBits - minBufferBits + 1]sync.Pool
}

// bufferClass is the class whose buffers hold n bytes.
func bufferClass(n int) int {
	if n <= 1<<minBufferBits {
		return 0
	}
	return bits.Len(uint(n-1)) - minBufferBits
}

// get returns a buffer of at least n bytes, n <= 4 MiB, with any content.
func (p *bufPool) get(n int) *buffer {
	c := bufferClass(n)
	if b, ok := p.classes[c].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, 1<<(c+minBufferBits))}
}

// put takes back a buffer that nobody uses any more.
func (p *bufPool) put(b *buffer) { p.classes[bufferClass(len(b.b))].Put(b) }
