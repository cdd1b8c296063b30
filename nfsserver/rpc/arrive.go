package rpc

import (
	"errors"
	"net"
	"os"
	"time"
)

// errCrowded ends a connection whose peer does not send the rest of a record
// for which memory is held that other connections wait for.
var errCrowded = errors.New("a record arrives too slowly while others wait for memory")

// A CALL takes its memory (Limits.Memory) when its first readBufferSize bytes have
// arrived, or all of a smaller one, all at once: those who wait for memory hold none, so the wait
// cannot become a deadlock, and announcing a record reserves nothing. A peer that
// sends so much and then stops is dropped when somebody waits for memory
// CrowdedTimeout after, else after RecordTimeout.

// stream is what a connection reads from.
type stream struct {
	c  *Conn
	nc net.Conn
}

// Read reads on after a deadline that only looks for others who wait.
func (s *stream) Read(p []byte) (int, error) {
	for {
		n, err := s.nc.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		more, crowded := s.c.mayArrive()
		if crowded != nil {
			return 0, crowded
		}
		if !more {
			return 0, err
		}
	}
}

// beginArrival bounds the time for the rest of a record that holds memory.
func (c *Conn) beginArrival() error {
	if c.rr.left <= c.rr.br.Buffered() && c.rr.last {
		return nil
	}
	l := &c.ep.limits
	c.arrival = time.Now().Add(l.RecordTimeout)
	return c.setReadDeadline(min(l.CrowdedTimeout, l.RecordTimeout))
}

func (c *Conn) endArrival() { c.arrival = time.Time{} }

// mayArrive says, when a read deadline has passed, whether the record may take longer.
func (c *Conn) mayArrive() (bool, error) {
	if c.arrival.IsZero() {
		return false, nil
	}
	left := time.Until(c.arrival)
	if left <= 0 {
		return false, nil
	}
	if c.ep.waiting.Load() > 0 {
		return false, errCrowded
	}
	return c.setReadDeadline(min(c.ep.limits.CrowdedTimeout, left)) == nil, nil
}

// reserve takes memory for the CALL that is being read, and waits for it if need be.
func (c *Conn) reserve() (int64, error) {
	if err := c.awaitRest(); err != nil {
		return 0, err
	}
	if err := c.rr.arrived(); err != nil {
		return 0, err
	}
	// A record in several fragments may become as large as any.
	n := int64(c.rr.left)
	if !c.rr.last {
		n = int64(c.ep.limits.MaxRecord)
	}
	if c.ep.memory.TryAcquire(n) {
		return n, nil
	}
	c.ep.stats.stalled.Add(1)
	c.ep.waiting.Add(1)
	defer c.ep.waiting.Add(-1)
	if c.ep.memory.Acquire(c.ep.reading, n) != nil {
		return 0, errDraining
	}
	return n, nil
}
