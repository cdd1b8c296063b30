package raftmeta

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// The next holder of an address hears the last list of the former one, whatever that says late; and a list outlives the registration that it is about.
func TestConnected(t *testing.T) {
	c := connected{names: make(map[string]connections)}
	is := func(name string, version uint64, peers string) {
		t.Helper()
		if v, p := c.ask(name); v != version || string(p) != peers {
			t.Fatalf("%s: version %d, %q, want %d, %q", name, v, p, version, peers)
		}
	}
	tell := func(name string, origin, version uint64, whole bool, peers string, known uint64) {
		t.Helper()
		if got := c.tell(name, origin, version, whole, []byte(peers)); got != known {
			t.Fatalf("%s of origin %d, version %d: version %d is known, want %d", name, origin, version, got, known)
		}
	}
	is("a", 0, "")
	tell("a", 3, 70, false, "", 0)
	tell("a", 3, 70, true, "one", 70)
	tell("a", 3, 71, false, "", 70)
	tell("a", 3, 71, true, "two", 71)
	is("a", 71, "two")
	tell("a", 5, 10, true, "of the next holder", 10)
	tell("a", 3, 72, true, "late", 10)
	is("a", 10, "of the next holder")
	for i := range 2 * maxConnectedNames {
		c.tell(fmt.Sprint(i), 1, 1, true, []byte("x"))
	}
	if len(c.names) > maxConnectedNames {
		t.Errorf("%d addresses are remembered", len(c.names))
	}
}

// The same by calls to a leader, and what is no list is refused.
func TestConnectedOverTheWire(t *testing.T) {
	c := newCluster(t, 1, []uint16{0}, func(int, *Options) {})
	ctx := testContext(t)
	cl := c.clientWith(func(*ClientOptions) {})
	list := bytes.Repeat([]byte("12345678"), 100)
	c.eventually("the leader to hear", func() bool {
		known, err := cl.TellConnected(ctx, "address 10.0.0.1", 4, 9, true, list)
		return err == nil && known == 9
	})
	if v, p, err := cl.Connected(ctx, "address 10.0.0.1", 0); err != nil || v != 9 || !bytes.Equal(p, list) {
		t.Fatalf("version %d, %d bytes, %v", v, len(p), err)
	}
	if v, p, err := cl.Connected(ctx, "address 10.0.0.1", 9); err != nil || v != 9 || p != nil {
		t.Fatalf("version %d, %d bytes of what is known, %v", v, len(p), err)
	}
	most := make([]byte, MaxConnected*connectedItem6)
	if known, err := cl.TellConnected(ctx, "address fd00:10::50", 4, 1, true, most); err != nil || known != 1 {
		t.Errorf("version %d is known of as many as there may be, %v", known, err)
	}
	if _, p, err := cl.Connected(ctx, "address fd00:10::50", 0); err != nil || len(p) != len(most) {
		t.Errorf("%d of %d bytes of as many as there may be, %v", len(p), len(most), err)
	}
	for _, bad := range [][]byte{list[:9], make([]byte, maxConnectedBytes+connectedItem)} {
		if _, err := cl.TellConnected(ctx, "address 10.0.0.1", 4, 10, true, bad); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%d bytes: %v, want a refusal", len(bad), err)
		}
	}
}
