package raftnet

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/rackfs/rackfs/vfs"
)

const (
	magic   = 0x52
	headLen = 8

	kindAppend     = 1
	kindVote       = 2
	kindSnapshot   = 3
	kindTimeoutNow = 4
	kindPreVote    = 5
	kindAnswer     = 0x80

	// maxBody bounds a message: entries are at most 512 KiB and a little, and there are at most 64 in a message.
	maxBody = 64 << 20
	// maxAnswer bounds an answer, with the text of an error.
	maxAnswer = 4 << 10
	// bodyStep is how much memory a length alone gets; more is taken when so much has arrived.
	bodyStep = 1 << 20

	readBuffer = 16 << 10
	// maxKept is how much memory a stream keeps for what it writes.
	maxKept = 1 << 20
)

var le = binary.LittleEndian

// malformed is an error of the other end, after which a stream is of no use.
func malformed(format string, args ...any) error {
	return vfs.Errorf(vfs.KindInvalid, "raftnet", "malformed message: %s", fmt.Sprintf(format, args...))
}

// stream is a connection and its buffers. One goroutine reads, and one writes.
type stream struct {
	net.Conn
	peer string
	r    *bufio.Reader
	out  []byte // the message that is written
}

func newStream(nc net.Conn, peer string) *stream {
	return &stream{Conn: nc, peer: peer, r: bufio.NewReaderSize(nc, readBuffer)}
}

// begin starts a message in s.out.
func (s *stream) begin(kind byte) {
	if cap(s.out) > maxKept {
		s.out = nil
	}
	s.out = append(s.out[:0], magic, kind, 0, 0, 0, 0, 0, 0)
}

// send writes the message in s.out.
func (s *stream) send(limit int) error {
	n := len(s.out) - headLen
	if n > limit {
		return vfs.Errorf(vfs.KindTooMany, "raftnet", "a message of %d bytes, the limit is %d", n, limit)
	}
	le.PutUint32(s.out[4:], uint32(n))
	_, err := s.Conn.Write(s.out)
	return err
}

// head reads the head of the next message. io.EOF: there is none.
func (s *stream) head(limit int) (kind byte, n int, err error) {
	b, err := s.r.Peek(headLen)
	if err != nil {
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return 0, 0, err
	}
	size := le.Uint32(b[4:])
	switch {
	case b[0] != magic || b[2] != 0 || b[3] != 0:
		return 0, 0, malformed("it begins with %x", b)
	case uint64(size) > uint64(limit):
		return 0, 0, malformed("%d bytes, the limit is %d", size, limit)
	}
	kind = b[1]
	_, err = s.r.Discard(headLen)
	return kind, int(size), err
}

// body reads n bytes into new memory, which the message's entries keep.
func (s *stream) body(n int) ([]byte, error) {
	b := make([]byte, min(n, bodyStep))
	for read := 0; ; {
		if _, err := io.ReadFull(s.r, b[read:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if read = len(b); read == n {
			return b, nil
		}
		more := make([]byte, min(n, 4*read))
		copy(more, b)
		b = more
	}
}

// parser takes a message apart. The first thing that is missing makes all that follows zero.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) bytes(n int) []byte {
	if p.bad || n < 0 || n > len(p.b) {
		p.bad = true
		return nil
	}
	b := p.b[:n:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) u8() byte {
	if b := p.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) u32() uint32 {
	if b := p.bytes(4); b != nil {
		return le.Uint32(b)
	}
	return 0
}

func (p *parser) u64() uint64 {
	if b := p.bytes(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

// flags reads a byte of which only the bits of known may be set.
func (p *parser) flags(known byte) byte {
	f := p.u8()
	p.bad = p.bad || f&^known != 0
	return f
}

// text reads a length and as many bytes.
func (p *parser) text() []byte {
	n := p.u32()
	if uint64(n) > uint64(len(p.b)) {
		p.bad = true
		return nil
	}
	return p.bytes(int(n))
}

// end reports whether all was there, and nothing else.
func (p *parser) end() error {
	if p.bad {
		return malformed("it is too short, or says what is unknown")
	}
	if len(p.b) > 0 {
		return malformed("%d bytes too many", len(p.b))
	}
	return nil
}
