package raftmeta

import (
	"slices"
	"testing"
	"time"
)

// A wish is told to who has the file while somebody waits, and a moment longer; who waits is woken when it was given back or its holder ended.
func TestRecalls(t *testing.T) {
	r := newRecalls(7)
	f, g := wishedFile{1, 10}, wishedFile{1, 11}
	now := time.Hour
	isClosed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	told := func(origin uint64, want ...wishedFile) (uint64, <-chan struct{}) {
		t.Helper()
		files, version, changed := r.list(origin, now)
		slices.SortFunc(files, func(a, b wishedFile) int { return int(a.ino) - int(b.ino) })
		if !slices.Equal(files, want) {
			t.Fatalf("origin %d is told %v, want %v", origin, files, want)
		}
		return version, changed
	}
	wait := func(origin uint64, f wishedFile) (<-chan struct{}, func()) {
		t.Helper()
		gone, end, ok := r.wait(origin, f, now)
		if !ok {
			t.Fatal("too many wishes")
		}
		return gone, func() { end(now) }
	}
	v0, changed := told(1)
	gone1, end1 := wait(1, f)
	if !isClosed(changed) {
		t.Fatal("the holder was not woken")
	}
	v1, changed := told(1, f)
	if v1 == v0 {
		t.Fatal("another list has the same version")
	}
	gone2, end2 := wait(1, f)
	if isClosed(changed) {
		t.Fatal("a second waiter for the same file woke the holder")
	}
	wait(1, g)
	told(1, f, g)
	told(2)
	end1()
	now += wishLinger
	told(1, f, g)
	if isClosed(gone1) || isClosed(gone2) {
		t.Fatal("woken before it was given back")
	}
	r.gaveBack(2, []wishedFile{f}) // not its own
	told(1, f, g)
	r.gaveBack(1, []wishedFile{f})
	if !isClosed(gone2) {
		t.Fatal("given back, and who waits sleeps")
	}
	told(1, g)
	end2()
	// The next holder of the same file, which gives up nothing; who waited ends, and begins again soon.
	_, end3 := wait(2, f)
	told(2, f)
	end3()
	now += wishLinger - 1
	told(2, f)
	gone3, end3 := wait(2, f)
	end3()
	now += wishLinger
	if r.overdue(2, now, wishLinger) {
		t.Fatal("overdue, and nobody wishes any more")
	}
	told(2)
	if !isClosed(gone3) {
		t.Fatal("a wish without waiters stands")
	}
	// From one holder to another while somebody waits for the first one.
	gone4, end4 := wait(2, f)
	gone5, end5 := wait(1, f)
	if !isClosed(gone4) || isClosed(gone5) {
		t.Fatal("who waits for a former holder sleeps")
	}
	end4()
	told(1, f, g)
	told(2)
	// One that does not hear.
	now += time.Minute
	if r.overdue(1, now, time.Hour) || !r.overdue(1, now, time.Minute) || r.overdue(2, now, time.Minute) {
		t.Fatal("overdue at another time than after a minute")
	}
	// The holder ends.
	_, changed = told(1, f, g)
	r.keep([]uint64{2}, now)
	if !isClosed(gone5) || !isClosed(changed) {
		t.Fatal("the holder ended, and who waits sleeps")
	}
	end5()
	told(1)
	if r2 := newRecalls(8); func() bool { _, v, _ := r2.list(1, now); return v <= r.version }() {
		t.Fatal("the lists of the next leader are not told apart from those of this one")
	}
}
