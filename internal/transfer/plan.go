package transfer

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Type is what an entry is.
type Type uint8

const (
	File Type = iota
	Dir
	Link  // a symbolic link
	Other // a device, pipe or socket
)

func (t Type) String() string {
	switch t {
	case File:
		return "file"
	case Dir:
		return "directory"
	case Link:
		return "symbolic link"
	}
	return "device, pipe or socket"
}

// Entry is a name in a directory of either side.
type Entry struct {
	Name  string
	Type  Type
	Size  int64
	Mode  uint32 // permission bits
	Mtime time.Time
	// ETag is of the remote side only.
	ETag string
}

// Does is what there is to do about a name.
type Does uint8

const (
	Keep    Does = iota // it is the same already
	MakeDir             // a directory that is not there
	Enter               // one that is
	Send                // the content
	Verify              // compare the content; send it if it differs
	Fix                 // mode and time only
	Replace             // at the end, remove what is in the way, with all in it, then as if it were not there
	Remove              // it is not at the source
	Refuse              // it cannot be transferred
)

func (d Does) String() string {
	return [...]string{"keep", "mkdir", "enter", "send", "verify", "change", "replace", "delete", "refuse"}[d]
}

// Rules say how two sides are compared.
type Rules struct {
	Sync     bool // what has the same size and time is not sent; mode and time are kept
	Checksum bool // content counts, in place of time
	Delete   bool // what is not at the source is removed
}

// Step is what there is to do about one name.
type Step struct {
	Does Does
	Src  Entry  // but of Remove
	Dst  *Entry // what is there, if known
	Why  string
}

// Name is the name that it is about.
func (s *Step) Name() string {
	if s.Does == Remove {
		return s.Dst.Name
	}
	return s.Src.Name
}

// granularity is how exactly times are compared: not all file systems keep nanoseconds.
const granularity = time.Microsecond

// Compare says what makes the directory dst, or what is known of it, like src. Files come first, then directories, then what is to be removed, each by name.
func Compare(src, dst []Entry, r Rules) []Step {
	there := make(map[string]*Entry, len(dst))
	for i := range dst {
		there[dst[i].Name] = &dst[i]
	}
	steps := make([]Step, 0, len(src))
	at := make(map[string]bool, len(src))
	for _, s := range src {
		if at[s.Name] {
			continue // it was listed twice, for it was renamed meanwhile
		}
		at[s.Name] = true
		steps = append(steps, step(s, there[s.Name], r))
	}
	if r.Delete {
		for name, d := range there {
			if !at[name] {
				steps = append(steps, Step{Does: Remove, Dst: d, Why: "not at the source"})
			}
		}
	}
	slices.SortFunc(steps, func(a, b Step) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), strings.Compare(a.Name(), b.Name()))
	})
	return steps
}

func rank(s *Step) int {
	switch {
	case s.Does == Remove:
		return 2
	case s.Src.Type == Dir:
		return 1
	}
	return 0
}

func step(s Entry, d *Entry, r Rules) Step {
	out := Step{Src: s, Dst: d}
	switch {
	case s.Type == Link || s.Type == Other:
		out.Does, out.Why = Refuse, "it is a "+s.Type.String()+", and those are not transferred: make it through a mount"
	case d == nil && s.Type == Dir:
		out.Does, out.Why = MakeDir, "new"
	case d == nil:
		out.Does, out.Why = Send, "new"
	case d.Type == s.Type && s.Type == Dir:
		out.Does = Enter
	case d.Type != s.Type && (s.Type == Dir || d.Type == Dir || d.Type == Other) && !r.Delete:
		out.Does, out.Why = Refuse, "a "+d.Type.String()+" is in its place at the destination: remove that, or use sync --delete"
	case d.Type != s.Type && (s.Type == Dir || d.Type == Dir || d.Type == Other):
		out.Does, out.Why = Replace, "a "+d.Type.String()+" is in its place"
	case !r.Sync:
		out.Does, out.Why = Send, "all is sent"
	case d.Type != File:
		out.Does, out.Why = Send, "a "+d.Type.String()+" is in its place"
	case s.Size != d.Size:
		out.Does, out.Why = Send, "another size"
	case r.Checksum:
		out.Does, out.Why = Verify, "another content"
	case !sameTime(s.Mtime, d.Mtime):
		out.Does, out.Why = Send, "another time"
	case s.Mode != d.Mode:
		out.Does, out.Why = Fix, "another mode"
	}
	return out
}

// verified is what follows Verify.
func (s Step) verified(same bool) Step {
	switch {
	case !same:
		s.Does = Send
	case !sameTime(s.Src.Mtime, s.Dst.Mtime):
		s.Does, s.Why = Fix, "another time"
	case s.Src.Mode != s.Dst.Mode:
		s.Does, s.Why = Fix, "another mode"
	default:
		s.Does = Keep
	}
	return s
}

func sameTime(a, b time.Time) bool { return a.Truncate(granularity).Equal(b.Truncate(granularity)) }
