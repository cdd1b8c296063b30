package mux

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

func TestHelloRoundTrip(t *testing.T) {
	want := hello{shard: 513, cluster: "c\x00\xff", from: "a.1", to: strings.Repeat("b", 255)}
	b, err := want.append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readHello(bytes.NewReader(b))
	if err != nil || got != want {
		t.Fatalf("%+v %v", got, err)
	}
	want.to += "b"
	if _, err := want.append(nil); vfs.KindOf(err) != vfs.KindInvalid {
		t.Fatalf("a name of 256 bytes: %v", err)
	}
}

func TestAnswerRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := writeAnswer(&b, nil); err != nil {
		t.Fatal(err)
	}
	if err := readAnswer(&b); err != nil {
		t.Fatal(err)
	}
	if err := writeAnswer(&b, vfs.Errorf(vfs.KindInvalid, "", "%s", strings.Repeat("no", 1000))); err != nil {
		t.Fatal(err)
	}
	if err := readAnswer(&b); vfs.KindOf(err) != vfs.KindIncompatible || !strings.Contains(err.Error(), "nono") {
		t.Fatalf("refusal: %v", err)
	}
}

func TestNodeOf(t *testing.T) {
	for in, want := range map[string]string{"m1.0a": "m1", "m1": "m1", "a.b.c": "a.b", "": ""} {
		if got := NodeOf(in); got != want {
			t.Errorf("NodeOf(%q) = %q", in, got)
		}
	}
}

func FuzzHello(f *testing.F) {
	b, err := hello{1, "cluster", "a.1", "b.2"}.append(appendPrelude(nil, kindRaft, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:9])
	f.Add([]byte("RKMX\x01\x01\x00\x00RKMH\x01\x00\x00\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if _, _, err := readPrelude(r); err != nil {
			return
		}
		rest := b[preludeLen:]
		h, err := readHello(r)
		if err != nil {
			return
		}
		again, err := h.append(nil)
		if err != nil || !bytes.HasPrefix(rest, again) {
			t.Fatalf("read %+v from %x, wrote %x (%v)", h, rest, again, err)
		}
	})
}

// FuzzAnswer reads anything as the answer to a hello.
func FuzzAnswer(f *testing.F) {
	for _, err := range []error{nil, vfs.Errorf(vfs.KindInvalid, "mux", "another cluster")} {
		var b bytes.Buffer
		if err := writeAnswer(&b, err); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{1, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := readAnswer(bytes.NewReader(b)); err == nil && b[0] != 0 {
			t.Fatalf("%x passes for consent", b)
		}
	})
}
