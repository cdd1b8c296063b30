package vfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
)

func TestPermits(t *testing.T) {
	owner, member, other, root := &Cred{UID: 10, GID: 99}, &Cred{UID: 11, GID: 98, Groups: []uint32{20}}, &Cred{UID: 12, GID: 97}, &Root
	for _, c := range []struct {
		mode uint32
		typ  Type
		who  *Cred
		want Access
		ok   bool
	}{
		{0o400, TypeFile, owner, AccessRead, true},
		{0o400, TypeFile, owner, AccessRead | AccessWrite, false},
		{0o040, TypeFile, owner, AccessRead, false}, // the owner's class decides, not the best one
		{0o040, TypeFile, member, AccessRead, true},
		{0o004, TypeFile, member, AccessRead, false},
		{0o004, TypeFile, other, AccessRead, true},
		{0o770, TypeDir, other, AccessExec, false},
		{0o000, TypeFile, root, AccessRead | AccessWrite, true},
		{0o666, TypeFile, root, AccessExec, false}, // POSIX: some x bit is needed
		{0o001, TypeFile, root, AccessExec, true},
		{0o000, TypeDir, root, AccessExec, true},
	} {
		a := &Attr{Type: c.typ, Mode: c.mode, UID: 10, GID: 20}
		if got := a.Permits(c.who, c.want); got != c.ok {
			t.Errorf("mode %o %v by uid %d for %b: %v, want %v", c.mode, c.typ, c.who.UID, c.want, got, c.ok)
		}
	}
}

func TestCheckSetAttr(t *testing.T) {
	u32 := func(v uint32) *uint32 { return &v }
	u64 := func(v uint64) *uint64 { return &v }
	owner, writer, other := &Cred{UID: 10, GID: 20, Groups: []uint32{21}}, &Cred{UID: 11, GID: 20}, &Cred{UID: 12, GID: 30}
	file := &Attr{Type: TypeFile, Mode: 0o660, UID: 10, GID: 20}
	for name, c := range map[string]struct {
		who    *Cred
		attr   *Attr
		set    SetAttr
		opened bool
		want   Kind
	}{
		"chmod by owner":                  {owner, file, SetAttr{Mode: u32(0o600)}, false, KindOK},
		"chmod by writer":                 {writer, file, SetAttr{Mode: u32(0o600)}, false, KindPerm},
		"chown by owner":                  {owner, file, SetAttr{UID: u32(11)}, false, KindPerm},
		"chown to itself by owner":        {owner, file, SetAttr{UID: u32(10)}, false, KindOK},
		"chown to itself by other":        {other, file, SetAttr{UID: u32(10)}, false, KindPerm},
		"chown by root":                   {&Root, file, SetAttr{UID: u32(11)}, false, KindOK},
		"chgrp to own group":              {owner, file, SetAttr{GID: u32(21)}, false, KindOK},
		"chgrp to foreign group":          {owner, file, SetAttr{GID: u32(22)}, false, KindPerm},
		"chgrp by other":                  {other, file, SetAttr{GID: u32(30)}, false, KindPerm},
		"touch by writer":                 {writer, file, SetAttr{MtimeSet: TimeServer}, false, KindOK},
		"touch by other":                  {other, file, SetAttr{MtimeSet: TimeServer}, false, KindAccess},
		"utimes by writer":                {writer, file, SetAttr{MtimeSet: TimeClient}, false, KindPerm},
		"truncate by writer":              {writer, file, SetAttr{Size: u64(0)}, false, KindOK},
		"truncate by other":               {other, file, SetAttr{Size: u64(0)}, false, KindAccess},
		"ftruncate by other, opened":      {other, file, SetAttr{Size: u64(0)}, true, KindOK},
		"truncate of a directory":         {&Root, &Attr{Type: TypeDir}, SetAttr{Size: u64(0)}, false, KindIsDir},
		"truncate of a fifo":              {&Root, &Attr{Type: TypeFIFO}, SetAttr{Size: u64(0)}, false, KindInvalid},
		"truncate beyond the largest off": {&Root, file, SetAttr{Size: u64(1 << 63)}, false, KindTooBig},
	} {
		if got := KindOf(CheckSetAttr(c.who, c.attr, &c.set, c.opened, "setattr")); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestModeRules(t *testing.T) {
	user := &Cred{UID: 5, GID: 6}
	f := func(mode, gid uint32) *Attr { return &Attr{Type: TypeFile, Mode: mode, UID: 5, GID: gid} }
	check := func(what string, got, want uint32) {
		t.Helper()
		if got != want {
			t.Errorf("%s: mode %o, want %o", what, got, want)
		}
	}
	check("write by user drops setid", ModeAfterWrite(user, f(0o6755, 6)), 0o755)
	check("write keeps setgid without group x", ModeAfterWrite(user, f(0o2745, 6)), 0o2745)
	check("write by root keeps setid", ModeAfterWrite(&Root, f(0o6755, 6)), 0o6755)
	check("chown drops setid", ModeAfterChown(f(0o6755, 6)), 0o755)
	check("chown of a directory keeps setgid", ModeAfterChown(&Attr{Type: TypeDir, Mode: 0o2755}), 0o2755)
	check("chmod g+s in own group", ModeAfterChmod(user, f(0, 6), 0o2755), 0o2755)
	check("chmod g+s in foreign group", ModeAfterChmod(user, f(0, 7), 0o2755), 0o755)

	setgidDir := &Attr{Type: TypeDir, Mode: 0o2777, GID: 42}
	if gid, mode := NewNode(user, setgidDir, TypeDir, 0o755); gid != 42 || mode != 0o2755 {
		t.Errorf("mkdir in setgid directory: gid %d mode %o", gid, mode)
	}
	if gid, mode := NewNode(user, setgidDir, TypeFile, 0o2755); gid != 42 || mode != 0o755 {
		t.Errorf("setgid file of a foreign group: gid %d mode %o", gid, mode)
	}
	if gid, _ := NewNode(user, &Attr{Type: TypeDir, Mode: 0o777, GID: 42}, TypeFile, 0o644); gid != 6 {
		t.Errorf("file in plain directory: gid %d, want the caller's 6", gid)
	}
}

func TestCheckSticky(t *testing.T) {
	dir, entry := &Attr{Mode: ModeSticky | 0o777, UID: 1}, &Attr{UID: 2}
	for uid, want := range map[uint32]Kind{0: KindOK, 1: KindOK, 2: KindOK, 3: KindPerm} {
		if got := KindOf(CheckSticky(&Cred{UID: uid}, dir, entry, "remove")); got != want {
			t.Errorf("uid %d: %v, want %v", uid, got, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, want := range map[string]Kind{
		"a": KindOK, strings.Repeat("x", 255): KindOK, strings.Repeat("x", 256): KindNameTooLong,
		"": KindBadName, ".": KindBadName, "..": KindBadName, "...": KindOK, "a/b": KindBadName, "a\x00": KindBadName,
		"\xff\xfe": KindOK, // names are bytes
	} {
		if got := KindOf(CheckName(name, "create")); got != want {
			t.Errorf("%.20q: %v, want %v", name, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	inner := Errorf(KindNoSpace, "stripe.write", "store 3 is full")
	err := Wrap("commit", fmt.Errorf("flush of inode 9: %w", inner))
	if KindOf(err) != KindNoSpace {
		t.Fatalf("kind lost: %v", KindOf(err))
	}
	if !errors.Is(err, KindNoSpace.Err("")) || errors.Is(err, KindIO.Err("")) {
		t.Fatal("errors.Is does not compare kinds")
	}
	if e := Errorf(KindIO, "read", "segment 7: %w", io.ErrUnexpectedEOF); e.Error() != "read: segment 7: input/output error: unexpected EOF" || !errors.Is(e, io.ErrUnexpectedEOF) {
		t.Fatalf("message %q", e.Error())
	}
	if Wrap("x", nil) != nil {
		t.Fatal("Wrap of nil is an error")
	}
	for err, want := range map[error]Kind{
		syscall.ENOSPC: KindNoSpace, syscall.EDQUOT: KindQuota, syscall.ENOENT: KindNotFound, syscall.EINVAL: KindInvalid,
		syscall.EXDEV: KindXDev, context.Canceled: KindCanceled, context.DeadlineExceeded: KindUnavailable, io.EOF: KindIO,
	} {
		if got := KindOf(err); got != want {
			t.Errorf("kind of %v: %v, want %v", err, got, want)
		}
	}
	for k := KindPerm; k < kindEnd; k++ {
		if k.String() == "" || k.Errno() == 0 || k.HTTPStatus() < 400 {
			t.Errorf("kind %d has no complete row in kindTable", k)
		}
	}
	if k := Kind(250); k.Errno() != syscall.EIO || k.String() == "" {
		t.Error("an unknown kind must read as EIO")
	}
}
