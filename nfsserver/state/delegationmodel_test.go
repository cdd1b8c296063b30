package state_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/nfsserver/state"
)

// Whatever clients open, close, are given, return or let lapse: who has a file for writing is alone with it, and who has it for reading shares it
// with readers only. What is asked for is asked of every holder in the way, and vfs opens end with what they are for.
func TestDelegationsExclude(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWritingWorld(t)
		files := []state.File{fileA, fileB}
		type open struct {
			file   state.File
			id     state.Stateid
			access uint32
		}
		type given struct {
			file  state.File
			id    state.Stateid
			write bool
		}
		type who struct {
			*peer
			opens  []open
			delegs []given
		}
		clients := []*who{{peer: w.client("a")}, {peer: w.client("b")}, {peer: w.client("c")}}
		check := func() {
			for _, f := range files {
				for _, c := range clients {
					for _, d := range c.delegs {
						if d.file != f || w.s.TestStateid(c.id, d.id) != ok {
							continue
						}
						for _, o := range clients {
							if o == c {
								continue
							}
							for _, x := range o.opens {
								if x.file == f && w.s.TestStateid(o.id, x.id) == ok && (d.write || x.access&write != 0) {
									rt.Fatalf("%s has %v (writing: %v) and %s has it open with access %d", c.owner, f, d.write, o.owner, x.access)
								}
							}
							for _, x := range o.delegs {
								if x.file == f && w.s.TestStateid(o.id, x.id) == ok && (d.write || x.write) {
									rt.Fatalf("%s and %s have %v", c.owner, o.owner, f)
								}
							}
						}
					}
				}
			}
		}
		pick := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(rt, what) }
		for step := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			c := clients[pick("client", len(clients))]
			f := files[pick("file", len(files))]
			switch pick("what", 9) {
			case 0, 1, 2: // an OPEN, which may be given the file
				access := []uint32{read, write, both}[pick("access", 3)]
				a := c.openArgs(f, access, none)
				a.Owner = []byte(fmt.Sprint("owner", step))
				eff, st := w.s.OpenAllowed(w.now, a)
				w.must(eff)
				if st != ok {
					break
				}
				w.open[openName(f, a.Held)]++
				id, eff, st := w.s.Open(w.now, a)
				w.must(eff)
				if st != ok {
					break
				}
				c.opens = append(c.opens, open{f, id, access})
				if access == write {
					break
				}
				d, _, eff, _, is := w.s.Delegate(w.now, state.DelegateArgs{Client: c.id, File: f, Handle: []byte{1}, Write: access == both})
				w.must(eff)
				if is {
					c.delegs = append(c.delegs, given{f, d, access == both})
				}
			case 3:
				if n := len(c.opens); n > 0 {
					i := pick("open", n)
					x := c.opens[i]
					c.opens = append(c.opens[:i:i], c.opens[i+1:]...)
					_, eff, _ := w.s.Close(w.now, c.id, x.file, x.id)
					w.must(eff)
				}
			case 4:
				if n := len(c.delegs); n > 0 {
					i := pick("delegation", n)
					x := c.delegs[i]
					c.delegs = append(c.delegs[:i:i], c.delegs[i+1:]...)
					eff, _ := w.s.ReturnDelegation(c.id, x.file, x.id)
					w.must(eff)
				}
			case 5: // a change or a look by whoever it is: then nobody else has what is in the way
				var eff state.Effects
				var st state.Status
				look := rapid.Bool().Draw(rt, "look")
				if look {
					eff, st = w.s.BeginRead(w.now, c.id, f)
				} else {
					eff, st = w.s.BeginChange(w.now, c.id, f)
				}
				w.must(eff)
				if st != ok {
					break
				}
				for _, o := range clients {
					for _, d := range o.delegs {
						if o != c && d.file == f && (d.write || !look) && w.s.TestStateid(o.id, d.id) == ok {
							rt.Fatalf("%s goes on (looks: %v) with what %s has (writing: %v)", c.owner, look, o.owner, d.write)
						}
					}
				}
				w.s.EndChange(f)
			case 6:
				h, eff, has := w.s.BeginGetAttr(w.now, c.id, f)
				w.must(eff)
				if has {
					if w.s.TestStateid(h.Client, h.Stateid) != ok || h.Client == c.id {
						rt.Fatalf("%s asks %+v", c.owner, h)
					}
					w.s.EndChange(f)
				}
			case 7: // time goes by for those that do not renew
				w.now = w.now.Add(lease/2 + 1)
				for _, o := range clients {
					if rapid.Bool().Draw(rt, "renews") {
						if _, st := w.s.Sequence(w.now, state.SequenceArgs{SessionID: o.session, Slot: 0, Sequence: o.seq[0] + 1, Digest: 1}); st == ok {
							o.seq[0]++
						}
					}
				}
			case 8:
				w.tick()
			}
			w.recalls = nil
			check()
		}
		// In the end everything is closed.
		for _, c := range clients {
			for _, x := range c.opens {
				_, eff, _ := w.s.Close(w.now, c.id, x.file, x.id)
				w.must(eff)
			}
			for _, x := range c.delegs {
				eff, _ := w.s.ReturnDelegation(c.id, x.file, x.id)
				w.must(eff)
			}
		}
		if len(w.open) != 0 {
			rt.Fatalf("vfs opens left: %v", w.open)
		}
	})
}
