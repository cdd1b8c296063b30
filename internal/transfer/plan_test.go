package transfer

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What is compared says what is done, and nothing else.
func TestCompare(t *testing.T) {
	now := time.Unix(1e9, 123456789)
	file := func(name string) Entry { return Entry{Name: name, Size: 5, Mode: 0o644, Mtime: now} }
	with := func(e Entry, fn func(*Entry)) Entry {
		fn(&e)
		return e
	}
	dir := func(name string) Entry { return Entry{Name: name, Type: Dir, Mode: 0o755} }
	link := Entry{Name: "l", Type: Link}
	same, sums, del := Rules{Sync: true}, Rules{Sync: true, Checksum: true}, Rules{Sync: true, Delete: true}
	for _, x := range []struct {
		what     string
		src, dst []Entry
		rules    Rules
		want     string
	}{
		{"nothing", nil, nil, same, ""},
		{"order", []Entry{dir("a"), file("z"), file("b"), dir("0")}, nil, same, "send b, send z, mkdir 0, mkdir a"},
		{"the same", []Entry{file("a"), dir("d")}, []Entry{file("a"), dir("d")}, same, "keep a, enter d"},
		{"all is sent without Sync", []Entry{file("a"), dir("d")}, []Entry{file("a"), dir("d")}, Rules{}, "send a, enter d"},
		{"another size", []Entry{file("a")}, []Entry{with(file("a"), func(e *Entry) { e.Size++ })}, same, "send a"},
		{"another time", []Entry{file("a")}, []Entry{with(file("a"), func(e *Entry) { e.Mtime = now.Add(time.Millisecond) })}, same, "send a"},
		{"an earlier time", []Entry{file("a")}, []Entry{with(file("a"), func(e *Entry) { e.Mtime = now.Add(-time.Hour) })}, same, "send a"},
		{"less than file systems keep", []Entry{file("a")}, []Entry{with(file("a"), func(e *Entry) { e.Mtime = now.Add(-89) })}, same, "keep a"},
		{"another mode", []Entry{file("a")}, []Entry{with(file("a"), func(e *Entry) { e.Mode = 0o600 })}, same, "change a"},
		{"content counts", []Entry{file("a"), file("b")}, []Entry{file("a"), with(file("b"), func(e *Entry) { e.Size = 4 })}, sums, "verify a, send b"},
		{"what is not there any more", []Entry{file("a")}, []Entry{file("b"), dir("c")}, same, "send a"},
		{"... is removed", []Entry{file("a")}, []Entry{file("b"), dir("c")}, del, "send a, delete b, delete c"},
		{"links and devices", []Entry{link, {Name: "p", Type: Other}}, nil, del, "refuse l, refuse p"},
		{"... keep what has their name", []Entry{link}, []Entry{file("l")}, del, "refuse l"},
		{"a link in the way of a file", []Entry{file("l")}, []Entry{link}, same, "send l"},
		{"a directory in the way", []Entry{file("a")}, []Entry{dir("a")}, same, "refuse a"},
		{"a file in the way", []Entry{dir("a")}, []Entry{file("a")}, same, "refuse a"},
		{"a device in the way", []Entry{file("a")}, []Entry{{Name: "a", Type: Other}}, same, "refuse a"},
		{"... is replaced", []Entry{file("a")}, []Entry{{Name: "a", Type: Other}}, del, "replace a"},
		{"... are replaced", []Entry{dir("a"), file("b")}, []Entry{file("a"), dir("b")}, del, "replace b, replace a"},
		{"listed twice", []Entry{file("a"), file("a")}, nil, same, "send a"},
	} {
		var got []string
		for _, s := range Compare(x.src, x.dst, x.rules) {
			got = append(got, fmt.Sprint(s.Does, " ", s.Name()))
		}
		if g := strings.Join(got, ", "); g != x.want {
			t.Errorf("%s: %s, want %s", x.what, g, x.want)
		}
	}
	s := step(file("a"), &Entry{Name: "a", Size: 5, Mode: 0o600, Mtime: now}, sums)
	if d := s.verified(true).Does; d != Fix {
		t.Errorf("the same content with another mode: %v", d)
	}
	if d := s.verified(false).Does; d != Send {
		t.Errorf("another content: %v", d)
	}
}

// Of two names that differ only in bytes that are not UTF-8 the journal has two notes.
func TestJournal(t *testing.T) {
	j, err := OpenJournal(t.TempDir() + "/j")
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) place { return newPlace(&End{Client: nobody(t), FileSystem: "a/b"}, "/"+name, name) }
	if err := j.put(at("x\xff"), note{Upload: "1"}); err != nil {
		t.Fatal(err)
	}
	if n := j.find(at("x\xfe")); n != nil {
		t.Errorf("another name has the note %+v", n)
	}
	if n := j.find(at("x\xff")); n == nil || n.Upload != "1" {
		t.Errorf("found %+v", n)
	}
	j.drop(at("x\xff"))
	if n := j.find(at("x\xff")); n != nil {
		t.Errorf("found %+v after it was dropped", n)
	}
}
