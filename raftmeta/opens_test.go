package raftmeta

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// A question goes to each gateway until that has answered; those that ended need not.
func TestOpensAsk(t *testing.T) {
	u := newUnlocks(3)
	f := lockedFile{1, 10}
	_, from, woken, end := u.begin(8, u.version, nil, nil)
	id, a, ok := u.ask(f, []uint64{8, 9})
	if !ok {
		t.Fatal("refused")
	}
	<-woken
	end()
	asked := func(origin uint64, want bool) {
		t.Helper()
		got := u.since(origin, from, nil).asks
		if (len(got) == 1 && got[0].Id == id && got[0].File.Ino == 10) != want || len(got) > 1 {
			t.Fatalf("origin %d is asked %v, want %v", origin, got, want)
		}
	}
	outcome := func(open, all bool, registered ...uint64) {
		t.Helper()
		if o, n := u.outcome(a, registered); o != open || n != all {
			t.Fatalf("open %v, all %v; want %v, %v", o, n, open, all)
		}
	}
	asked(8, true)
	asked(9, true)
	asked(7, false)
	outcome(false, false, 8, 9)
	u.answered(7, []*metapb.OpensAnswer{{Id: id, Open: true}}) // was not asked
	u.answered(9, []*metapb.OpensAnswer{{Id: id}, {Id: 99}})
	<-a.changed
	asked(9, false)
	asked(8, true)
	outcome(false, false, 8, 9)
	outcome(false, true, 9) // 8 has ended
	u.answered(8, []*metapb.OpensAnswer{{Id: id, Open: true}})
	outcome(true, true, 8, 9)
	u.endAsk(id)
	asked(8, false)
	for i := range maxAsks {
		if _, _, ok := u.ask(f, nil); !ok {
			t.Fatalf("refused after %d", i)
		}
	}
	if _, _, ok := u.ask(f, nil); ok {
		t.Error("too many questions")
	}
}

// The same at a leader: gateways that share answer, the one that asks and one that is alone are not asked, and one that has ended is not waited for.
func TestOthersOpen(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, func(int, *Options) {})
	raiseLevel(t, c, 1)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	register := func(name string, several bool) (*Client, *Lease) {
		t.Helper()
		cl := c.clientWith(func(o *ClientOptions) { o.AttemptTimeout = patience })
		l, err := cl.RegisterLeased(ctx, 1, name, fmt.Appendf(nil, "%16s", name), LeaseOptions{Several: several})
		if err != nil {
			t.Fatal(err)
		}
		return cl, l
	}
	asks, mine := register("asks", true)
	register("alone", false)
	_, gone := register("gone", true)
	open := []uint64{7}
	heard := make(chan struct{})
	answers, theirs := register("answers", true)
	go func() {
		defer close(heard)
		answers.Unlocks(ctx, 1, func() Awaited { return Awaited{Origin: theirs.Origin()} }, func(Unlocked) {}, func(f *metapb.FileId) bool {
			return f.Fs == 1 && slices.Contains(open, f.Ino)
		})
	}()
	ask := func(ino uint64) (bool, bool) {
		t.Helper()
		var is, all bool
		c.eventually("the leader to answer", func() bool {
			var err error
			is, all, err = asks.OthersOpen(ctx, 1, mine.Origin(), 1, ino)
			return err == nil
		})
		return is, all
	}
	if is, _ := ask(7); !is {
		t.Error("what is open is not told of")
	}
	if is, all := ask(8); is || all {
		t.Errorf("open %v, all %v, and one does not answer", is, all)
	}
	if err := gone.End(ctx, true); err != nil {
		t.Fatal(err)
	}
	if is, all := ask(8); is || !all {
		t.Errorf("open %v, all %v", is, all)
	}
	cancel()
	<-heard
}
