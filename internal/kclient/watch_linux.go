package kclient

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrGuestHangs says that a guest's kernel stood still, and was ended after a diagnosis of it had been logged. No program inside a guest can bring that about, nor can a server.
var ErrGuestHangs = errors.New("the guest's kernel hangs")

// life is what is known of a guest's signs of life.
type life struct {
	heard   atomic.Uint64
	waiting atomic.Bool
	// These are the numbers of looks, which only a test of this package changes.
	wakeAfter, hangsAfter atomic.Int64
	woken                 atomic.Uint64 // pairs of signals sent
	hangs                 atomic.Bool   // set before the guest is ended for it
}

// lifeReader notes when something is read, and when something is waited for.
type lifeReader struct {
	r io.Reader
	l *life
}

func (l lifeReader) Read(b []byte) (int, error) {
	l.l.waiting.Store(true)
	n, err := l.r.Read(b)
	l.l.waiting.Store(false)
	l.l.heard.Add(1)
	return n, err
}

// hangTold is a test that wants to know that a guest of it hangs, before anything else follows from that.
type hangTold interface{ guestHangs(name string) }

// watch looks at the guest until it has ended. One that is silent is sent the signals that its kernel may have lost; one that stays silent though it could run is ended.
//
// Signals: a SIGALRM makes the kernel look at its timers, a SIGIO at its devices, and nothing else; both find nothing to do if none was lost.
func (r *Running) watch() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	s := silence{}
	pid := r.cmd.Process.Pid
	var before []task
	var first string
	at := time.Now()
	for {
		select {
		case <-r.ended:
			return
		case <-ticker.C:
		}
		l := look{heard: r.life.heard.Load(), waiting: r.life.waiting.Load()}
		if l.heard == s.heard && l.waiting {
			now, when := tasks(pid), time.Now()
			l.starved = before == nil || starved(before, now, when.Sub(at))
			before, at = now, when
		} else {
			before = nil
		}
		s.wakeAfter, s.hangsAfter = int(r.life.wakeAfter.Load()), int(r.life.hangsAfter.Load())
		looks, fair, sent := s.looks, s.fair, s.wakeUp
		switch s.look(l) {
		case wake:
			if sent == 0 {
				first = diagnosis(pid)
			}
			if !caught(pid, int(syscall.SIGALRM), int(syscall.SIGIO)) { // it has not got that far
				continue
			}
			_ = r.cmd.Process.Signal(syscall.SIGALRM) // one that is gone needs none
			_ = r.cmd.Process.Signal(syscall.SIGIO)
			r.life.woken.Add(1)
		case woke:
			fmt.Fprintf(r.notes, "silent at %d looks, at %d of which it was not starved, and then not any more; it had been sent %d pairs of SIGALRM and SIGIO. When the first was sent:\n%s\n", looks, fair, sent, first)
		case hangs:
			fmt.Fprintf(r.notes, "the kernel hangs: silent at %d looks, at %d of which it was not starved, also after %d pairs of SIGALRM and SIGIO. When the first was sent:\n%s\nnow:\n%s\n", s.looks, s.fair, sent, first, diagnosis(pid))
			r.life.hangs.Store(true)
			if t, ok := r.t.(hangTold); ok {
				t.guestHangs(r.name)
			}
			_ = r.cmd.Process.Kill()
			return
		}
	}
}

// gone is the error of what cannot be done because the guest is gone.
func (r *Running) gone() error {
	if r.life.hangs.Load() {
		return fmt.Errorf("%s: %w; its diagnosis is in the log", r.name, ErrGuestHangs)
	}
	return fmt.Errorf("%s: %w", r.name, ErrGuestGone)
}
