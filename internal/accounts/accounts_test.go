package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestCovers(t *testing.T) {
	for _, x := range []struct {
		scope, at string
		covers    bool
	}{
		{"a", "a", true}, {"a", "a/x", true}, {"a", "a/x:/p", true}, {"a", "b", false}, {"a", "ab/x", false},
		{"a/x", "a", false}, {"a/x", "a/x", true}, {"a/x", "a/x:/p/q", true}, {"a/x", "a/xy", false},
		{"a/x:/p", "a/x", false}, {"a/x:/p", "a/x:/p", true}, {"a/x:/p", "a/x:/p/q", true}, {"a/x:/p", "a/x:/pq", false}, {"a/x:/p", "a/x:/", false}, {"a/x:/p", "a/y:/p", false},
	} {
		s, err := ParsePlace(x.scope)
		if err != nil {
			t.Fatal(err)
		}
		at, err := ParsePlace(x.at)
		if err != nil {
			t.Fatal(err)
		}
		if s.Covers(at) != x.covers || s.Spec() != x.scope {
			t.Errorf("%s covers %s: %v; spec %s", x.scope, x.at, !x.covers, s.Spec())
		}
		if !(Place{}).Covers(at) || at.Covers(Place{}) {
			t.Errorf("the whole cluster and %s", x.at)
		}
	}
	for _, s := range []string{"", "/x", "a/x/y", "a:/p", "a/x:p", "a/x:", "a/", "/", "a/:/p"} {
		if p, err := ParsePlace(s); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q is %v, %v", s, p, err)
		}
	}
}

// Attempts run out by address, come back slowly, and what is remembered of them is bounded.
func TestLimiter(t *testing.T) {
	var l limiter
	now := time.Unix(1000, 0)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	for i := range failBurst {
		if w := l.wait(a, now); w != 0 {
			t.Fatalf("attempt %d waits %v", i, w)
		}
		l.failed(a, now)
	}
	if w := l.wait(a, now); w != failEvery {
		t.Errorf("the next one waits %v", w)
	}
	if l.wait(netip.MustParseAddr("::ffff:10.0.0.1"), now) == 0 || l.wait(b, now) != 0 {
		t.Error("the same address otherwise written, or another one")
	}
	if w := l.wait(a, now.Add(failEvery)); w != 0 {
		t.Errorf("later it waits %v", w)
	}
	for range failBurst {
		l.failed(b, now)
	}
	if l.wait(netip.MustParseAddr("2001:db8::2"), now) == 0 || l.wait(netip.MustParseAddr("2001:db8:0:1::1"), now) != 0 {
		t.Error("networks of IPv6")
	}
	for i := range 3 * maxFailing {
		l.failed(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(l.by) != maxFailing || l.order.Len() != maxFailing {
		t.Errorf("%d addresses are remembered", len(l.by))
	}
	var r recent
	for i := range 3 * maxRecent {
		r.add(fmt.Sprint(i))
	}
	if len(r.by) != maxRecent || r.order.Len() != maxRecent || r.has("0") || !r.has(fmt.Sprint(3*maxRecent-1)) {
		t.Errorf("%d tokens are remembered", len(r.by))
	}
}

// records are tokens as shard 0 has them.
type records []*metapb.AccessToken

func (r *records) Apply(_ context.Context, _ uint16, cmd *metapb.Command) (*metapb.Result, error) {
	switch op := cmd.Op.(type) {
	case *metapb.Command_PutAccessToken:
		*r = append(*r, op.PutAccessToken.Token)
	case *metapb.Command_RemoveAccessToken:
		*r = slices.DeleteFunc(*r, func(t *metapb.AccessToken) bool { return t.Id == op.RemoveAccessToken.Id })
	}
	return &metapb.Result{}, nil
}

func (r *records) Query(context.Context, uint16, *metapb.Query) (*metapb.QueryResult, error) {
	return &metapb.QueryResult{R: &metapb.QueryResult_AccessTokens{AccessTokens: &metapb.AccessTokensR{Tokens: slices.Clone(*r)}}}, nil
}

// A token whose name is the id of another one is not revoked in its place, and none is made.
func TestRevoke(t *testing.T) {
	ctx, now := t.Context(), time.Unix(1000, 0)
	var r records
	create := func(name string) (*metapb.AccessToken, error) {
		_, tok, err := CreateToken(ctx, &r, Operator(), NewToken{Name: name, Role: Viewer}, now)
		return tok, err
	}
	meant, err := create("meant")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{meant.Id, strings.ToUpper(meant.Id), "0123456789abcdef"} {
		if _, err := create(name); vfs.KindOf(err) != vfs.KindInvalid || !strings.Contains(err.Error(), "hex digits") {
			t.Errorf("the name %q: %v", name, err)
		}
	}
	for _, name := range []string{"0123456789abcde", "0123456789abcdef0", "0123456789abcdefg", "0123456789abcdeg"} {
		if _, err := create(name); err != nil {
			t.Errorf("the name %q: %v", name, err)
		}
	}
	r = records{{Id: "00000000000000aa", Name: meant.Id, Role: "viewer"}, meant, {Id: "00000000000000bb", Name: "other", Role: "viewer"}}
	for _, x := range []struct{ which, ends string }{{meant.Id, meant.Id}, {meant.Id, "00000000000000aa"}, {"other", "00000000000000bb"}} {
		got, err := RevokeToken(ctx, &r, Operator(), x.which)
		if err != nil || got.Id != x.ends || slices.ContainsFunc(r, func(t *metapb.AccessToken) bool { return t.Id == x.ends }) {
			t.Fatalf("%q ended %v, want %q: %v", x.which, got, x.ends, err)
		}
	}
	if _, err := RevokeToken(ctx, &r, Operator(), "other"); vfs.KindOf(err) != vfs.KindNotFound || len(r) != 0 {
		t.Errorf("none is left: %v, %v", r, err)
	}
}

func TestHash(t *testing.T) {
	good := secretPrefix + strings.Repeat("A", 43)
	if len(hashOf(good)) != 32 {
		t.Error("a token has no hash")
	}
	for _, s := range []string{"", "rackfs_", strings.Repeat("A", 43), good + "A", good[:len(good)-1], good[:len(good)-1] + "/", "RACKFS_" + strings.Repeat("A", 43)} {
		if hashOf(s) != nil {
			t.Errorf("%q has one", s)
		}
	}
}

// The audit log is lines of JSON that are appended.
func TestAudit(t *testing.T) {
	path := filepath.Join(t.TempDir(), AuditName)
	for i := range 2 {
		a, err := OpenAudit(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		a.Note(Event{Who: "w", Did: fmt.Sprint("d", i), To: "a\nb", Outcome: "ok"})
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	var e Event
	if len(lines) != 2 || json.Unmarshal([]byte(lines[1]), &e) != nil || e.Did != "d1" || e.To != "a\nb" {
		t.Errorf("%q", lines)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	(*Audit)(nil).Note(Event{})
	(*Audit)(nil).NoteStranger(Event{})
}

// Whoever is nobody gets a few lines of the audit log at once and one a second then, which says how many were left out; others' are all there.
func TestAuditOfStrangers(t *testing.T) {
	path := filepath.Join(t.TempDir(), AuditName)
	a, err := OpenAudit(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	now := time.Unix(1000, 0)
	knock := func(n int) {
		for range n {
			a.NoteStranger(Event{Time: now, Who: "nobody", To: strings.Repeat("&", 1000)})
		}
	}
	knock(10 * strangerBurst)
	for range 2 * strangerBurst {
		a.Note(Event{Time: now, Who: "somebody"})
	}
	now = now.Add(strangerEvery - time.Millisecond)
	knock(1)
	now = now.Add(2 * time.Millisecond)
	knock(5)
	now = now.Add(time.Hour)
	knock(2)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]int{}
	var suppressed []int
	for line := range strings.Lines(string(raw)) {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || len(line) > 2000 {
			t.Fatalf("%v %s", err, line)
		}
		lines[e.Who]++
		if e.Suppressed > 0 {
			suppressed = append(suppressed, e.Suppressed)
		}
	}
	if lines["nobody"] != strangerBurst+3 || lines["somebody"] != 2*strangerBurst || !slices.Equal(suppressed, []int{9*strangerBurst + 1, 4}) {
		t.Errorf("%v, left out were %v", lines, suppressed)
	}
}
