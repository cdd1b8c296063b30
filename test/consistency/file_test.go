package consistency

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// A file has up to fileCells cells. A write of one cell is kept with the metadata, a larger one, of 8 to 64 KiB, in a block.
	cellBytes = 4096
	fileCells = 16
)

// Files of a piece. own and ownDurable are the same file, which is written and read through the first gateway: own is
// what its clients see, ownDurable what is left when that gateway is dead. shared is written through the first gateway, read through the second.
const (
	own = iota
	shared
	ownDurable
	filesOfPiece = 2
)

// content is the model's state of a file: its size in cells, and the write that each cell is of; 0: zeros.
type content struct {
	size  int
	cells [fileCells]uint32
}

func (c content) String() string {
	var b strings.Builder
	for i, v := range c.cells[:c.size] {
		if i == 0 || c.cells[i-1] != v {
			fmt.Fprintf(&b, "%d:%d ", i, v)
		}
	}
	return fmt.Sprintf("[%s%d]", b.String(), c.size)
}

// fileOp is the input of an operation on a file.
type fileOp struct {
	file     int
	do       string // write, truncate, read
	value    uint32 // write
	from, to int    // write: cells; truncate: to is the new size
}

// fileOut is its output.
type fileOut struct {
	unknown bool
	content content // read
}

func stepFile(c content, in fileOp, out fileOut) (bool, content) {
	switch in.do {
	case "write":
		for i := in.from; i < in.to; i++ {
			c.cells[i] = in.value
		}
		c.size = max(c.size, in.to)
	case "truncate":
		clear(c.cells[in.to:])
		c.size = in.to
	case "read":
		return out.content == c, c
	}
	return true, c
}

var fileModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		parts = make([][]porcupine.Operation, filesOfPiece+1)
		for _, o := range history {
			f := o.Input.(fileOp).file
			parts[f] = append(parts[f], o)
		}
		return parts
	},
	Init: func() any { return content{} },
	Step: func(state, in, out any) (bool, any) { return stepFile(state.(content), in.(fileOp), out.(fileOut)) },
	DescribeOperation: func(in, out any) string {
		i, o := in.(fileOp), out.(fileOut)
		if i.do == "read" {
			return fmt.Sprintf("file %d: read %v", i.file, o.content)
		}
		return fmt.Sprintf("file %d: %s %d [%d,%d), unknown: %v", i.file, i.do, i.value, i.from, i.to, o.unknown)
	},
}

// fillCell writes what the write value puts into a cell: its number, then bytes that only this cell of this write has.
func fillCell(p []byte, value uint32, cell int) {
	var seed [32]byte
	binary.BigEndian.PutUint32(seed[:], value)
	seed[4] = byte(cell)
	_, _ = rand.NewChaCha8(seed).Read(p)
	binary.BigEndian.PutUint32(p, value)
}

// contentOf finds which writes the bytes of a file are of; an error if any byte is of none.
func contentOf(p []byte) (c content, err error) {
	if len(p)%cellBytes != 0 || len(p) > fileCells*cellBytes {
		return c, fmt.Errorf("%d bytes", len(p))
	}
	c.size = len(p) / cellBytes
	want := make([]byte, cellBytes)
	for i := range c.size {
		got := p[i*cellBytes:][:cellBytes]
		c.cells[i] = binary.BigEndian.Uint32(got)
		clear(want)
		if c.cells[i] != 0 {
			fillCell(want, c.cells[i], i)
		}
		if !bytes.Equal(got, want) {
			at := 0
			for got[at] == want[at] {
				at++
			}
			return c, fmt.Errorf("cell %d is of write %d, but differs from it at byte %d: %x, want %x", i, c.cells[i], at, got[at:min(at+16, cellBytes)], want[at:min(at+16, cellBytes)])
		}
	}
	return c, nil
}

// change writes a part of file n through the client's gateway, or truncates it, and returns when that is durable.
func (c *client) changeFile(n int) func(context.Context) {
	return func(ctx context.Context) {
		p, v, ino := c.p, c.g.vol, c.p.files[n]
		in := fileOp{file: n, do: "write", value: p.tags.Add(1)}
		cells := 1 + c.rng.IntN(4)*c.rng.IntN(6) // often one
		in.from = c.rng.IntN(fileCells - cells + 1)
		in.to = in.from + cells
		var data []byte
		for i := in.from; i < in.to; i++ {
			data = append(data, make([]byte, cellBytes)...)
			fillCell(data[len(data)-cellBytes:], in.value, i)
		}
		what := c.rng.IntN(8)
		if what == 0 {
			in.do, in.value, in.from, in.to = "truncate", 0, 0, c.rng.IntN(fileCells+1)
		}
		var err, seen error // of being durable, and of being seen by clients of this gateway
		call := p.now()
		shown := call
		switch {
		case what == 0:
			size := uint64(in.to * cellBytes)
			_, err = v.SetAttr(ctx, &vfs.Root, ino, vfs.SetAttr{Size: &size}, true)
			seen, shown = err, p.now()
		case what < 5:
			_, _, err = v.Write(ctx, &vfs.Root, ino, uint64(in.from*cellBytes), data, vfs.FileSync)
			seen, shown = err, p.now()
		default:
			var wrote, committed vfs.Verifier
			_, wrote, err = v.Write(ctx, &vfs.Root, ino, uint64(in.from*cellBytes), data, vfs.Unstable)
			seen, shown = err, p.now()
			if err == nil {
				committed, err = v.Commit(ctx, ino, uint64(in.from*cellBytes), uint64(len(data)))
			}
			if err == nil && committed != wrote {
				err = vfs.Errorf(vfs.KindUnknown, "commit", "the verifier changed")
			}
		}
		c.record(&p.fileOps, in, fileOut{unknown: err != nil}, call, p.now(), err != nil, true, err)
		if n == own {
			p.mu.Lock()
			defer p.mu.Unlock()
			last := &p.fileOps[c.lastOp]
			in.file = ownDurable
			p.fileOps = append(p.fileOps, porcupine.Operation{ClientId: c.id, Input: in, Output: last.Output, Call: call, Return: last.Return})
			if seen == nil {
				last.Output, last.Return = fileOut{}, shown
			}
		}
	}
}

// readFile reads file n as a whole. as is the file whose history it belongs to.
func (c *client) readFile(n, as int) func(context.Context) {
	return func(ctx context.Context) {
		buf := make([]byte, fileCells*cellBytes+1)
		call := c.p.now()
		got, eof, err := c.g.vol.Read(ctx, c.p.files[n], 0, buf)
		ret := c.p.now()
		var out fileOut
		if err == nil {
			var bad error
			if out.content, bad = contentOf(buf[:got]); bad == nil && !eof {
				bad = fmt.Errorf("%d bytes, and it is not the end", got)
			}
			if bad != nil {
				c.p.mu.Lock()
				c.p.torn = fmt.Sprintf("file %d: %v", n, bad)
				c.p.mu.Unlock()
			}
		}
		c.record(&c.p.fileOps, fileOp{file: as, do: "read"}, out, call, ret, err != nil, false, err)
	}
}

// The model accepts what a file does and nothing else, and no byte is taken for another write's.
func TestFileModel(t *testing.T) {
	cells := func(size int, vs ...uint32) (c content) {
		c.size = size
		copy(c.cells[:], vs)
		return c
	}
	for _, x := range []struct {
		state content
		in    fileOp
		out   fileOut
		legal bool
		after content
	}{
		{cells(0), fileOp{do: "write", value: 5, from: 1, to: 3}, fileOut{}, true, cells(3, 0, 5, 5)},
		{cells(3, 1, 1, 1), fileOp{do: "write", value: 5, from: 0, to: 2}, fileOut{}, true, cells(3, 5, 5, 1)},
		{cells(3, 1, 1, 1), fileOp{do: "truncate", to: 1}, fileOut{}, true, cells(1, 1)},
		{cells(1, 1), fileOp{do: "truncate", to: 3}, fileOut{}, true, cells(3, 1)},
		{cells(3, 1, 1, 1), fileOp{do: "read"}, fileOut{content: cells(3, 1, 1, 1)}, true, cells(3, 1, 1, 1)},
		{cells(3, 1, 1, 1), fileOp{do: "read"}, fileOut{content: cells(3, 1, 2, 1)}, false, cells(0)},
		{cells(3, 1, 1, 1), fileOp{do: "read"}, fileOut{content: cells(2, 1, 1)}, false, cells(0)},
	} {
		legal, after := stepFile(x.state, x.in, x.out)
		if legal != x.legal || legal && after != x.after {
			t.Errorf("%v, %+v, %+v: %v, then %v; want %v, %v", x.state, x.in, x.out, legal, after, x.legal, x.after)
		}
	}
	p := make([]byte, 3*cellBytes)
	fillCell(p[:cellBytes], 7, 0)
	fillCell(p[2*cellBytes:], 9, 2)
	if c, err := contentOf(p); err != nil || c != cells(3, 7, 0, 9) {
		t.Errorf("%v, %v", c, err)
	}
	for _, at := range []int{5, cellBytes - 1, cellBytes + 77, 2*cellBytes + 3, 3*cellBytes - 1} {
		p[at] ^= 1
		if _, err := contentOf(p); err == nil {
			t.Errorf("a flipped bit at %d is not noticed", at)
		}
		p[at] ^= 1
	}
	fillCell(p[cellBytes:2*cellBytes], 7, 0)
	if _, err := contentOf(p); err == nil {
		t.Error("a cell in another one's place is not noticed")
	}
}
