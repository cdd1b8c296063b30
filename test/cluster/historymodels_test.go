//go:build linux

package cluster

import (
	"bytes"
	encoding "encoding/binary"
	"fmt"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// namesOp is the input of an operation on a directory, namesOut its output.
type namesOp struct {
	do       string // create (exclusive), link, remove, rename, lookup, list
	name, to string
	file     uint64 // link
}

type namesOut struct {
	status nfsclient.Status
	file   uint64 // create, lookup
	list   string
}

// namesState is the file of each of historyNames; 0: none.
type namesState [3]uint64

func nameIndex(name string) int { return int(name[0] - historyNames[0][0]) }

func stepNames(s namesState, in namesOp, out namesOut) (bool, namesState) {
	if in.do == "list" {
		m := map[string]uint64{}
		for i, id := range s {
			if id != 0 {
				m[historyNames[i]] = id
			}
		}
		return out.status == nfsv4.NFS4_OK && out.list == listed(m), s
	}
	i := nameIndex(in.name)
	there := s[i] != 0
	switch in.do {
	case "create":
		if there {
			return out.status == nfsv4.NFS4ERR_EXIST, s
		}
		s[i] = out.file
		return out.status == nfsv4.NFS4_OK, s
	case "link":
		linked := in.file == s[0] || in.file == s[1] || in.file == s[2]
		if !linked && (out.status == nfsv4.NFS4ERR_STALE || out.status == nfsv4.NFS4ERR_NOENT) {
			return true, s
		}
		if there {
			return out.status == nfsv4.NFS4ERR_EXIST, s
		}
		s[i] = in.file
		return linked && out.status == nfsv4.NFS4_OK, s
	case "lookup":
		if !there {
			return out.status == nfsv4.NFS4ERR_NOENT, s
		}
		return out.status == nfsv4.NFS4_OK && out.file == s[i], s
	}
	if !there {
		return out.status == nfsv4.NFS4ERR_NOENT, s
	}
	if in.do == "remove" {
		s[i] = 0
	} else if j := nameIndex(in.to); s[j] != s[i] { // else they are names of one file: nothing happens
		s[i], s[j] = 0, s[i]
	}
	return out.status == nfsv4.NFS4_OK, s
}

var namesModel = porcupine.Model{
	Init: func() any { return namesState{} },
	Step: func(s, in, out any) (bool, any) { return stepNames(s.(namesState), in.(namesOp), out.(namesOut)) },
	DescribeOperation: func(in, out any) string {
		i, o := in.(namesOp), out.(namesOut)
		return fmt.Sprintf("%s %s %s %d: status %d, %d %s", i.do, i.name, i.to, i.file, o.status, o.file, o.list)
	},
}

const (
	// historyCells of a file, of historyCell bytes: a write of one is kept with the metadata, one of several is a block.
	historyCells, historyCell = 6, 3000
	// historyLocks is how many bytes are locked.
	historyLocks = 4
)

// cells is the content of a file: its size, and the write that each cell is of.
type cells struct {
	size int
	of   [historyCells]uint32
}

type cellsOp struct {
	do       string // write, truncate (to cells), read
	value    uint32
	from, to int
}

func stepCells(c cells, op cellsOp, out cells) (bool, cells) {
	switch op.do {
	case "write":
		for i := op.from; i < op.to; i++ {
			c.of[i] = op.value
		}
		c.size = max(c.size, op.to)
	case "truncate":
		clear(c.of[op.to:])
		c.size = op.to
	case "read":
		return out == c, c
	}
	return true, c
}

var cellsModel = porcupine.Model{
	Init:              func() any { return cells{} },
	Step:              func(s, in, out any) (bool, any) { return stepCells(s.(cells), in.(cellsOp), out.(cells)) },
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %v", in, out) },
}

func cellBytesOf(value uint32, n int) []byte {
	b := make([]byte, n*historyCell)
	for i := 0; i < len(b); i += 4 {
		encoding.BigEndian.PutUint32(b[i:], value)
	}
	return b
}

func cellsIn(b []byte) (c cells, err error) {
	if len(b)%historyCell != 0 || len(b) > historyCells*historyCell {
		return c, fmt.Errorf("%d bytes: not a whole number of cells", len(b))
	}
	c.size = len(b) / historyCell
	for i := range c.size {
		cell := b[i*historyCell:][:historyCell]
		c.of[i] = encoding.BigEndian.Uint32(cell)
		if !bytes.Equal(cell, cellBytesOf(c.of[i], 1)) {
			return c, fmt.Errorf("cell %d is of several writes", i)
		}
	}
	return c, nil
}

// staleRead says what is wrong with a read: a cell is as it was before a change that was over when the read began, or as nobody has made it.
func staleRead(read porcupine.Operation, history []porcupine.Operation) string {
	if read.Input.(cellsOp).do != "read" {
		return ""
	}
	got := read.Output.(cells)
	for i := range historyCells {
		changes := []porcupine.Operation{{Input: cellsOp{do: "write", to: historyCells}, Call: -1, Return: -1}} // the state at the beginning
		for _, o := range history {
			if op := o.Input.(cellsOp); op.do == "write" && op.from <= i && i < op.to || op.do == "truncate" && op.to <= i {
				changes = append(changes, o)
			}
		}
		ok := false
		for _, w := range changes {
			op := w.Input.(cellsOp)
			if value := op.value; op.do == "truncate" && got.of[i] != 0 || op.do == "write" && value != got.of[i] || w.Call > read.Return {
				continue
			}
			over := false
			for _, w2 := range changes {
				over = over || w.Return < w2.Call && w2.Return < read.Call
			}
			ok = ok || !over
		}
		if !ok {
			return fmt.Sprintf("cell %d is of write %d in the read %+v; changes: %+v", i, got.of[i], read, changes)
		}
	}
	return ""
}

type locksOp struct {
	do       string // lock, test, unlock
	client   int
	from, to int
	write    bool
}

// locksState is, for each byte, which clients have it locked, and whether for writing.
type locksState [historyLocks]struct {
	by    uint8 // a bit for each client
	write bool
}

func stepLocks(s locksState, op locksOp, granted bool) (bool, locksState) {
	me := uint8(1) << op.client
	free := true
	for i := op.from; i < op.to; i++ {
		if others := s[i].by &^ me; others != 0 && (op.write || s[i].write) {
			free = false
		}
	}
	switch {
	case op.do == "unlock":
		for i := op.from; i < op.to; i++ {
			if s[i].by &= ^me; s[i].by == 0 {
				s[i].write = false
			}
		}
		return granted, s
	case op.do == "test" || !free:
		return granted == free, s
	}
	for i := op.from; i < op.to; i++ {
		s[i].by |= me
		s[i].write = op.write
	}
	return granted, s
}

var locksModel = porcupine.Model{
	Init:              func() any { return locksState{} },
	Step:              func(s, in, out any) (bool, any) { return stepLocks(s.(locksState), in.(locksOp), out.(bool)) },
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %v", in, out) },
}

// TestHistoryModels: the models accept what a file system does, and nothing else.
func TestHistoryModels(t *testing.T) {
	const ok, exist, noent, stale = nfsv4.NFS4_OK, nfsv4.NFS4ERR_EXIST, nfsv4.NFS4ERR_NOENT, nfsv4.NFS4ERR_STALE
	for _, c := range []struct {
		state namesState
		in    namesOp
		out   namesOut
		legal bool
		after namesState
	}{
		{namesState{}, namesOp{do: "create", name: "a"}, namesOut{ok, 7, ""}, true, namesState{7}},
		{namesState{7}, namesOp{do: "create", name: "a"}, namesOut{ok, 8, ""}, false, namesState{}},
		{namesState{7}, namesOp{do: "create", name: "a"}, namesOut{exist, 0, ""}, true, namesState{7}},
		{namesState{}, namesOp{do: "create", name: "a"}, namesOut{exist, 0, ""}, false, namesState{}},
		{namesState{7}, namesOp{do: "remove", name: "a"}, namesOut{ok, 0, ""}, true, namesState{}},
		{namesState{}, namesOp{do: "remove", name: "a"}, namesOut{ok, 0, ""}, false, namesState{}},
		{namesState{7}, namesOp{do: "remove", name: "a"}, namesOut{noent, 0, ""}, false, namesState{}},
		{namesState{7, 8}, namesOp{do: "rename", name: "a", to: "b"}, namesOut{ok, 0, ""}, true, namesState{0, 7}},
		{namesState{7, 7}, namesOp{do: "rename", name: "a", to: "b"}, namesOut{ok, 0, ""}, true, namesState{7, 7}},
		{namesState{0, 7}, namesOp{do: "rename", name: "a", to: "b"}, namesOut{ok, 0, ""}, false, namesState{}},
		{namesState{7}, namesOp{do: "link", name: "b", file: 7}, namesOut{ok, 0, ""}, true, namesState{7, 7}},
		{namesState{7}, namesOp{do: "link", name: "b", file: 8}, namesOut{ok, 0, ""}, false, namesState{}},
		{namesState{7}, namesOp{do: "link", name: "b", file: 8}, namesOut{stale, 0, ""}, true, namesState{7}},
		{namesState{7}, namesOp{do: "link", name: "b", file: 7}, namesOut{stale, 0, ""}, false, namesState{}},
		{namesState{7}, namesOp{do: "lookup", name: "a"}, namesOut{ok, 7, ""}, true, namesState{7}},
		{namesState{7}, namesOp{do: "lookup", name: "a"}, namesOut{ok, 8, ""}, false, namesState{}},
		{namesState{7}, namesOp{do: "lookup", name: "a"}, namesOut{noent, 0, ""}, false, namesState{}},
		{namesState{7, 0, 9}, namesOp{do: "list"}, namesOut{ok, 0, "a=7 c=9 "}, true, namesState{7, 0, 9}},
		{namesState{7, 0, 9}, namesOp{do: "list"}, namesOut{ok, 0, "a=7 "}, false, namesState{}},
	} {
		if legal, after := stepNames(c.state, c.in, c.out); legal != c.legal || legal && after != c.after {
			t.Errorf("%v, %+v: %+v is %v, then %v; want %v, %v", c.state, c.in, c.out, legal, after, c.legal, c.after)
		}
	}
	lock := func(client, from, to int, write bool) locksOp {
		return locksOp{do: "lock", client: client, from: from, to: to, write: write}
	}
	for _, c := range []struct {
		before []locksOp
		op     locksOp
		out    bool
		legal  bool
	}{
		{nil, lock(0, 0, 2, true), true, true},
		{nil, lock(0, 0, 2, true), false, false},
		{[]locksOp{lock(0, 0, 2, true)}, lock(1, 1, 3, true), true, false},
		{[]locksOp{lock(0, 0, 2, true)}, lock(1, 1, 3, false), true, false},
		{[]locksOp{lock(0, 0, 2, true)}, lock(1, 2, 3, true), true, true},
		{[]locksOp{lock(0, 0, 2, false)}, lock(1, 1, 3, false), true, true},
		{[]locksOp{lock(0, 0, 2, false), lock(1, 0, 2, false)}, lock(1, 0, 1, true), true, false},
		{[]locksOp{lock(0, 0, 2, true), {do: "unlock", client: 0, from: 1, to: 2}}, lock(1, 1, 3, true), true, true},
		{[]locksOp{lock(0, 0, 2, true)}, locksOp{do: "test", client: 1, from: 0, to: 1}, true, false},
		{[]locksOp{lock(0, 0, 2, true)}, locksOp{do: "test", client: 0, from: 0, to: 1, write: true}, true, true},
	} {
		var s locksState
		for _, o := range c.before {
			_, s = stepLocks(s, o, true)
		}
		if legal, _ := stepLocks(s, c.op, c.out); legal != c.legal {
			t.Errorf("after %+v, %+v: %v is %v, want %v", c.before, c.op, c.out, legal, c.legal)
		}
	}
	one := cells{size: 2, of: [historyCells]uint32{5, 6}}
	for _, c := range []struct {
		op    cellsOp
		out   cells
		legal bool
		after cells
	}{
		{cellsOp{do: "write", value: 9, from: 1, to: 3}, cells{}, true, cells{size: 3, of: [historyCells]uint32{5, 9, 9}}},
		{cellsOp{do: "truncate", to: 1}, cells{}, true, cells{size: 1, of: [historyCells]uint32{5}}},
		{cellsOp{do: "read"}, one, true, one},
		{cellsOp{do: "read"}, cells{size: 1, of: [historyCells]uint32{5}}, false, cells{}},
		{cellsOp{do: "read"}, cells{size: 2, of: [historyCells]uint32{5, 5}}, false, cells{}},
	} {
		if legal, after := stepCells(one, c.op, c.out); legal != c.legal || legal && after != c.after {
			t.Errorf("%+v: %v is %v, then %v; want %v, %v", c.op, c.out, legal, after, c.legal, c.after)
		}
	}
	at := func(op cellsOp, out cells, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: op, Output: out, Call: call, Return: ret}
	}
	first, second := at(cellsOp{do: "write", value: 5, to: 1}, cells{}, 1, 2), at(cellsOp{do: "write", value: 6, to: 1}, cells{}, 3, 6)
	cut := at(cellsOp{do: "truncate"}, cells{}, 10, 11)
	for _, c := range []struct {
		value     uint32
		call, ret int64
		stale     bool
	}{{5, 4, 5, false}, {6, 4, 5, false}, {5, 5, 8, false}, {5, 7, 8, true}, {6, 7, 8, false}, {0, 7, 8, true}, {6, 1, 2, true}, {0, 12, 13, false}, {6, 12, 13, true}, {0, 0, 1, false}} {
		out := cells{size: 1}
		out.of[0] = c.value
		h := []porcupine.Operation{first, second, cut}
		if got := staleRead(at(cellsOp{do: "read"}, out, c.call, c.ret), h); (got != "") != c.stale {
			t.Errorf("value %d read from %d to %d: %q, want stale: %v", c.value, c.call, c.ret, got, c.stale)
		}
	}
}
