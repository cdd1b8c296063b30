package machine

import "errors"

// writer is the goroutine that writes to the store: Fatalf of the store ends the goroutine that it is called on, or leaves it waiting for ever, and
// Raft's must go on. It is one for all rounds, because each new one would have to grow its stack.
type writer struct {
	work  chan func() error
	done  chan error
	ended chan struct{}
	dead  bool // it ended, or hangs; used by who calls do
}

func newWriter() *writer {
	w := &writer{work: make(chan func() error), done: make(chan error, 1), ended: make(chan struct{})}
	go w.run()
	return w
}

func (w *writer) run() {
	defer close(w.ended)
	for fn := range w.work {
		w.call(fn)
	}
}

// call calls fn and answers, also when Fatalf ends the goroutine.
func (w *writer) call(fn func() error) {
	err := errStoreFatal
	defer func() { w.done <- err }()
	err = noPanic(fn)
}

// do has fn called and waits for it, but not when the store gave up: fn may never return then. One at a time.
func (w *writer) do(broken <-chan struct{}, fn func() error) error {
	if w.dead {
		return errStoreFatal
	}
	w.work <- fn
	var err error
	select {
	case err = <-w.done:
	case <-broken:
		select {
		case err = <-w.done:
		default:
			err = errStoreFatal
		}
	}
	w.dead = errors.Is(err, errStoreFatal)
	return err
}

// close ends the goroutine and waits for that, unless it hangs.
func (w *writer) close() {
	close(w.work)
	if !w.dead {
		<-w.ended
	}
}
