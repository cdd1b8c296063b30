package volume_test

import (
	"math/rand/v2"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// Random WRITEs of two clients, of which one repeats each of its own until it is answered, at either gateway, while origins end before or after a command, answers are lost, and the other
// client writes over it, reads, and cuts the file. A byte that was stable as the repeated WRITE made it, and was written over since, stays.
func TestRandomRepetitions(t *testing.T) {
	rounds := 24
	if testing.Short() {
		rounds = 6
	}
	for seed := range uint64(rounds) {
		randomRepetitions(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func randomRepetitions(t *testing.T, seed uint64) {
	const room, page = 40 << 10, 4 << 10
	rng := rand.New(rand.NewPCG(seed, 85))
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	limit := 2 * page << rng.IntN(5)
	p.meta.fail = func(c *metapb.Command) error {
		n := 0
		for _, e := range c.GetCommitData().GetExtents() {
			n += int(e.Length)
		}
		if n > limit {
			return vfs.Errorf(vfs.KindTooMany, "meta", "%d bytes", n)
		}
		return nil
	}
	// What a gateway's commands are to suffer: its origin ends before or after one.
	const before, after = 1, 2
	fate, when := 0, 0
	for i, g := range p.gws {
		dying := func(c *metapb.Command) {
			if when--; when == 0 {
				p.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: p.gws[i].origin}}})
			}
		}
		g.asking = func(c *metapb.Command) {
			if fate == before && c.GetCommitData() != nil {
				dying(c)
			}
		}
		g.lose = func(c *metapb.Command) error {
			if fate == after && c.GetCommitData() != nil {
				if dying(c); when == 0 {
					return vfs.Errorf(vfs.KindUnknown, "meta", "lost: %w", vfs.KindUnknownOrigin.Err("meta"))
				}
			}
			return nil
		}
	}
	again := func(i int) {
		fate = 0
		p.end(i)
		p.gws[i].again(t)
		p.vols[i].Reregistered(p.gws[i].origin, p.gws[i].incarnation)
	}
	data := make([]byte, room)
	read := func(i int) []byte {
		clear(data)
		if _, _, err := p.vols[i].Read(t.Context(), ino, 0, data); err != nil {
			t.Fatal(err)
		}
		return data
	}
	// write is one attempt of a call; stable: it was answered.
	var last error
	write := func(call *vfs.Call, i int, off int, b []byte, s vfs.Stable) bool {
		fate, when = rng.IntN(3), 1+rng.IntN(4)
		_, _, err := p.vols[i].Write(vfs.WithCall(t.Context(), call), &vfs.Root, ino, uint64(off), b, s)
		if fate != 0 && when <= 0 || err != nil { // as its gateway finds out
			again(i)
		}
		fate, last = 0, err
		return err == nil
	}
	for seq := uint64(1); seq <= 8; seq++ {
		mine, other := byte('a'+seq), byte('A'+seq)
		off := rng.IntN(room / 2)
		b := make([]byte, 1+rng.IntN([]int{100, room / 2}[rng.IntN(2)]))
		for k := range b {
			b[k] = mine
		}
		stable := []vfs.Stable{vfs.Unstable, vfs.FileSync}[rng.IntN(2)]
		over := make(map[int]bool) // bytes that were mine, and stable, and are the other's since
		attempts := 1 + rng.IntN(4)
		answered := false
		for try := 0; !answered || try < attempts; try++ {
			if try > 50 {
				t.Fatalf("seed %d: it is never answered: %v", seed, last)
			}
			call := calling(seq, try > 0 || rng.IntN(2) == 0)
			i := rng.IntN(2)
			ok := write(call, i, off, b, stable)
			if ok && stable == vfs.Unstable {
				_, err := p.vols[i].Commit(t.Context(), ino, 0, 0)
				ok = err == nil
			}
			answered = answered || ok
			for at := range over {
				if got := read(1 - i)[at]; got == mine {
					t.Errorf("seq %d, attempt %d: byte %d of [%d,%d) is %q again", seq, try, at, off, off+len(b), got)
					return
				}
			}
			if rng.IntN(2) == 0 {
				continue
			}
			// The other client looks at what is stable, then writes over a part, and is told that it is stable.
			i = rng.IntN(2)
			if _, err := p.vols[i].Commit(t.Context(), ino, 0, 0); err != nil {
				continue
			}
			was := string(read(i))
			from := off + rng.IntN(len(b))
			o := make([]byte, 1+rng.IntN(off+len(b)-from))
			for k := range o {
				o[k] = other
			}
			theirs := &vfs.Call{Client: 8, Session: [16]byte{8}, Slot: 2, Seq: seq<<16 | uint64(try), Op: 1, By: new(caller)}
			done := write(theirs, i, from, o, vfs.FileSync)
			for tries := 0; !done; tries++ {
				if tries > 50 {
					t.Fatalf("seed %d: the other one is never answered: %v", seed, last)
				}
				theirs.Repeat()
				done = write(theirs, rng.IntN(2), from, o, vfs.FileSync)
			}
			for at := from; at < from+len(o); at++ {
				if was[at] == mine {
					over[at] = true
				}
			}
		}
	}
}
