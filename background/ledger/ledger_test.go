package ledger

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

func repair(pg uint32, spare int32) *metapb.WorkTask {
	return &metapb.WorkTask{Kind: metapb.WorkKind_WORK_REPAIR, Pg: pg, Spare: spare}
}

func running(t *metapb.WorkTask) *metapb.WorkTask {
	t = t.CloneVT()
	t.Running = true
	return t
}

// limits of a class repair with so many tasks and bytes per second.
func limits(tasks int, bytes uint64) Limits {
	l := Limits{Lapse: 10 * time.Second, Silence: 15 * time.Second, Fresh: 2 * time.Second}
	l.Classes[Repair] = ClassLimits{Tasks: tasks, BytesPerSecond: bytes}
	return l
}

// report returns which of the tasks were granted.
func report(t interface{ Fatal(...any) }, l *Ledger, id string, now time.Duration, tasks ...*metapb.WorkTask) (granted []uint32, rate uint64) {
	grants, ok := l.Report(id, 1, tasks, now)
	if !ok {
		t.Fatal("too many workers")
	}
	for _, g := range grants {
		granted = append(granted, tasks[g.Task].Pg)
		rate += g.BytesPerSecond
	}
	return granted, rate
}

func want(t *testing.T, got []uint32, pgs ...uint32) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(pgs) {
		t.Fatalf("groups %v may be repaired, want %v", got, pgs)
	}
}

// Over all workers, those with the least redundancy come first; of equal ones who has waited longest.
func TestLeastRedundancyFirst(t *testing.T) {
	l := New(limits(1, 0))
	got, _ := report(t, l, "a", 0, repair(1, 2), repair(2, 1))
	want(t, got, 2) // of its own the more urgent one
	got, _ = report(t, l, "b", 1, repair(3, 2))
	want(t, got)
	got, _ = report(t, l, "c", 2, repair(4, 1))
	want(t, got)
	got, _ = report(t, l, "d", 3, repair(5, 1))
	want(t, got)
	got, _ = report(t, l, "a", 4) // done, and the other one is not wanted any more
	want(t, got)
	got, _ = report(t, l, "b", 5, repair(3, 2))
	want(t, got) // the place is kept for c
	got, _ = report(t, l, "d", 6, repair(5, 1))
	want(t, got)
	got, _ = report(t, l, "c", 7, repair(4, 1))
	want(t, got, 4)
	got, _ = report(t, l, "c", 8, running(repair(4, 1)))
	want(t, got, 4)
}

// A place is not kept for a worker that does not ask any more.
func TestPlacesAreKeptForTheLiving(t *testing.T) {
	l := New(limits(1, 0))
	report(t, l, "a", 0, repair(1, 2))
	report(t, l, "urgent", 0, repair(2, 1))
	report(t, l, "a", time.Second)
	got, _ := report(t, l, "b", 1999*time.Millisecond, repair(3, 2))
	want(t, got)
	got, _ = report(t, l, "b", 2001*time.Millisecond, repair(3, 2))
	want(t, got, 3)
}

// Data that another loss would take away does not wait for work that is less urgent.
func TestTakenBack(t *testing.T) {
	l := New(limits(2, 0))
	report(t, l, "a", 0, repair(1, 1))
	report(t, l, "b", 0, repair(2, 2))
	got, _ := report(t, l, "c", 1, repair(3, 1))
	want(t, got)
	got, _ = report(t, l, "b", 2, running(repair(2, 2)))
	want(t, got, 2) // 1 is more urgent than 2, but nothing is in danger
	report(t, l, "c", 3, repair(3, 0))
	got, _ = report(t, l, "a", 4, running(repair(1, 1)))
	want(t, got, 1) // b has more redundancy
	got, _ = report(t, l, "b", 5, running(repair(2, 2)))
	want(t, got)
	got, _ = report(t, l, "c", 6, repair(3, 0))
	want(t, got, 3)
	report(t, l, "c", 7)
	got, _ = report(t, l, "b", 8, repair(2, 2))
	want(t, got, 2)
}

// A grant ends a while after its worker was heard, not before, and not before the worker itself lets it lapse.
func TestLapse(t *testing.T) {
	l := New(limits(1, 0))
	report(t, l, "a", 0, repair(1, 1))
	got, _ := report(t, l, "b", 15*time.Second-1, repair(2, 1))
	want(t, got)
	got, _ = report(t, l, "b", 15*time.Second, repair(2, 1))
	want(t, got, 2)
	// It comes back: the place is taken.
	got, _ = report(t, l, "a", 16*time.Second, running(repair(1, 1)))
	want(t, got)
	if lim := (Limits{Lapse: time.Hour}).WithDefaults(); lim.Silence < lim.Lapse {
		t.Errorf("%+v: two could have the same place", lim)
	}
}

// A new leader takes over what runs, as long as there is room; a worker's new run begins anew.
func TestTakenOver(t *testing.T) {
	l := New(limits(2, 0))
	got, _ := report(t, l, "a", 0, running(repair(1, 2)))
	want(t, got, 1)
	got, _ = report(t, l, "b", 0, running(repair(2, 2)))
	want(t, got, 2)
	got, _ = report(t, l, "c", 0, running(repair(3, 2)))
	want(t, got)
	report(t, l, "c", 1)
	grants, _ := l.Report("a", 2, []*metapb.WorkTask{repair(7, 2)}, 1)
	if len(grants) != 1 {
		t.Fatal("the worker that began anew does not have its place")
	}
}

// All bytes per second are given out, in equal parts, and never more.
func TestRates(t *testing.T) {
	l := New(limits(4, 1000))
	_, rate := report(t, l, "a", 0, repair(1, 1))
	if rate != 1000 {
		t.Fatalf("one alone has %d", rate)
	}
	got, _ := report(t, l, "b", 1, repair(2, 1))
	want(t, got) // a has to be told first
	if _, rate = report(t, l, "a", 2, running(repair(1, 1))); rate != 500 {
		t.Fatalf("one of two has %d", rate)
	}
	if _, rate = report(t, l, "b", 3, repair(2, 1)); rate != 500 {
		t.Fatalf("the other has %d", rate)
	}
	report(t, l, "a", 4)
	if _, rate = report(t, l, "b", 5, running(repair(2, 1))); rate != 1000 {
		t.Fatalf("who is left has %d", rate)
	}
}

// What has waited longest gets its turn although more urgent work comes without end, but not before data that is in danger.
func TestNobodyWaitsForEver(t *testing.T) {
	for _, spare := range []int32{1, 0} {
		l := New(limits(1, 0))
		report(t, l, "a", 0, repair(1, spare))
		report(t, l, "old", 0, repair(2, 5))
		turn := 0
		for i := uint32(1); i <= 3*turnOf && turn == 0; i++ {
			now := time.Duration(i)
			who, other := "b", "a"
			if i%2 == 0 {
				who, other = "a", "b"
			}
			report(t, l, who, now, repair(100+i, spare)) // waits whenever the one before ends
			report(t, l, other, now)
			if got, _ := report(t, l, "old", now, repair(2, 5)); len(got) == 1 {
				turn = int(i)
			} else if got, _ := report(t, l, who, now, repair(100+i, spare)); len(got) != 1 {
				t.Fatalf("round %d: nobody has the place", i)
			}
		}
		if spare > 0 && (turn == 0 || turn >= turnOf) || spare <= 0 && turn != 0 {
			t.Errorf("with others that have %d to spare its turn came in round %d", spare, turn)
		}
	}
}

// Whatever workers say, memory and answers are bounded, and what makes no sense is not granted.
func TestBounds(t *testing.T) {
	l := New(limits(1<<20, 0))
	var tasks []*metapb.WorkTask
	for i := range uint32(10 * MaxTasks) {
		tasks = append(tasks, repair(i, 1))
	}
	for i := range MaxWorkers {
		if _, ok := l.Report(fmt.Sprint(i), 1, tasks, 0); !ok {
			t.Fatalf("worker %d is one too many", i)
		}
	}
	if _, ok := l.Report("more", 1, tasks, 0); ok {
		t.Fatal("there is no end of workers")
	}
	n := 0
	for _, w := range l.workers {
		n += len(w.tasks)
	}
	if n != MaxWorkers*MaxTasks || len(l.List(0)) != n {
		t.Fatalf("%d tasks", n)
	}
	l.Expire(time.Minute)
	if len(l.workers) != 0 || l.busy != [Classes]int{} {
		t.Fatalf("%d workers are left, busy %v", len(l.workers), l.busy)
	}
	odd := []*metapb.WorkTask{repair(1, 1), repair(1, 1), {Kind: 77}, {}}
	if grants, _ := l.Report("odd", 1, odd, time.Hour); len(grants) != 1 || grants[0].Task != 0 {
		t.Fatalf("%v", grants)
	}
}

func TestList(t *testing.T) {
	l := New(limits(1, 100))
	report(t, l, "a", 0, &metapb.WorkTask{Kind: metapb.WorkKind_WORK_REPAIR, Pg: 1, BytesTotal: 1000})
	report(t, l, "b", 0, repair(2, 1))
	for i := range uint64(11) {
		report(t, l, "a", time.Duration(i)*time.Second, &metapb.WorkTask{Kind: metapb.WorkKind_WORK_REPAIR, Pg: 1, Running: true, BytesDone: 50 * i, BytesTotal: 1000})
	}
	e := l.List(10 * time.Second)
	if len(e) != 2 || !e[0].Running || e[0].Worker != "a" || e[0].BytesPerSecond != 50 || e[0].ETASeconds != 10 || e[1].Running || e[1].PG != 2 {
		t.Fatalf("%+v", e)
	}
}

// TestModel draws workers that want, do, finish, forget and fall silent, and checks at each report what must hold.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const workers = 5
		lim := limits(rapid.IntRange(1, 3).Draw(rt, "tasks"), rapid.SampledFrom([]uint64{0, 1000}).Draw(rt, "bytes"))
		l := New(lim)
		type state struct {
			heard time.Duration
			said  bool
			run   uint64
			tasks map[uint32]*metapb.WorkTask
			has   uint32 // group that it may do; 0: none
			told  uint64
		}
		ws := make([]*state, workers)
		for i := range ws {
			ws[i] = &state{tasks: map[uint32]*metapb.WorkTask{}}
		}
		now := time.Duration(0)
		for range rapid.IntRange(1, 150).Draw(rt, "steps") {
			now += time.Duration(rapid.SampledFrom([]int{0, 100, 300, 300, 1000, 6000}).Draw(rt, "ms")) * time.Millisecond
			i := rapid.IntRange(0, workers-1).Draw(rt, "worker")
			w := ws[i]
			switch rapid.IntRange(0, 5).Draw(rt, "event") {
			case 0, 1:
				pg := uint32(rapid.IntRange(1, 6).Draw(rt, "pg"))
				if w.tasks[pg] == nil {
					w.tasks[pg] = repair(pg, int32(rapid.IntRange(-1, 2).Draw(rt, "spare")))
				}
			case 2: // it is done
				delete(w.tasks, w.has)
				w.has = 0
			case 3:
				if rapid.IntRange(0, 3).Draw(rt, "restart") == 0 {
					*w = state{run: w.run + 1, tasks: map[uint32]*metapb.WorkTask{}, heard: w.heard, said: w.said}
				}
			case 4:
				if rapid.IntRange(0, 9).Draw(rt, "new leader") == 0 {
					l = New(lim)
					for _, o := range ws {
						o.said = false
					}
				}
			}
			// Who others are: what the ledger may know of them.
			busy, told, urgent := 0, uint64(0), []int32{}
			for _, o := range ws {
				if o == w || !o.said || now-o.heard >= lim.Silence {
					continue
				}
				if o.has != 0 {
					busy, told = busy+1, told+o.told
					continue
				}
				if now-o.heard < lim.Fresh && len(o.tasks) > 0 {
					least := int32(99)
					for _, t := range o.tasks {
						least = min(least, t.Spare)
					}
					urgent = append(urgent, least)
				}
			}
			var list []*metapb.WorkTask
			for pg := range uint32(7) {
				if t := w.tasks[pg]; t != nil {
					t = t.CloneVT()
					t.Running = pg == w.has
					list = append(list, t)
				}
			}
			before := w.has
			got, ok := l.Report(fmt.Sprint(i), w.run, list, now)
			if !ok || len(got) > 1 {
				rt.Fatalf("%v %v", got, ok)
			}
			w.heard, w.said, w.has, w.told = now, true, 0, 0
			if len(got) == 0 {
				continue
			}
			g := list[got[0].Task]
			w.has, w.told = g.Pg, got[0].BytesPerSecond
			limit := lim.Classes[Repair]
			if busy+1 > limit.Tasks {
				rt.Fatalf("%d tasks at once, %d are the limit", busy+1, limit.Tasks)
			}
			if b := limit.BytesPerSecond; b > 0 && (w.told == 0 || told+w.told > b+uint64(limit.Tasks)) {
				rt.Fatalf("%d bytes per second beside %d of others, %d are the limit", w.told, told, b)
			}
			if before != w.has {
				ahead, danger := 0, g.Spare <= 0
				for _, s := range urgent {
					danger = danger || s <= 0
					if s < g.Spare {
						ahead++
					}
				}
				// A turn of the oldest comes only while nothing is in danger.
				if danger && ahead >= limit.Tasks-busy {
					rt.Fatalf("granted with %d to spare, while %v wait and %d of %d places were taken", g.Spare, urgent, busy, limit.Tasks)
				}
			}
		}
		if len(l.workers) > workers {
			rt.Fatalf("%d workers are remembered", len(l.workers))
		}
	})
}
