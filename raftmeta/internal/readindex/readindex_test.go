package readindex

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a configuration of voters whose answers the test gives.
type fake struct {
	mu     sync.Mutex
	voters []string
	own    uint64
	asked  chan question
}

type question struct {
	voter  string
	answer chan<- uint64 // 0: an error
}

func newFake(t *testing.T, voters ...string) (*fake, *Confirmer) {
	return newPatient(t, 0, voters...)
}

// newPatient is newFake with a patience.
func newPatient(t *testing.T, patience time.Duration, voters ...string) (*fake, *Confirmer) {
	f := &fake{voters: voters, own: 5, asked: make(chan question)}
	c := New(Options{
		Term: 5, Self: "a", Patience: patience, Timeout: time.Hour, // nobody is asked again because the machine is busy

		Voters:  func() []string { f.mu.Lock(); defer f.mu.Unlock(); return f.voters },
		Current: func() uint64 { f.mu.Lock(); defer f.mu.Unlock(); return f.own },
		Ask: func(ctx context.Context, voter string) (uint64, error) {
			ch := make(chan uint64, 1)
			select {
			case f.asked <- question{voter, ch}:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			select {
			case term := <-ch:
				if term == 0 {
					return 0, errors.New("down")
				}
				return term, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		},
	})
	t.Cleanup(func() { c.Close(errors.New("closed")) })
	return f, c
}

func (f *fake) set(own uint64, voters ...string) {
	f.mu.Lock()
	f.own, f.voters = own, voters
	f.mu.Unlock()
}

func confirm(c *Confirmer) <-chan error {
	ch := make(chan error, 1)
	go func() { ch <- c.Confirm(context.Background()) }()
	return ch
}

// queued waits until n reads wait for the next round.
func queued(c *Confirmer, n int) {
	for {
		c.mu.Lock()
		l := len(c.next)
		c.mu.Unlock()
		if l == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func pending(t *testing.T, ch <-chan error) {
	t.Helper()
	select {
	case err := <-ch:
		t.Fatalf("answered without a majority: %v", err)
	default:
	}
}

func TestOneVoter(t *testing.T) {
	f, c := newFake(t, "a")
	if err := c.Confirm(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.set(6, "a")
	if err := c.Confirm(context.Background()); !errors.Is(err, ErrDeposed) {
		t.Fatalf("own term rose: %v", err)
	}
}

func TestMajorityOfThree(t *testing.T) {
	f, c := newFake(t, "a", "b", "c")
	done := confirm(c)
	q := <-f.asked
	pending(t, done)
	q.answer <- 5
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// An answer to a question asked before a read began does not confirm it.
func TestLateAnswerDoesNotCount(t *testing.T) {
	f, c := newFake(t, "a", "b", "c")
	first := confirm(c)
	q1, q2 := <-f.asked, <-f.asked
	second := confirm(c)
	queued(c, 1)
	q1.answer <- 5
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	// q2 was asked in the first round: the pause of a process looks like this.
	q2.answer <- 5
	q3 := <-f.asked
	pending(t, second)
	q3.answer <- 5
	if err := <-second; err != nil {
		t.Fatal(err)
	}
}

func TestLaterTermDeposes(t *testing.T) {
	f, c := newFake(t, "a", "b", "c")
	done := confirm(c)
	(<-f.asked).answer <- 6
	if err := <-done; !errors.Is(err, ErrDeposed) {
		t.Fatalf("got %v", err)
	}
	if err := c.Confirm(context.Background()); !errors.Is(err, ErrDeposed) {
		t.Fatalf("after it: %v", err)
	}
}

func TestFailedQuestionIsRepeated(t *testing.T) {
	f, c := newFake(t, "a", "b")
	done := confirm(c)
	(<-f.asked).answer <- 0
	(<-f.asked).answer <- 4 // a voter that has not heard of our term has voted for none after it
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// One round serves everybody who waited when it began.
func TestCoalescing(t *testing.T) {
	f, c := newFake(t, "a", "b")
	first := confirm(c)
	q := <-f.asked
	var all []<-chan error
	for range 50 {
		all = append(all, confirm(c))
	}
	queued(c, 50)
	q.answer <- 5
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	(<-f.asked).answer <- 5
	for _, ch := range all {
		if err := <-ch; err != nil {
			t.Fatal(err)
		}
	}
	if n := c.Rounds(); n != 2 {
		t.Fatalf("%d rounds", n)
	}
}

// The voters are those of the newest configuration when the round begins.
func TestConfigurationChange(t *testing.T) {
	f, c := newFake(t, "a", "b")
	done := confirm(c)
	(<-f.asked).answer <- 5
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.set(5, "a", "b", "c", "d", "e")
	done = confirm(c)
	(<-f.asked).answer <- 5
	q := <-f.asked
	pending(t, done)
	q.answer <- 5
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// A leader that is not a voter itself does not count.
	f.set(5, "b")
	done = confirm(c)
	for {
		q := <-f.asked
		q.answer <- 5
		if q.voter == "b" {
			break
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.set(5)
	ctx, cancel := context.WithCancel(context.Background())
	none := make(chan error, 1)
	go func() { none <- c.Confirm(ctx) }()
	cancel()
	if err := <-none; !errors.Is(err, context.Canceled) {
		t.Fatalf("without any voter: %v", err)
	}
}

func TestCloseFailsReads(t *testing.T) {
	f, c := newFake(t, "a", "b")
	done := confirm(c)
	<-f.asked
	cause := errors.New("over")
	c.Close(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Fatalf("got %v", err)
	}
}

// As many are asked as make a majority, the same ones, until one of them fails.
func TestFewAreAsked(t *testing.T) {
	f, c := newPatient(t, time.Hour, "a", "b", "c")
	first := ""
	for range 20 {
		done := confirm(c)
		q := <-f.asked
		if first == "" {
			first = q.voter
		}
		if q.voter != first {
			t.Fatalf("%s was asked, and %s before", q.voter, first)
		}
		q.answer <- 5
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	done := confirm(c)
	q := <-f.asked
	for ; q.voter == first; q = <-f.asked {
		q.answer <- 0
	}
	q.answer <- 5
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	second, again := q.voter, 0
	for range 20 {
		done := confirm(c)
		for ended := false; !ended; {
			select {
			case q := <-f.asked:
				if q.voter != second {
					again++ // of the round before
				}
				q.answer <- 5
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				ended = true
			}
		}
	}
	if again > 1 {
		t.Fatalf("%s, which failed, was asked %d times in 20 rounds that need one", first, again)
	}
}

// Who does not answer is not waited for.
func TestSilentVoterIsNotWaitedFor(t *testing.T) {
	f, c := newPatient(t, time.Millisecond, "a", "b", "c")
	done := confirm(c)
	silent := <-f.asked
	for range 20 {
		q := <-f.asked
		if q.voter == silent.voter {
			t.Fatalf("%s was asked twice at a time", q.voter)
		}
		q.answer <- 5
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		done = confirm(c)
	}
}
