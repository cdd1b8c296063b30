package cloudimport

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/vfs"
)

// Object is one of a listing.
type Object struct {
	Key      string
	Size     uint64
	ETag     string // without quotes
	Modified time.Time
}

// Item is what is to become of an object.
type Item struct {
	Object
	Path   files.Path // "" of one that is refused
	Dir    bool       // it is a directory
	Refuse string     // why nothing becomes of it
}

// Planner turns keys, in the order of a listing, into paths. It is pure.
type Planner struct {
	dest   files.Path
	strip  int // bytes of a key that stand for the directory of the prefix
	prefix string
	// above are the objects of which the current key is a continuation, the shortest first. A key that has one of them and '/' as its beginning would be in a directory that is a
	// file; since keys come in order, those are all that have to be remembered.
	above []string
}

// NewPlanner plans below a destination.
func NewPlanner(dest files.Path, prefix string) *Planner {
	return &Planner{dest: dest, prefix: prefix, strip: strings.LastIndexByte(prefix, '/') + 1}
}

// Next plans the next object of the listing.
func (p *Planner) Next(o Object) Item {
	for len(p.above) > 0 && !strings.HasPrefix(o.Key, p.above[len(p.above)-1]) {
		p.above = p.above[:len(p.above)-1]
	}
	it := Item{Object: o}
	rel, why := p.relative(o.Key)
	if why == "" && rel != "" {
		it.Path, why = p.path(strings.TrimSuffix(rel, "/"))
	}
	switch {
	case why != "":
		it.Path, it.Refuse = "", why
		return it
	case rel == "" || strings.HasSuffix(rel, "/"):
		it.Dir = true
		if rel == "" {
			it.Path = p.dest
		}
		if o.Size > 0 {
			it.Path, it.Refuse = "", "it ends with '/', as a directory, but has content"
			return it
		}
	}
	for _, f := range p.above {
		if strings.HasPrefix(o.Key, f+"/") {
			it.Path, it.Refuse = "", "there is an object "+Shown(f)+", so that is a file and no directory"
			return it
		}
	}
	if !it.Dir {
		p.above = append(p.above, o.Key)
	}
	return it
}

// relative is the key without the directory of the prefix.
func (p *Planner) relative(key string) (rel, why string) {
	switch {
	case !strings.HasPrefix(key, p.prefix):
		return "", "it was listed, but does not begin with the prefix"
	case len(key) > maxKey:
		return "", "the key has more than 1024 bytes"
	case !utf8.ValidString(key):
		return "", "the key is not UTF-8"
	}
	rel = key[p.strip:]
	if rel == "" && p.strip == 0 {
		return "", "the key is empty"
	}
	return rel, ""
}

func (p *Planner) path(rel string) (files.Path, string) {
	for name := range strings.SplitSeq(rel, "/") {
		if err := vfs.CheckName(name, "import"); err == nil {
			continue
		}
		switch {
		case name == "":
			return "", "it has an empty name between two '/'"
		case name == "." || name == "..":
			return "", "it has the name " + name + " in it, which leads elsewhere"
		case strings.IndexByte(name, 0) >= 0:
			return "", "it has a NUL in it"
		default:
			return "", "it has a name of more than 255 bytes"
		}
	}
	path := p.dest.Join(rel)
	if len(path) > files.PathMax {
		return "", "its path has more than 4096 bytes"
	}
	return path, ""
}

// Shown is a key for people, shortened if it is long.
func Shown(key string) string { return clip(files.Path(key).Shown()) }

// Conflict says what is done if there is a file of the name already.
type Conflict string

// Conflicts.
const (
	Skip      Conflict = "skip"
	Overwrite Conflict = "overwrite"
	IfNewer   Conflict = "if-newer" // overwritten if the object was changed later than the file
)

// ParseConflict reads one; "" is Skip.
func ParseConflict(s string) (Conflict, error) {
	switch c := Conflict(s); c {
	case "":
		return Skip, nil
	case Skip, Overwrite, IfNewer:
		return c, nil
	}
	return "", vfs.Errorf(vfs.KindInvalid, "import", "conflict %q: use %s, %s or %s", clip(s), Skip, Overwrite, IfNewer)
}

// verdict is what is done with an object.
type verdict int

const (
	take verdict = iota // its content is read
	leave
	refuse
)

// decide is pure: what is done with an object, when old is what there is at its path, nil if nothing.
func decide(c Conflict, it *Item, old *vfs.Attr) (verdict, string) {
	switch {
	case it.Refuse != "":
		return refuse, it.Refuse
	case old == nil:
		return take, ""
	case it.Dir && old.IsDir():
		return leave, ""
	case it.Dir:
		return refuse, "there is a file of that name, and it is to be a directory"
	case old.IsDir():
		return refuse, "there is a directory of that name"
	case c == Overwrite || c == IfNewer && it.Modified.After(old.Mtime):
		return take, ""
	}
	return leave, ""
}
