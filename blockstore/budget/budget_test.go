package budget

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 1 << 20

// moves is how many bytes work that never pauses moves per second, in pieces of n, while clients move so many.
func moves(n int, clients float64) float64 {
	const tick, begin, end = time.Millisecond, 10 * time.Second, 40 * time.Second
	a := account{limit: limit}
	moved := 0.0
	next := time.Duration(0)
	for now := time.Duration(0); now < end; now += tick {
		a.client(now, int(clients*tick.Seconds()))
		for now >= next {
			next = now + a.due(now, a.reserve(now, n))
			if now >= begin {
				moved += float64(n)
			}
			if next == now {
				next--
			}
		}
	}
	return moved / (end - begin).Seconds()
}

func TestWhatClientsLeave(t *testing.T) {
	for _, c := range []struct{ clients, want float64 }{
		{0, limit}, {limit / 4, limit * 3 / 4}, {limit / 2, limit / 2}, {limit, limit / LeastPart}, {8 * limit, limit / LeastPart},
	} {
		got := moves(4096, c.clients)
		if got < 0.9*c.want || got > 1.1*c.want {
			t.Errorf("clients move %.0f bytes per second: background work %.0f, want about %.0f of %d", c.clients, got, c.want, limit)
		}
	}
}

// Whatever clients do and whoever waits, no more is moved in any time than the limit and the burst, and in their order.
func TestNeverMoreThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := account{limit: limit}
		var now time.Duration
		type piece struct {
			paid float64
			n    int
		}
		var waiting []piece
		type mark struct {
			at  time.Duration
			sum float64
		}
		marks := []mark{{0, 0}} // when nobody waited
		sum := 0.0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 400).Draw(t, "ms")) * time.Millisecond
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				a.client(now, rapid.IntRange(0, 4*limit).Draw(t, "client"))
			case 1:
				n := rapid.IntRange(1, 2*limit).Draw(t, "n")
				waiting = append(waiting, piece{a.reserve(now, n), n})
			}
			for len(waiting) > 0 && a.due(now, waiting[0].paid) == 0 {
				sum += float64(waiting[0].n)
				waiting = waiting[1:]
			}
			for _, w := range waiting {
				if a.due(now, w.paid) == 0 {
					t.Fatal("a later one may begin before an earlier one")
				}
			}
			for _, m := range marks {
				if most := limit * (now - m.at + Burst).Seconds(); sum-m.sum > most+1 {
					t.Fatalf("%.0f bytes in %v, at most %.0f", sum-m.sum, now-m.at, most)
				}
			}
			if len(waiting) == 0 {
				marks = append(marks, mark{now, sum})
			}
		}
	})
}

func TestGiveBack(t *testing.T) {
	a := account{limit: limit}
	paid := a.reserve(0, limit)
	a.giveBack(paid, limit)
	if d := a.due(0, a.reserve(0, limit)); d > time.Second+time.Millisecond {
		t.Errorf("%v after what was given back", d)
	}
	first, second := a.reserve(0, 10), a.reserve(0, 10)
	a.giveBack(first, 10) // somebody waits behind it
	if a.out != second {
		t.Error("what was paid for was given out again")
	}
}

// Background work lets the calls of clients pass.
func TestYields(t *testing.T) {
	b := New(1 << 40)
	b.Begin(1)
	done := make(chan error, 1)
	b.Begin(1)
	go func() { done <- b.WaitN(t.Context(), 1) }()
	for {
		b.mu.Lock()
		waits := b.quiet != nil
		b.mu.Unlock()
		if waits {
			break
		}
		select {
		case err := <-done: // YieldMax is over, on a machine that did nothing else meanwhile
			if err != nil {
				t.Fatal(err)
			}
			done <- nil
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	b.End()
	b.End()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := b.WaitN(t.Context(), 1); err != nil || b.quiet != nil {
		t.Fatalf("%v, without clients", err)
	}
	if moved, clients := b.Totals(); moved != 2 || clients != 2 {
		t.Errorf("%d bytes moved in the background, %d by clients", moved, clients)
	}
}

func TestEndOfContext(t *testing.T) {
	b := New(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.WaitN(ctx, 1000); vfs.KindOf(err) != vfs.KindCanceled {
		t.Fatal(err)
	}
	if b.a.out > 1 {
		t.Errorf("%v bytes are given out", b.a.out)
	}
}

func TestNone(t *testing.T) {
	b := New(-1)
	b.Begin(1)
	b.End()
	if err := b.WaitN(t.Context(), 1<<40); b != nil || err != nil || b.Limit() != 0 {
		t.Fatal(b, err)
	}
	if New(0).Limit() != Default {
		t.Error("no default")
	}
}
