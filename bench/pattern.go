package bench

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// PageSize is the unit of content: what is written at random is one page.
	PageSize = 4 << 10

	poolSize  = 1 << 20
	stampSize = 32
	poolStep  = 8 // alignment inside the pool
)

// Pattern is the content of all files of a run. Each page starts with a stamp (seed, file, offset, generation), and the rest is a piece of a
// pool of random bytes that is chosen by them: pages differ from one another, do not compress, and cost a copy to make and a comparison to check.
type Pattern struct {
	seed uint64
	pool []byte
}

// NewPattern makes the pattern of a seed.
func NewPattern(seed uint64) *Pattern {
	p := &Pattern{seed: seed, pool: make([]byte, poolSize+PageSize)}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(p.pool)
	return p
}

// page is what a page begins with, and the rest.
func (p *Pattern) page(file uint64, off int64, gen uint32) (stamp [stampSize]byte, rest []byte) {
	le := binary.LittleEndian
	le.PutUint64(stamp[:], p.seed)
	le.PutUint64(stamp[8:], file)
	le.PutUint64(stamp[16:], uint64(off))
	le.PutUint64(stamp[24:], uint64(gen))
	at := mix(mix(mix(p.seed, file), uint64(off)), uint64(gen)) % (poolSize / poolStep) * poolStep
	return stamp, p.pool[at : at+PageSize-stampSize]
}

// Fill makes b what file holds from off on, which is a multiple of PageSize, when it was written for the gen-th time.
func (p *Pattern) Fill(b []byte, file uint64, off int64, gen uint32) {
	for len(b) > 0 {
		stamp, rest := p.page(file, off, gen)
		n := copy(b, stamp[:])
		n += copy(b[n:], rest)
		b = b[n:]
		off += int64(n)
	}
}

// Check compares b with what Fill makes.
func (p *Pattern) Check(b []byte, file uint64, off int64, gen uint32) error {
	for len(b) > 0 {
		n := min(len(b), PageSize)
		stamp, rest := p.page(file, off, gen)
		head := min(n, stampSize)
		if !bytes.Equal(b[:head], stamp[:head]) || !bytes.Equal(b[head:n], rest[:n-head]) {
			return p.wrong(b[:n], file, off, gen)
		}
		b = b[n:]
		off += int64(n)
	}
	return nil
}

// wrong says how a page differs, and what it looks like if it is another page of ours.
func (p *Pattern) wrong(page []byte, file uint64, off int64, gen uint32) error {
	const op = "bench.verify"
	want := make([]byte, len(page))
	p.Fill(want, file, off, gen)
	at := 0
	for page[at] == want[at] {
		at++
	}
	looks := ""
	switch le := binary.LittleEndian; {
	case len(bytes.Trim(page, "\x00")) == 0:
		looks = "; the page is zero"
	case len(page) >= stampSize && le.Uint64(page) == p.seed && !bytes.Equal(page[:stampSize], want[:stampSize]):
		looks = "; it looks like another page"
		return vfs.Errorf(vfs.KindCorrupt, op, "file %d, generation %d: byte %d is %#02x instead of %#02x%s: file %d, offset %d, generation %d",
			file, gen, off+int64(at), page[at], want[at], looks, le.Uint64(page[8:]), le.Uint64(page[16:]), le.Uint64(page[24:]))
	}
	return vfs.Errorf(vfs.KindCorrupt, op, "file %d, generation %d: byte %d is %#02x instead of %#02x%s", file, gen, off+int64(at), page[at], want[at], looks)
}
