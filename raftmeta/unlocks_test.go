package raftmeta

import (
	"context"
	"slices"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Who asks hears of each release since the version that it knows, whenever it came, and who is in others' way; and of all files when that is not known any more.
func TestUnlocks(t *testing.T) {
	u := newUnlocks(7)
	f, g, h := lockedFile{1, 10}, lockedFile{1, 11}, lockedFile{2, 10}
	since := func(version uint64, all bool, files []lockedFile, want ...lockedFile) uint64 {
		t.Helper()
		n := u.since(0, version, files)
		if !slices.Equal(n.freed, want) || n.all != all {
			t.Fatalf("since %#x: %+v; want %v, all %v", version, n, want, all)
		}
		return n.version
	}
	is := func(woken <-chan struct{}, want bool) {
		t.Helper()
		select {
		case <-woken:
			if !want {
				t.Fatal("woken")
			}
		default:
			if want {
				t.Fatal("not woken")
			}
		}
	}
	v := since(0, true, []lockedFile{f})
	since(v+1, true, []lockedFile{f}) // of a leader that knew more
	known, from, woken, end := u.begin(1, v, []lockedFile{f, g}, nil)
	if !known.empty() || from != v {
		t.Fatalf("%+v from %#x", known, from)
	}
	u.note(h)
	is(woken, false)
	u.note(g, h, g)
	is(woken, true)
	end()
	if len(u.waiting) != 0 {
		t.Fatalf("%d files are awaited by nobody", len(u.waiting))
	}
	since(v, false, []lockedFile{f, g}, g)
	v2 := since(v, false, []lockedFile{f})
	since(v, false, []lockedFile{h, g}, h, g) // asked about only now

	// Who is in the way is told to all but the one that says so.
	_, _, others, endOthers := u.begin(2, v2, nil, nil)
	_, from, own, endOwn := u.begin(1, v2, []lockedFile{f}, []uint64{5, 6, 5})
	is(others, true)
	is(own, false)
	if n := u.since(0, v2, nil); !slices.Equal(n.against, []uint64{5, 6}) || n.all {
		t.Fatalf("%+v", n)
	}
	if n := u.since(1, from, []lockedFile{f}); !n.empty() {
		t.Fatalf("who is in the way is told to who said it: %+v", n)
	}
	u.note(anyFile)
	is(own, true)
	endOthers()
	endOwn()
	v3 := since(from, true, []lockedFile{f})
	since(v3, false, []lockedFile{f})
	for range unlocksKept {
		u.note(h)
	}
	since(v3, false, []lockedFile{f})
	u.note(h)
	since(v3, true, []lockedFile{f})
}

func TestFrees(t *testing.T) {
	lock := func(kind metapb.LockType) *metapb.Command {
		return &metapb.Command{Fs: 3, Op: &metapb.Command_SetLock{SetLock: &metapb.SetLock{Ino: 5, Type: kind}}}
	}
	held := []*metapb.LockOwner{{Owner: []byte("o")}}
	for _, c := range []struct {
		cmd  *metapb.Command
		want []lockedFile
	}{
		{lock(metapb.LockType_LOCK_NONE), []lockedFile{{3, 5}}},
		{lock(metapb.LockType_LOCK_READ), []lockedFile{{3, 5}}},
		{lock(metapb.LockType_LOCK_WRITE), nil},
		{&metapb.Command{Fs: 3, Op: &metapb.Command_CloseFiles{CloseFiles: &metapb.CloseFiles{Files: []*metapb.FileClose{
			{Ino: 1}, {Ino: 2, Locks: held}, {Fs: 4, Ino: 3, Locks: held},
		}}}}, []lockedFile{{3, 2}, {4, 3}}},
		{&metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{1}}}}, []lockedFile{anyFile}},
		{&metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{}}}, nil},
		{&metapb.Command{Fs: 3, Op: &metapb.Command_Purge{Purge: &metapb.Purge{}}}, nil},
	} {
		if got := frees(c.cmd); !slices.Equal(got, c.want) {
			t.Errorf("%v frees %v, want %v", c.cmd, got, c.want)
		}
	}
}

// A gateway hears of a release that another one's command made at a leader, and asks about what is awaited then.
func TestUnlocksOverTheWire(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, func(int, *Options) {})
	raiseLevel(t, c, 1)
	cl := c.gateway(1, "gw")
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	file := &metapb.FileId{Fs: 1, Ino: 9}
	heard := make(chan bool, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		cl.Unlocks(ctx, 1, func() Awaited { return Awaited{Files: []*metapb.FileId{file}} }, func(u Unlocked) {
			for _, f := range u.Files {
				if f.Fs != 1 || f.Ino != 9 {
					t.Errorf("heard of %v", f)
				}
			}
			heard <- u.All
		}, func(*metapb.FileId) bool { return false })
	}()
	if !<-heard {
		t.Error("what was released before is not in doubt")
	}
	// The command need not succeed.
	_, _ = cl.Apply(ctx, 1, &metapb.Command{Fs: 1, Op: &metapb.Command_CloseFiles{CloseFiles: &metapb.CloseFiles{Files: []*metapb.FileClose{
		{Ino: 9, Client: 1, Locks: []*metapb.LockOwner{{Owner: []byte("o")}}},
	}}}})
	if <-heard {
		t.Error("all is in doubt")
	}
	cancel()
	<-done
}
