package files

import "testing"

// What moves the cursor of a terminal, or is not UTF-8, is not shown as it is: ESC, and the controls of C1 that do the same in one character.
func TestPlain(t *testing.T) {
	for _, x := range []struct {
		name, readable, shown string
		plain                 bool
	}{
		{"größer 😀.bin", "größer 😀.bin", "/größer 😀.bin", true},
		{"a\x1b[2Jb", "a\ufffd[2Jb", "/a%1B%5B2Jb", false},
		{"a\u009b2Jb", "a\ufffd2Jb", "/a%C2%9B2Jb", false},
		{"a\u0085b", "a\ufffdb", "/a%C2%85b", false},
		{"a\x7fb\n", "a\ufffdb\ufffd", "/a%7Fb%0A", false},
		{"a\x9bb", "a\ufffdb", "/a%9Bb", false},
		{"a\ufffdb", "a\ufffdb", "/a%EF%BF%BDb", false}, // it cannot be told from what was replaced
	} {
		if got := Plain(x.name); got != x.plain {
			t.Errorf("%q is plain: %v", x.name, got)
		}
		if got := Readable(x.name); got != x.readable {
			t.Errorf("%q is read as %q, want %q", x.name, got, x.readable)
		}
		if got := Path("/" + x.name).Shown(); got != x.shown {
			t.Errorf("%q is shown as %q, want %q", x.name, got, x.shown)
		}
	}
}
