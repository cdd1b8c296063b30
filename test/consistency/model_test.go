package consistency

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
)

// tag names an inode: its creator chose it, so that the inode of a create whose
// answer was lost is known when it is seen. 0 is none.
type tag uint32

// outcome of an operation.
type outcome uint8

const (
	unknown  outcome = iota // the caller gave up: it takes effect later, or never
	ok                      //
	exists                  // the name is taken
	notFound                // no such name
	stale                   // no such inode
)

func (o outcome) String() string {
	return [...]string{"unknown", "ok", "exists", "not found", "stale"}[o]
}

// dirOp is the input of an operation on a directory.
type dirOp struct {
	do       string // create (guarded), open (create or open), link, remove, rename, lookup, readdir
	name, to string
	tag      tag // create, open: of the new inode; link: of the existing one
}

// dirOut is its output.
type dirOut struct {
	outcome outcome
	tag     tag // open, lookup: the inode found
	fresh   bool
	entries string // readdir: canonical
}

// directory is the state of the model in a canonical form: "NAME=TAG " by name.
type directory string

func (d directory) parse() map[string]tag {
	m := map[string]tag{}
	for f := range strings.FieldsSeq(string(d)) {
		name, t, _ := strings.Cut(f, "=")
		var n tag
		_, _ = fmt.Sscan(t, &n)
		m[name] = n
	}
	return m
}

func canonical(m map[string]tag) directory {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%d ", name, m[name])
	}
	return directory(b.String())
}

// step is the sequential specification of a directory.
func step(state directory, in dirOp, out dirOut) (bool, directory) {
	m := state.parse()
	cur, there := m[in.name]
	// does answers what is in the directory's power, and whether that was said.
	does := func(want outcome, change func()) (bool, directory) {
		if out.outcome != unknown && out.outcome != want {
			return false, state
		}
		if want != ok {
			return true, state
		}
		change()
		return true, canonical(m)
	}
	switch in.do {
	case "create":
		if there {
			return does(exists, nil)
		}
		return does(ok, func() { m[in.name] = in.tag })
	case "open":
		if there {
			return out.outcome == unknown || out.outcome == ok && !out.fresh && out.tag == cur, state
		}
		if out.outcome == ok && (!out.fresh || out.tag != in.tag) {
			return false, state
		}
		return does(ok, func() { m[in.name] = in.tag })
	case "link":
		linked := slices.Contains(slices.Collect(maps.Values(m)), in.tag)
		switch {
		case out.outcome == exists && there || (out.outcome == stale || out.outcome == notFound) && !linked:
			// Both may hold, and which is said is not of interest; nor whether the inode
			// without a name still lives because somebody has it open.
			return true, state
		case there:
			return does(exists, nil)
		case !linked:
			return does(stale, nil)
		}
		return does(ok, func() { m[in.name] = in.tag })
	case "remove":
		if !there {
			return does(notFound, nil)
		}
		return does(ok, func() { delete(m, in.name) })
	case "rename":
		if !there {
			return does(notFound, nil)
		}
		return does(ok, func() {
			if m[in.to] != cur { // two names of one inode: nothing happens
				delete(m, in.name)
				m[in.to] = cur
			}
		})
	case "lookup":
		if !there {
			return out.outcome == notFound, state
		}
		return out.outcome == ok && out.tag == cur, state
	case "readdir":
		return out.outcome == ok && out.entries == string(state), state
	}
	panic("unknown operation " + in.do)
}

var directoryModel = porcupine.Model{
	Init: func() any { return directory("") },
	Step: func(state, in, out any) (bool, any) { return step(state.(directory), in.(dirOp), out.(dirOut)) },
	DescribeOperation: func(in, out any) string {
		i, o := in.(dirOp), out.(dirOut)
		return fmt.Sprintf("%s %s %s %d: %v %d %v %s", i.do, i.name, i.to, i.tag, o.outcome, o.tag, o.fresh, o.entries)
	},
}

// The model accepts what POSIX does and nothing else.
func TestModel(t *testing.T) {
	for _, c := range []struct {
		state directory
		in    dirOp
		out   dirOut
		legal bool
		after directory
	}{
		{"", dirOp{do: "create", name: "a", tag: 1}, dirOut{outcome: ok}, true, "a=1 "},
		{"a=1 ", dirOp{do: "create", name: "a", tag: 2}, dirOut{outcome: exists}, true, "a=1 "},
		{"a=1 ", dirOp{do: "create", name: "a", tag: 2}, dirOut{outcome: ok}, false, ""},
		{"", dirOp{do: "create", name: "a", tag: 2}, dirOut{outcome: exists}, false, ""},
		{"", dirOp{do: "create", name: "a", tag: 2}, dirOut{}, true, "a=2 "},
		{"a=1 ", dirOp{do: "create", name: "a", tag: 2}, dirOut{}, true, "a=1 "},
		{"a=1 ", dirOp{do: "open", name: "a", tag: 2}, dirOut{outcome: ok, tag: 1}, true, "a=1 "},
		{"a=1 ", dirOp{do: "open", name: "a", tag: 2}, dirOut{outcome: ok, tag: 2, fresh: true}, false, ""},
		{"", dirOp{do: "open", name: "a", tag: 2}, dirOut{outcome: ok, tag: 2, fresh: true}, true, "a=2 "},
		{"a=1 ", dirOp{do: "link", name: "b", tag: 1}, dirOut{outcome: ok}, true, "a=1 b=1 "},
		{"a=1 ", dirOp{do: "link", name: "b", tag: 3}, dirOut{outcome: stale}, true, "a=1 "},
		{"a=1 ", dirOp{do: "link", name: "b", tag: 3}, dirOut{outcome: notFound}, true, "a=1 "},
		{"a=1 ", dirOp{do: "link", name: "b", tag: 1}, dirOut{outcome: notFound}, false, ""},
		{"a=1 ", dirOp{do: "link", name: "b", tag: 3}, dirOut{outcome: ok}, false, ""},
		{"a=1 b=2 ", dirOp{do: "link", name: "b", tag: 1}, dirOut{outcome: exists}, true, "a=1 b=2 "},
		{"a=1 b=2 ", dirOp{do: "rename", name: "a", to: "b"}, dirOut{outcome: ok}, true, "b=1 "},
		{"a=1 b=1 ", dirOp{do: "rename", name: "a", to: "b"}, dirOut{outcome: ok}, true, "a=1 b=1 "},
		{"b=1 ", dirOp{do: "rename", name: "a", to: "b"}, dirOut{outcome: ok}, false, ""},
		{"a=1 ", dirOp{do: "remove", name: "a"}, dirOut{outcome: ok}, true, ""},
		{"a=1 ", dirOp{do: "remove", name: "a"}, dirOut{outcome: notFound}, false, ""},
		{"a=1 ", dirOp{do: "lookup", name: "a"}, dirOut{outcome: notFound}, false, ""},
		{"a=1 ", dirOp{do: "lookup", name: "a"}, dirOut{outcome: ok, tag: 1}, true, "a=1 "},
		{"a=1 ", dirOp{do: "readdir"}, dirOut{outcome: ok, entries: "a=1 "}, true, "a=1 "},
		{"a=1 ", dirOp{do: "readdir"}, dirOut{outcome: ok, entries: ""}, false, ""},
	} {
		legal, after := step(c.state, c.in, c.out)
		if legal != c.legal || legal && after != c.after {
			t.Errorf("%q, %+v: %+v is %v, then %q; want %v, %q", c.state, c.in, c.out, legal, after, c.legal, c.after)
		}
	}
}
