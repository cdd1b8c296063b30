package rpc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Errors of a stream that is not ONC RPC; the connection is closed.
var (
	errRecordTooLarge   = errors.New("record larger than the limit")
	errTooManyFragments = errors.New("record of too many fragments")
	errRecordTooShort   = errors.New("record too short for a message")
)

const (
	lastFragment = 1 << 31
	prefixSize   = 8 // xid and message type
)

// buffer is a pooled record buffer.
type buffer struct {
	b    []byte
	pool *sync.Pool
}

func (b *buffer) release() {
	if b != nil && b.pool != nil {
		b.pool.Put(b)
	}
}

// buffers hands out record buffers of three sizes: most calls are small, most
// bytes are in records of nearly the largest size.
type buffers struct {
	sizes [3]int
	pools [3]sync.Pool
}

func newBuffers(maxRecord int) *buffers {
	p := &buffers{sizes: [3]int{min(4<<10, maxRecord), min(64<<10, maxRecord), maxRecord}}
	for i := range p.pools {
		p.pools[i].New = func() any {
			return &buffer{b: make([]byte, p.sizes[i]), pool: &p.pools[i]}
		}
	}
	return p
}

// get returns a buffer of at least n bytes, n at most the largest size.
func (p *buffers) get(n int) *buffer {
	for i, size := range p.sizes {
		if n <= size {
			b := p.pools[i].Get().(*buffer)
			b.b = b.b[:cap(b.b)]
			return b
		}
	}
	return &buffer{b: make([]byte, n)}
}

// recordReader reads one record after the other (RFC 5531, 11).
type recordReader struct {
	br        *bufio.Reader
	left      int // bytes of the current fragment not yet read
	last      bool
	fragments int
	size      int // bytes of the record announced so far
	max       int
}

// begin starts the next record.
func (r *recordReader) begin(max int) {
	r.left, r.last, r.fragments, r.size, r.max = 0, false, 0, 0, max
}

// nextFragment reads a mark.
func (r *recordReader) nextFragment() error {
	if r.fragments++; r.fragments > maxFragments {
		return errTooManyFragments
	}
	p, err := r.br.Peek(4)
	if err != nil {
		if len(p) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	mark := binary.BigEndian.Uint32(p)
	_, _ = r.br.Discard(4)
	r.last = mark&lastFragment != 0
	n := int(mark &^ lastFragment)
	if n > r.max-r.size {
		return fmt.Errorf("%w: at least %d bytes, %d allowed", errRecordTooLarge, r.size+n, r.max)
	}
	r.left = n
	r.size += n
	return nil
}

// prefix reads the first bytes of a record, those every message has.
func (r *recordReader) prefix(p *[prefixSize]byte) error {
	for got := 0; got < len(p); {
		if r.left == 0 {
			if r.last {
				return errRecordTooShort
			}
			if err := r.nextFragment(); err != nil {
				return noEOF(err, got > 0 || r.fragments > 1)
			}
			continue
		}
		n, err := io.ReadFull(r.br, p[got:got+min(r.left, len(p)-got)])
		got += n
		r.left -= n
		if err != nil {
			return noEOF(err, true)
		}
	}
	return nil
}

// arrived waits until the rest of the fragment is in our buffer, or as much of it as that
// takes.
func (r *recordReader) arrived() error {
	_, err := r.br.Peek(min(r.left, readBufferSize))
	return noEOF(err, true)
}

// rest reads what follows the prefix into a buffer from p.
func (r *recordReader) rest(p *buffers) (*buffer, []byte, error) {
	if err := r.arrived(); err != nil {
		return nil, nil, err
	}
	buf := p.get(r.left)
	n := 0
	for {
		if r.left > len(buf.b)-n {
			bigger := p.get(min(max(2*n, n+r.left), r.max))
			copy(bigger.b, buf.b[:n])
			buf.release()
			buf = bigger
		}
		m, err := io.ReadFull(r.br, buf.b[n:n+r.left])
		n += m
		r.left -= m
		if err != nil {
			buf.release()
			return nil, nil, noEOF(err, true)
		}
		if r.last {
			return buf, buf.b[:n:n], nil
		}
		if err := r.nextFragment(); err != nil {
			buf.release()
			return nil, nil, noEOF(err, true)
		}
	}
}

// skip reads what follows the prefix and forgets it.
func (r *recordReader) skip() error {
	for {
		n, err := r.br.Discard(r.left)
		r.left -= n
		if err != nil {
			return noEOF(err, true)
		}
		if r.last {
			return nil
		}
		if err := r.nextFragment(); err != nil {
			return noEOF(err, true)
		}
	}
}

// noEOF turns an end of stream inside a record into an error.
func noEOF(err error, inside bool) error {
	if inside && err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
