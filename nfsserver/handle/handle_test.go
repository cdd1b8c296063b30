package handle_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/vfs"
)

var (
	cluster = [16]byte{1, 2, 3}
	key1    = handle.Key{ID: 1, Secret: [16]byte{1}}
	key2    = handle.Key{ID: 2, Secret: [16]byte{2}}
)

func ring(t testing.TB, c [16]byte, keys ...handle.Key) *handle.Ring {
	t.Helper()
	r, err := handle.NewRing(c, keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	r := ring(t, cluster, key1)
	rapid.Check(t, func(t *rapid.T) {
		want := handle.Handle{
			Kind:   rapid.SampledFrom([]handle.Kind{handle.Inode, handle.Pseudo}).Draw(t, "kind"),
			FS:     rapid.Uint32().Draw(t, "fs"),
			Export: rapid.Uint32().Draw(t, "export"),
			Ino:    rapid.Uint64().Draw(t, "ino"),
		}
		b := r.Append(nil, want)
		if len(b) != handle.Size {
			t.Fatalf("%d bytes", len(b))
		}
		got, err := r.Decode(b)
		if err != nil || got != want {
			t.Fatalf("%+v, %v; want %+v", got, err, want)
		}
	})
}

// Every single changed byte, and every other length, is refused.
func TestForgedOrTruncated(t *testing.T) {
	r := ring(t, cluster, key1)
	good := r.Append(nil, handle.Handle{Kind: handle.Inode, FS: 7, Export: 3, Ino: 42})
	for i := range good {
		for bit := range 8 {
			b := append([]byte(nil), good...)
			b[i] ^= 1 << bit
			_, err := r.Decode(b)
			want := vfs.KindBadHandle
			if i >= 2 && i < 20 { // key id and cluster id: was a handle somewhere, or under a retired key
				want = vfs.KindStale
			}
			if vfs.KindOf(err) != want {
				t.Fatalf("byte %d bit %d: %v, want %v", i, bit, err, want)
			}
		}
	}
	for n := range len(good) {
		if _, err := r.Decode(good[:n]); vfs.KindOf(err) != vfs.KindBadHandle {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, err := r.Decode(append(good, 0)); vfs.KindOf(err) != vfs.KindBadHandle {
		t.Fatalf("one byte more: %v", err)
	}
}

func TestOtherCluster(t *testing.T) {
	b := ring(t, [16]byte{9}, key1).Append(nil, handle.Handle{Kind: handle.Inode, Ino: 1})
	if _, err := ring(t, cluster, key1).Decode(b); vfs.KindOf(err) != vfs.KindStale {
		t.Fatal(err)
	}
}

func TestRotation(t *testing.T) {
	h := handle.Handle{Kind: handle.Inode, FS: 1, Export: 1, Ino: 5}
	before := ring(t, cluster, key1)
	during := ring(t, cluster, key1, key2)
	after := ring(t, cluster, key2)
	old, fresh := before.Append(nil, h), during.Append(nil, h)
	if got, err := during.Decode(old); err != nil || got != h {
		t.Fatalf("old key during rotation: %+v, %v", got, err)
	}
	if got, err := after.Decode(fresh); err != nil || got != h {
		t.Fatalf("new key after rotation: %+v, %v", got, err)
	}
	if _, err := after.Decode(old); vfs.KindOf(err) != vfs.KindStale {
		t.Fatalf("retired key: %v", err)
	}
	// The same id with another secret is a forgery, not a retired key.
	other := ring(t, cluster, handle.Key{ID: key1.ID, Secret: [16]byte{77}})
	if _, err := other.Decode(old); vfs.KindOf(err) != vfs.KindBadHandle {
		t.Fatalf("wrong secret: %v", err)
	}
}

func TestRingRefuses(t *testing.T) {
	for name, keys := range map[string][]handle.Key{
		"none":      nil,
		"duplicate": {key1, {ID: key1.ID, Secret: [16]byte{3}}},
		"zero":      {{ID: 1}},
	} {
		if _, err := handle.NewRing(cluster, keys); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The format is on clients' disks and in other gateways' replies: these bytes
// never change.
func TestFormatIsStable(t *testing.T) {
	r := ring(t, cluster, key1)
	got := r.Append(nil, handle.Handle{Kind: handle.Inode, FS: 7, Export: 3, Ino: 42})
	want := "\x01\x01\x00\x01\x01\x02\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x00\x00\x00\x07\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x2a"
	if string(got[:36]) != want {
		t.Fatalf("%q", got[:36])
	}
	if mac := got[36:]; string(mac) != "\xcf\xef\xf9\xeb\x06@t\x86" {
		t.Fatalf("%q", mac)
	}
}

func FuzzDecode(f *testing.F) {
	r := ring(f, cluster, key1, key2)
	f.Add(r.Append(nil, handle.Handle{Kind: handle.Inode, FS: 1, Export: 1, Ino: 1}))
	f.Add(r.Append(nil, handle.Handle{Kind: handle.Pseudo, Ino: 1}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := r.Decode(b)
		if err != nil {
			return
		}
		again, err := r.Decode(r.Append(nil, h))
		if err != nil || again != h || (h.Kind != handle.Inode && h.Kind != handle.Pseudo) {
			t.Fatalf("accepted %q as %+v, then %+v, %v", b, h, again, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	r := ring(b, cluster, key1)
	h := r.Append(nil, handle.Handle{Kind: handle.Inode, FS: 1, Export: 1, Ino: 1})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Decode(h); err != nil {
			b.Fatal(err)
		}
	}
}
