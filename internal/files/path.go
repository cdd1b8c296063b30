package files

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rackfs/rackfs/vfs"
)

// PathMax bounds the bytes of a path.
const PathMax = 4096

// Path is a clean absolute path; "/" is the root.
type Path string

// ParsePath reads a path. A '/' at its end is passed over.
func ParsePath(s string) (Path, error) {
	const op = "path"
	if len(s) > PathMax {
		return "", vfs.Errorf(vfs.KindNameTooLong, op, "%d bytes, at most %d", len(s), PathMax)
	}
	if s == "" || s[0] != '/' {
		return "", vfs.Errorf(vfs.KindBadName, op, "%.80q: a path begins with '/'", s)
	}
	if s = strings.TrimSuffix(s, "/"); s == "" {
		return "/", nil
	}
	for name := range strings.SplitSeq(s[1:], "/") {
		if err := vfs.CheckName(name, op); err != nil {
			if vfs.KindOf(err) == vfs.KindNameTooLong {
				return "", vfs.Errorf(vfs.KindNameTooLong, op, "a name of %d bytes in it, at most %d", len(name), vfs.NameMax)
			}
			return "", vfs.Errorf(vfs.KindBadName, op, "%.80q: parts of a path are not empty, '.' or '..', and have no NUL", s)
		}
	}
	return Path(s), nil
}

// names are the parts of p.
func (p Path) names() []string {
	if p == "/" {
		return nil
	}
	return strings.Split(string(p[1:]), "/")
}

// Split is the directory that p is in, and its name there. The root has no name.
func (p Path) Split() (dir Path, name string) {
	i := strings.LastIndexByte(string(p), '/')
	if dir = p[:max(i, 0)]; dir == "" {
		dir = "/"
	}
	return dir, string(p[i+1:])
}

// Join is name in p.
func (p Path) Join(name string) Path {
	if p == "/" {
		return "/" + Path(name)
	}
	return p + "/" + Path(name)
}

// Shown is p for people: bytes that are not UTF-8, and control characters, are written as %XX.
func (p Path) Shown() string {
	if Plain(string(p)) {
		return string(p)
	}
	parts := strings.Split(string(p), "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return strings.Join(parts, "/")
}

// Plain reports whether a name can be shown as it is. Control characters are those of C1 too: U+009B begins sequences of terminals as ESC '[' does.
func Plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// Readable is s with U+FFFD in the place of what is not UTF-8, and of control characters.
func Readable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}
