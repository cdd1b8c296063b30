package rpc

import (
	"bytes"
	"testing"
)

func TestReplyMarksAndTruncate(t *testing.T) {
	var r Reply
	r.begin()
	released := 0
	r.B = append(r.B, 1, 2, 3, 4)
	m := r.Mark()
	r.AttachOpaque([]byte("abcde"), func() { released++ })
	r.B = append(r.B, 9, 9, 9, 9)
	if got, want := r.Len(), 4+4+8+4; got != want {
		t.Errorf("Len %d, want %d", got, want)
	}
	if got := r.Since(m); got != 16 {
		t.Errorf("Since %d, want 16", got)
	}
	want := []byte("\x01\x02\x03\x04\x00\x00\x00\x05abcde\x00\x00\x00\x09\x09\x09\x09")
	if got := r.AppendTo(nil, r.Start()); !bytes.Equal(got, want) {
		t.Errorf("whole reply %q, want %q", got, want)
	}
	if got := r.AppendTo([]byte("x"), m); !bytes.Equal(got, append([]byte("x"), want[4:]...)) {
		t.Errorf("after the mark %q", got)
	}
	r.Truncate(m)
	if released != 1 || r.Len() != 4 || !bytes.Equal(r.AppendTo(nil, r.Start()), []byte{1, 2, 3, 4}) {
		t.Errorf("after Truncate: released %d, %q", released, r.AppendTo(nil, r.Start()))
	}
	r.Truncate(m)
	if released != 1 {
		t.Error("released twice")
	}
}

func TestReplyOfSeveralSlices(t *testing.T) {
	var r Reply
	r.begin()
	released := 0
	r.AttachOpaques([][]byte{[]byte("abc"), []byte("de"), []byte("fgh")}, func() { released++ })
	want := []byte("\x00\x00\x00\x08abcdefgh")
	if got := r.AppendTo(nil, r.Start()); !bytes.Equal(got, want) || r.Len() != len(want) {
		t.Errorf("three slices: %q of length %d", got, r.Len())
	}
	m := r.Mark()
	r.AttachOpaques([][]byte{[]byte("abcde")}, func() { released += 10 })
	if got, want := r.AppendTo(nil, m), []byte("\x00\x00\x00\x05abcde\x00\x00\x00"); !bytes.Equal(got, want) {
		t.Errorf("one slice: %q", got)
	}
	if r.Truncate(m); released != 10 {
		t.Errorf("released %d after the second was dropped", released)
	}
	if r.Truncate(r.Start()); released != 11 {
		t.Errorf("released %d after both were dropped", released)
	}
}
