package node

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/provision"
)

// A node understands a new key at once, encrypts with it when it has had it for long enough, and forgets the former ones after that; whatever it had before,
// and however often keys are made.
func TestGossipRing(t *testing.T) {
	timing := gossipTiming{every: 30 * time.Second, use: 2 * time.Minute, retire: 10 * time.Minute}
	begin := time.Unix(1e9, 0)
	type step struct {
		after time.Duration
		told  string // newest first
		want  string // the first one encrypts
	}
	for name, steps := range map[string][]step{
		"a new node":            {{0, "a", "a"}, {time.Hour, "a", "a"}},
		"nothing is made yet":   {{0, "", ""}, {time.Second, "a", "a"}},
		"one takes a's place":   {{0, "a", "a"}, {time.Minute, "ba", "ab"}, {3*time.Minute - 1, "ba", "ab"}, {3 * time.Minute, "ba", "ba"}, {13*time.Minute - 1, "ba", "ba"}, {13 * time.Minute, "ba", "b"}, {time.Hour, "ba", "b"}},
		"a new node, meanwhile": {{0, "cba", "cb"}, {10*time.Minute - 1, "cba", "cb"}, {10 * time.Minute, "cba", "c"}},
		"two at once":           {{0, "a", "a"}, {time.Minute, "ba", "ab"}, {2 * time.Minute, "cba", "abc"}, {4 * time.Minute, "cba", "cab"}, {14 * time.Minute, "cba", "c"}},
		"many":                  {{0, "a", "a"}, {1, "ba", "ab"}, {2, "cba", "abc"}, {3, "dcba", "abcd"}, {4, "edcba", "abce"}, {5 * time.Minute, "edcba", "eabc"}},
		"shard 0 says nothing":  {{0, "a", "a"}, {time.Minute, "ba", "ab"}, {time.Hour, "", "ab"}},
	} {
		var r gossipRing
		text := func(keys [][]byte) (s string) {
			for _, k := range keys {
				s += string(k)
			}
			return s
		}
		for i, x := range steps {
			var told [][]byte
			for _, k := range x.told {
				told = append(told, []byte(string(k)))
			}
			if r = r.next(told, timing, begin.Add(x.after)); text(r.Keys) != x.want {
				t.Errorf("%s: step %d, told %q: %q, want %q", name, i, x.told, text(r.Keys), x.want)
			}
		}
	}
	// After a restart the times begin anew.
	r := gossipRing{Keys: [][]byte{[]byte("a"), []byte("b")}}
	for i, want := range map[time.Duration]string{0: "a", 2 * time.Minute: "b"} {
		if r = r.next([][]byte{[]byte("b"), []byte("a")}, timing, begin.Add(i)); i == 0 && string(r.Keys[0]) != want {
			t.Errorf("%v after a restart %q encrypts", i, r.Keys[0])
		}
	}
}

// Two nodes change to a new key; the former one is not understood any more then, nor on disk.
func TestGossipKeyIsRotated(t *testing.T) {
	hurry := gossipTiming{every: 50 * time.Millisecond, use: 500 * time.Millisecond, retire: 500 * time.Millisecond}
	run := func(c *Config) *Node {
		t.Helper()
		n, err := Start(t.Context(), c, Options{Release: "test", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), gossip: hurry})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return n
	}
	first := testConfig(t, "n1", RoleMeta, RoleBlock)
	if _, _, err := Init(first, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	a := run(first)
	tok, err := admin{a}.NewToken(t.Context(), []string{RoleBlock}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	second := testConfig(t, "n2", RoleBlock)
	if err := Join(t.Context(), second, tok.Token, "test"); err != nil {
		t.Fatal(err)
	}
	b := run(second)
	alive := func() bool {
		_, x := a.hint("n2")
		_, y := b.hint("n1")
		return x && y
	}
	await(t, "each hears the other", alive)
	keys := func(n *Node) (s []string) {
		var r gossipRing
		if _, err := n.dir.loadJSON(gossipFile, &r); err != nil {
			t.Fatal(err)
		}
		for _, k := range r.Keys {
			s = append(s, string(k))
		}
		return s
	}
	before := keys(a)
	if len(before) != 1 {
		t.Fatalf("%d keys in the beginning", len(before))
	}
	if err := provision.RotateGossipKey(t.Context(), a.meta); err != nil {
		t.Fatal(err)
	}
	await(t, "both have the new key alone", func() bool {
		for _, n := range []*Node{a, b} {
			if k := keys(n); len(k) != 1 || k[0] == before[0] || n.gossip.Load().Keys() != 1 {
				return false
			}
		}
		return true
	})
	if x, y := keys(a), keys(b); x[0] != y[0] {
		t.Error("they have not the same key")
	}
	await(t, "each hears the other", alive)
}

// await waits for a condition; how long decides nothing but when a hanging test ends.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
