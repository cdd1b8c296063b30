//go:build linux

package kclient

import "time"

const (
	// beatEvery is how often a guest's init says that it is alive.
	beatEvery = time.Second
	// watchEvery is how often the harness looks whether it did.
	watchEvery = time.Second
	// wakeAfter is how many looks in a row find nothing before the kernel is sent the signals that it may have lost, one pair a look. They mean nothing to a kernel
	// that is slow, so this may be short.
	wakeAfter = 5
	// hangsAfter is how many looks in a row find nothing, though the kernel had a processor when it wanted one, before it is one that hangs.
	hangsAfter = 60
)

// A look is what the harness sees of a guest.
type look struct {
	heard   uint64 // how often something came from the guest, since it began
	waiting bool   // the harness waits for something to come, and nobody else is the reason that nothing does
	// starved says that since the last look something of the guest waited for a processor most of the time, or for the host's disk.
	starved bool
}

// verdict is what follows from the looks so far.
type verdict int

const (
	alive verdict = iota
	quiet         // nothing came since the last look, or longer
	wake          // send it the signals
	woke          // it was sent them, and something came
	hangs
)

// silence decides when a guest is one that hangs. It has no clock: a look is made once in watchEvery, or less often where the harness itself is held up, and then a
// guest has more time.
type silence struct {
	wakeAfter, hangsAfter int // looks

	heard  uint64
	looks  int // in a row that found nothing
	fair   int // of these, in which the guest was not starved
	wakeUp int // of these, after which it was sent the signals
}

func (s *silence) look(l look) verdict {
	if l.heard != s.heard || !l.waiting {
		sent := s.wakeUp
		*s = silence{wakeAfter: s.wakeAfter, hangsAfter: s.hangsAfter, heard: l.heard}
		if sent > 0 {
			return woke
		}
		return alive
	}
	s.looks++
	if !l.starved {
		s.fair++
	}
	switch {
	case s.fair >= s.hangsAfter:
		return hangs
	case s.looks >= s.wakeAfter:
		s.wakeUp++
		return wake
	}
	return quiet
}
