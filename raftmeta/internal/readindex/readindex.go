// Package readindex confirms that a leader was still the leader after a read
// began, without clocks.
//
// # Protocol
//
// A read notes the commit index, then calls Confirm, and is linearizable at that index if it
// returns nil. Confirm asks the voters of the newest configuration for their current Raft term, and
// needs a majority, the leader included, that has not seen a later term. A
// voter raises and persists its term before it grants a vote, and majorities
// intersect; so when such answers were given no leader of a later term had been elected, nor had it committed
// anything the read could miss. Only answers to questions asked after Confirm began may count: an
// answer that lay in a socket while this process was paused says nothing about now. That is what
// Raft's own VerifyLeader gets wrong.
//
// One round of questions serves all reads that wait when it begins; reads that come while
// it runs are served by the next. A round first asks as many voters as make a majority, those that answered
// lately; when one of them fails, or has not answered after Patience, all the others as well, and those that did are asked first from then on. Each
// voter is asked by a goroutine of its own, one question at a time. So a slow voter delays rounds by Patience once, and then nobody as
// long as there is a majority without it.
//
// A Confirmer belongs to one term of one leader, and is closed when that ends.
package readindex

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// defaultTimeout bounds one question; it only decides when it is asked again.
	defaultTimeout = time.Second
	// askPause is the pause after a failed question.
	askPause = 20 * time.Millisecond
	// defaultPatience is more than an answer takes within a site, and little for who waits.
	defaultPatience = 2 * time.Millisecond
)

// Options configures a Confirmer.
type Options struct {
	Term uint64 // the leader's
	Self string // the leader's id
	// Voters lists the voters of the newest configuration, also if it is not committed yet.
	Voters func() []string
	// Current is this process's own Raft term.
	Current func() uint64
	// Ask asks a voter for its current Raft term. The answer must be one that was made after Ask was called.
	Ask func(ctx context.Context, voter string) (uint64, error)
	// Patience is how long the first voters are waited for until the others are asked too; default 2 ms.
	Patience time.Duration
	Timeout  time.Duration // of one question; default 1 s
}

// ErrDeposed is the cause of a confirmation that failed because a later term exists.
var ErrDeposed = errors.New("a later term exists: this leader was deposed")

// Confirmer runs the rounds of one leader's term.
type Confirmer struct {
	opt    Options
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	round   uint64 // the newest round that began
	running bool
	wait    []chan error      // reads of the running round
	next    []chan error      // reads of the round after it
	voters  map[string]*voter // others than self
	need    int               // answers of others that make a majority in this round
	got     int
	rounds  uint64 // completed
	failed  error
	order   []string    // others than self, in the order in which they are asked
	wide    bool        // all are asked in this round
	timer   *time.Timer // calls widen in a round that lasts
}

// voter is one other voter of the configuration.
type voter struct {
	wake  chan struct{} // 1: a new round began
	stop  context.CancelFunc
	due   uint64 // the newest round in which it is to be asked
	round uint64 // the newest round it answered
}

// New makes a Confirmer; Close ends it.
func New(o Options) *Confirmer {
	if o.Patience <= 0 {
		o.Patience = defaultPatience
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	c := &Confirmer{opt: o, voters: map[string]*voter{}}
	c.timer = time.AfterFunc(time.Hour, func() { c.mu.Lock(); defer c.mu.Unlock(); c.widen() })
	c.timer.Stop()
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// Close fails waiting reads with cause and waits for the goroutines.
func (c *Confirmer) Close(cause error) {
	c.fail(cause)
	c.wg.Wait()
}

func (c *Confirmer) fail(cause error) {
	c.mu.Lock()
	if c.failed == nil {
		c.failed = cause
	}
	for _, ch := range append(c.wait, c.next...) {
		ch <- c.failed
	}
	c.wait, c.next = nil, nil
	c.timer.Stop()
	c.mu.Unlock()
	c.cancel(cause)
}

// Rounds is the number of completed rounds.
func (c *Confirmer) Rounds() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rounds
}

// Confirm returns nil if, at some moment after it was called, no later term's leader had been elected.
func (c *Confirmer) Confirm(ctx context.Context) error {
	ch := make(chan error, 1)
	c.mu.Lock()
	if c.failed != nil {
		c.mu.Unlock()
		return c.failed
	}
	c.next = append(c.next, ch)
	if !c.running {
		c.begin()
	}
	c.mu.Unlock()
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin starts a round for the reads that wait. c.mu is held.
func (c *Confirmer) begin() {
	c.round++
	c.running = true
	c.wait, c.next = c.next, nil
	c.got = 0
	voters := c.opt.Voters()
	majority := len(voters)/2 + 1
	c.need = majority - 1 // itself
	c.wide = false
	if !c.follow(voters) {
		c.need = majority // who leads votes not, as it is removed
	}
	for _, id := range c.order[:min(max(c.need, 0), len(c.order))] {
		c.wake(id)
	}
	if len(voters) == 0 {
		c.need = 1 // nobody can confirm without a configuration
	}
	if c.decide(); c.running && len(c.order) > c.need {
		c.timer.Reset(c.opt.Patience)
	}
}

// follow makes order and voters those of the configuration, and reports whether it has self. c.mu is held.
func (c *Confirmer) follow(ids []string) (self bool) {
	for _, id := range ids {
		if id == c.opt.Self {
			self = true
			continue
		}
		if c.voters[id] != nil {
			continue
		}
		ctx, stop := context.WithCancel(c.ctx)
		v := &voter{wake: make(chan struct{}, 1), stop: stop}
		c.voters[id] = v
		c.order = append(c.order, id)
		c.wg.Add(1)
		go c.ask(ctx, id, v)
	}
	c.order = slices.DeleteFunc(c.order, func(id string) bool {
		if slices.Contains(ids, id) {
			return false
		}
		c.voters[id].stop()
		delete(c.voters, id)
		return true
	})
	return self
}

// wake has a voter asked in this round. c.mu is held.
func (c *Confirmer) wake(id string) {
	v := c.voters[id]
	v.due = c.round
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// widen has all voters asked in this round that were not, and those that did not answer asked last from now on. c.mu is held.
func (c *Confirmer) widen() {
	if !c.running || c.wide || c.failed != nil {
		return
	}
	c.wide = true
	var answered, late []string
	for _, id := range c.order {
		v := c.voters[id]
		switch {
		case v.due != c.round:
			c.wake(id)
			answered = append(answered, id) // perhaps
		case v.round == c.round:
			answered = append(answered, id)
		default:
			late = append(late, id)
		}
	}
	c.order = append(answered, late...)
}

// decide ends the round if it has its majority. c.mu is held.
func (c *Confirmer) decide() {
	if !c.running || c.got < c.need {
		return
	}
	var err error
	if t := c.opt.Current(); t != c.opt.Term {
		err = vfs.Errorf(vfs.KindNotLeader, "readindex", "%w", ErrDeposed)
	}
	for _, ch := range c.wait {
		ch <- err
	}
	c.wait = nil
	c.rounds++
	c.running = false
	c.timer.Stop()
	if len(c.next) > 0 {
		c.begin()
	}
}

// ask is the goroutine that asks one voter, once per round.
func (c *Confirmer) ask(ctx context.Context, id string, v *voter) {
	defer c.wg.Done()
	defer v.stop()
	for {
		select {
		case <-v.wake:
		case <-ctx.Done():
			return
		}
		for {
			c.mu.Lock()
			round := c.round // the question belongs to the newest round
			due := c.running && v.due == round && v.round < round
			c.mu.Unlock()
			if !due || ctx.Err() != nil {
				break
			}
			actx, cancel := context.WithTimeout(ctx, c.opt.Timeout)
			term, err := c.opt.Ask(actx, id)
			cancel()
			if err != nil {
				c.mu.Lock()
				if c.round == round {
					c.widen()
				}
				c.mu.Unlock()
				select {
				case <-time.After(askPause):
				case <-ctx.Done():
				}
				continue
			}
			c.answer(v, id, round, term)
		}
	}
}

func (c *Confirmer) answer(v *voter, id string, round, term uint64) {
	c.mu.Lock()
	if term > c.opt.Term {
		c.mu.Unlock()
		c.fail(vfs.Errorf(vfs.KindNotLeader, "readindex", "%w", ErrDeposed))
		return
	}
	defer c.mu.Unlock()
	v.round = max(v.round, round)
	// A voter that was removed, or a round that has ended, does not count. A voter whose
	// term is below ours does: it has not voted in a later one either.
	if c.voters[id] != v || round != c.round || !c.running {
		return
	}
	c.got++
	c.decide()
}
