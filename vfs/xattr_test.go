package vfs

import (
	"strings"
	"testing"
)

func TestCheckXattr(t *testing.T) {
	owner, member, other := &Cred{UID: 10, GID: 20}, &Cred{UID: 11, GID: 20}, &Cred{UID: 12, GID: 30}
	file := &Attr{Type: TypeFile, Mode: 0o640, UID: 10, GID: 20}
	sticky := &Attr{Type: TypeDir, Mode: 0o1777, UID: 10, GID: 20}
	for name, c := range map[string]struct {
		who  *Cred
		attr *Attr
		want Access
		kind Kind
	}{
		"owner writes":                {owner, file, AccessWrite, KindOK},
		"member reads":                {member, file, AccessRead, KindOK},
		"member writes":               {member, file, AccessWrite, KindAccess},
		"other reads":                 {other, file, AccessRead, KindAccess},
		"root writes":                 {&Root, &Attr{Type: TypeFile}, AccessWrite, KindOK},
		"owner in a sticky directory": {owner, sticky, AccessWrite, KindOK},
		"other in a sticky directory": {other, sticky, AccessWrite, KindPerm},
		"root in a sticky directory":  {&Root, sticky, AccessWrite, KindOK},
		"reads a sticky directory":    {other, sticky, AccessRead, KindOK},
		"sticky file":                 {other, &Attr{Type: TypeFile, Mode: 0o1777, UID: 10}, AccessWrite, KindOK},
		"of a symlink":                {&Root, &Attr{Type: TypeSymlink, Mode: 0o777}, AccessRead, KindNoAttr},
		"to a symlink":                {&Root, &Attr{Type: TypeSymlink, Mode: 0o777}, AccessWrite, KindPerm},
		"to a device":                 {owner, &Attr{Type: TypeChar, Mode: 0o777, UID: 10}, AccessWrite, KindPerm},
	} {
		if got := KindOf(CheckXattr(c.who, c.attr, c.want, "x")); got != c.kind {
			t.Errorf("%s: %v, want %v", name, got, c.kind)
		}
	}
	if err := CheckXattrList(other, &Attr{Type: TypeSymlink}, "x"); err != nil {
		t.Error(err)
	}
	if err := CheckXattrList(other, file, "x"); KindOf(err) != KindAccess {
		t.Error(err)
	}
	for name, want := range map[string]Kind{
		"a": KindOK, "": KindBadName, "a\x00": KindBadName, "a/b": KindOK, "..": KindOK,
		strings.Repeat("x", 255): KindOK, strings.Repeat("x", 256): KindNameTooLong,
	} {
		if got := KindOf(CheckXattrName(name, "x")); got != want {
			t.Errorf("%.20q: %v, want %v", name, got, want)
		}
	}
}

func TestCheckXattrValue(t *testing.T) {
	for _, c := range []struct {
		size int
		how  XattrHow
		want Kind
	}{{0, XattrEither, KindOK}, {XattrValueMax, XattrReplace, KindOK}, {XattrValueMax + 1, XattrEither, KindTooBig}, {0, XattrReplace + 1, KindInvalid}} {
		if got := KindOf(CheckXattrValue(make([]byte, c.size), c.how, "x")); got != c.want {
			t.Errorf("%d bytes, how %d: %v, want %v", c.size, c.how, got, c.want)
		}
	}
}

func TestCheckXattrSet(t *testing.T) {
	full := XattrTotals{Count: 16, NameBytes: 16 * 100, ValueBytes: XattrBytesMax - 16*100}
	for name, c := range map[string]struct {
		now  XattrTotals
		old  int
		size int
		how  XattrHow
		want Kind
	}{
		"new":                  {XattrTotals{}, -1, 5, XattrEither, KindOK},
		"create":               {XattrTotals{}, -1, 0, XattrCreate, KindOK},
		"create what is there": {XattrTotals{1, 1, 0}, 0, 5, XattrCreate, KindExists},
		"replace":              {XattrTotals{1, 1, 5}, 5, 7, XattrReplace, KindOK},
		"replace nothing":      {XattrTotals{}, -1, 5, XattrReplace, KindNoAttr},
		"largest":              {XattrTotals{}, -1, XattrValueMax, XattrEither, KindOK},
		"one too many":         {XattrTotals{Count: XattrsMax}, -1, 0, XattrEither, KindNoSpace},
		"replace among many":   {XattrTotals{Count: XattrsMax, NameBytes: XattrsMax}, 0, 1, XattrEither, KindOK},
		"list too long":        {XattrTotals{Count: 1000, NameBytes: XattrListMax - 1000*XattrListCost}, -1, 0, XattrEither, KindNoSpace},
		"list full":            {XattrTotals{Count: 1000, NameBytes: XattrListMax - 1001*XattrListCost - 1}, -1, 0, XattrEither, KindOK},
		"full":                 {full, -1, 0, XattrEither, KindNoSpace},
		"grows beyond":         {full, 10, 11, XattrEither, KindNoSpace},
		"stays full":           {full, 10, 10, XattrEither, KindOK},
	} {
		then := c.now.Replace("n", c.old, c.size)
		if got := KindOf(CheckXattrSet(then, c.old >= 0, c.how, "x")); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if c.old < 0 {
			if back := then.Remove("n", c.size); back != c.now {
				t.Errorf("%s: %v after it was removed, was %v", name, back, c.now)
			}
		}
	}
}
